"""A regressor for values and derivatives, with scikit-learn's interface.

>>> import numpy as np
>>> X = np.random.default_rng(0).uniform(-1, 1, (60, 2))
>>> y, dy = np.sin(X).sum(1), np.cos(X)                  # (60,) and (60, 2)
>>> model = SobolevRegressor(max_iter=300, random_state=0).fit(X, y, dy)
>>> model.predict(X).shape, model.predict_derivative(X).shape
((60,), (60, 2))

It needs scikit-learn, which the rest of the library does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sobolev.agreement import remedy_of
from sobolev.derivatives import derivatives
from sobolev.distances import DISTANCES
from sobolev.fitting import AUTO, batches, check_settings, function_of, gradients, mean_distance, plain
from sobolev.losses import SobolevLoss
from sobolev.networks.ensemble import MLPEnsemble, sizes_and_activation
from sobolev.normalizer import InUnits, Normalizer, varies
from sobolev.seeding import generator

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("SobolevRegressor needs scikit-learn: pip install scikit-learn") from missing

FEW = 100  # with fewer samples, "auto" holds out none for early stopping
FLOATS = (np.float64, np.float32)  # dtypes of X and y that are kept, because the size of rounding depends on them
MEASUREMENTS = 50  # evaluations on held-out samples, evenly spaced over training


class SobolevRegressor(RegressorMixin, BaseEstimator):
    """A multi-layer perceptron trained on values and, if they are known, on first derivatives (Eq. 1, K = 1).

    Inputs, values and derivatives are normalised (`sobolev.Normalizer`). After t of T updates the loss is

        mean_i [ ||m(x_i) - y_i||^2 / S_0 + w phi(t / T) d(D m(x_i), D y_i) / S_1 ]

    with S_0 the mean square of the values about their mean (1 if the values are equal up to rounding), and
    S_1 = mean_i d(0, D y_i). Adam's learning rate follows a cosine schedule to 0. Without derivatives this is ordinary
    regression.

    The defaults, except for the widths, come from a search on other functions than those that it was judged on
    (docs/recipes.md): GELU, PyTorch's initialisation, the norm as d, and a phi that falls with the learning rate. The
    search chose learning rates and batch sizes for each loss, which "auto" uses: 0.01 and 32 with derivatives, and
    0.006 and 64 for values only, that is, without `dy` or with w = 0.

    If `SmoothSobolevStep` supports the network and distance, and all derivatives are known, training uses it instead of
    autograd.

    Args:
        hidden: widths of the hidden layers.
        activation: a key of `sobolev.networks.ensemble.ACTIVATIONS`. The default is smooth, because the kinks of
            piecewise linear activations (relu) do not learn from derivatives.
        initialisation: a key of `sobolev.networks.ensemble.INITIALISATIONS`.
        derivative_weight: w.
        derivative_distance: d, a key of `sobolev.distances.DISTANCES`.
        derivative_schedule: phi, which falls from 1 to 0 as a "cosine" or on a line ("linear"), or is "constant".
        learning_rate: Adam's initial learning rate.
        max_iter: the number of updates.
        batch_size: samples per update; with fewer samples, the full batch.
        early_stopping: whether to hold out samples, stop when their error no longer falls, and keep the network with
            the least error. "auto" does so for 100 samples or more.
        validation_fraction: the fraction of samples that is held out.
        n_iter_no_change: training stops after this many evaluations without a lower error; there are 50 in all.
        check_derivatives: whether to refuse derivatives that contradict the values (negated, rescaled, with axes
            swapped or in another order, for all outputs or one), and to warn of derivatives that do not predict the
            values, as if their rows were in another order than those of X (see `sobolev.agreement`).
        random_state: a seed, or any random state that scikit-learn accepts.
        device: the PyTorch device.

    Attributes:
        model_: the network as a `torch.nn.Module` in the user's units, float64: X (n, I) to values (n, O).
        loss_curve_: the loss of every update.
        validation_scores_: the losses on held-out samples, with phi = 1; empty if none are held out.
        n_iter_: the number of updates made.
        n_features_in_: I.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        *,
        activation: str = "gelu",
        initialisation: str = "uniform_fan_in",
        derivative_weight: float = 1.0,
        derivative_distance: str = "l2",
        derivative_schedule: str = "cosine",
        learning_rate: float | str = "auto",
        max_iter: int = 3000,
        batch_size: int | str = "auto",
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 20,
        check_derivatives: bool = True,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.initialisation = initialisation
        self.derivative_weight = derivative_weight
        self.derivative_distance = derivative_distance
        self.derivative_schedule = derivative_schedule
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.check_derivatives = check_derivatives
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, dy: Any = None) -> SobolevRegressor:
        """Train on samples.

        Args:
            X: (n, I).
            y: values (n,) or (n, O).
            dy: derivatives (n, I), for values (n,), or (n, O, I); dy[n, o, i] is that of output o by input i. NaN, or
                a NumPy mask, marks unknown numbers. None trains on values only.

        Raises:
            ValueError: invalid settings or shapes; numbers that are not finite; derivatives that contradict the values;
                a loss that is not finite at the end of training.

        Warns:
            UserWarning: derivatives do not predict values that neighbours predict well.
        """
        with _in_one_line():
            X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=FLOATS)
        check_settings(self.get_params())
        flat = y.ndim == 1
        y = check_array(y, dtype=FLOATS, ensure_2d=False).reshape(len(X), -1)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        arrays = X, y, *self._derivatives(dy, X, y)
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode
            recorded = [torch.from_numpy(part.copy()) for part in arrays]  # torch accepts no negative strides
            units = Normalizer.fit(*recorded)
            if len(recorded) > 2 and self.check_derivatives:
                self._refuse_contradictions(units, *recorded)
            data = [units.inputs(recorded[0]), *units.targets(*recorded[1:])]
            sizes = (X.shape[1], *self.hidden, y.shape[1])
            alone = MLPEnsemble(sizes, [generator(seed, "init")], self.activation, self.initialisation)
            alone = alone.to(self.device, torch.float32)  # PyTorch's default may be another type
            self._train(alone, [part.float().to(self.device) for part in data], seed)
            self.model_, self._flat = units.wrap(alone.network(0).double().cpu()).eval(), flat
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Values (n,) or (n, O), in the shape that `fit` was given."""
        x = self._samples(X)
        with torch.no_grad():
            y = self.model_(x).numpy()
        return y[:, 0] if self._flat else y

    def predict_derivative(self, X: Any, order: int = 1) -> np.ndarray:
        """Derivatives (n, I, ..., I) of values (n,), or (n, O, I, ..., I)."""
        with torch.inference_mode(False):  # in which PyTorch takes no derivatives
            d = derivatives(self.model_, self._samples(X), order)[order].numpy()
        return d[:, 0] if self._flat else d

    def save(self, path: str | PathLike) -> None:
        """Write settings and weights to a file for `load`. The file contains no code.

        Settings that were changed since `fit` are saved, too, but do not change the network that was trained.

        An existing file is replaced once the new one is complete. `random_state` is kept if it is a seed, but not if it
        is a generator.

        Raises:
            TypeError: a setting is neither a number nor text, so that the file could not be read.
        """
        from sobolev.files import replacing  # not importable on every system

        check_is_fitted(self, "model_")
        seed = int(self.random_state) if isinstance(self.random_state, Integral) else None
        parameters = self.get_params() | {"hidden": [*self.hidden], "random_state": seed, "device": str(self.device)}
        parameters = {name: plain(name, value) for name, value in parameters.items()}
        sizes, activation = sizes_and_activation(self.model_.model)
        names = [*map(str, getattr(self, "feature_names_in_", []))]
        state = {"parameters": parameters, "sizes": sizes, "flat": self._flat, "names": names, "activation": activation}
        state |= self.model_.state_dict()
        with replacing(Path(path)) as partial:
            torch.save(state, partial)

    @classmethod
    def load(cls, path: str | PathLike) -> SobolevRegressor:
        """The regressor that was saved.

        Raises:
            ValueError: the file was not written by `save`.
        """
        try:
            state = torch.load(path, weights_only=True)
            self = cls(**state.pop("parameters"))
            sizes, self._flat, names = state.pop("sizes"), state.pop("flat"), state.pop("names", [])
            activation = state.pop("activation", self.activation)  # older files lack it
            network = MLPEnsemble(sizes, [torch.Generator()], activation).network(0)
            self.model_ = InUnits(network, Normalizer(sizes[:1], sizes[-1:])).double().eval()
            self.model_.load_state_dict(state)
        except OSError:
            raise
        except Exception as error:
            raise ValueError(f"{path} was not written by SobolevRegressor.save ({type(error).__name__})") from error
        self.n_features_in_ = sizes[0]
        if names:
            self.feature_names_in_ = np.array(names, dtype=object)
        return self

    def _samples(self, X: Any) -> Tensor:
        check_is_fitted(self, "model_")
        with _in_one_line():
            return torch.from_numpy(validate_data(self, X, reset=False, dtype=np.float64).copy())

    def _derivatives(self, dy: Any, X: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        """[D y (n, O, I)], or an empty list without derivatives."""
        if dy is None:
            return []
        if np.ma.isMaskedArray(dy):  # whose masked numbers, which may be anything, are otherwise taken as known
            dy = np.ma.filled(dy.astype(np.float64), np.nan)
        with _in_one_line():
            dy = check_array(dy, dtype=np.float64, ensure_all_finite="allow-nan", allow_nd=True, input_name="dy")
        shapes = [(*y.shape, X.shape[1])] + [X.shape] * (y.shape[1] == 1)
        if dy.shape not in shapes:
            said = " or ".join(map(str, shapes))
            raise ValueError(f"dy has shape {dy.shape}, expected {said}: dy[n, o, i] is of output o by input i")
        if np.isnan(dy).all():
            raise ValueError("dy has nothing but NaN: leave it out")
        return [dy.reshape(shapes[0])]

    def _refuse_contradictions(self, units: Normalizer, x: Tensor, y: Tensor, dy: Tensor) -> None:
        """Refuse derivatives that contradict the values, in one unit for all inputs and one for all outputs.

        Single units keep squares finite and allow axes to be swapped.
        """
        of_x, of_y = units.x_scale.max(), units.y_scale.max()
        if remedy := remedy_of(y / of_y, dy / of_y * of_x, x / of_x, y.shape[1]):
            raise ValueError(
                f"dy contradicts the values at near samples: they would agree {remedy} (check_derivatives=False takes "
                "dy as it is)"
            )

    def _train(self, alone: MLPEnsemble, data: list[Tensor], seed: int) -> None:
        """Train an ensemble of one network, and keep its best state on the held-out samples, if there are any."""
        n = len(data[0])
        holds_out = self.early_stopping if self.early_stopping != "auto" else n >= FEW
        n_held = max(1, round(self.validation_fraction * n)) if holds_out and n > 1 else 0
        if n_held == n:
            raise ValueError(f"validation_fraction={self.validation_fraction} holds out all of the {n} samples")
        order = torch.randperm(n, generator=generator(seed, "hold out")).to(data[0].device)
        held, data = ([part[chosen] for part in data] for chosen in (order[:n_held], order[n_held:]))
        loss = self._loss(data)
        learns = {name: of_loss[1 in loss.weights] for name, of_loss in AUTO.items()}
        rate, size = (learns[name] if getattr(self, name) == "auto" else getattr(self, name) for name in AUTO)
        compute_gradients = gradients(alone, loss, self.derivative_distance, data)
        optimizer = torch.optim.Adam(alone.parameters(), lr=float(rate), fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.max_iter)
        self.loss_curve_, self.validation_scores_ = [], []
        best = copy.deepcopy(alone.state_dict())
        every = max(1, self.max_iter // MEASUREMENTS)
        for step, batch in zip(range(1, self.max_iter + 1), batches(data, size, seed), strict=False):
            loss.progress = (step - 1) / self.max_iter
            self.loss_curve_.append(compute_gradients(*batch))
            optimizer.step()
            schedule.step()
            if n_held and (step % every == 0 or step == self.max_iter):
                loss.progress = 0.0  # validation losses always use phi = 1
                with torch.no_grad():
                    self.validation_scores_.append(float(loss(function_of(alone), held[0], held[1:]).total))
                if self.validation_scores_[-1] <= min(self.validation_scores_):
                    best = copy.deepcopy(alone.state_dict())
                elif min(self.validation_scores_[-self.n_iter_no_change :]) > min(self.validation_scores_):
                    break
        self.n_iter_ = len(self.loss_curve_)
        self.loss_curve_ = torch.stack(self.loss_curve_).tolist()
        if not math.isfinite(self.loss_curve_[-1]):
            raise ValueError(f"training diverged with learning_rate={rate}: its loss is {self.loss_curve_[-1]}")
        if n_held:
            alone.load_state_dict(best)

    def _loss(self, data: list[Tensor]) -> SobolevLoss:
        """The loss, balanced by the training samples unless their values are all equal."""
        learns = len(data) > 2 and bool(data[2].nan_to_num().any()) and self.derivative_weight > 0
        order = int(learns)
        balanced = bool(varies(data[1]).any())
        distance = DISTANCES[self.derivative_distance]
        loss = SobolevLoss(
            order,
            weights=(1.0, self.derivative_weight / mean_distance(data[2], distance)) if learns else 1.0,
            balance={0: "order"} if balanced else None,
            distances={1: distance} if learns else "squared_l2",
            schedule={1: self.derivative_schedule} if learns else None,
        )
        return loss.balance(data[1:], data[0]) if balanced else loss

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Shorten scikit-learn's errors, which print the whole array, to their first line and advice."""
    try:
        yield
    except ValueError as error:
        first, *others = str(error).splitlines()
        advice = [line for line in others if line.startswith("Reshape your data")]
        raise ValueError(". ".join((first.removesuffix(":").removesuffix(" instead"), *advice))) from None
