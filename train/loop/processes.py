"""Several processes that share one piece of work, started with ``accelerate launch``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

PATIENCE = timedelta(days=7)
"""How long a process waits for another, which may have many batches left or be validating."""


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        index: which it is, from 0.
        count: how many there are.
        device: where it computes.
        accelerator: accelerate's handle on the others; None where there are none.
    """

    index: int = 0
    count: int = 1
    device: str = "cpu"
    accelerator: Any = None

    @classmethod
    def started(cls, device: str) -> Processes:
        """Find out how the program was started.

        Args:
            device: of the command line; "cuda" becomes each process's own GPU.

        Raises:
            ValueError: several processes without accelerate.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(device=device)
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError:
            raise ValueError(
                "expected accelerate for several processes; run `pip install accelerate`"
            ) from None
        accelerator = Accelerator(
            cpu=device == "cpu",
            # The trainers choose their precision themselves, as they do alone.
            mixed_precision="no",
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=PATIENCE),
                # Buffers are the same everywhere: all processes start and update them alike.
                DistributedDataParallelKwargs(broadcast_buffers=False),
            ],
        )
        chosen = str(accelerator.device) if device == "cuda" else device
        return cls(accelerator.process_index, accelerator.num_processes, chosen, accelerator)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.index == 0

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Part from the others; there is nothing to be said after it."""
        if self.accelerator:
            self.accelerator.end_training()

    def rows(self, total: int, part: int = 0, parts: int = 1, each: int = 1) -> Tensor:
        """Photos of a batch that belong to this process: every ``count``-th.

        Args:
            total: samples of the whole batch.
            part: which of its parts this process works on.
            parts: in how many parts, one after the other, it does its samples.
            each: samples of a photo, which stay together.

        Returns:
            (n,) int64.

        Raises:
            ValueError: the batch does not divide evenly.
        """
        shares = self.count * parts
        if total % (shares * each):
            of_photo = f" x {each} samples a photo" if each > 1 else ""
            raise ValueError(
                f"expected batches that divide among {self.count} processes x {parts} parts"
                f"{of_photo}, got one of {total} samples"
            )
        return torch.arange(part * self.count + self.index, total // each, shares)

    def joined(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over all processes after every backward pass."""
        return self.accelerator.prepare_model(module) if self.accelerator else module

    def sharded(self, module: nn.Module, parts: Iterable[nn.Module]) -> nn.Module:
        """The module with its weights, gradients and optimiser state spread over all processes.

        Each process holds a part of every weight; whole weights exist only while they are used.

        Args:
            module: changed in place; its gradients are then averaged as by :meth:`joined`.
            parts: of the module, each of which is put together on its own.

        Raises:
            ValueError: there are no other processes.
        """
        if self.accelerator is None:
            raise ValueError("expected several processes for --shard, got one")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(torch.device(self.device).type, (self.count,))
        for one in (*parts, module):
            fully_shard(one, mesh=mesh)
        return module

    def alone(self, module: nn.Module, alone: bool = True) -> contextlib.AbstractContextManager:
        """Keep gradients to this process while more of a batch is to come."""
        if not alone or not isinstance(module, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return module.no_sync()

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over all processes."""
        if self.accelerator is None or not values:
            return values
        mine = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        found = self.accelerator.reduce(mine, "mean").tolist()
        return dict(zip(values, found, strict=True))

    def agreed(self, flag: bool) -> bool:
        """What the main process says, in every process."""
        if self.accelerator is None:
            return flag
        from accelerate.utils import broadcast

        return bool(broadcast(torch.tensor(float(flag), device=self.device)))


def whole(value: Tensor) -> Tensor:
    """A tensor that may be spread over all processes, put together in each of them."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def spread(value: Tensor, like: Any) -> Tensor:
    """The inverse of :func:`whole`: ``value`` spread as ``like`` is."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


class BoundMethod(nn.Module):
    """A module whose forward is a method of another: wrappers for several processes see no other.

    Args:
        module: the other module.
        name: of its method.
    """

    def __init__(self, module: nn.Module, name: str):
        super().__init__()
        self.module, self.name = module, name

    def forward(self, *args: Any) -> Tensor | tuple[Tensor, ...]:
        """Call the method."""
        return getattr(self.module, self.name)(*args)
