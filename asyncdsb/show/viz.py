"""Heatmaps, the hole painted over a photograph, and the trajectory as an animation.

All scales are fixed to [0, 1], so two pictures can be compared by eye.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from asyncdsb.photo.images import encoded, write_atomic

# Perceptually uniform and readable with every common colour blindness.
TAU_COLOURS = "viridis"
GRADIENT_COLOURS = "magma"

HOLE_COLOUR = (255, 45, 120)
"""Colour of the hole where it is painted over a photograph, 8-bit RGB."""

# Milliseconds: the motion, the shortest and the longest frame, and more for the first and the last.
_MOTION, _SHORTEST, _LONGEST, _HOLD_FIRST, _HOLD_LAST = 2600, 20, 260, 500, 1600


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
    height, width = values.shape
    scale = side / max(height, width)
    if scale >= 1:
        return values
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA)


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
    options: dict[str, Any] = {"save_all": True, "loop": 0, "duration": durations(len(pictures))}
    if Path(path).suffix.lower() == ".gif":
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
