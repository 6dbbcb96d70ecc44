"""Deterministic fills of a hole: what stands in it before the bridge starts."""

import torch
import torch.nn.functional as F
from torch import Tensor

FILLS = ("zero", "harmonic")  # mid grey, as in the paper, and harmonic_fill


def fill_hole(image: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Replace the hole of a picture (B, 3, H, W) in [-1, 1]; known pixels stay bit-identical.

    ``mask`` is (B, 1, H, W), non-zero = missing, ``kind`` one of :data:`FILLS`, else ValueError.
    """
    if kind not in FILLS:
        raise ValueError(f"expected a hole fill out of {', '.join(FILLS)}, got {kind!r}")
    hole = mask > 0.5
    known = torch.where(hole, torch.zeros_like(image), image)
    return known if kind == "zero" else harmonic_fill(known, hole)


def harmonic_fill(image: Tensor, hole: Tensor, sweeps: int = 8) -> Tensor:
    """Fill a hole by the membrane spanned over it, the solution of Laplace's equation.

    It is the most likely continuation of pictures whose power falls as 1 / f^2, as that of
    photographs nearly does. A pyramid averages the known pixels down to one value; from there up,
    each missing pixel starts from the coarser level, and weighted Jacobi sweeps relax it.

    ``image`` is (B, C, H, W), zero in the hole (B, 1, H, W) bool; known pixels do not change.
    ``sweeps`` are those at the finest level; at the others, three times as many reach far.
    """
    levels = []
    value, weight = image, (~hole).to(image.dtype)
    while True:
        levels.append((value, weight))
        size = value.shape[-2:]
        if size == (1, 1):
            break
        odd = (0, size[1] % 2, 0, size[0] % 2)
        total = 4 * F.avg_pool2d(F.pad(weight, odd), 2)
        value = 4 * F.avg_pool2d(F.pad(value * weight, odd), 2) / total.clamp(min=1e-6)
        # One known pixel out of four is enough to trust the mean of the known ones.
        weight = total.clamp(max=1)
    filled = levels.pop()[0]
    while levels:
        # Each level is freed as soon as possible: a photo's finest one may be large.
        value, weight = levels.pop()
        known = weight > 0
        filled = F.interpolate(filled, value.shape[-2:], mode="bilinear", align_corners=False)
        torch.where(known, value, filled, out=filled)
        # Full weight would leave the finest checkerboard as it is.
        relaxed = torch.where(known, 0, 0.8).to(filled.dtype)
        del weight, known
        for _ in range(sweeps if value is image else 3 * sweeps):
            filled.lerp_(_around(filled), relaxed)
    return filled


def _around(x: Tensor) -> Tensor:
    """Mean of the four neighbours of each pixel; the edge repeats beyond the picture."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    total = padded[..., 1:-1, 2:] + padded[..., 1:-1, :-2]
    return total.add_(padded[..., 2:, 1:-1]).add_(padded[..., :-2, 1:-1]).div_(4)


def joined(picture: Tensor, known: Tensor, unknown: Tensor, sweeps: int = 8) -> Tensor:
    """Move a picture (B, C, H, W) to what is known without a step at the border (Perez 2003).

    Its difference there is continued over ``unknown`` (B, 1, H, W) bool, and added.
    """
    gap = (known - picture).masked_fill_(unknown, 0)
    return harmonic_fill(gap, unknown, sweeps) + picture
