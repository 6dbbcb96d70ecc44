"""What both trainers share: batches, weight average, optimisers, one update, samples, export."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from asyncdsb.networks.device import chosen_precision, compiles, multiplying
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.store.checkpoint import save_weights
from train.data.batches import Batches
from train.loop.muon import Muon, split
from train.loop.processes import Processes
from train.presets import Preset


class Average(AveragedModel):
    """Exponential moving average whose decay grows as (1 + n) / (10 + n) up to ``decay``.

    Buffers are as they last were.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the present weights, the first of which count alone."""
        # The count stays on the host, where torch's own method reads it back from the GPU.
        n = int(self.n_averaged)
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), weight)
        for own, current in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(current)
        self.n_averaged += 1


class Trainer:
    """A network that learns, and its average, as :func:`train.loop.run.run` needs them.

    Attributes:
        batches: where samples come from.
        averaged: the averaged weights, as samples, validation and export use them.
        modules: what has weights, by name.
        optimizers: by name.
        weights: SHA-256 of the files of weights that the command line gives, by option.
        validator: scores the averaged weights; None without held-out photos.
    """

    preset: Any
    validator: Callable[[], dict[str, float]] | None = None

    def __init__(
        self,
        preset: Preset,
        args: argparse.Namespace,
        processes: Processes,
        model: nn.Module,
        draws: int = 1,
    ):
        self.preset, self.device = preset, args.device
        self.precision = chosen_precision(preset.precision, args.device)
        self.processes, self.parts = processes, args.accumulate
        self.batches = Batches(preset, args, processes, draws)
        self.ema = Average(model, preset.ema)
        self.averaged: Any = self.ema.module
        self.modules: dict[str, nn.Module] = {"model": model, "ema": self.ema}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.weights: dict[str, str] = {}

    def mixed(self) -> torch.autocast:
        """The context in which networks multiply in the precision of the preset."""
        return multiplying(self.precision, torch.device(self.device))

    def compile(self, network: nn.Module) -> None:
        """Compile a network, one program for each size, as the preset asks for and where it can."""
        if self.preset.compile and compiles(self.device):
            network.compile(dynamic=False)
        elif self.preset.compile and self.processes.main:
            gpu = torch.device(self.device).type == "cuda"
            needed = "gcc and Triton" if gpu else "g++ and Python's headers (python3-dev)"
            print(f"torch cannot compile here, which needs {needed}: going on without, more slowly")

    def optimise(
        self, model: nn.Module, others: Callable[..., torch.optim.Optimizer], muon: float, **options
    ) -> None:
        """Muon for the weights of layers, at ``muon`` times the rate, ``others`` for the rest."""
        matrices, rest = split(model.parameters()) if muon else ([], list(model.parameters()))
        self.optimizers["model"] = others(rest, **options)
        if matrices:
            scaled = {"params": matrices, "lr_scale": muon}
            self.optimizers["matrices"] = Muon([scaled], **options)

    def update(
        self, name: str, joined: nn.Module, terms: Callable[[int], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One update of a network; return the means of the loss's terms and the gradient's norm.

        Args:
            name: of the network in ``modules`` and of its optimiser.
            joined: the network as it learns together with other processes.
            terms: the loss of a part of the batch, as terms of which the sum is minimised.
        """
        names = [name, "matrices"] if name == "model" else [name]
        optimizers = [self.optimizers[one] for one in names if one in self.optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in range(self.parts):
            with self.processes.alone(joined, part < self.parts - 1):
                found = terms(part)
                (sum(found.values()) / self.parts).backward()
            for term, value in found.items():
                sums[term] = sums.get(term, 0) + value.detach() / self.parts
        norm = torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), self.preset.clip)
        for optimizer in optimizers:
            optimizer.step()
        return sums, norm

    def step(self, step: int) -> dict[str, Tensor]:
        """Train on this process's share of the batch of a step; return scalar tensors to log."""
        raise NotImplementedError

    def samples(self, path: Path) -> None:
        """Write a picture of the present state."""
        rows = [x.expand(-1, 3, -1, -1) for x in self.shown()]
        sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
        write_atomic(path, lambda p: to_pil(sheet.cpu()).save(p))

    def shown(self) -> Sequence[Tensor]:
        """The rows of that picture, (B, 1 or 3, H, W) in [-1, 1] each."""
        raise NotImplementedError

    def validate(self) -> dict[str, float] | None:
        """Score the averaged weights on held-out photos; "score", the lower the better, decides."""
        return None if self.validator is None else self.validator()

    def export(self, folder: Path, training: dict) -> None:
        """Write the averaged weights in the form that the pipeline loads."""
        self.averaged.eval()
        save_weights(folder, self.averaged, training)
        self.averaged.train()
