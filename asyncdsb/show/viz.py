"""Pictures of a restoration: heatmaps, the trajectory as an animation, a report on one page.

All scales are fixed to [0, 1], so two pictures can be compared by eye. The same input always gives
the same bytes: no date and no library version is written into a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from PIL import Image

from asyncdsb.photo.images import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from asyncdsb.measure.analysis import Timeline
    from asyncdsb.photo.result import Result
    from asyncdsb.schedule import NoiseSchedule

COLOUR_MAPS = ("viridis", "inferno", "magma")
"""Perceptually uniform and readable with every common colour blindness."""

TAU_COLOURS = "viridis"
GRADIENT_COLOURS = "magma"

HOLE_COLOUR = (255, 45, 120)
"""Colour of the hole where it is painted over a photograph, 8-bit RGB."""

ANIMATION_SUFFIXES = (".webp", ".gif")

_MOTION_MS = 2600
_FRAME_MS = (20, 260)
_HOLD_FIRST_MS = 500
_HOLD_LAST_MS = 1600

# The report's page, in inches.
_PAGE = 15.6
_GAP = 0.08
_TITLE = 0.36
_BAR = 0.5
_REPORT_SIDE = 512
_STORY = 3.6

# Readable on white and on the page's dark ground.
_GREY = "#7f8b99"

# Whatever matplotlib would otherwise stamp into a file, per suffix.
_NO_STAMP = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}


def colour_table(name: str) -> np.ndarray:
    """Return a colour map as a table.

    Args:
        name: one of :data:`COLOUR_MAPS`.

    Returns:
        uint8 (256, 3), RGB; row i is the colour of the value i / 255.

    Raises:
        ValueError: unknown name.
    """
    if name not in COLOUR_MAPS:
        raise ValueError(f"expected a colour map out of {', '.join(COLOUR_MAPS)}; got {name!r}")
    from matplotlib import colormaps

    return colormaps[name](np.arange(256), bytes=True)[:, :3].copy()


def heatmap(values: np.ndarray, colours: str = TAU_COLOURS, compand: bool = False) -> Image.Image:
    """Colour a map on the fixed scale [0, 1]: table[round(255 v)].

    Args:
        values: float (H, W); values outside [0, 1] take the colour of the nearer end.
        colours: one of :data:`COLOUR_MAPS`.
        compand: colour sqrt(v) in place of v. Gradients of natural photographs are mostly below
            0.1, and would all be black otherwise.

    Returns:
        RGB picture of size (W, H).

    Raises:
        ValueError: not a finite two-dimensional array, or an unknown colour map.
    """
    values = np.asarray(values, np.float32)
    if values.ndim != 2:
        raise ValueError(f"expected a map of shape (H, W), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite values in [0, 1], got NaN or infinity")
    values = values.clip(0, 1)
    if compand:
        values = np.sqrt(values)
    return Image.fromarray(colour_table(colours)[np.rint(values * 255).astype(np.uint8)])


def shrink_map(values: np.ndarray, side: int) -> np.ndarray:
    """Reduce a map to at most ``side`` pixels on its longer side, averaging over areas.

    Args:
        values: float (H, W).
        side: longest side of the result in pixels.

    Returns:
        float32 (h, w); the input's values where it is small enough already.
    """
    values = np.asarray(values, np.float32)
    height, width = values.shape
    scale = side / max(height, width)
    if scale >= 1:
        return values
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA)


def paint_hole(image: Image.Image | np.ndarray, mask: np.ndarray) -> Image.Image:
    """Paint the hole over the photograph in :data:`HOLE_COLOUR`.

    Args:
        image: RGB picture, or uint8 (H, W, 3).
        mask: bool (H, W), True in the hole.

    Returns:
        RGB picture of the same size.
    """
    painted = np.array(image)
    painted[np.asarray(mask, bool)] = HOLE_COLOUR
    return Image.fromarray(painted)


class Pictured(Protocol):
    """A moment of a run whose state can be shown, such as a frame."""

    @property
    def x_t(self) -> Image.Image:
        """State of the bridge."""


def save_trajectory(frames: Sequence[Pictured | Image.Image], path: str | os.PathLike) -> Path:
    """Write the bridge states x_t as a looping animation, first and last frame held longer.

    Args:
        frames: frames of a result, t falling from 1 to 0, or pictures of one size.
        path: file ending in ``.webp`` (small, fast) or ``.gif`` (256 colours, for old viewers).

    Returns:
        The path written.

    Raises:
        ValueError: no frames, frames of several sizes, or another suffix.
    """
    pictures: list[Any] = [getattr(frame, "x_t", frame) for frame in frames]
    suffix = Path(path).suffix.lower()
    if suffix not in ANIMATION_SUFFIXES:
        raise ValueError(f"expected a file name ending in .webp or .gif, got {Path(path).name!r}")
    if not pictures:
        raise ValueError("expected at least one frame, got an empty trajectory")
    sizes = {picture.size for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"expected frames of one size, got {sorted(sizes)}")

    shortest, longest = _FRAME_MS
    each = min(longest, max(shortest, round(_MOTION_MS / len(pictures) / 10) * 10))
    durations = [each] * len(pictures)
    durations[0] += _HOLD_FIRST_MS
    durations[-1] += _HOLD_LAST_MS
    options: dict[str, Any] = {"save_all": True, "loop": 0, "duration": durations}
    if suffix == ".gif":
        pictures = [picture.quantize(256, Image.Quantize.FASTOCTREE) for picture in pictures]
        options |= {"format": "GIF", "disposal": 1}
    else:
        options |= {"format": "WEBP", "quality": 80, "method": 0}

    def write(target: Path) -> None:
        pictures[0].save(target, append_images=pictures[1:], **options)

    return write_atomic(path, write)


def report_figure(
    result: Result,
    image: Image.Image | np.ndarray,
    mask: np.ndarray,
    path: str | os.PathLike,
    columns: int = 6,
    schedule: NoiseSchedule | None = None,
) -> Path:
    """Draw one restoration on a page: input, predicted gradient, tau, result, and the way there.

    With the schedule, also when each pixel was restored, how that follows tau, and how fast the
    hole's flat and steep parts came back (:func:`asyncdsb.measure.analysis.timeline`).

    Args:
        result: what the pipeline returned, with its trajectory.
        image: the photograph that was restored, RGB or uint8 (H, W, 3).
        mask: bool (H, W), True in the hole.
        path: file ending in ``.png``, ``.pdf`` or ``.svg``.
        columns: number of steps shown, spread evenly from t = 1 to t = 0; at least 2.
        schedule: noise schedule of the weights; None to leave the last row out. It is left out too
            where the hole or the photo is too small to be followed.

    Returns:
        The path written.

    Raises:
        ValueError: another suffix, a result without a trajectory, or fewer than 2 columns.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _NO_STAMP:
        raise ValueError(
            f"expected a file name ending in .png, .pdf or .svg, got {Path(path).name!r}"
        )
    if not result.trajectory:
        raise ValueError("expected a result with its trajectory (trajectory=True), got none")
    if columns < 2:
        raise ValueError(f"expected at least 2 columns, got {columns}")

    import matplotlib
    from matplotlib.figure import Figure

    picks = np.linspace(0, len(result.trajectory) - 1, columns).round().astype(int)
    frames = [result.trajectory[index] for index in dict.fromkeys(picks.tolist())]
    width, height = result.image.size
    aspect = min(2.0, height / width)
    large, small = _cell(4, aspect), _cell(len(frames), aspect)
    total = _TITLE * 3 + large[1] + _BAR + 2 * small[1]
    story = None if schedule is None else _timeline(result, mask, schedule)
    total += 0 if story is None else _TITLE + _STORY
    figure = Figure(figsize=(_PAGE, total), dpi=100)

    def place(column: int, top: float, cell: tuple[float, float]) -> Axes:
        """Add axes for one picture, its upper edge ``top`` inches below the page's."""
        left = _GAP + column * (cell[0] + _GAP)
        box = (left / _PAGE, 1 - (top + cell[1]) / total, cell[0] / _PAGE, cell[1] / total)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        return axes

    _draw_maps([place(column, _TITLE, large) for column in range(4)], result, image, mask)
    top = 2 * _TITLE + large[1] + _BAR
    for column, frame in enumerate(frames):
        bridge = place(column, top, small)
        bridge.imshow(np.asarray(frame.x_t))
        bridge.set_title(f"$x_t$, t = {frame.t:.2f}")
        prediction = place(column, top + small[1] + _TITLE, small)
        prediction.imshow(np.asarray(frame.x0_hat))
        prediction.set_title(r"$\hat{x}_0$")
    if story is not None:
        bottom, tall = 0.55 / total, (_STORY - 0.65) / total
        spans = ((0.02, 0.2), (0.3, 0.25), (0.63, 0.34))
        boxes = [(left, bottom, wide, tall) for left, wide in spans]
        _draw_timeline([figure.add_axes(box) for box in boxes], story)

    def write(target: Path) -> None:
        # SVG names its elements with random numbers unless the salt is given.
        with matplotlib.rc_context({"svg.hashsalt": "asyncdsb"}):
            figure.savefig(target, metadata=_NO_STAMP[suffix])

    return write_atomic(path, write)


def _timeline(result: Result, mask: np.ndarray, schedule: NoiseSchedule) -> Timeline | None:
    """The timeline of a result, None where it is too small to have one."""
    from asyncdsb.measure.analysis import timeline

    try:
        return timeline(
            result.trajectory, result.tau, result.gradient, np.asarray(mask, bool), schedule
        )
    except ValueError:
        return None


def timeline_figure(
    story: Timeline, intact: Timeline | None = None, *, path: str | os.PathLike
) -> Path:
    """Draw when each pixel was restored, readable on light and on dark ground.

    Args:
        story: of :func:`asyncdsb.measure.analysis.timeline`.
        intact: the same measured against the photo as it was under the hole, whose speeds are drawn
            beside those of ``story``; None to leave them out.
        path: PNG file.

    Returns:
        The path written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    grey: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY
    )
    with matplotlib.rc_context(grey | {"font.size": 11, "axes.facecolor": "none"}):
        figure = Figure(figsize=(6.4, 6.4), dpi=110, layout="constrained", facecolor="none")
        grid = figure.add_gridspec(2, 2)
        places = [grid[0, 0], grid[0, 1], grid[1, :] if intact is None else grid[1, 0]]
        _draw_timeline([figure.add_subplot(place) for place in places], story)
        if intact is not None:
            _draw_speeds(figure.add_subplot(grid[1, 1]), intact, "the photo")

        def write(target: Path) -> None:
            figure.savefig(target, metadata=_NO_STAMP[".png"])

        return write_atomic(path, write)


def _draw_timeline(panels: Sequence[Axes], story: Timeline) -> None:
    """Draw when each pixel was restored, that against tau, and the speeds over the run."""
    shown, against, curves = panels
    shown.set_axis_off()
    inside = np.isfinite(story.restored)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    hole = story.restored[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shown.imshow(hole, cmap=TAU_COLOURS, vmin=0, vmax=1)
    shown.set_title("hole: restored at t")

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


def _cell(columns: int, aspect: float) -> tuple[float, float]:
    """Return (width, height) in inches of one of ``columns`` pictures across the page."""
    width = min((_PAGE - _GAP) / columns - _GAP, 4.5)
    return width, width * aspect


def _draw_maps(
    axes: Sequence[Axes], result: Result, image: Image.Image | np.ndarray, mask: np.ndarray
) -> None:
    """Draw input with the hole, gradient, tau, result; colour bars below the maps."""
    from matplotlib.colors import PowerNorm

    axes[0].imshow(_thumbnail(paint_hole(image, mask)))
    axes[0].set_title("input, hole painted")
    gradient = axes[1].imshow(
        shrink_map(result.gradient, _REPORT_SIDE),
        cmap=GRADIENT_COLOURS,
        norm=PowerNorm(0.5, vmin=0, vmax=1),
    )
    axes[1].set_title("predicted gradient, square-root scale")
    tau = axes[2].imshow(shrink_map(result.tau, _REPORT_SIDE), cmap=TAU_COLOURS, vmin=0, vmax=1)
    axes[2].set_title(r"$\tau$, larger = restored earlier")
    # As it is seen: a grey picture would be drawn in false colours.
    axes[3].imshow(_thumbnail(Image.fromarray(result.photograph.rgb)))
    axes[3].set_title("result")
    for drawn, axis, ticks in (
        (gradient, axes[1], [0, 0.05, 0.2, 0.5, 1]),
        (tau, axes[2], [0, 0.25, 0.5, 0.75, 1]),
    ):
        figure: Any = axis.figure
        depth = 0.12 / (axis.get_position().height * figure.get_figheight())
        bar = axis.inset_axes((0.1, -1.7 * depth, 0.8, depth))
        figure.colorbar(drawn, cax=bar, orientation="horizontal", ticks=ticks)


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((_REPORT_SIDE, _REPORT_SIDE))
    return small
