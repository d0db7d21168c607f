"""The report's pictures, as SVG that lies inside a page and takes on its text colour.

No text from outside is drawn: matplotlib would read a dollar sign in it as mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pliant.elastify.report.data import RecoveredLevelReport, Report
from pliant.elastify.report.svg import TEXT, Picture, picture

# Readable on white and on nearly black: at least 3:1 on both.
BLUE, ORANGE, GREEN = "#2f7fc1", "#d55e00", "#129a74"
COLOURS = (BLUE, ORANGE, GREEN)
COLUMNS = 4
SMOOTHED_POINTS = 120


def pictures(report: Report) -> dict[str, Picture]:
    """By the name under which the page shows them; those without data are not there."""
    found = {
        name: picture(name, partial(draw, report), describe(report))
        for name, (draw, describe) in _ALWAYS.items()
    }
    plans, recovery = report.plans, report.recovery
    if plans is not None and plans.losses:
        text = "Loss of every kind of plans that was tried, by level."
        found["plans"] = picture("plans", partial(_plans, plans.losses), text)
    if recovery is not None and recovery.levels:
        text = f"Training loss of {len(recovery.levels)} levels, step by step."
        found["training"] = picture("training", partial(_training, recovery.levels), text)
    return found


def _perplexity(report: Report) -> Figure:
    figure, axes = _figure(7.0, 3.4)
    levels = report.levels
    costs = [level.cost for level in levels]
    bare = [level.bare_perplexity for level in levels]
    axes.plot(costs, bare, "o-", color=BLUE, label="without adapter")
    recovered = [
        (one.cost, one.recovered_perplexity)
        for one in levels
        if one.recovered_perplexity is not None
    ]
    if recovered:
        axes.plot(*zip(*recovered, strict=True), "s--", color=ORANGE, label="with adapter")
    axes.axhline(bare[-1], color=GREEN, linewidth=1, label="full model")
    axes.set(xlabel="cost per token, share of the full model's", ylabel="perplexity")
    _legend(axes)
    return figure


def _perplexity_text(report: Report) -> str:
    first, last = report.levels[0], report.levels[-1]
    return (
        f"Perplexity falls from {first.bare_perplexity:.2f} at level {first.ratio:g} "
        f"to {last.bare_perplexity:.2f} at the full model."
    )


def _importance(report: Report) -> Figure:
    data = report.importance
    figure = Figure(figsize=(8.6, _rows_height(len(data.heads))), layout="constrained")
    for axes, rows, title, label in zip(
        figure.subplots(1, 2),
        (data.heads, data.neurons),
        ("Attention", "MLP"),
        ("KV heads by importance", f"neurons by importance (of {data.neurons_per_layer})"),
        strict=True,
    ):
        matrix = np.array(rows)
        bounds = (0.0, float(matrix.shape[1])) if title == "Attention" else (0.0, 100.0)
        if title == "MLP":
            label += ", %"
        shown = _heat(axes, matrix, _log_scale(matrix), bounds)
        axes.set(title=title, xlabel=label, ylabel="layer")
        figure.colorbar(shown, ax=axes, label="importance")
    return figure


def _importance_text(report: Report) -> str:
    sums = np.array(report.importance.heads).sum(axis=1)
    return (
        f"Heat maps of {len(sums)} layers. Attention matters most in layer {int(sums.argmax())}, "
        f"least in layer {int(sums.argmin())}."
    )


def _layers(report: Report) -> Figure:
    figure, axes = _figure(7.0, 3.0)
    losses, anchors = report.layers.without, set(report.layers.anchors)
    for name, chosen, colour, marker in (
        ("other layers", [i for i in range(len(losses)) if i not in anchors], BLUE, "o"),
        ("anchors", sorted(anchors), ORANGE, "s"),
    ):
        if chosen:
            axes.plot(chosen, [losses[i] for i in chosen], marker, color=colour, label=name)
    axes.set(xlabel="layer that is left out", ylabel="loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return figure


def _layers_text(report: Report) -> str:
    losses = report.layers.without
    return (
        f"The loss is highest, {max(losses):.2f}, without layer {losses.index(max(losses))}, and "
        f"lowest, {min(losses):.2f}, without layer {losses.index(min(losses))}."
    )


def _widths(report: Report) -> Figure:
    plans = np.array([level.plan for level in report.levels], dtype=float)
    heads, neurons = plans[..., 0] * plans[..., 1], plans[..., 2]
    figure = Figure(figsize=(8.6, _rows_height(len(heads))), layout="constrained")
    both = figure.subplots(1, 2)
    for axes, counts, title in zip(both, (heads, neurons), ("Attention", "MLP"), strict=True):
        shown = _heat(axes, 100 * counts / counts[-1].max(), Normalize(0, 100), None)
        axes.set(title=title, xlabel="layer", ylabel="level")
        axes.set_yticks(range(len(report.levels)), [f"{one.ratio:g}" for one in report.levels])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(shown, ax=both, label="% that runs")
    return figure


def _widths_text(report: Report) -> str:
    return (
        f"Heat maps of {len(report.levels)} levels and {len(report.levels[0].plan)} layers: "
        "how much of each layer runs."
    )


def _plans(losses: dict[str, dict[str, float]]) -> Figure:
    figure, axes = _figure(7.0, 3.0)
    for index, by_level in enumerate(losses.values()):
        points = sorted((float(ratio), loss) for ratio, loss in by_level.items())
        axes.plot(
            *zip(*points, strict=True), "os^"[index % 3] + "-",
            color=COLOURS[index % 3], label=list(losses)[index],
        )  # fmt: skip
    axes.set(xlabel="level", ylabel="loss (nats per token)")
    _legend(axes)
    return figure


def _training(levels: Sequence[RecoveredLevelReport]) -> Figure:
    rows = math.ceil(len(levels) / COLUMNS)
    figure = Figure(figsize=(8.6, 0.4 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True)
    for axes, level in zip(grid.flat, levels, strict=False):
        steps, losses = _smoothed(level.training_losses)
        axes.plot(steps, losses, color=BLUE, linewidth=1.5)
        axes.set_title(f"level {level.ratio:g}", fontsize=10)
        _plain(axes)
    for axes in grid.flat[len(levels) :]:
        axes.set_visible(False)
    figure.supxlabel("step", fontsize=10, color=TEXT)
    figure.supylabel("training loss", fontsize=10, color=TEXT)
    return figure


def _smoothed(losses: Sequence[float]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Means over equal stretches, at most SMOOTHED_POINTS of them, and the steps they end at."""
    parts = np.array_split(np.array(losses, dtype=float), min(SMOOTHED_POINTS, len(losses)))
    return np.cumsum([len(part) for part in parts]), np.array([part.mean() for part in parts])


def _heat(
    axes: Axes,
    matrix: npt.NDArray[np.float64],
    scale: Normalize,
    columns: tuple[float, float] | None,
) -> Any:
    left, right = columns or (-0.5, matrix.shape[1] - 0.5)
    bottom = len(matrix) - 0.5
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return axes.imshow(
        matrix, cmap="viridis", norm=scale, aspect="auto", interpolation="nearest",
        extent=(left, right, bottom, -0.5),
    )  # fmt: skip


def _log_scale(matrix: npt.NDArray[np.float64]) -> Normalize:
    """Importance spans powers of ten; what is not positive gets the darkest colour."""
    positive = matrix[matrix > 0]
    if not positive.size or positive.min() == positive.max():
        return Normalize()
    return LogNorm(positive.min(), positive.max(), clip=True)


def _rows_height(rows: int) -> float:
    return min(9.0, 1.6 + 0.17 * max(rows, 6))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.grid(visible=True, color="#808080", alpha=0.3, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False)


_ALWAYS: dict[str, tuple[Callable[[Report], Figure], Callable[[Report], str]]] = {
    "perplexity": (_perplexity, _perplexity_text),
    "importance": (_importance, _importance_text),
    "layers": (_layers, _layers_text),
    "widths": (_widths, _widths_text),
}
