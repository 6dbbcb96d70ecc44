"""The painting canvas: what the browser shows of the photograph, and the mask painted on it.

The mask has a grid of its own and travels in both directions as the lengths of its runs. The square
around a head that the visitor drew, if any, goes with it.
"""

import json

import cv2
import numpy as np
from PIL import Image

from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import encoded, scaled

SHOWN_SIDE = 2048  # Longest side in pixels of the copy that the browser shows, and of the mask.
MASK_SIDE = 1024  # Least longest side of the mask, so that strokes look smooth on small photos.
MAX_TEXT = 16_000_000  # Characters of a text that is read as a mask.
EDITS = ("invert", "grow", "shrink")


def mask_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the mask that is painted on a photograph of this width and height.

    They are the photograph's, or the multiple of it that reaches :data:`MASK_SIDE`, or those of the
    copy for the screen where the photograph exceeds :data:`SHOWN_SIDE`.
    """
    longest = max(size)
    if longest > SHOWN_SIDE:
        return scaled(size, SHOWN_SIDE / longest)
    factor = -(-MASK_SIDE // longest)
    return size[0] * factor, size[1] * factor


def shown_copy(photo: Image.Image) -> bytes:
    """Encode a photograph for the screen, as a JPEG file of at most :data:`SHOWN_SIDE` pixels."""
    if max(photo.size) > SHOWN_SIDE:
        photo = photo.resize(mask_size(photo.size), Image.Resampling.LANCZOS)
    return encoded(photo, format="JPEG", quality=92, subsampling=0)


def hole_text(
    stamp: str, size: tuple[int, int], mask: np.ndarray | None = None, box: Box | None = None
) -> str:
    """Write a mask as the canvas hands it over.

    Args:
        stamp: of the photograph that it is painted on.
        size: (width, height) of the photograph in pixels.
        mask: bool (H, W) at that size or the mask's own, True = missing; None for nothing.
        box: square around the head that the visitor drew, in pixels of the photograph.

    Returns:
        JSON with ``photo``, the stamp; ``width`` and ``height`` of the mask; ``runs``, how many
        pixels row by row are known, missing, known and so on; ``box``.
    """
    width, height = mask_size(size)
    grid = np.zeros(1, bool) if mask is None else resize_mask(mask, (width, height))
    edges = np.flatnonzero(np.diff(grid.ravel(), prepend=False))
    runs = np.diff(edges, prepend=0, append=width * height).tolist()
    text = {"photo": stamp, "width": width, "height": height, "runs": runs, "box": box}
    return json.dumps(text, separators=(",", ":"))


def read_hole_text(text: str) -> tuple[str, np.ndarray, Box | None]:
    """Stamp of the photograph, mask, bool (H, W), and box in a text of :func:`hole_text`.

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
        if not 0 <= runs.min() <= runs.max() <= width * height == runs.sum():
            raise ValueError(f"runs that do not fill {width}x{height} pixels")
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        box = found.get("box")
        if box is not None:
            left, top, side = map(int, box)
            box = left, top, side
        return str(found["photo"]), flat.reshape(height, width), box
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a painted hole, got something else ({error})") from None


def edit_mask(mask: np.ndarray, edit: str) -> np.ndarray:
    """Apply one of :data:`EDITS` to a mask, bool (H, W) at the canvas's scale.

    Raises:
        ValueError: nothing is left.
    """
    if edit == "invert":
        edited = ~mask
    else:
        radius = round(max(mask.shape) / 128)
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
    """
    height, width = mask.shape
    values = mask.astype(np.float32)
    if size[0] < width:
        # A thin scratch must survive the way down.
        return cv2.resize(values, size, interpolation=cv2.INTER_AREA) > 0.25
    whole = size[0] % width == 0 and size[1] % height == 0
    way = cv2.INTER_NEAREST if whole else cv2.INTER_LINEAR
    return cv2.resize(values, size, interpolation=way) >= 0.5
