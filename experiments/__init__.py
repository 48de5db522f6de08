"""WHEN: one folder per domain, above the evidence and the runner. Configs say what, `sobolev` says how."""

import os

# How often an idle OpenMP thread polls for work before it sleeps; torch reads it when it is imported. libgomp's default
# polls 300 times as often, which takes the cores from the emulators: training a teacher took a sixth longer.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
