"""The painting canvas: what the browser shows of the photograph, and the mask painted on it.

The browser gets a copy of the photograph for the screen; the original keeps its own resolution on
the server. The mask has a grid of its own, of which the photograph's is a part wherever it is small
enough, and travels in both directions as the lengths of its runs.
"""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
from PIL import Image

SHOWN_SIDE = 2048
"""Longest side in pixels of the copy that the browser shows, and of the mask."""

MASK_SIDE = 1024
"""Least longest side in pixels of the mask, so that strokes look smooth on small photographs."""

MAX_TEXT = 16_000_000
"""Longest text that is read as a mask."""


def mask_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the mask that is painted on a photograph.

    Args:
        size: (width, height) of the photograph in pixels.

    Returns:
        (width, height): the photograph's, or the multiple of it that reaches :data:`MASK_SIDE`, or
        where it exceeds :data:`SHOWN_SIDE` that of the copy.
    """
    longest = max(size)
    if longest > SHOWN_SIDE:
        width, height = (max(1, round(side * SHOWN_SIDE / longest)) for side in size)
        return width, height
    factor = -(-MASK_SIDE // longest)
    return size[0] * factor, size[1] * factor


def shown_copy(photo: Image.Image) -> bytes:
    """Encode a photograph for the screen, as a JPEG file of at most :data:`SHOWN_SIDE` pixels."""
    if max(photo.size) > SHOWN_SIDE:
        photo = photo.resize(mask_size(photo.size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def hole_text(stamp: str, size: tuple[int, int], mask: np.ndarray | None = None) -> str:
    """Write a mask as the canvas hands it over.

    Args:
        stamp: of the photograph that it is painted on.
        size: (width, height) of the photograph in pixels.
        mask: bool (H, W) at that size or the mask's own, True = missing; None for nothing.

    Returns:
        JSON with ``photo``, the stamp; ``width`` and ``height`` of the mask; ``runs``, how many
        pixels row by row are known, missing, known and so on.
    """
    width, height = mask_size(size)
    grid = np.zeros((height, width), bool)
    if mask is not None:
        grid = resize_mask(mask, (width, height))
    flat = grid.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(edges, prepend=0, append=flat.size).tolist()
    text = {
        "photo": stamp,
        "width": width,
        "height": height,
        "runs": [0, *runs] if flat[0] else runs,
    }
    return json.dumps(text, separators=(",", ":"))


def read_hole_text(text: str) -> tuple[str, np.ndarray]:
    """Read a mask that the canvas hands over.

    Args:
        text: of :func:`hole_text`.

    Returns:
        The stamp of the photograph, and the mask: bool (H, W), True = missing.

    Raises:
        ValueError: anything else than such a text.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"{len(text)} characters")
        found = json.loads(text)
        width, height = int(found["width"]), int(found["height"])
        runs = np.array(found["runs"], np.int64)
        if not (0 < width <= SHOWN_SIDE and 0 < height <= SHOWN_SIDE):
            raise ValueError(f"size {width}x{height}")
        if runs.ndim != 1 or runs.min() < 0 or runs.max() > width * height:
            raise ValueError("runs beyond it")
        if runs.sum() != width * height:
            raise ValueError(f"{runs.sum()} pixels for {width}x{height}")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return str(found["photo"]), flat.reshape(height, width)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a painted hole, got something else ({error})") from None


EDITS = ("invert", "grow", "shrink")
"""What can be done to a mask as a whole."""

GROWTH = 1 / 128
"""Share of the mask's longest side by which it grows or shrinks at a time."""


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
        radius = round(max(mask.shape) * GROWTH)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        change = cv2.dilate if edit == "grow" else cv2.erode
        edited = change(mask.astype(np.uint8), disc) > 0
    if not edited.any():
        raise ValueError("Nothing of the hole would be left.")
    return edited


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale a mask.

    To a whole multiple every pixel becomes a square, which comes back as it was. In between it is
    smoothed on the way up, so that strokes keep round edges.

    Args:
        mask: bool (H, W), True = missing.
        size: (width, height) wanted.

    Returns:
        bool of that size.
    """
    height, width = mask.shape
    if (width, height) == tuple(size):
        return mask.copy()
    if size[0] < width:
        scaled = cv2.resize(mask.astype(np.float32), tuple(size), interpolation=cv2.INTER_AREA)
        # A thin scratch must survive the way down.
        return scaled > 0.25
    whole = size[0] % width == 0 and size[1] % height == 0
    way = cv2.INTER_NEAREST if whole else cv2.INTER_LINEAR
    return cv2.resize(mask.astype(np.float32), tuple(size), interpolation=way) >= 0.5
