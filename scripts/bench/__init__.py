"""Speed against naive loops and against the machine's limit, a program for each domain."""
