"""How much later than its schedule a restoration comes: progress of runs, speeds and centroids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asyncdsb.measure.metrics import ssim_map
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import NoiseSchedule

SIGNALS = {"x_t": "projection", "x0_hat": "ssim"}  # What is followed, and by which measure.

PARTS = ("all", "low", "middle", "high")
"""The whole hole, and its pixels by tercile of the true gradient."""


def gradient_parts(gradient: Tensor, hole: Tensor) -> dict[str, np.ndarray]:
    """Split a hole (1, 1, H, W) into terciles of a gradient map, each part bool (H, W).

    Low, middle and high are disjoint, of nearly equal size, and make up "all". Equal gradients are
    told apart by position. ValueError if the hole has fewer than three pixels.
    """
    inside = (hole[0, 0] > 0.5).cpu().numpy()
    places = np.flatnonzero(inside)
    if len(places) < 3:
        raise ValueError(f"expected a hole of at least 3 pixels, got {len(places)}")
    order = places[np.argsort(gradient[0, 0].cpu().numpy().ravel()[places], kind="stable")]
    parts = {"all": inside}
    for name, chosen in zip(PARTS[1:], np.array_split(order, 3), strict=True):
        parts[name] = np.isin(np.arange(inside.size), chosen).reshape(inside.shape)
    return parts


def progress(
    states: Sequence[SamplerState],
    x0: Tensor,
    tau: Tensor,
    schedule: NoiseSchedule,
    parts: dict[str, np.ndarray],
    signal: str = "x_t",
) -> dict[str, np.ndarray]:
    """Follow the states of a run of one picture.

    Args:
        states: of :func:`asyncdsb.samplers.sample`, first to last, of a batch of one.
        x0: (1, 3, H, W) truth in [-1, 1].
        tau: (1, 1, H, W) peak times of the run.
        schedule: noise schedule of the run.
        parts: of :func:`gradient_parts`.
        signal: one of :data:`SIGNALS`.

    Returns:
        Part of the hole -> (2, N + 1): its progress at every state, and what the schedule says, the
        integral of the part's mean beta(t; tau) / M so far, which rises from 0 to 1.
    """
    way = (states[0].x_t - x0)[0].double()
    pictures = [getattr(state, signal) for state in states]
    # The progress of a part is the mean of that of its pixels, with these weights.
    if SIGNALS[signal] == "ssim":
        truth = _levels(x0)
        found = np.stack([ssim_map(_levels(x), truth).mean(2) for x in pictures])
        weight = np.ones(found.shape[1:])
    else:
        length = way.square().sum(0) + 1e-12
        gone = [((states[0].x_t - x)[0].double() * way).sum(0) / length for x in pictures]
        found, weight = torch.stack(gone).cpu().numpy(), length.cpu().numpy()
    # The mean clock of a part, whose differences are the exact integrals of beta / M.
    clocks = [schedule.clock(state.t.double()[0], tau.double().cpu()) for state in states]
    due = 1 - torch.cat(clocks)[:, 0].numpy()
    return {
        name: np.stack([np.average(x[:, part], 1, weight[part]) for x in (found, due)])
        for name, part in parts.items()
    }


def _levels(x: Tensor) -> np.ndarray:
    """A picture (1, 3, H, W) in grey levels, (H, W, 3) float64; states may leave [0, 255]."""
    return ((x[0].double() + 1) * 127.5).permute(1, 2, 0).cpu().numpy()


def speeds(values: np.ndarray, least: float = 1e-12) -> np.ndarray:
    """Share of the progress (..., N + 1) made in each step, (v[n + 1] - v[n]) / (v[N] - v[0]).

    The N shares sum to 1; they are NaN where the gain |v[N] - v[0]| is at most ``least``.
    """
    steps = np.diff(values, axis=-1)
    gain = steps.sum(-1, keepdims=True)
    return steps / np.where(np.abs(gain) > least, gain, np.nan)


def centroids(t: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mean time of shares (..., N), each at the middle of its step, of the times t (N + 1,)."""
    return shares @ ((t[1:] + t[:-1]) / 2) / shares.sum(-1)
