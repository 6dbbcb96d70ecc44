"""Smooth continuations of what is known into a hole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
    return _coarse_to_fine(image, hole, sweeps=0)


def harmonic_fill(image: Tensor, hole: Tensor, sweeps: int = 8) -> Tensor:
    """Fill a hole by the membrane spanned over it, the solution of Laplace's equation.

    For pictures whose power falls as 1 / f^2, as that of natural ones nearly does, this is the most
    likely continuation; it meets the known border without a step. Solved coarse to fine: every
    level of :func:`pyramid_fill` starts from the coarser one, and weighted Jacobi sweeps smooth
    what is left.

    Args:
        image: (B, C, H, W); zero in the hole.
        hole: (B, 1, H, W) bool.
        sweeps: relaxations at the finest level; three times as many at the others, where they
            cost little and reach far.

    Returns:
        (B, C, H, W), known pixels unchanged; zero for a picture with nothing known.
    """
    return _coarse_to_fine(image, hole, sweeps)


def joined(picture: Tensor, known: Tensor, unknown: Tensor, sweeps: int = 8) -> Tensor:
    """Move a picture to what is known without a step at the border (Perez et al. 2003).

    What it misses of the known pixels is continued over the others by their membrane, and added.

    Args:
        picture: (B, C, H, W).
        known: (B, C, H, W), of use where it is known.
        unknown: (B, 1, H, W) bool.
        sweeps: see :func:`harmonic_fill`.

    Returns:
        (B, C, H, W), ``known`` where it is known, but for rounding.
    """
    gap = (known - picture).masked_fill_(unknown, 0)
    return harmonic_fill(gap, unknown, sweeps) + picture


def _coarse_to_fine(image: Tensor, hole: Tensor, sweeps: int) -> Tensor:
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
    filled = levels.pop()[0]
    while levels:
        # Nothing is kept longer than it must be: a photo's finest level may be large.
        value, weight = levels.pop()
        known = weight > 0
        del weight
        filled = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        torch.where(known, value, filled, out=filled)
        for _ in range(sweeps if value is image else 3 * sweeps):
            # Full weight would leave the finest checkerboard as it is.
            filled.lerp_(_around(filled), 0.8)
            torch.where(known, value, filled, out=filled)
    return filled


def _around(x: Tensor) -> Tensor:
    """Mean of the four neighbours of each pixel, those beyond the edge being the pixel itself."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    total = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    return total.add_(padded[..., 2:, 1:-1]).add_(padded[..., :-2, 1:-1]).div_(4)
