"""Procedural inpainting masks: regular holes, thick and thin strokes, and painted free-form holes.

A mask is a boolean array of shape (H, W) in which True marks a missing pixel (the hole). Every
length is given for a 256 x 256 image and multiplied by ``sqrt(H W) / 256``, so a mask keeps its
share of the area at any size.

==========  ===================================================================================
center      the central half of both sides, rows and columns [64, 192) at 256
half        the right half, columns [128, 256) at 256
wide        1 to 5 fat polygonal strokes, or (23 %) 1 to 3 boxes: few large blobs (LaMa, RePaint)
narrow      4 to 50 thin polygonal strokes: many long, thin gaps (LaMa, RePaint)
freeform    1 to 6 curved brush strokes whose heading and width drift as a hand's do, or (30 %)
            a closed outline filled in, as people paint over an object
==========  ===================================================================================

The random kinds leave out at most half of the image; larger draws are drawn again.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

from asyncdsb.names import MASK_KINDS

AREA_BINS = ((0.01, 0.10), (0.11, 0.20), (0.21, 0.30), (0.31, 0.40), (0.41, 0.50), (0.51, 0.60))
"""Shares of missing area (lowest, highest), both included, as used to study hole sizes."""

MIN_SIDE = 8  # shortest side, in pixels, for which masks are drawn

Random = np.random.Generator


class StrokeStyle(NamedTuple):
    """Ranges of a family of polygonal strokes; lengths in pixels of a 256 x 256 image."""

    strokes: tuple[int, int]  # fewest and most, both included
    width: int  # largest addition to the least brush width of 6.5 (cv2 draws its thickness 5 so)
    length: int  # largest addition to the least segment length of 10
    box_share: float  # probability that boxes are drawn instead


WIDE = StrokeStyle((1, 5), width=100, length=200, box_share=0.23)
NARROW = StrokeStyle((4, 50), width=10, length=40, box_share=0.0)


def make_mask(kind: str, size: int | tuple[int, int], seed: int | Random = 0) -> np.ndarray:
    """Draw one mask, bool (H, W), True = missing, never empty nor full, the same for the same seed.

    Args:
        kind: one of :data:`asyncdsb.names.MASK_KINDS`; ``center`` and ``half`` ignore the seed.
        size: side of a square, or (height, width), in pixels, each at least :data:`MIN_SIDE`.
        seed: not negative; or a numpy generator (advanced).

    Raises:
        ValueError: unknown kind, a negative seed, or a size below :data:`MIN_SIDE`.

    >>> mask = make_mask("wide", (64, 96), seed=1)
    >>> mask.shape, str(mask.dtype), bool(mask.any())
    ((64, 96), 'bool', True)
    >>> float(make_mask("center", 64).mean())
    0.25
    """
    if isinstance(seed, int) and seed < 0:
        raise ValueError(f"expected a seed of at least 0, got {seed}")
    if kind not in MASK_KINDS:
        raise ValueError(f"expected a mask kind out of {', '.join(MASK_KINDS)}; got {kind!r}")
    canvas = _blank(size)
    height, width = canvas.shape
    if kind == "half":
        canvas[:, width // 2 :] = 1
    elif kind == "center":
        top, left = height // 4, width // 4
        canvas[top : top + height // 2, left : left + width // 2] = 1
    else:
        rng = np.random.default_rng(seed)
        while not 0 < cv2.countNonZero(canvas) <= canvas.size / 2:
            canvas[:] = 0
            _paint(kind, canvas, rng)
    return canvas.astype(bool)


def make_mask_in_bin(
    area_bin: tuple[float, float], size: int | tuple[int, int], seed: int = 0
) -> np.ndarray:
    """Draw a brush-stroke mask whose missing share lies in a bin.

    A share is drawn uniformly from the bin, then thick, thin and curved strokes are added until it
    is reached. A stroke that would pass the bin's upper end is taken back, and the next ones are
    smaller. ``area_bin`` is the lowest and highest missing share, as in :data:`AREA_BINS`; the rest
    is as for :func:`make_mask`.
    """
    canvas, rng, shrink = _blank(size), np.random.default_rng(seed), 1.0
    low, high = area_bin
    least, most = math.ceil(low * canvas.size), math.floor(high * canvas.size)
    if not 0 < low < high < 1 or least > most:
        raise ValueError(f"expected shares 0 < low < high < 1 in area_bin; got ({low}, {high})")
    target = int(rng.integers(least, most + 1))
    while cv2.countNonZero(canvas) < target:
        attempt = canvas.copy()
        kind = rng.integers(3)
        if kind == 2:
            _brush(attempt, rng, shrink)
        else:
            _sweeps(attempt, rng, (WIDE, NARROW)[kind], 1, shrink)
        if cv2.countNonZero(attempt) <= most:
            canvas = attempt
        else:
            shrink *= 0.7
    return canvas.astype(bool)


def _blank(size: int | tuple[int, int]) -> np.ndarray:
    """A mask without a hole, uint8 (H, W); ValueError on a size below :data:`MIN_SIDE`."""
    sides = (size, size) if isinstance(size, int | np.integer) else size
    whole = isinstance(sides, tuple | list) and all(isinstance(n, int | np.integer) for n in sides)
    if not whole or len(sides) != 2 or min(sides) < MIN_SIDE:
        expected = f"expected size as an integer or (height, width), each at least {MIN_SIDE}"
        raise ValueError(f"{expected}; got {size!r}")
    return np.zeros(sides, np.uint8)


def _thickness(line_width: float) -> int:
    """The cv2 thickness whose line comes closest to the given width in pixels."""
    # Thickness 1 is one pixel, an even n covers n + 1 and an odd one n + 2.
    return max(1, 2 * round((line_width - 1) / 2))


def _sweeps(
    canvas: np.ndarray, rng: Random, style: StrokeStyle, strokes: int, shrink: float = 1.0
) -> None:
    """Draw strokes of 1 to 5 straight segments, with their ends inside."""
    # A segment points 0.01 + {0, 1, 2, 3} rad from straight down, so that nearly all of a stroke's
    # segments lean to one side: to the left and to the right for every other stroke.
    height, width = canvas.shape
    unit = math.sqrt(canvas.size) / 256 * shrink
    segments = rng.integers(1, 6, strokes).tolist()
    starts = np.stack([rng.integers(width, size=strokes), rng.integers(height, size=strokes)], 1)
    angles = 0.01 + rng.integers(0, 4, (strokes, 5))
    angles[int(rng.integers(2)) :: 2] *= -1
    lengths = (10 + style.length * rng.random((strokes, 5))) * unit
    widths = (6.5 + np.floor(style.width * rng.random((strokes, 5)))) * unit
    steps = np.stack([lengths * np.sin(angles), lengths * np.cos(angles), widths], 2).tolist()
    for count, (x, y), stroke in zip(segments, starts.tolist(), steps, strict=True):
        for step_x, step_y, line_width in stroke[:count]:
            next_x = min(max(round(x + step_x), 0), width - 1)
            next_y = min(max(round(y + step_y), 0), height - 1)
            cv2.line(canvas, (x, y), (next_x, next_y), 1, _thickness(line_width))
            x, y = next_x, next_y


def _boxes(canvas: np.ndarray, rng: Random) -> None:
    """Draw 1 to 3 boxes with sides of 30 to 150 px and at least 10 px from the border."""
    unit = math.sqrt(canvas.size) / 256
    for _ in range(int(rng.integers(1, 4))):
        spans = []
        for length in canvas.shape:
            margin = min(round(10 * unit), length // 4)
            longest = length - 2 * margin
            extent = min(max(1, round(rng.uniform(30, 150) * unit)), longest)
            first = margin + int(rng.integers(longest - extent + 1))
            spans.append(slice(first, first + extent))
        canvas[tuple(spans)] = 1


def _brush(canvas: np.ndarray, rng: Random, shrink: float = 1.0) -> None:
    """Draw one curved stroke: heading and width walk at random, reflected at the border."""
    # The turn per step is an autoregressive walk, so the stroke bends smoothly; the width swings
    # between about half and twice its median of 8 to 40 px.
    height, width = canvas.shape
    unit = math.sqrt(canvas.size) / 256 * shrink
    steps = int(rng.integers(12, 60))
    stride = rng.uniform(4, 10) * unit
    median_width = 8 * 5 ** rng.random() * unit
    turn_noise = rng.normal(0, 0.12, steps).tolist()
    width_noise = rng.normal(0, 0.16, steps).tolist()
    x, y = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
    heading, turn, log_width = rng.uniform(-math.pi, math.pi), 0.0, 0.0
    for turn_kick, width_kick in zip(turn_noise, width_noise, strict=True):
        turn = 0.85 * turn + turn_kick
        log_width = 0.9 * log_width + width_kick
        heading += turn
        next_x, next_y = x + stride * math.cos(heading), y + stride * math.sin(heading)
        if not 0 <= next_x <= width - 1:
            heading = math.pi - heading
            next_x = min(max(next_x, 0.0), width - 1.0)
        if not 0 <= next_y <= height - 1:
            heading = -heading
            next_y = min(max(next_y, 0.0), height - 1.0)
        start, end = (round(x), round(y)), (round(next_x), round(next_y))
        cv2.line(canvas, start, end, 1, _thickness(median_width * math.exp(log_width)))
        x, y = next_x, next_y


def _outline(canvas: np.ndarray, rng: Random) -> None:
    """Fill one smooth closed outline: an ellipse of 20 to 80 px radius with three wobbles."""
    height, width = canvas.shape
    around = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    wobble = np.ones_like(around)
    for order in (2, 3, 5):
        wobble += rng.normal(0, 0.25 / order) * np.cos(order * around + rng.uniform(0, 6.3))
    radii = rng.uniform(20, 80, 2) * (math.sqrt(canvas.size) / 256)
    tilt = rng.uniform(0, math.pi)
    along = radii[0] * wobble * np.cos(around)
    across = radii[1] * wobble * np.sin(around)
    x = rng.uniform(0, width - 1) + along * math.cos(tilt) - across * math.sin(tilt)
    y = rng.uniform(0, height - 1) + along * math.sin(tilt) + across * math.cos(tilt)
    cv2.fillPoly(canvas, [np.rint(np.stack([x, y], 1)).astype(np.int32)], 1)


def _paint(kind: str, canvas: np.ndarray, rng: Random) -> None:
    """Paint a whole mask of a random kind."""
    if kind != "freeform":
        style = WIDE if kind == "wide" else NARROW
        if rng.random() < style.box_share:
            _boxes(canvas, rng)
        else:
            _sweeps(canvas, rng, style, int(rng.integers(*style.strokes, endpoint=True)))
    elif rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 3))):
            _outline(canvas, rng)
    else:
        for _ in range(int(rng.integers(1, 7))):
            _brush(canvas, rng)
