"""Projection vectors: their support, their moments, and where their randomness comes from."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sobolev.projections import Coordinate, Gaussian, Rademacher, Sphere

ALL = (Sphere, Gaussian, Rademacher, Coordinate)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    kind=st.sampled_from(ALL),
    samples=st.integers(1, 3),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(deadline=None)
def test_every_batch_element_gets_a_vector_of_the_support(kind, samples, shape, data, dtype):
    batch_dims = data.draw(st.integers(1, len(shape)))
    like = torch.zeros(shape, dtype=dtype)
    v = kind(samples).draw(like, batch_dims, rng())
    assert v.shape == (samples, *shape)
    assert v.dtype == dtype
    v = v.double().reshape(samples, *shape[:batch_dims], -1)
    if kind is Sphere:
        torch.testing.assert_close(v.norm(dim=-1), torch.ones_like(v[..., 0]), rtol=0, atol=1e-2)
    if kind is Rademacher:
        assert (v.abs() == 1).all()
    if kind is Coordinate:
        assert (v.sort(dim=-1).values == torch.eye(v.shape[-1]).double()[-1]).all()


@pytest.mark.parametrize("kind", ALL)
def test_second_moment_matrix_is_c_times_the_identity(kind):
    n, d = 100_000, 3
    v = kind(samples=n).draw(torch.empty(1, d, dtype=torch.float64), 1, rng())[:, 0]
    c = kind().second_moment(d)
    # E v v^T = c I gives E <u, v>^2 = c ||u||^2 for every u. No entry of v v^T has a variance above 2 (that of a
    # Gaussian's v_i^2), and no v_i one above 1.
    torch.testing.assert_close(v.mT @ v / n, c * torch.eye(d).double(), rtol=0, atol=5 * sqrt(2 / n))
    mean = torch.full((d,), 1 / d if kind is Coordinate else 0.0).double()
    torch.testing.assert_close(v.mean(0), mean, rtol=0, atol=5 / sqrt(n))


def test_the_sphere_is_covered_uniformly():
    n, d = 100_000, 8
    v = Sphere(samples=n).draw(torch.empty(1, d, dtype=torch.float64), 1, rng())
    # Uniform vectors have E v_i^4 = 3 / d(d + 2); projecting a cube onto the sphere would favour its corners.
    assert v.pow(4).mean().item() == pytest.approx(3 / (d * (d + 2)), rel=0.01)


@pytest.mark.parametrize(("kind", "size"), [(Rademacher, 2**3), (Coordinate, 3)])
def test_unbiased_exactly_over_the_whole_support(kind, size):
    n, u = 8_000, torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    drawn = kind(samples=n).draw(u.expand(1, 3), 1, rng())[:, 0]
    support, counts = drawn.unique(dim=0, return_counts=True)
    assert len(support) == size
    assert ((counts - n / size).abs() < 5 * sqrt(n / size)).all()  # equally likely, to 5 standard deviations
    torch.testing.assert_close((support @ u).square().mean(), kind().second_moment(3) * u.square().sum())


@pytest.mark.parametrize("kind", ALL)
def test_samples_and_batch_elements_are_independent(kind):
    v = kind(samples=2).draw(torch.empty(3, 5_000, 4), 2, rng()).flatten(0, 1)  # 6 x 5000 vectors
    v = v - v.mean((1, 2), keepdim=True)
    correlation = torch.corrcoef(v.flatten(1))
    assert (correlation - torch.eye(6)).abs().max() < 5 / sqrt(5_000)
    assert len(v[0].unique(dim=0)) > 1


@pytest.mark.parametrize("kind", ALL)
def test_the_generator_decides_and_the_global_one_is_left_alone(kind):
    like = torch.empty(8, 5)
    state = torch.get_rng_state()
    first, again, other = (kind().draw(like, generator=rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(kind().draw(like), first)


def test_an_input_that_requires_gradients_is_only_a_shape():
    assert not Sphere().draw(torch.ones(2, 3, requires_grad=True)).requires_grad


def test_scalar_samples_are_projected_on_signs():
    assert set(Sphere().draw(torch.empty(50), 1, rng()).flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("samples", [0, -1, 1.5, "2"])
def test_samples_must_be_a_positive_integer(samples):
    with pytest.raises(ValueError, match="positive integer, not"):
        Sphere(samples=samples)


def test_a_generator_on_another_device_is_refused():
    with pytest.raises(ValueError, match="generator is on cpu, but must be on meta"):
        Sphere().draw(torch.empty(2, 3, device="meta"), generator=rng())
