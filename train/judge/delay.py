"""How much later than its schedule a restoration comes: progress of runs, speeds and delays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncdsb.measure.metrics import ssim_map
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import NoiseSchedule

SIGNALS = {"x_t": "projection", "x0_hat": "ssim"}  # What is followed, and by which measure.
PARTS = ("all", "low", "middle", "high")
"""The whole hole, and its pixels by tercile of the true gradient."""

COLOURS = ("black", "#3b528b", "#21918c", "#d95f02")
LEAST_GAIN = 0.01  # Gain of a measure over the run below which its course has no speed to speak of.


def gradient_parts(gradient: Tensor, hole: Tensor) -> np.ndarray:
    """Split a hole (1, 1, H, W) into terciles of a gradient map: :data:`PARTS`, bool (4, H, W).

    Low, middle and high are disjoint, of nearly equal size, and make up "all". Equal gradients are
    told apart by position. ValueError if the hole has fewer than three pixels.
    """
    inside = (hole[0, 0] > 0.5).cpu().numpy()
    places = np.flatnonzero(inside)
    if len(places) < 3:
        raise ValueError(f"expected a hole of at least 3 pixels, got {len(places)}")
    order = places[np.argsort(gradient[0, 0].cpu().numpy().ravel()[places], kind="stable")]
    parts = np.zeros((len(PARTS), *inside.shape), bool)
    for part, chosen in zip(parts, (places, *np.array_split(order, 3)), strict=True):
        part.flat[chosen] = True
    return parts


def progress(
    states: Sequence[SamplerState],
    x0: Tensor,
    tau: Tensor,
    schedule: NoiseSchedule,
    parts: np.ndarray,
) -> np.ndarray:
    """Follow the states of a run of one picture, by :data:`SIGNALS` and :data:`PARTS`.

    Args:
        states: of :func:`asyncdsb.samplers.sample`, first to last, of a batch of one.
        x0: (1, 3, H, W) truth in [-1, 1].
        tau: (1, 1, H, W) peak times of the run.
        schedule: of the run.
        parts: of :func:`gradient_parts`.

    Returns (2, 4, 2, N + 1), by signal and part: the progress at every state, and what the schedule
    says, the integral of the part's mean beta(t; tau) / M so far, which rises from 0 to 1.
    """
    x1, truth = states[0].x_t, _levels(x0)
    way = (x1 - x0)[0].double()
    length = way.square().sum(0) + 1e-12
    gone = [((x1 - state.x_t)[0].double() * way).sum(0) / length for state in states]
    alike = [ssim_map(_levels(state.x0_hat), truth).mean(2) for state in states]
    # The mean clock of a part, whose differences are the exact integrals of beta / M.
    clocks = [schedule.clock(state.t.double()[0], tau.double().cpu()) for state in states]
    due = 1 - torch.cat(clocks)[:, 0].numpy()

    def means(found: np.ndarray, weight: np.ndarray) -> list:
        """The progress of a part is the weighted mean of that of its pixels."""
        return [[np.average(x[:, part], 1, weight[part]) for x in (found, due)] for part in parts]

    projection = means(torch.stack(gone).cpu().numpy(), length.cpu().numpy())
    return np.array([projection, means(np.stack(alike), np.ones(due.shape[1:]))])


def _levels(x: Tensor) -> np.ndarray:
    """A picture (1, 3, H, W) in grey levels, (H, W, 3) float64; states may leave [0, 255]."""
    return ((x[0].double() + 1) * 127.5).permute(1, 2, 0).cpu().numpy()


def speeds(values: np.ndarray) -> np.ndarray:
    """Share of the progress (..., N + 1) made in each step, (v[n + 1] - v[n]) / (v[N] - v[0]).

    The N shares sum to 1; they are NaN where the gain |v[N] - v[0]| is below :data:`LEAST_GAIN`.
    """
    steps = np.diff(values, axis=-1)
    gain = steps.sum(-1, keepdims=True)
    return steps / np.where(np.abs(gain) > LEAST_GAIN, gain, np.nan)


def delays(t: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """How much later the first of each two curves (..., 2, N + 1) rises than the second, (...).

    By the centroids of their speeds, each speed at the middle of its step of the times t (N + 1,).
    """
    shares = speeds(curves)
    centroids = shares @ ((t[1:] + t[:-1]) / 2) / shares.sum(-1)
    # Time runs from 1 to 0: a smaller centroid is later.
    return centroids[..., 1] - centroids[..., 0]


def draw_speeds(panel: Any, t: np.ndarray, names: Sequence[str], shares: np.ndarray) -> None:
    """Draw speeds (parts, 2, N) over the times t (N + 1,), dotted those of the schedule.

    On Axes of matplotlib. The parts are the last of :data:`PARTS`, called by ``names``.
    """
    middle = (t[1:] + t[:-1]) / 2
    for name, colour, (run, beta) in zip(names, COLOURS[-len(names) :], shares, strict=True):
        panel.plot(middle, run, color=colour, label=name)
        panel.plot(middle, beta, color=colour, ls=":", lw=1)
    panel.set(xlim=(1, 0), xlabel="t")
