"""Intervals: how far the numbers of an evaluation could be chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asyncdsb.measure.metrics import frechet_distance

RESAMPLES = 2000  # Bootstrap resamples behind an interval.
SET_RESAMPLES = 200  # Bootstrap resamples behind the interval of a difference of Frechet distances.
LARGEST_SET = 600  # Sets beyond this size get no such interval: it would take hours.


def ends(drawn: Sequence[float] | np.ndarray) -> np.ndarray:
    """Both ends of the middle 95 %, (2,)."""
    return np.quantile(drawn, (0.025, 0.975))


def clustered_mean(
    values: Sequence[float] | np.ndarray, groups: Sequence[str], seed: int = 0
) -> dict:
    """Mean of one number per crop with a 95 % interval from a bootstrap over groups, the photos.

    Crops of one photo resemble each other, so whole photos are resampled, not crops.

    Returns:
        ``{"mean", "low", "high", "n", "groups"}``; with a single group nothing is known about how
        groups differ, and low and high are None.
    """
    names, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=np.asarray(values, float)), np.bincount(member)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = ends(sums[drawn].sum(1) / counts[drawn].sum(1)).tolist()
    if len(names) == 1:
        low = high = None
    mean = float(sums.sum() / counts.sum())
    return {"mean": mean, "low": low, "high": high, "n": len(values), "groups": len(names)}


def frechet_difference(
    first: np.ndarray,
    second: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str],
    seed: int = 0,
) -> dict[str, float]:
    """Frechet distance of one method minus that of another, with a 95 % bootstrap interval.

    Whole photos are drawn with replacement, the same for both methods and the truth. A Frechet
    distance is biased upwards in small sets, as photos that are drawn twice leave: the drawn
    differences are shifted as a whole, by their mean, onto the measured one, "mean". All features
    are (n, d), of the same crops; groups are their photos, at least two different ones.
    """
    names, member = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    measured = frechet_distance(first, truth) - frechet_distance(second, truth)
    drawn = []
    for _ in range(SET_RESAMPLES):
        chosen = np.concatenate([rows[i] for i in rng.integers(len(names), size=len(names))])
        a, b, c = first[chosen], second[chosen], truth[chosen]
        drawn.append(frechet_distance(a, c) - frechet_distance(b, c))
    low, high = measured - np.mean(drawn) + ends(drawn)
    return {"mean": measured, "low": float(low), "high": float(high)}
