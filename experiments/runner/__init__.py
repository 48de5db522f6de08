"""A run: its identity, its folder, the process that carries it out, and what it says to its user."""
