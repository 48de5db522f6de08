"""Figure 3 and SM 5-11: a target and its models as surfaces, each above its gradient field."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from experiments.evidence import drawing
from experiments.evidence.names import in_order
from experiments.evidence.rows import Surfaces
from experiments.regression.names import METHODS, PROTOCOLS, REDUCED, TASKS


def figure_3(surfaces: Surfaces, experiment: str = "regression") -> Figure:
    """Figure 3: the Styblinski-Tang function and its models, trained on 20 and 100 points."""
    small = {key: surface for key, surface in surfaces.items() if key[3] in (20, 100)}
    return surface_view(small, experiment, "styblinski_tang")


def surface_view(surfaces: Surfaces, experiment: str, task: str) -> Figure:
    """Target and models as surfaces, each above its gradient field; one row per training size, one column per method.

    Dots below a model are its training points, at most 100; dots below the target are those that all models of its row
    share. A model's title has its MSE over the domain, and its seed if seeds differ. An arrow's length is the cube root
    of the gradient's norm, on one scale for the whole figure, so that flat regions stay visible beside steep ones.
    """
    sizes = sorted({n for e, t, _, n in surfaces if (e, t) == (experiment, task)})
    methods = in_order("method", (m for e, t, m, _ in surfaces if (e, t) == (experiment, task)))
    shown = {(m, n): surfaces.get((experiment, task, m, n)) for n in sizes for m in methods}
    recorded = [surface for surface in shown.values() if surface is not None]
    every_value = [a for surface in recorded for a in (surface.value_GG, surface.target_value_GG)]
    z_range = min(a.min() for a in every_value), max(a.max() for a in every_value)
    norms = [np.linalg.norm(surface.target_gradient_GG2, axis=-1).max() for surface in recorded]

    # In inches: square panels, gaps for labels between rows, and space for the title and the lowest labels.
    columns = 1 + len(methods)
    side, gap, head, foot = 6.8 / columns, 0.35, 0.95, 0.2
    height = head + len(sizes) * side + (len(sizes) - 1) * gap + foot
    figure = Figure(figsize=(7, height), layout="none")
    figure.subplots_adjust(
        left=0, right=6.8 / 7, bottom=foot / height, top=1 - head / height, wspace=0, hspace=gap / side
    )
    seeds = {surface.seed for surface in recorded}
    for row, n_train in enumerate(sizes):
        models = {m: shown[m, n_train] for m in methods if shown[m, n_train] is not None}
        target = next(iter(models.values()))
        shared = target.x_train_P2 if len({model.seed for model in models.values()}) == 1 else target.x_train_P2[:0]
        panels = {0: (f"target,\n{n_train:,} points", shared, target.target_value_GG, target.target_gradient_GG2)}
        for m, model in models.items():
            whose = f", seed {model.seed}" if len(seeds) > 1 else ""
            title = f"{METHODS.get(m, m)}{whose}\nMSE {_two_digits(model.mse)}"
            panels[1 + methods.index(m)] = (title, model.x_train_P2, model.value_GG, model.gradient_GG2)
        for column, (title, x_train_P2, value_GG, gradient_GG2) in panels.items():
            axes = figure.add_subplot(len(sizes), columns, row * columns + column + 1, projection="3d")
            _draw_surface(axes, target.x_GG2, value_GG, z_range)
            _draw_gradients(axes, target.x_GG2, gradient_GG2, _floor(z_range), max(norms))
            _draw_points(axes, x_train_P2, _floor(z_range))
            _frame(axes, target.x_GG2, z_range)
            axes.set_title(title, y=1.0)
    scale = "paper" if all(surface.scale == "paper" for surface in recorded) else "reduced"
    whose = f"seed {min(seeds)}" if len(seeds) == 1 else "of each model the seed of median test error"
    detail = (
        f"{PROTOCOLS.get(experiment, experiment)}; {whose}; dots: points learned from\n"
        f"z: f(x, y), no unit; arrows: as long as |gradient|^(1/3), the longest {_two_digits(max(norms))} or more"
    )
    drawing.title(figure, f"{TASKS.get(task, task)}: values and gradient fields", detail, scale, mark=REDUCED)
    return figure


def _two_digits(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.12g}"


def _floor(z_range: tuple[float, float]) -> float:
    """The height of the gradient field below a surface."""
    low, high = z_range
    return low - 0.75 * (high - low)


def _draw_surface(axes: Axes3D, x_GG2: np.ndarray, value_GG: np.ndarray, z_range: tuple[float, float]) -> None:
    axes.plot_surface(
        x_GG2[..., 0],
        x_GG2[..., 1],
        value_GG,
        cmap="viridis",
        vmin=z_range[0],
        vmax=z_range[1],
        rcount=50,
        ccount=50,
        linewidth=0,
        antialiased=False,
        rasterized=True,
    )


def _draw_gradients(
    axes: Axes3D, x_GG2: np.ndarray, gradient_GG2: np.ndarray, floor: float, largest_norm: float
) -> None:
    """Draw arrows on the floor. Suffixes: A arrows, V corners of an arrow, X coordinates.

    Each arrow is a flat wedge from a broad tail to its tip, at most 2/15 of the domain long.
    """
    every = max(1, len(x_GG2) // 10)
    here = np.s_[every // 2 :: every, every // 2 :: every]
    u, v = gradient_GG2[here][..., 0], gradient_GG2[here][..., 1]
    norm = np.hypot(u, v)
    reach = np.ptp(x_GG2[..., 0])
    stretch = np.cbrt(np.minimum(norm / largest_norm, 1)) / np.maximum(norm, np.finfo(norm.dtype).tiny) * reach / 15
    tip_AX = np.stack((u * stretch, v * stretch), axis=-1).reshape(-1, 2)
    side_AX = 0.25 * tip_AX[:, ::-1] * (-1, 1)
    corners_AVX = np.stack((tip_AX, side_AX - tip_AX, -side_AX - tip_AX), axis=1)
    corners_AVX += x_GG2[here].reshape(-1, 1, 2)
    wedges_AVX = np.concatenate((corners_AVX, np.full((*corners_AVX.shape[:2], 1), floor)), axis=-1)
    axes.add_collection3d(Poly3DCollection(wedges_AVX, facecolor="#333333", edgecolor="none"))


def _draw_points(axes: Axes3D, x_train_P2: np.ndarray, floor: float) -> None:
    heights = np.full(len(x_train_P2), floor)
    axes.scatter(*x_train_P2.T, heights, s=3, color="#D55E00", depthshade=False, linewidth=0)


def _frame(axes: Axes3D, x_GG2: np.ndarray, z_range: tuple[float, float]) -> None:
    """Limits, view, ticks and labels of one panel."""
    x, y = x_GG2[..., 0], x_GG2[..., 1]
    low, high = z_range
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), zlim=(_floor(z_range), high))
    axes.view_init(elev=24, azim=-60)
    axes.set_box_aspect((1, 1, 0.95), zoom=1.02)
    axes.patch.set_visible(False)  # it would hide the labels of the panel to the left
    axes.tick_params(labelsize=6, pad=-3)
    axes.set_zticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high])
    axes.zaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_xlabel("x", labelpad=-9)
    axes.set_ylabel("y", labelpad=-9)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis._axinfo["grid"].update(color="#E4E4E4", linewidth=0.4)
