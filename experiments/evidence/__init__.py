"""From complete runs to rows that ship, and from rows to intervals, verdicts, tables and figures."""
