"""A restoration on one page: maps, steps, and when each pixel was restored.

The same input always gives the same bytes: no date and no library version is written into a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from asyncdsb.photo.images import write_atomic
from asyncdsb.show.viz import GRADIENT_COLOURS, TAU_COLOURS, paint_hole, shrink_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from asyncdsb.measure.analysis import Timeline
    from asyncdsb.photo.result import Result
    from asyncdsb.schedule import NoiseSchedule

COLUMNS = 6  # steps shown, spread evenly from t = 1 to t = 0
WIDTH, STORY = 15.6, 3.6  # of the page, and height of its last row, in inches
SIDE = 512  # most pixels of a picture's side in the first row
PICTURES = {"left": 0.005, "right": 0.995, "wspace": 0.02}  # margins of a row of pictures
CHARTS = {"left": 0.01, "right": 0.99, "bottom": 0.15, "wspace": 0.2}
GREY = "#7f8b99"  # readable on white and on the page's dark ground


def report_figure(
    result: Result,
    image: Image.Image | np.ndarray,
    mask: np.ndarray,
    path: str | os.PathLike,
    schedule: NoiseSchedule | None = None,
) -> Path:
    """Draw one restoration on a page: input, predicted gradient, tau, result, and the way there.

    With the schedule, also when each pixel was restored, how that follows tau, and how fast the
    hole's flat and steep parts came back (:func:`asyncdsb.measure.analysis.timeline`).

    Args:
        result: what the pipeline returned, with its trajectory.
        image: the photograph that was restored, RGB or uint8 (H, W, 3).
        mask: bool (H, W), True in the hole.
        path: PNG file.
        schedule: noise schedule of the weights; None leaves the last row out. A hole or photo that
            is too small to be followed does so too.

    Returns:
        The path written.

    Raises:
        ValueError: another suffix, or a result without a trajectory.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"expected a file name ending in .png, got {Path(path).name!r}")
    if not result.trajectory:
        raise ValueError("expected a result with its trajectory (trajectory=True), got none")
    from matplotlib.figure import Figure

    picks = np.linspace(0, len(result.trajectory) - 1, COLUMNS).round().astype(int)
    frames = [result.trajectory[index] for index in dict.fromkeys(picks.tolist())]
    story = None if schedule is None else _timeline(result, mask, schedule)
    aspect = min(2.0, result.image.height / result.image.width)
    heights = [WIDTH / 4 * aspect + 1.2, 2 * (WIDTH / len(frames) * aspect + 0.4)]
    heights += [] if story is None else [STORY]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=100)
    rows: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    maps, steps, *rest = rows
    _draw_maps(maps, result, image, mask)
    grid = steps.subplots(2, len(frames), squeeze=False, gridspec_kw=PICTURES)
    for (bridge, estimate), frame in zip(grid.T, frames, strict=True):
        _show(bridge, f"$x_t$, t = {frame.t:.2f}", np.asarray(frame.x_t))
        _show(estimate, r"$\hat{x}_0$", np.asarray(frame.x0_hat))
    if story is not None:
        _draw_timeline(rest[0].subplots(1, 3, gridspec_kw=CHARTS), story)
    return _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike) -> Path:
    return write_atomic(path, lambda target: figure.savefig(target, metadata={"Software": None}))


def _timeline(result: Result, mask: np.ndarray, schedule: NoiseSchedule) -> Timeline | None:
    """The timeline of a result, None where it is too small to have one."""
    from asyncdsb.measure.analysis import timeline

    hole = np.asarray(mask, bool)
    try:
        return timeline(result.trajectory, result.tau, result.gradient, hole, schedule)
    except ValueError:
        return None


def _show(axes: Axes, title: str, picture: np.ndarray, **more: Any) -> Any:
    axes.set_axis_off()
    axes.set_title(title)
    return axes.imshow(picture, **more)


def _draw_maps(
    part: SubFigure, result: Result, image: Image.Image | np.ndarray, mask: np.ndarray
) -> None:
    """Draw input with the hole, gradient, tau, result; colour bars below the maps."""
    from matplotlib.colors import Normalize, PowerNorm

    def small(picture: Image.Image) -> np.ndarray:
        picture.thumbnail((SIDE, SIDE))
        return np.asarray(picture)

    first, second, third, last = part.subplots(1, 4, gridspec_kw=PICTURES)
    _show(first, "input, hole painted", small(paint_hole(image, mask)))
    # In RGB, because matplotlib would draw a grey picture in false colours.
    _show(last, "result", small(Image.fromarray(result.photograph.rgb)))
    root, even = PowerNorm(0.5, vmin=0, vmax=1), Normalize(0, 1)
    for axes, title, values, colours, scale, ticks in (
        (second, "predicted gradient", result.gradient, GRADIENT_COLOURS, root, [0, 0.05, 0.2, 1]),
        (third, r"$\tau$, larger = restored earlier", result.tau, TAU_COLOURS, even, [0, 0.5, 1]),
    ):
        drawn = _show(axes, title, shrink_map(values, SIDE), cmap=colours, norm=scale)
        bar = axes.inset_axes((0.1, -0.08, 0.8, 0.04))
        part.colorbar(drawn, cax=bar, orientation="horizontal", ticks=ticks)


def _draw_timeline(panels: Sequence[Axes], story: Timeline) -> None:
    """Draw when each pixel was restored, that against tau, and the speeds over the run."""
    shown, against, curves = panels
    inside = np.isfinite(story.restored)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    hole = story.restored[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    _show(shown, "hole: restored at t", hole, cmap=TAU_COLOURS, vmin=0, vmax=1)
    against.hexbin(
        story.tau[inside],
        story.restored[inside],
        gridsize=24,
        extent=(0, 1, 0, 1),
        cmap=TAU_COLOURS,
        bins="log",
        mincnt=1,
    )
    against.set(xlim=(0, 1), ylim=(0, 1), xlabel="τ", ylabel="restored at t")
    rank = "" if np.isnan(story.correlation) else f": ρ = {story.correlation:.2f}"
    against.set_title("rank correlation" + rank)
    _draw_speeds(curves, story, "the result")


def _draw_speeds(curves: Axes, story: Timeline, aim: str) -> None:
    """Draw how fast x0_hat nears its aim in each third of the gradients, beside the schedule."""
    found = story.progress
    middle, width = (found.t[1:] + found.t[:-1]) / 2, -np.diff(found.t)
    for name, colour in (("low", "#6a7fd0"), ("middle", "#21918c"), ("high", "#d95f02")):
        curves.plot(middle, found.speed(name) / width, color=colour, label=f"{name} gradient")
        curves.plot(middle, found.beta[name] / width, color=colour, ls=":")
    curves.set(xlim=(1, 0), xlabel="t (dotted: β(t; τ) / M)")
    curves.set_title(rf"speed of SSIM($\hat{{x}}_0$, {aim})")
    curves.legend(fontsize=8, framealpha=0)
