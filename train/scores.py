"""The scores of restored crops: what evaluation and validation have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asyncdsb.metrics import psnr, seam, ssim
from asyncdsb.perceptual import EfficientNetFeatures, FeatureExtractor, InceptionFeatures, Lpips
from train.methods import to_batch

SCORES = ("psnr", "psnr_hole", "ssim", "ssim_hole", "lpips", "seam_step", "seam_shift")
"""Paired metrics, each one number per restored crop."""

PSNR_CAP = 100.0
"""Decibels that a perfect restoration counts."""

Distances = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Judges:
    """The networks that judge restored crops.

    Attributes:
        lpips: (images, truths) float32 (B, 3, H, W) in [-1, 1] -> (B,).
        extractors: feature networks for the distances between sets.
    """

    lpips: Distances
    extractors: tuple[FeatureExtractor, ...]

    @classmethod
    def load(cls, device: str | torch.device = "cpu", inception: str | None = None) -> Judges:
        """LPIPS and the stand-in features, and those of FID if they are asked for.

        Args:
            device: where the networks run.
            inception: file of the Inception weights; "download" to have them fetched; None for no
                FID.

        Raises:
            ValueError: packages or weights are missing; the message says what to do.
        """
        extractors: list[FeatureExtractor] = [EfficientNetFeatures(device)]
        if inception is not None:
            file = None if inception == "download" else Path(inception)
            extractors.append(InceptionFeatures(file, device))
        return cls(Lpips.load(device=device), tuple(extractors))


def paired_scores(
    restored: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    holes: Sequence[np.ndarray],
    lpips: Distances,
) -> list[dict[str, float]]:
    """Score restored crops of one size against the truth.

    Args:
        restored: uint8 (S, S, 3) each.
        truths: uint8 (S, S, 3) each.
        holes: bool (S, S) each, True = was missing.
        lpips: see :class:`Judges`.

    Returns:
        For each crop a number for each of :data:`SCORES`.
    """
    distances = lpips(to_batch(restored), to_batch(truths)).tolist()
    rows = []
    for image, truth, hole, distance in zip(restored, truths, holes, distances, strict=True):
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
            }
        )
    return rows
