"""What both trainers share: batches, weight average, optimisers, one update, samples, export."""

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from asyncdsb.networks.device import chosen_precision, compiles, multiplying
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.store.checkpoint import file_sha256, save_weights
from train.data.batches import Batches
from train.loop.muon import Muon, split
from train.loop.processes import Processes
from train.presets import Preset


class Average(AveragedModel):
    """Moving average whose decay grows as (1 + n) / (10 + n) up to ``decay``; buffers as last."""

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Average <- d average + (1 - d) model, d the decay; the first update copies the model."""
        # The count stays on the host: torch's own method copies it to the GPU, which blocks.
        n = int(self.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        averaged, current = ([p.detach() for p in one.parameters()] for one in (self.module, model))
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for buffer, last in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(last)
        self.n_averaged += 1


class Trainer:
    """A network that learns, and its average, as :func:`train.loop.run.run` needs them."""

    preset: Any
    # Options that give weights to start from, and which network's these are.
    starts: ClassVar[dict[str, str]] = {}
    # Scores the averaged weights on held-out photos; "score", the lower the better, decides.
    validator: Callable[[], dict[str, float]] | None = None

    def __init__(
        self, preset: Preset, args: argparse.Namespace, processes: Processes, model: nn.Module
    ):
        self.preset, self.device = preset, args.device
        self.precision = chosen_precision(preset.precision, args.device)
        self.processes, self.parts = processes, args.accumulate
        self.batches = Batches(preset, args, processes)
        self.ema = Average(model, preset.ema)
        self.averaged: Any = self.ema.module  # as samples, validation and export use it
        self.modules: dict[str, nn.Module] = {"model": model, "ema": self.ema}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        # SHA-256 of the files of weights that the command line gives.
        self.weights = {
            name: file_sha256(Path(getattr(args, name)) / f"{kind}.safetensors")
            for name, kind in self.starts.items()
            if getattr(args, name)
        }

    def mixed(self) -> torch.autocast:
        """The context in which networks multiply in the precision of the preset."""
        return multiplying(self.precision, torch.device(self.device))

    def compile(self, network: nn.Module) -> None:
        """Compile a network, one program for each size, as the preset asks for and where it can."""
        if self.preset.compile and compiles(self.device):
            network.compile(dynamic=False)
        elif self.preset.compile and self.processes.main:
            needed = "g++ and Python's headers (python3-dev), with a GPU gcc and Triton"
            print(f"torch cannot compile here, which needs {needed}: going on without, more slowly")

    def optimise(self, others: Callable[..., torch.optim.Optimizer], **options) -> None:
        """Muon for the weights of layers, where the preset says so, ``others`` for the rest."""
        rest = list(self.modules["model"].parameters())
        if self.preset.muon:
            matrices, rest = split(rest)
            scaled = {"params": matrices, "lr_scale": self.preset.muon}
            self.optimizers["matrices"] = Muon([scaled], **options)
        self.optimizers["model"] = others(rest, **options)

    def update(
        self, name: str, joined: Any, terms: Callable[[int], dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One update of a network; return the means of the loss's terms and the gradient's norm.

        ``name`` is that in ``modules``, ``joined`` the network as it learns together with other
        processes; ``terms`` gives the loss of a part of the batch, whose sum is minimised.
        """
        names = ["model", "matrices"] if name == "model" else [name]
        optimizers = [self.optimizers[one] for one in names if one in self.optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part in range(self.parts):
            # Gradients stay with this process while more of the batch is to come.
            more = self.processes.count > 1 and part < self.parts - 1
            with joined.no_sync() if more else contextlib.nullcontext():
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
        rows = [torch.cat(list(x.expand(-1, 3, -1, -1)), 2) for x in self.shown()]
        write_atomic(path, to_pil(torch.cat(rows, 1).cpu()).save)

    def shown(self) -> Sequence[Tensor]:
        """The rows of that picture, (B, 1 or 3, H, W) in [-1, 1] each."""
        raise NotImplementedError

    def export(self, folder: Path, training: dict) -> None:
        """Write the averaged weights in the form that the pipeline loads."""
        self.averaged.eval()
        save_weights(folder, self.averaged, training)
        self.averaged.train()
