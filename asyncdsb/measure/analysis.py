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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from asyncdsb.measure.metrics import ssim_map
from asyncdsb.photo.images import to_tensor
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import NoiseSchedule

if TYPE_CHECKING:
    from asyncdsb.photo.result import Frame

PARTS = ("all", "low", "middle", "high")
"""The whole hole, and its pixels by tercile of the true gradient."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come at each of its times.

    Attributes:
        t: (N + 1,) times, falling from 1 to 0.
        value: part of the hole -> (N + 1,) progress.
        beta: part of the hole -> (N,) share of the schedule between two times, the integral of the
            part's mean beta(t; tau) / M, over pixels that count as they do in ``value``; sums to 1.
    """

    t: np.ndarray
    value: dict[str, np.ndarray]
    beta: dict[str, np.ndarray]

    def speed(self, part: str) -> np.ndarray:
        """Share of the progress made in each of the N steps; sums to 1."""
        return speeds(self.value[part])

    def centroid(self, part: str) -> float:
        """Mean time of the progress, each step counted at its middle."""
        return float(centroids(self.t, self.speed(part)))


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
) -> Progress:
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
        The progress.
    """
    x1 = states[0].x_t
    rows = [_values(getattr(state, signal), x0, x1, parts, measure) for state in states]
    t = np.array([float(state.t[0]) for state in states])
    value = {name: np.array([row[name] for row in rows]) for name in parts}
    # The mean clock of a part, whose differences are the exact integrals of beta / M.
    clocks = [schedule.clock(torch.tensor(time, dtype=torch.float64), tau.double()) for time in t]
    clock = torch.stack([c[0, 0].cpu() for c in clocks]).numpy()
    weight = np.ones(clock.shape[1:]) if measure == "ssim" else _squared(x1 - x0) + 1e-12
    beta = {
        name: -np.diff(np.average(clock[:, part], axis=1, weights=weight[part]))
        for name, part in parts.items()
    }
    return Progress(t, value, beta)


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


@dataclass(frozen=True)
class Timeline:
    """When the parts of one restored photo came back, at the size of its frames.

    Attributes:
        restored: (h, w) float32 time from which on x0_hat stays near its last value, see
            :func:`restoration_time`; NaN outside the hole.
        tau: (h, w) float32 peak times.
        correlation: Spearman's rank correlation of both in the hole; NaN if either is constant.
        progress: similarity of x0_hat to the result, by tercile of the completed gradient.
    """

    restored: np.ndarray
    tau: np.ndarray
    correlation: float
    progress: Progress


TOLERANCE = 0.05
"""Largest difference to the last estimate that counts as restored, in [-1, 1]: 6 grey levels."""


def timeline(
    frames: Sequence[Frame],
    tau: np.ndarray,
    gradient: np.ndarray,
    mask: np.ndarray,
    schedule: NoiseSchedule,
    truth: np.ndarray | None = None,
) -> Timeline:
    """Follow the restoration of one photo through its trajectory.

    At t = 0 the bridge is where the estimate before led it. That one is what the run is measured
    against, as the last frame may also hold copied patches (:mod:`asyncdsb.photo.patches`).

    Args:
        frames: of a result, t falling from 1 to 0, with pictures ``x_t`` and ``x0_hat``.
        tau: (H, W) peak times of the result.
        gradient: (H, W) its completed gradient map.
        mask: (H, W) bool, True = missing.
        schedule: noise schedule of the weights.
        truth: uint8 (h, w, 3), the intact photo at the frames' size, to compare x0_hat with; None
            for what the run led to.

    Returns:
        The timeline.

    Raises:
        ValueError: fewer than two frames, frames under 11 pixels, or a hole of fewer than three
            pixels at their size.
    """
    if len(frames) < 2:
        raise ValueError(f"expected a trajectory of at least 2 frames, got {len(frames)}")
    width, height = frames[0].x0_hat.size

    def small(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values, np.float32)
        if values.shape == (height, width):
            return values
        return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)

    estimates = [to_tensor(frame.x0_hat) for frame in frames[:-1]]
    estimates.append(estimates[-1])
    states = [
        SamplerState(
            step=index,
            steps=len(frames) - 1,
            t=torch.tensor([float(frame.t)], dtype=torch.float64),
            x_t=to_tensor(frame.x_t),
            x0_hat=estimate,
        )
        for index, (frame, estimate) in enumerate(zip(frames, estimates, strict=True))
    ]
    tau, hole = small(tau).clip(0, 1), small(mask) >= 0.5
    parts = gradient_parts(
        torch.from_numpy(small(gradient))[None, None], torch.from_numpy(hole)[None, None].float()
    )
    times = [float(state.t[0]) for state in states]
    restored = restoration_time(estimates, times, TOLERANCE).numpy()
    x0 = estimates[-1] if truth is None else to_tensor(truth)
    found = progress(
        states, x0, torch.from_numpy(tau)[None, None], schedule, parts, "ssim", "x0_hat"
    )
    rank = rank_correlation(restored[hole], tau[hole])
    restored = np.where(hole, restored, np.float32(np.nan))
    return Timeline(restored, tau, rank, found)


def restoration_time(estimates: Sequence[Tensor], t: Sequence[float], tolerance: float) -> Tensor:
    """When each pixel was restored: the time from which its estimate stays near its last value.

    Args:
        estimates: x0_hat (1, 3, H, W) of every state, first to last.
        t: their times, falling.
        tolerance: largest difference in any channel that still counts as near, in units of [-1, 1].

    Returns:
        (H, W) float32: the largest time of the sequence from which on the pixel stays within the
        tolerance; t of the first state for pixels that never left it.
    """
    last = estimates[-1]
    settled = torch.full(last.shape[-2:], float(t[-1]), device=last.device)
    near = torch.ones_like(settled, dtype=torch.bool)
    for estimate, time in zip(reversed(estimates), reversed(list(t)), strict=True):
        near &= ((estimate - last).abs() <= tolerance).all(1)[0]
        settled = torch.where(near, torch.full_like(settled, float(time)), settled)
    return settled


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two equally long samples; ties share their mean rank."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


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


def _ranks(values: np.ndarray) -> np.ndarray:
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[member]
