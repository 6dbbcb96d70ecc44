"""A restoration on one page: maps and steps. The same input always gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from asyncdsb.photo.images import write_atomic
from asyncdsb.show.viz import GRADIENT_COLOURS, TAU_COLOURS, paint_hole, shrink_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from asyncdsb.photo.result import Result

COLUMNS = 6  # steps shown, spread evenly from t = 1 to t = 0
WIDTH = 15.6  # of the page, in inches
SIDE = 512  # most pixels of a picture's side in the first row
PICTURES = {"left": 0.005, "right": 0.995, "wspace": 0.02}  # margins of a row of pictures


def report_figure(result: Result, image: np.ndarray, mask: np.ndarray, path: Path) -> Path:
    """Draw one restoration on a page: input, predicted gradient, tau, result, and the way there.

    Args:
        result: what the pipeline returned, with its trajectory.
        image: the photograph that was restored, uint8 (H, W, 3).
        mask: bool (H, W), True in the hole.
        path: PNG file, which is returned.
    """
    from matplotlib.figure import Figure

    picks = np.linspace(0, len(result.trajectory) - 1, COLUMNS).round().astype(int)
    frames = [result.trajectory[index] for index in dict.fromkeys(picks.tolist())]
    aspect = min(2.0, result.image.height / result.image.width)
    heights = [WIDTH / 4 * aspect + 1.2, 2 * (WIDTH / len(frames) * aspect + 0.4)]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=100)
    rows: Any = figure.subfigures(2, 1, height_ratios=heights)
    maps, steps = rows
    _draw_maps(maps, result, image, mask)
    grid = steps.subplots(2, len(frames), squeeze=False, gridspec_kw=PICTURES)
    for (bridge, estimate), frame in zip(grid.T, frames, strict=True):
        _show(bridge, f"$x_t$, t = {frame.t:.2f}", np.asarray(frame.x_t))
        _show(estimate, r"$\hat{x}_0$", np.asarray(frame.x0_hat))
    return write_atomic(path, lambda target: figure.savefig(target, metadata={"Software": None}))


def _show(axes: Axes, title: str, picture: np.ndarray, **more: Any) -> Any:
    axes.set_axis_off()
    axes.set_title(title)
    return axes.imshow(picture, **more)


def _draw_maps(part: SubFigure, result: Result, image: np.ndarray, mask: np.ndarray) -> None:
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
