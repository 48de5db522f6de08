"""A surrogate is in the units of its data, whatever it is given x as, and is the same from its file."""

import numpy as np
import pytest
import torch

from sobolev import Derivatives, Normalizer
from sobolev.networks import ACTIVATIONS, MLPEnsemble
from sobolev.surrogate import Surrogate, load

X = np.random.default_rng(0).uniform(-1, 1, (9, 3)) * [500, 1, 1] + [1.7e9, 0, 0]
Y = np.stack((np.sin(X).sum(1) - 4e4, X[:, 1]), 1)


def surrogate(activation="tanh", hidden=(5,)):
    units = Normalizer.fit(torch.from_numpy(X), torch.from_numpy(Y))
    network = MLPEnsemble((3, *hidden, 2), [torch.Generator().manual_seed(0)], activation).network(0)
    return Surrogate(network, units, ("a", "b", "c"), ("y1", "y2"))


@pytest.mark.parametrize(("activation", "hidden"), [*((name, (5, 4)) for name in ACTIVATIONS), ("relu", ())])
def test_a_file_is_the_surrogate(tmp_path, activation, hidden):
    before = surrogate(activation, hidden)
    before.save(tmp_path / "it.pt")
    after = load(tmp_path / "it.pt")
    np.testing.assert_array_equal(before.predict(X), after.predict(X))
    assert (after.inputs, after.outputs) == (("a", "b", "c"), ("y1", "y2"))


def test_x_is_an_array_or_a_tensor_of_either_precision():
    it = surrogate()
    y, dy = it.predict(X), it.predict_derivative(X)
    assert (y.dtype, y.shape, dy.shape) == (np.float64, (9, 2), (9, 2, 3))
    step = 1e-2
    higher, lower = (it.predict(X + sign * step * np.eye(3)[0]) for sign in (1, -1))
    np.testing.assert_allclose((higher - lower) / (2 * step), dy[:, :, 0], rtol=1e-4, atol=1e-7)
    found = Derivatives(it)(torch.tensor(X))
    for array, tensor in zip((y, dy), found, strict=True):
        np.testing.assert_array_equal(array, tensor.detach())
    np.testing.assert_array_equal(it.predict(X.tolist()), y)
    single = torch.tensor(X).float()
    np.testing.assert_allclose(it.predict(single), it.predict(single.double()))
    assert Derivatives(it)(single)[1].shape == (9, 2, 3)


@pytest.mark.parametrize("shape", [(9, 1), (9, 4), (3,)])
def test_other_inputs_are_refused_and_not_broadcast(shape):
    for method in (surrogate().predict, surrogate().predict_derivative):
        with pytest.raises(ValueError, match=r"expected \(N, 3\): a, b, c"):
            method(np.ones(shape))


def test_a_file_from_before_units_were_a_normalizer_is_read(tmp_path):
    before = surrogate()
    before.save(tmp_path / "it.pt")
    content = torch.load(tmp_path / "it.pt")
    del content["state"]["normalizer.y_rounding"]
    former = {"model.": "network.", "normalizer.": "", "scale": "std"}
    for new, old in former.items():
        content["state"] = {name.replace(new, old): tensor for name, tensor in content["state"].items()}
    assert {"x_std", "network.0.weight"} <= set(content["state"])
    torch.save(content, tmp_path / "it.pt")
    np.testing.assert_array_equal(load(tmp_path / "it.pt").predict(X), before.predict(X))


def test_what_is_no_surrogate_is_not_loaded(tmp_path):
    (tmp_path / "other.pt").write_bytes(b"no torch file")
    with pytest.raises(ValueError, match=r"other\.pt is not the surrogate\.pt of a run"):
        load(tmp_path / "other.pt")
    with pytest.raises(OSError, match=r"gone\.pt"):
        load(tmp_path / "gone.pt")


def test_derivatives_in_inference_mode():
    model = surrogate()
    expected = model.predict_derivative(X)
    with torch.inference_mode():
        np.testing.assert_array_equal(model.predict_derivative(X), expected)
