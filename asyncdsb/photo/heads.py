"""The square around a head, in which weights that were trained on portraits work.

Such weights know a head that fills the picture, upright and centred. Their window therefore follows
the head, not the hole. A cascade of local binary patterns (Liao et al. 2007) finds frontal faces;
with hair they must be at least about an eighth of the photo's longer side high.
"""

import cv2
import numpy as np
import torch

from asyncdsb.photo.fill import harmonic_fill
from asyncdsb.photo.images import scaled, to_pil, to_tensor

Box = tuple[int, int, int]  # left edge, top edge and side of a square, in photo pixels
MIN_SIDE = 32  # least side of a given box, unless the photograph is smaller
SEARCHED = 320  # longer side in pixels of the picture in which heads are looked for
# Side of a head's window over that of the cascade's square, and how far its middle lies above, over
# the latter's side: medians in the training portraits, trained on in crops of 0.85 to 1.
HEAD, RISE = 1.6, 0.02
# A window of at least this share of the photograph's shorter side becomes the largest square,
# because the cascade's size is no more exact than that.
WHOLE = 0.8
REACH = 1.5  # most by which a window grows for a hole beyond it, as heads in training


def check_box(box: Box, hole: np.ndarray) -> None:
    """Raise ValueError unless a box lies within the photograph and holds a part of the hole."""
    left, top, side = box
    height, width = hole.shape
    least, got = min(MIN_SIDE, height, width), f"left {left}, top {top}, side {side}"
    inside = min(left, top) >= 0 and left + side <= width and top + side <= height
    if side < least or not inside:
        within = f"within the photo of {width}x{height} pixels, with a side of at least {least}"
        raise ValueError(f"expected a box {within}, got {got}")
    if not _held(hole, box):
        raise ValueError(
            f"expected a square around the head with some of the hole, got none in {got}"
        )


def _held(hole: np.ndarray, box: Box) -> int:
    """How many pixels of a hole a box holds."""
    left, top, side = box
    return int(np.count_nonzero(hole[top : top + side, left : left + side]))


def head_box(photo: np.ndarray, hole: np.ndarray) -> Box:
    """Choose the square of a photo (H, W, 3) uint8 that is restored; some of the hole is in it.

    Of all heads found, it follows the one with most of the hole, and grows up to :data:`REACH`
    times to hold all of it. Heads are looked for first in the photo with a smooth fill in its hole;
    if none there holds a part of the hole, in the photo as it is. Pixels under the mask may
    therefore decide where the window lies, not its content. Without a head near the hole it is
    :func:`largest_square`.
    """
    heads, small = [], _reduced(photo)
    # The same filter, so that what holds any of a missing pixel is missing.
    where = torch.from_numpy(_reduced(hole.astype(np.float32)) > 0)[None, None]
    filled = to_pil(harmonic_fill(to_tensor(small).masked_fill_(where, 0), where))
    # The first count is stricter, because a smooth fill looks a little like a face.
    for picture, count in ((np.asarray(filled), 6), (small, 3)):
        heads += find_heads(picture, hole.shape, count)
        if any(_held(hole, head) for head in heads):
            break
    if not heads:
        return largest_square(hole)
    grown = _grown(max(heads, key=lambda head: (_held(hole, head), head[2])), hole)
    return grown if _held(hole, grown) else largest_square(hole)


def largest_square(hole: np.ndarray) -> Box:
    """The largest square of a photo with a hole (H, W), for when no head is known.

    It lies in the middle of a landscape format and at the top of a portrait format, and moves from
    there as little as possible to hold as much of the hole as it can.
    """
    height, width = hole.shape
    side = min(height, width)
    # Of the two directions one is as long as the square.
    held = np.convolve(hole.sum(0 if width > height else 1), np.ones(side, int), "valid")
    usual = (width - side) // 2 if width > height else 0
    best = np.flatnonzero(held == held.max())
    first = int(best[np.argmin(np.abs(best - usual))])
    return (first, 0, side) if width > height else (0, first, side)


def find_heads(picture: np.ndarray, shape: tuple[int, int], count: int = 3) -> list[Box]:
    """Find frontal faces, and for each the largest square around its head that the photo holds.

    ``picture`` is the photo, of ``shape`` (H, W), at a size of :data:`SEARCHED`: (h, w, 3) uint8.
    A face must be seen in ``count`` neighbouring places and sizes.
    """
    # Imported here, because it takes half a second that other weights need not wait for.
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    most, least = min(grey.shape), 24  # the cascade's own size
    if most < least:
        return []
    sizes = {"min_size": (least, least), "max_size": (most, most)}
    cascade = Cascade(lbp_frontal_face_cascade_filename())
    ratio, boxes = max(shape) / max(grey.shape), []
    for face in cascade.detect_multi_scale(grey, 1.15, 1.5, min_neighbor_number=count, **sizes):
        side = ratio * face["width"]
        x = ratio * (face["c"] + face["width"] / 2)
        y = ratio * (face["r"] + face["width"] / 2) - RISE * side
        side *= HEAD
        side = min(shape) if side >= WHOLE * min(shape) else side
        boxes.append(_placed(x - side / 2, y - side / 2, round(side), shape))
    return boxes


def _placed(left: float, top: float, side: int, shape: tuple[int, int]) -> Box:
    """A square moved into a photo that is at least as large."""
    height, width = shape
    return min(max(round(left), 0), width - side), min(max(round(top), 0), height - side), side


def _grown(head: Box, hole: np.ndarray) -> Box:
    """The least square with a head's window and all of the hole, or the window as it is."""
    left, top, side = head
    first_column, first_row, width, height = cv2.boundingRect(hole.astype(np.uint8))
    upper, lower = min(top, first_row), max(top + side, first_row + height)
    west, east = min(left, first_column), max(left + side, first_column + width)
    wanted = max(lower - upper, east - west)
    if wanted > min(REACH * side, *hole.shape):
        return head
    # The head stays as near to the middle as the hole allows.
    x = min(max(left - (wanted - side) // 2, east - wanted), west)
    y = min(max(top - (wanted - side) // 2, lower - wanted), upper)
    return _placed(x, y, wanted, hole.shape)


def _reduced(photo: np.ndarray) -> np.ndarray:
    """A photo, or a map of its size, at the size at which heads are looked for."""
    height, width = photo.shape[:2]
    ratio = SEARCHED / max(height, width)
    kind = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    return cv2.resize(photo, scaled((width, height), ratio), interpolation=kind)
