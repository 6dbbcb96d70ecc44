"""Heatmaps, the hole painted over a photograph, the animation of a run, and its report on a page.

All scales are fixed to [0, 1], so two pictures can be compared by eye.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from asyncdsb.photo.images import encoded, scaled, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from asyncdsb.photo.result import Result

# Perceptually uniform and readable with every common colour blindness.
TAU_COLOURS = "viridis"
GRADIENT_COLOURS = "magma"

HOLE_COLOUR = (255, 45, 120)
"""Colour of the hole where it is painted over a photograph, 8-bit RGB."""

# Milliseconds: the motion, the shortest and the longest frame, and more for the first and the last.
_MOTION, _SHORTEST, _LONGEST, _HOLD_FIRST, _HOLD_LAST = 2600, 20, 260, 500, 1600

# Of a report.
COLUMNS = 6  # steps shown, spread evenly from t = 1 to t = 0
WIDTH = 15.6  # of the page, in inches
SIDE = 512  # most pixels of a picture's side in the first row
PICTURES = {"left": 0.005, "right": 0.995, "wspace": 0.02}  # margins of a row of pictures


def colour_table(name: str) -> np.ndarray:
    """A colour map of matplotlib: uint8 (256, 3) RGB, row i the colour of the value i / 255."""
    from matplotlib import colormaps

    return colormaps[name](np.arange(256), bytes=True)[:, :3].copy()


def heatmap(values: np.ndarray, colours: str = TAU_COLOURS, compand: bool = False) -> Image.Image:
    """Colour a map (H, W) on the fixed scale [0, 1], beyond which it is cut: table[round(255 v)].

    With ``compand`` sqrt(v) is coloured instead of v, because gradients of photographs are mostly
    below 0.1 and would all be black otherwise.
    """
    values = np.asarray(values, np.float32).clip(0, 1)
    if compand:
        values = np.sqrt(values)
    return Image.fromarray(colour_table(colours)[np.rint(values * 255).astype(np.uint8)])


def shrink_map(values: np.ndarray, side: int) -> np.ndarray:
    """Average a map (H, W) over areas to at most ``side`` pixels on its longer side, float32."""
    values = np.asarray(values, np.float32)
    scale = side / max(values.shape)
    if scale >= 1:
        return values
    height, width = values.shape
    return cv2.resize(values, scaled((width, height), scale), interpolation=cv2.INTER_AREA)


def paint_hole(image: Image.Image | np.ndarray, mask: np.ndarray) -> Image.Image:
    """Paint the hole, bool (H, W), over an RGB photograph in :data:`HOLE_COLOUR`."""
    painted = np.array(image)
    painted[np.asarray(mask, bool)] = HOLE_COLOUR
    return Image.fromarray(painted)


def save_animation(pictures: Sequence[Image.Image], path: str | os.PathLike) -> Path:
    """Write pictures of one size as a looping animation that holds its first and last frame.

    The path, which is returned, ends in ``.webp`` (small, fast) or ``.gif`` (256 colours, for old
    viewers).
    """
    if (suffix := Path(path).suffix.lower()) not in (".webp", ".gif"):
        raise ValueError(f"expected a file name ending in .webp or .gif, got {Path(path).name!r}")
    options: dict[str, Any] = {"save_all": True, "loop": 0, "duration": durations(len(pictures))}
    if suffix == ".gif":
        pictures = [picture.quantize(256, Image.Quantize.FASTOCTREE) for picture in pictures]
        options |= {"format": "GIF", "disposal": 1}
    else:
        options |= {"format": "WEBP", "quality": 80, "method": 0}
    first, *others = pictures
    data = encoded(first, append_images=others, **options)
    return write_atomic(path, lambda target: target.write_bytes(data))


def durations(count: int) -> list[int]:
    """Milliseconds for which every frame of a film stays: the first and the last are held."""
    each = min(_LONGEST, max(_SHORTEST, round(_MOTION / count / 10) * 10))
    times = [each] * count
    times[0] += _HOLD_FIRST
    times[-1] += _HOLD_LAST
    return times


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
