"""What stands in the hole before the bridge starts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FILLS = ("zero", "pyramid")


def fill_hole(image: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Replace the hole of a picture by a deterministic fill; known pixels stay bit-identical.

    ``zero`` is the paper's text (mid grey), ``pyramid`` a smooth continuation of the surroundings
    (:func:`pyramid_fill`).

    Args:
        image: (B, C, H, W); what it holds in the hole does not matter.
        mask: (B, 1, H, W), non-zero = missing.
        kind: "zero" or "pyramid".

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: on another kind.
    """
    if kind not in FILLS:
        raise ValueError(f"expected a hole fill out of {', '.join(FILLS)}, got {kind!r}")
    hole = mask > 0.5
    known = torch.where(hole, torch.zeros_like(image), image)
    return known if kind == "zero" else pyramid_fill(known, hole)


def pyramid_fill(image: Tensor, hole: Tensor) -> Tensor:
    """Fill a hole by push-pull interpolation over an image pyramid.

    The known pixels are averaged down until nothing is missing, then each missing pixel takes the
    value of the coarser level, bilinearly enlarged. Where a classical inpainting runs on the host,
    pixel by pixel, this is a dozen batched tensor operations on whatever device the batch is on.

    Args:
        image: (B, C, H, W); zero in the hole.
        hole: (B, 1, H, W) bool.

    Returns:
        (B, C, H, W), known pixels unchanged; zero for a picture with nothing known.
    """
    levels = []
    value, weight = image, (~hole).to(image.dtype)
    while True:
        levels.append((value, weight))
        if value.shape[-2:] == (1, 1):
            break
        size = value.shape[-2:]
        odd = (0, size[1] % 2, 0, size[0] % 2)
        total = 4 * F.avg_pool2d(F.pad(weight, odd), 2)
        value = 4 * F.avg_pool2d(F.pad(value * weight, odd), 2) / total.clamp(min=1e-6)
        # One known pixel out of four is enough to trust the mean of the known ones.
        weight = total.clamp(max=1)
    filled = levels[-1][0]
    for value, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, value, coarse)
    return filled
