"""The bookkeeping of a recorded step, with a graph that records the call: real ones are in tests/gpu."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from sobolev.cuda_graphs import WARM_UP, CapturedStep


class Graph:
    """Computes again, and writes to where the recorded call wrote."""

    recording = None

    def replay(self):
        torch.utils._pytree.tree_map(lambda place, value: place.copy_(value), self.result, self.compute())


@pytest.fixture
def calls(monkeypatch):
    """How often the function was called; CUDA's part is played by the CPU."""
    counted = []

    @contextmanager
    def recorded(graph):
        Graph.recording = graph
        yield
        Graph.recording = None

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return counted


def captured(function, state, calls):
    """With a graph that knows what to compute. To record is no computing: what it changes is put back."""

    def noted(*arguments):
        calls.append(len(arguments))
        if Graph.recording is None:
            return function(*arguments)
        before = [tensor.clone() for tensor in state]
        result = function(*arguments)
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        Graph.recording.result, Graph.recording.compute = result, lambda: function(*arguments)
        return result

    return CapturedStep(noted, state)


def test_replays_are_the_calls_of_the_function_and_warming_up_leaves_no_trace(calls):
    norm, twin = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    step = captured(lambda x: norm(x).detach().sum(0), [*norm.buffers()], calls)
    for number in range(3):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
        torch.testing.assert_close(step(x), twin(x).detach().sum(0))
    assert len(calls) == WARM_UP + 1
    for own, expected in zip(norm.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(own, expected)


def test_another_shape_is_refused(calls):
    step = captured(torch.square, [], calls)
    step(torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"expected \(4, 2\) of torch.float32, got \(3, 2\) of torch.float32"):
        step(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"got \(4, 2\) of torch.float64"):
        step(torch.ones(4, 2, dtype=torch.float64))
