"""What stands in the hole before the bridge starts."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from asyncdsb.photo.membrane import harmonic_fill, pyramid_fill
from asyncdsb.photo.patches import copy_patches

FILLS = ("zero", "pyramid", "harmonic", "telea", "patches")

TELEA_RADIUS = 3
"""Neighbourhood in pixels of Telea's method; larger ones blur."""


def fill_hole(image: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Replace the hole of a picture by a deterministic fill; known pixels stay bit-identical.

    ``zero`` is the paper's text (mid grey), ``pyramid`` a smooth continuation of the surroundings
    (:func:`pyramid_fill`), ``harmonic`` one without a step at the border (:func:`harmonic_fill`),
    ``telea`` Telea's fast marching method, which also continues edges but runs on the host, picture
    by picture, at 8 bits, ``patches`` known patches (:mod:`asyncdsb.photo.patches`), beginning with
    ``harmonic``.

    Args:
        image: (B, 3, H, W) in [-1, 1]; what it holds in the hole does not matter.
        mask: (B, 1, H, W), non-zero = missing.
        kind: one of :data:`FILLS`.

    Returns:
        (B, 3, H, W).

    Raises:
        ValueError: on another kind.
    """
    if kind not in FILLS:
        raise ValueError(f"expected a hole fill out of {', '.join(FILLS)}, got {kind!r}")
    hole = mask > 0.5
    known = torch.where(hole, torch.zeros_like(image), image)
    if kind == "zero":
        return known
    fills = {
        "pyramid": pyramid_fill,
        "harmonic": harmonic_fill,
        "telea": telea_fill,
        "patches": patch_fill,
    }
    return fills[kind](known, hole)


def telea_fill(image: Tensor, hole: Tensor) -> Tensor:
    """Fill holes by Telea's method (An image inpainting technique based on fast marching, 2004).

    Args:
        image: (B, 3, H, W) in [-1, 1].
        hole: (B, 1, H, W) bool.

    Returns:
        (B, 3, H, W), known pixels unchanged.
    """
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    masks = hole[:, 0].byte().cpu().numpy()
    filled = [
        cv2.inpaint(np.ascontiguousarray(picture), mask, TELEA_RADIUS, cv2.INPAINT_TELEA)
        for picture, mask in zip(pixels, masks, strict=True)
    ]
    values = torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(image)
    return torch.where(hole, values / 127.5 - 1, image)


def patch_fill(image: Tensor, hole: Tensor) -> Tensor:
    """Copy known patches into a hole, beginning with its membrane.

    Args:
        image: (B, 3, H, W) in [-1, 1]; zero in the hole.
        hole: (B, 1, H, W) bool.

    Returns:
        (B, 3, H, W), known pixels unchanged; the membrane where hardly any patch is known.
    """
    return copy_patches(harmonic_fill(image, hole), hole)
