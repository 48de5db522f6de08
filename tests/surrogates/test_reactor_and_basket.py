"""The tasks' derivatives are those of their values: by differences, and by averaging paths."""

import numpy as np

from experiments.surrogates import basket, reactor


def test_sensitivities_of_the_reactor_are_differences_of_its_outputs():
    x = reactor.draw(8, np.random.default_rng(0))
    y, dy, _ = reactor.solve(x)
    np.testing.assert_allclose(y, reactor.solve(x, sensitivities=False)[0], rtol=1e-7)
    for i, step in enumerate(1e-4 * (reactor.HIGHEST - reactor.LOWEST)):
        shift = step * np.eye(len(reactor.INPUTS))[i]
        higher, lower = (reactor.solve(x + s, sensitivities=False)[0] for s in (shift, -shift))
        np.testing.assert_allclose((higher - lower) / (2 * step), dy[:, :, i], rtol=1e-4, atol=1e-6 * np.abs(dy).max())


def test_reactor_conserves_energy_and_burns_its_product_when_hot():
    x = np.tile((reactor.LOWEST + reactor.HIGHEST) / 2, (2, 1))
    x[0, 0], x[1, 0] = reactor.LOWEST[0], reactor.HIGHEST[0] + 20
    y, _, _ = reactor.solve(x)
    assert y[1, 0] > y[0, 0]
    assert 0 < y[:, 0].min() < y[:, 0].max() < 1
    assert (y[1, 0] - y[1, 1]) > (y[0, 0] - y[0, 1])  # more waste


def test_paths_have_price_and_deltas_as_means():
    x = basket.draw(4, np.random.default_rng(0))
    rng, n = np.random.default_rng(1), 200_000
    truth = basket.closed_form(x)
    for k, spot in enumerate(x):
        found = basket.paths(np.tile(spot, (n, 1)), rng)
        for mean, known in ((found.y, truth.y[k]), (found.dy, truth.dy[k])):
            error = mean.std(0) / np.sqrt(n)
            assert (np.abs(mean.mean(0) - known) <= 4.5 * error + 1e-12).all()
