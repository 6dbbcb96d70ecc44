"""Orders of restoration that :mod:`train.claims` compares: each makes peak times tau."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from asyncdsb.gradient import image_gradient
from asyncdsb.photo.settings import Settings
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import inward_tau, tau_map, uniform_tau

RANGE = (0.2, 0.5)
"""tau_min and tau_max of all orders but the synchronous ones, the paper's."""


@dataclass(frozen=True)
class Case:
    """What an order may depend on, for a batch of holes."""

    pipe: AsyncDSBPipeline
    hole: Tensor  # (B, 1, S, S), 1 = missing
    gradient: Tensor  # (B, 1, S, S) completed map
    truth: Tensor  # (B, 3, S, S) in [-1, 1]; its hole is for the upper bound alone
    seeds: list[int]  # of the noise, one per sample

    def run(self, tau: Tensor, steps: int, grid: str) -> Iterator[SamplerState]:
        """The states of a restoration with this tau map."""
        # The paper's steps, of first order: it is the paper's claim that is judged.
        settings = Settings(steps=steps, grid=grid, finish="none", solver_order=1)
        inputs = self.truth.masked_fill(self.hole > 0.5, 0), self.hole, self.gradient, tau
        return self.pipe.runner.states(*inputs, self.seeds, settings, grid)

    def first(self, count: int) -> Case:
        """The first so many holes."""
        names = "hole", "gradient", "truth", "seeds"
        return replace(self, **{name: getattr(self, name)[:count] for name in names})

    def by(self, values: Tensor) -> Tensor:
        """Tau that grows with a map, by Eq. 11."""
        return tau_map(values, *RANGE, self.pipe.config.blur_sigma, self.hole)


def synchronous_mean(case: Case) -> Tensor:
    """Everywhere the mean that the gradient's order has in this hole."""
    tau = gradient(case)
    mean = (tau * case.hole).sum((1, 2, 3), keepdim=True) / case.hole.sum((1, 2, 3), keepdim=True)
    return mean.expand_as(tau).contiguous()


def gradient(case: Case) -> Tensor:
    """The paper's: the completed gradient's steep pixels first."""
    return case.by(case.gradient)


def shuffled(case: Case) -> Tensor:
    """The values of the gradient's order at random places of the hole."""
    tau = gradient(case)
    for one, hole, seed in zip(tau, case.hole > 0.5, case.seeds, strict=True):
        values = one[hole]
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        one[hole] = values[order]
    return tau


def easy_first(case: Case) -> Tensor:
    """Pixels on which four quick restorations agree come first; these cost 20 evaluations more."""
    tau, ends = ORDERS["synchronous"](case), []
    for turn in range(4):
        other = replace(case, seeds=[seed ^ (turn + 1) for seed in case.seeds])
        *_, last = other.run(tau, 5, "log")
        ends.append(last.x_t)
    variance = torch.stack(ends).var(0).mean(1, keepdim=True)
    return sum(RANGE) - case.by(variance.sqrt())


ORDERS: dict[str, Callable[[Case], Tensor]] = {
    "synchronous": lambda case: uniform_tau(case.hole, 0.5, 0.5),  # As in I2SB.
    "synchronous, mean tau": synchronous_mean,
    "gradient": gradient,
    "true gradient": lambda case: case.by(image_gradient(case.truth)),  # Which no method can know.
    "shuffled gradient": shuffled,
    "flat first": lambda case: sum(RANGE) - gradient(case),  # The gradient's order backwards.
    "easy first": easy_first,
    "inward": lambda case: inward_tau(case.hole, *RANGE),  # From the hole's border.
}
