"""The scores of restored crops: what evaluation and validation have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from asyncdsb.metrics import psnr, seam, ssim
from train.methods import to_batch

SCORES = ("psnr", "psnr_hole", "ssim", "ssim_hole", "lpips", "seam_step", "seam_shift")
"""Paired metrics, each one number per restored crop."""

PSNR_CAP = 100.0
"""Decibels that a perfect restoration counts."""

Features = Callable[[torch.Tensor], np.ndarray]
Distances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def score_crops(
    restored: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    holes: Sequence[np.ndarray],
    lpips: Distances,
    features: Features,
) -> list[dict]:
    """Score restored crops of one size against the truth.

    Args:
        restored: uint8 (S, S, 3) each.
        truths: uint8 (S, S, 3) each.
        holes: bool (S, S) each, True = was missing.
        lpips: (images, truths) float32 (B, 3, S, S) in [-1, 1] -> (B,).
        features: images -> float64 (B, d).

    Returns:
        For each crop a number for each of :data:`SCORES`, and its "features" (d,) float32.
    """
    images = to_batch(restored)
    distances = lpips(images, to_batch(truths)).tolist()
    rows = []
    for image, truth, hole, distance, vector in zip(
        restored, truths, holes, distances, features(images), strict=True
    ):
        step, shift = seam(image, truth, hole)
        rows.append(
            {
                "psnr": min(psnr(image, truth), PSNR_CAP),
                "psnr_hole": min(psnr(image, truth, hole), PSNR_CAP),
                "ssim": ssim(image, truth),
                "ssim_hole": ssim(image, truth, hole),
                "lpips": distance,
                "seam_step": step,
                "seam_shift": shift,
                "features": vector.astype(np.float32),
            }
        )
    return rows
