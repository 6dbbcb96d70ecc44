"""The painting canvas: a square with the photograph centred in it, and the mask drawn on top.

The canvas is small, so that a stroke travels quickly from the browser to the server; the photograph
keeps its own resolution on the server, and the mask is scaled up to it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from asyncdsb.show.viz import HOLE_COLOUR

CANVAS = 512
"""Side of the square canvas in pixels."""


def fit_box(size: tuple[int, int], side: int = CANVAS) -> tuple[int, int, int, int]:
    """Centre a picture of this size in the canvas, as large as it fits.

    Args:
        size: (width, height) in pixels.
        side: side of the canvas in pixels.

    Returns:
        (left, top, width, height) on the canvas, in pixels.
    """
    scale = side / max(size)
    width, height = (max(1, round(length * scale)) for length in size)
    return (side - width) // 2, (side - height) // 2, width, height


def editor_value(photo: Image.Image, layer: Image.Image | None = None) -> dict[str, Any]:
    """Build what the editor shows: the photograph, and the mask as its one layer.

    Args:
        photo: RGB picture of any size.
        layer: of :func:`layer_of`; None for an unpainted canvas.

    Returns:
        ``{"background", "layers", "composite"}`` with RGBA pictures of the canvas size. The bands
        beside the photograph show it blurred, as a film player does.
    """
    left, top, width, height = fit_box(photo.size)
    small = photo.resize((width, height), Image.Resampling.LANCZOS)
    background = _backdrop(small).convert("RGBA")
    background.paste(small, (left, top))
    layer = layer_of(photo.size) if layer is None else layer
    return {"background": background, "layers": [layer], "composite": None}


def layer_of(size: tuple[int, int], mask: np.ndarray | None = None) -> Image.Image:
    """Draw a mask as it looks on the canvas.

    Args:
        size: (width, height) of the photograph in pixels.
        mask: bool (H, W) at that size or the canvas's, True = missing; None for nothing.

    Returns:
        RGBA picture of the canvas size, transparent outside the hole.
    """
    left, top, width, height = fit_box(size)
    layer = np.zeros((CANVAS, CANVAS, 4), np.uint8)
    if mask is not None:
        hole = _resize_mask(mask, (width, height))
        layer[top : top + height, left : left + width][hole] = (*HOLE_COLOUR, 255)
    return Image.fromarray(layer)


def layer_mask(layer: Image.Image | None, size: tuple[int, int]) -> np.ndarray:
    """Read the painted mask at the photograph's size.

    Whatever is painted beside the photograph is ignored.

    Args:
        layer: the layer that the editor hands over; the hole is where it is not transparent.
            None stands for an unpainted canvas.
        size: (width, height) of the photograph in pixels.

    Returns:
        bool (H, W), True = missing.
    """
    if layer is None:
        return np.zeros((size[1], size[0]), bool)
    painted = np.asarray(layer.convert("RGBA").getchannel("A")) > 0
    if painted.shape != (CANVAS, CANVAS):
        painted = _resize_mask(painted, (CANVAS, CANVAS))
    left, top, width, height = fit_box(size)
    return _resize_mask(painted[top : top + height, left : left + width], size)


EDITS = ("invert", "grow", "shrink")
"""What can be done to a mask as a whole."""

GROWTH = 4
"""Pixels of the canvas by which a mask grows or shrinks at a time."""


def edit_mask(mask: np.ndarray, edit: str) -> np.ndarray:
    """Invert, grow or shrink a mask.

    Args:
        mask: bool (H, W) at the canvas's scale.
        edit: one of :data:`EDITS`.

    Returns:
        bool (H, W).

    Raises:
        ValueError: another edit, or nothing left.
    """
    if edit not in EDITS:
        raise ValueError(f"expected an edit out of {', '.join(EDITS)}, got {edit!r}")
    if edit == "invert":
        edited = ~mask
    else:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GROWTH + 1,) * 2)
        change = cv2.dilate if edit == "grow" else cv2.erode
        edited = change(mask.astype(np.uint8), disc) > 0
    if not edited.any():
        raise ValueError("Nothing of the hole would be left.")
    return edited


def _backdrop(photo: Image.Image) -> Image.Image:
    """Fill the canvas with the photograph, blurred and faded to grey."""
    blurred = photo.resize((12, 12), Image.Resampling.BOX)
    blurred = blurred.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    return Image.blend(blurred, Image.new("RGB", blurred.size, (128, 134, 142)), 0.55)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask; smoothed on the way up, so that strokes keep round edges."""
    if (mask.shape[1], mask.shape[0]) == tuple(size):
        return mask.copy()
    shrinking = size[0] < mask.shape[1]
    scaled = cv2.resize(
        mask.astype(np.float32),
        tuple(size),
        interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR,
    )
    # A thin scratch must survive the way down to the canvas.
    return scaled > 0.25 if shrinking else scaled >= 0.5
