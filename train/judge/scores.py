"""The scores of restored crops: what evaluation and validation have in common.

Two gauges say whether a bridge invents anything at all. A harmonic fill is their yardstick.

first error    squared error in the hole of the bridge's first estimate (at t = 1) over that of the
               smooth fill. Below 1, the network knows more than the smooth fill does.
power          for every octave of frequency, power of what the restored holes show beyond the
               smooth fill, over that of what the true ones show
               (:func:`asyncdsb.measure.metrics.band_power`).

Both are ratios of sums over all crops, so that a crop with hardly any structure does not rule them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.measure import metrics
from asyncdsb.measure.perceptual import (
    EfficientNetFeatures,
    FeatureExtractor,
    InceptionFeatures,
    Lpips,
)
from asyncdsb.photo.fill import fill_hole
from train.judge.methods import Method, tensors, to_batch
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

PSNR_CAP = 100.0  # Decibels that a perfect restoration counts.
GOOD_POWER = (0.6, 1.4)  # Ratios of power that count as good.
FIRST_ERROR = "first_error"  # The squared error of the first estimate in the hole, of bridges only.

Scores = dict[str, np.ndarray]
"""By name, the value of each crop: :data:`SCORES`, what :func:`gauges` needs of pictures in
[-1, 1], and features (n, d) by extractor."""


@dataclass(frozen=True)
class Judges:
    """The networks that judge restored crops."""

    # (images, truths) float32 (B, 3, H, W) in [-1, 1] -> (B,)
    lpips: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    extractors: tuple[FeatureExtractor, ...]  # for the distances between sets

    @classmethod
    def load(cls, device: str | torch.device, inception: str | None = None) -> Judges:
        """LPIPS and the stand-in features; those of FID too if a file, or "download", is given."""
        extractors: list[FeatureExtractor] = [EfficientNetFeatures(device)]
        if inception is not None:
            file = None if inception == "download" else Path(inception)
            extractors.append(InceptionFeatures(file, device))
        return cls(Lpips(device), tuple(extractors))

    def features(self, pictures: Sequence[np.ndarray]) -> list[dict]:
        """Features of each picture by the extractor's slug."""
        found = {x.slug: x(to_batch(pictures)).astype(np.float32) for x in self.extractors}
        return [{slug: rows[n] for slug, rows in found.items()} for n in range(len(pictures))]


def restore(crops: Sequence[Crop], kind: str, method: Method) -> tuple[list[np.ndarray], list]:
    """Crops restored by a method, uint8 (S, S, 3) each, and squared errors of first estimates."""
    nothing = [None] * len(crops)
    if method.source is not None:
        return [method.read_elsewhere(crop, kind) for crop in crops], nothing
    # What the hole shows must have no influence, so no method gets to see it.
    inputs = [crop.corrupted(kind) for crop in crops]
    masks = [crop.mask(kind) for crop in crops]
    restored, first = method.restore(inputs, masks, [crop.noise_seed(kind) for crop in crops])
    if first is None:
        return restored, nothing
    triples = zip(first, to_batch([crop.pixels for crop in crops]), masks, strict=True)
    return restored, [
        metrics.squared_error(_picture(x), _picture(truth), m) for x, truth, m in triples
    ]


def score(
    restored: list[np.ndarray], errors: list, crops: Sequence[Crop], kind: str, judges: Judges
) -> list[dict[str, Any]]:
    """Score what :func:`restore` returned; each crop's part of :data:`Scores`."""
    distances = judges.lpips(to_batch(restored), to_batch([c.pixels for c in crops])).tolist()
    rows = judges.features(restored)
    together = zip(rows, restored, crops, distances, errors, strict=True)
    for row, image, crop, distance, error in together:
        truth, hole = crop.pixels, crop.mask(kind)
        step, shift = metrics.seam(image, truth, hole)
        # Crop by crop: what is kept of one must not depend on its batch.
        inside = torch.from_numpy(hole)[None, None]
        fill = _picture(fill_hole(to_batch([truth]), inside, "harmonic")[0])
        found, wanted = (_picture(to_batch([x])[0]) for x in (image, truth))
        row |= {
            "psnr": min(metrics.psnr(image, truth), PSNR_CAP),
            "psnr_hole": min(metrics.psnr(image, truth, hole), PSNR_CAP),
            "ssim": metrics.ssim(image, truth),
            "ssim_hole": metrics.ssim(image, truth, hole),
            "lpips": distance,
            "seam_step": step,
            "seam_shift": shift,
            "colour_excess": metrics.colour_excess(image, hole),
            "fill_error": metrics.squared_error(fill, wanted, hole),
            "power": metrics.band_power(found, fill, hole),
            "true_power": metrics.band_power(wanted, fill, hole),
        }
        if error is not None:
            row[FIRST_ERROR] = error
    return rows


def stacked(rows: Sequence[dict]) -> Scores:
    """The values of all crops, by name."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def gauges(scores: Scores, side: int) -> dict[str, Any]:
    """The gauges of crops of one size, "power" by band; None where nothing can be compared."""

    def ratio(found: float, wanted: float) -> float | None:
        return float(found / wanted) if wanted > 0 else None

    found, wanted = (scores[name].sum(0) for name in ("power", "true_power"))
    bands = zip(metrics.octaves(side), found, wanted, strict=True)
    first = scores.get(FIRST_ERROR)
    return {
        "first_error": None if first is None else ratio(first.sum(), scores["fill_error"].sum()),
        "power": {name: ratio(a, b) for name, a, b in bands},
    }


def companded_maps(
    model: GradientCompletion, crop: Crop, kind: str, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Completed and true companded gradient in a crop's hole, (n,) each, and their correlation."""
    image, mask = tensors([crop], kind, device)
    inside = known_gradient(image, mask)[1] > 0.5
    found, truth = model.companded(image, mask)[inside], image_gradient(image).sqrt()[inside]
    return found, truth, float(torch.corrcoef(torch.stack([found, truth]))[0, 1])


def _picture(image: torch.Tensor) -> np.ndarray:
    """Return (H, W, 3) of a (3, H, W) tensor."""
    return image.permute(1, 2, 0).numpy()
