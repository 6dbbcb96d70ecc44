"""Does a restoration keep to its schedule? Progress of every part of the hole over the run.

The paper (Figures 2, 3 and 7) sets the slope of SSIM during a run against beta(t) and finds the run
late. Two measures of how far the hole has come at time t:

``ssim``        mean similarity to the truth over the pixels. It answers what a person sees, but it
                is not linear in the picture: even a run whose states follow the bridge exactly has
                not the slope beta(t).
``projection``  ``<x1 - x, x1 - x0> / |x1 - x0|^2``, the share of the way from x1 to x0. For states
                of the bridge its mean is 1 - s, hence its slope is beta(t; tau) / M.

Pixels are sorted into terciles of the true gradient: ``low``, ``middle`` and ``high``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asyncdsb.measure.metrics import ssim_map
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import NoiseSchedule

PARTS = ("all", "low", "middle", "high")
"""The whole hole, and its pixels by tercile of the true gradient."""


def gradient_parts(gradient: Tensor, hole: Tensor) -> dict[str, np.ndarray]:
    """Split a hole into terciles of a gradient map.

    Args:
        gradient: (1, 1, H, W) true gradient map.
        hole: (1, 1, H, W) mask, non-zero = missing, at least three pixels.

    Returns:
        Part -> bool (H, W); low, middle and high are disjoint, of nearly equal size, and make up
        "all". Equal gradients are told apart by position.

    Raises:
        ValueError: if the hole has fewer than three pixels.
    """
    inside = (hole[0, 0] > 0.5).cpu().numpy()
    places = np.flatnonzero(inside)
    if len(places) < 3:
        raise ValueError(f"expected a hole of at least 3 pixels, got {len(places)}")
    order = places[np.argsort(gradient[0, 0].cpu().numpy().ravel()[places], kind="stable")]
    parts = {"all": inside}
    for name, chosen in zip(PARTS[1:], np.array_split(order, 3), strict=True):
        part = np.zeros(inside.size, bool)
        part[chosen] = True
        parts[name] = part.reshape(inside.shape)
    return parts


def progress(
    states: Sequence[SamplerState],
    x0: Tensor,
    tau: Tensor,
    schedule: NoiseSchedule,
    parts: dict[str, np.ndarray],
    measure: str = "projection",
    signal: str = "x_t",
) -> dict[str, np.ndarray]:
    """Follow the states of a run of one picture.

    Args:
        states: of :func:`asyncdsb.samplers.sample`, first to last, of a batch of one.
        x0: (1, 3, H, W) truth in [-1, 1].
        tau: (1, 1, H, W) peak times of the run.
        schedule: noise schedule of the run.
        parts: of :func:`gradient_parts`.
        measure: "ssim" or "projection".
        signal: "x_t" or "x0_hat".

    Returns:
        Part of the hole -> (2, N + 1): its progress at every state, and what the schedule says, the
        integral of the part's mean beta(t; tau) / M so far, over pixels that count as they do in
        the progress; it rises from 0 to 1.
    """
    x1 = states[0].x_t
    rows = [_values(getattr(state, signal), x0, x1, parts, measure) for state in states]
    # The mean clock of a part, whose differences are the exact integrals of beta / M.
    clocks = [schedule.clock(state.t.double()[0], tau.double().cpu()) for state in states]
    due = 1 - torch.cat(clocks)[:, 0].numpy()
    weight = np.ones(due.shape[1:]) if measure == "ssim" else _squared(x1 - x0) + 1e-12
    return {
        name: np.stack(
            [
                [row[name] for row in rows],
                np.average(due[:, part], axis=1, weights=weight[part]),
            ]
        )
        for name, part in parts.items()
    }


def speeds(values: np.ndarray, least: float = 1e-12) -> np.ndarray:
    """Share of the progress made in each step, (v[n + 1] - v[n]) / (v[N] - v[0]).

    Args:
        values: (..., N + 1) progress.
        least: gain |v[N] - v[0]| below which there is no speed to speak of.

    Returns:
        (..., N) shares that sum to 1; NaN where the gain is too small.
    """
    steps = np.diff(values, axis=-1)
    gain = steps.sum(-1, keepdims=True)
    return steps / np.where(np.abs(gain) > least, gain, np.nan)


def centroids(t: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean time of shares (..., N), each at the middle of its step, of the times t (N + 1,)."""
    return shares @ ((t[1:] + t[:-1]) / 2) / shares.sum(-1)


def _values(
    x: Tensor, x0: Tensor, x1: Tensor, parts: dict[str, np.ndarray], measure: str
) -> dict[str, float]:
    """Progress of one state, for each part."""
    if measure == "ssim":
        image, truth = (_levels(picture) for picture in (x, x0))
        similarity = ssim_map(image, truth).mean(2)
        return {name: float(similarity[part].mean()) for name, part in parts.items()}
    along = ((x1 - x)[0].double() * (x1 - x0)[0].double()).sum(0).cpu().numpy()
    length = _squared(x1 - x0)
    return {
        name: float(along[part].sum() / max(length[part].sum(), 1e-12))
        for name, part in parts.items()
    }


def _levels(x: Tensor) -> np.ndarray:
    """A picture (1, 3, H, W) in grey levels, (H, W, 3) float64; states may leave [0, 255]."""
    return ((x[0].double() + 1) * 127.5).permute(1, 2, 0).cpu().numpy()


def _squared(x: Tensor) -> np.ndarray:
    """Squared length of the colour of every pixel of (1, 3, H, W): float64 (H, W)."""
    return x[0].double().square().sum(0).cpu().numpy()
