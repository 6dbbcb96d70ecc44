"""Means over training seeds and photographs at once, with what chance could do to them.

A table of values has a row for each training seed and a column for each photograph. Both are drawn
from larger sets, hence the model with two crossed random effects::

    value[i, j] = mean + seed[i] + photograph[j] + rest[i, j]

whose mean squares (Montgomery, *Design and Analysis of Experiments*, two random factors, one
observation a cell) give the variance of the mean over all cells::

    (MS_seed + MS_photograph - MS_rest) / (seeds * photographs)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crossed:
    """Mean of a table of seeds and photographs."""

    mean: float  # over all cells
    error: float  # standard error of the mean
    freedom: float  # degrees of freedom of the error (Satterthwaite)
    deviations: tuple[float, float, float]  # of the effects of seeds and photographs, of the rest
    shape: tuple[int, int]  # (seeds, photographs)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the mean."""
        from scipy import stats  # Takes a while, and most who import this module need none of it.

        return stats.t.interval(level, self.freedom, self.mean, self.error)

    @property
    def p(self) -> float:
        """Two-sided p value of a mean of 0."""
        from scipy import stats

        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.freedom))

    def within(self, bound: float) -> bool:
        """Whether two one-sided tests at 5 % say that the mean lies within (-bound, bound)."""
        low, high = self.interval(0.9)
        return -bound < low and high < bound


def crossed(values: np.ndarray) -> Crossed:
    """Summarise a table (seeds, photographs); ValueError below two photographs.

    One seed says nothing about seeds: the error is then that over photographs alone.
    """
    seeds, photos = values.shape
    if photos < 2:
        raise ValueError(f"expected at least two photographs, got {photos}")
    mean, by_seed, by_photo = values.mean(), values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_photo + mean
    # One seed leaves no freedom, and nothing to share out.
    free = max(seeds - 1, 1)
    ms_seed = photos * ((by_seed - mean) ** 2).sum() / free
    ms_photo = seeds * by_photo.var(ddof=1)
    ms_rest = (rest**2).sum() / (free * (photos - 1))
    # Chance may make the estimate smaller than a table without any effect would have.
    total = max(ms_seed + ms_photo - ms_rest, ms_rest)
    parts = ms_seed**2 / free + (ms_photo**2 + ms_rest**2 / free) / (photos - 1)
    of_seed, of_photo = max(ms_seed - ms_rest, 0) / photos, max(ms_photo - ms_rest, 0) / seeds
    return Crossed(
        float(mean),
        float((total / values.size) ** 0.5),
        float(total**2 / parts),
        (float(of_seed**0.5), float(of_photo**0.5), float(ms_rest**0.5)),
        values.shape,
    )


def smallest_found(found: Crossed) -> float:
    """The smallest true mean that a design finds (p < .05) in 80 % of experiments.

    1000 experiments are simulated with the measured deviations and the same shape. A shift of all
    values shifts the mean and leaves its error, so each says directly which shift it would find.
    """
    rng = np.random.default_rng(0)
    seeds, photos = found.shape
    of_seed, of_photo, of_rest = found.deviations
    needed = []
    for _ in range(1000):
        table = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_photo, photos)
        drawn = crossed(table + rng.normal(0, of_rest, (seeds, photos)))
        needed.append(drawn.interval()[1] - 2 * drawn.mean)
    return float(np.quantile(needed, 0.8))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given."""
    order = np.argsort(p_values)
    steps = np.array(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()
