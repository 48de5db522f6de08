"""Sections 2 and 3: the paper's theorems and propositions, constructed, computed and trained."""
