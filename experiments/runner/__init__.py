"""A run: its identity, its folder, the process that executes it, and the messages to its user."""
