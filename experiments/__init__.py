"""WHEN: one readable file a domain, and the run itself. Configs say what, `sobolev` says how."""
