"""The scores of restored crops: what evaluation and validation have in common.

Two gauges say what paired scores hide, namely whether a bridge invents anything at all. A smooth
fill of the hole is their yardstick, ``asyncdsb.photo.fill.fill_hole(..., "harmonic")``.

first error    squared error in the hole of the bridge's first estimate (at t = 1, made before any
               noise is removed) over that of the smooth fill. Below 1, the network knows more than
               the smooth fill does.
power          for every octave of frequency, power of what the restored holes show beyond the
               smooth fill, over that of what the true ones show, see
               :func:`asyncdsb.measure.metrics.band_power`. 1 is right; near 0, structures of that
               size are missing. :data:`GOOD_POWER` is the range that counts as good.

Both are ratios of sums over all crops of a set, so that a crop with hardly any structure does not
rule them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.measure.metrics import (
    band_power,
    colour_excess,
    octaves,
    psnr,
    seam,
    squared_error,
    ssim,
)
from asyncdsb.measure.perceptual import (
    EfficientNetFeatures,
    FeatureExtractor,
    InceptionFeatures,
    Lpips,
)
from asyncdsb.photo.fill import fill_hole
from train.judge.methods import to_batch
from train.judge.protocol import Crop

SCORES = {
    "psnr": "PSNR",
    "psnr_hole": "PSNR hole",
    "ssim": "SSIM",
    "ssim_hole": "SSIM hole",
    "lpips": "LPIPS",
    "seam_step": "seam step",
    "seam_shift": "seam shift",
    "colour_excess": "colours beyond",
}
"""Paired metrics, each one number per restored crop, and what tables call them."""

PSNR_CAP = 100.0
"""Decibels that a perfect restoration counts."""

GOOD_POWER = (0.6, 1.4)
"""Ratios of power that count as good."""

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
        return cls(Lpips(device), tuple(extractors))

    @property
    def slugs(self) -> list[str]:
        """Short names of the extractors."""
        return [extractor.slug for extractor in self.extractors]


def crop_scores(
    restored: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    holes: Sequence[np.ndarray],
    lpips: Distances,
) -> list[dict[str, Any]]:
    """Score restored crops of one size against the truth.

    Args:
        restored: uint8 (S, S, 3) each.
        truths: uint8 (S, S, 3) each.
        holes: bool (S, S) each, True = was missing.
        lpips: see :class:`Judges`.

    Returns:
        For each crop a number for each of :data:`SCORES`, and its part in the gauges, in units of
        pictures in [-1, 1]: "fill_error", squared error of the smooth fill, and "power" and
        "true_power", per band, of the restored and of the true hole.
    """
    distances = lpips(to_batch(restored), to_batch(truths)).tolist()
    rows = []
    for image, truth, hole, distance in zip(restored, truths, holes, distances, strict=True):
        step, shift = seam(image, truth, hole)
        # Crop by crop: what is kept of one must not depend on its batch.
        inside = torch.from_numpy(hole)[None, None]
        fill = _picture(fill_hole(to_batch([truth]), inside, "harmonic")[0])
        found, wanted = (_picture(to_batch([x])[0]) for x in (image, truth))
        rows.append(
            {
                "psnr": min(psnr(image, truth), PSNR_CAP),
                "psnr_hole": min(psnr(image, truth, hole), PSNR_CAP),
                "ssim": ssim(image, truth),
                "ssim_hole": ssim(image, truth, hole),
                "lpips": distance,
                "seam_step": step,
                "seam_shift": shift,
                "colour_excess": colour_excess(image, hole),
                "fill_error": squared_error(fill, wanted, hole),
                "power": band_power(found, fill, hole),
                "true_power": band_power(wanted, fill, hole),
            }
        )
    return rows


def first_errors(
    estimates: torch.Tensor, truths: Sequence[np.ndarray], holes: Sequence[np.ndarray]
) -> list[float]:
    """Squared error in the hole of each first estimate.

    Args:
        estimates: (B, 3, S, S), of pictures in [-1, 1].
        truths: uint8 (S, S, 3) each.
        holes: bool (S, S) each, True = was missing.
    """
    triples = zip(estimates.float().cpu(), to_batch(truths), holes, strict=True)
    return [squared_error(_picture(found), _picture(truth), hole) for found, truth, hole in triples]


def gauges(sums: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Ratios of what crops of one size add up to.

    Args:
        sums: for each part of a gauge of :func:`crop_scores`, and "first_error" if there are first
            estimates, the values of all crops.
        side: of the crops in pixels.

    Returns:
        ``{"first_error", "power"}``, the latter by band; None where a sum is missing or has nothing
        to be compared with.
    """
    found, wanted = (np.sum(sums[name], 0) for name in ("power", "true_power"))
    first = sums.get("first_error")
    return {
        "first_error": None if first is None else _ratio(np.sum(first), np.sum(sums["fill_error"])),
        "power": {
            name: _ratio(a, b) for name, a, b in zip(octaves(side), found, wanted, strict=True)
        },
    }


def companded_maps(
    model: GradientCompletion, crop: Crop, kind: str, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Completed and true gradient of a crop, companded, where it was completed, (n,) each.

    With them their correlation, NaN if either is constant.
    """
    image = to_batch([crop.pixels]).to(device)
    mask = torch.from_numpy(crop.mask(kind))[None, None].float().to(device)
    inside = known_gradient(image, mask)[1] > 0.5
    found, truth = model.companded(image, mask)[inside], image_gradient(image).sqrt()[inside]
    return found, truth, float(torch.corrcoef(torch.stack([found, truth]))[0, 1])


def _ratio(found: float, wanted: float) -> float | None:
    return float(found / wanted) if wanted > 0 else None


def _picture(image: torch.Tensor) -> np.ndarray:
    """Return (H, W, 3) of a (3, H, W) tensor."""
    return image.permute(1, 2, 0).numpy()
