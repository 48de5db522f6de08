"""Tests that need a GPU: `make test-gpu`. Where there is none they are skipped."""

from pathlib import Path

import pytest
import torch

from experiments.runner.process import prepare_gpu

HERE = Path(__file__).parent
DEVICE = "cuda"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(autouse=True)
def _float32_means_float32():
    """As in a run, and put back: other tests share the process."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    prepare_gpu()
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before
