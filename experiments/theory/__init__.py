"""Sections 2 and 3: the paper's theorems and propositions, as constructions, computations and trainings."""
