"""Random numbers of a batch that several processes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers, one or some for each sample of a batch, of which some samples' are kept.

    Every process draws the numbers of all samples and keeps those of its own, so that a batch is
    the same, whatever the number of processes or parts that share it.
    """

    generator: torch.Generator  # on the CPU, in the same state in every process
    count: int  # samples of the whole batch
    rows: Tensor  # which samples are kept, (kept,) of int64

    def each(self, size: int) -> Draws:
        """Numbers for ``size`` samples in the place of each."""
        rows = size * self.rows[:, None] + torch.arange(size)
        return Draws(self.generator, size * self.count, rows.flatten())

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (kept, *shape)."""
        return torch.rand(self.count, *shape, generator=self.generator)[self.rows]

    def randint(self, high: int) -> Tensor:
        """Whole numbers in [0, high), (kept,)."""
        return torch.randint(high, (self.count,), generator=self.generator)[self.rows]

    def spread(self) -> Tensor:
        """Uniform numbers in [0, 1), (kept,), spread evenly over the batch."""
        shift = torch.rand(self.count, generator=self.generator)
        order = torch.randperm(self.count, generator=self.generator)
        return ((order + shift) / self.count)[self.rows]


def to_device(values: Tensor, device: str | torch.device) -> Tensor:
    """Copy small host values to a device without waiting for the work that it does."""
    if torch.device(device).type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
