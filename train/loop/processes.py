"""Several processes that share one piece of work, started by ``torchrun``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Agreed = TypeVar("Agreed", bool, int)
PATIENCE = timedelta(days=7)  # How long a process waits for another, which may be validating.


@dataclass(frozen=True)
class Processes:
    """This process among all: which it is, from 0, how many there are, and where it computes."""

    index: int = 0
    count: int = 1
    device: str = "cpu"

    @classmethod
    def started(cls, device: str) -> Processes:
        """Find out how the program was started; the device "cuda" becomes each process's own."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.index == 0

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.count > 1:
            dist.barrier()

    def end(self) -> None:
        """Part from the others."""
        if self.count > 1:
            dist.destroy_process_group()

    def rows(self, total: int, part: int = 0, parts: int = 1, each: int = 1) -> Tensor:
        """Photos of a batch of ``total`` samples that are this process's: every ``count``-th.

        It does its samples in ``parts`` parts, one after the other; ``each`` samples of a photo
        stay together. Returns (n,) int64; ValueError if the batch does not divide evenly.
        """
        shares = self.count * parts
        if total % (shares * each):
            among = f"{self.count} processes x {parts} parts x {each} samples a photo"
            raise ValueError(f"expected batches that divide among {among}, got one of {total}")
        return torch.arange(part * self.count + self.index, total // each, shares)

    def joined(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes after every backward pass."""
        if self.count == 1:
            return module
        # Buffers are the same everywhere: all processes start and update them alike.
        return DistributedDataParallel(module, broadcast_buffers=False)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over all processes."""
        if self.count == 1:
            return values
        sums = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return dict(zip(values, (sums / self.count).tolist(), strict=True))

    def agreed(self, value: Agreed) -> Agreed:
        """What the main process says, in every process."""
        said = [value]
        if self.count > 1:
            dist.broadcast_object_list(said, device=torch.device(self.device))
        return said[0]


class BoundMethod(nn.Module):
    """A module whose forward is a method of another, because DDP wraps nothing but a forward."""

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *args: Any) -> Tensor | tuple[Tensor, ...]:
        """Call the method."""
        return getattr(self.module, self.name)(*args)
