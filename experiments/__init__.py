"""WHEN: one folder per domain, above the evidence and the runner. Configs say what, `sobolev` says how."""

import os

# How often OpenMP's threads look for their next work before they sleep, read when torch is loaded. By libgomp's own
# setting, 300 times as often, they keep the cores from emulators: a teacher's training took a sixth longer.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
