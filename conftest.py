"""What tests and the library's doctests share: each is the same on any machine, whatever ran before it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples everywhere, each of which may take as long as a busy machine needs.
settings.register_profile("alike", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("alike")


@pytest.fixture(autouse=True)
def _alike():
    """One thread, and the same numbers from the generators that a process has."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
