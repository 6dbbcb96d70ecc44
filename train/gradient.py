"""Step 1: train the completion of gradient maps (Eq. 9, Eq. 10).

python -m train.gradient --preset cpu --data PHOTOS --out runs/gradient
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.networks import PatchDiscriminator, UNetConfig
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.store.checkpoint import save_weights
from train.data.batches import Batches
from train.judge.validation import GradientValidator
from train.loop.losses import discriminator_loss, generator_loss
from train.loop.muon import Muon, split
from train.loop.options import program
from train.loop.precision import autocast, compiles
from train.loop.processes import BoundMethod, Processes
from train.loop.run import Average, chosen_preset, parser, run
from train.presets import GRADIENT_PRESETS, GradientPreset


class GradientTrainer:
    """Generator against patch discriminator.

    Args:
        preset: see :class:`GradientPreset`.
        args: of the command line.
        processes: that train together; None for this one alone.
    """

    def __init__(
        self, preset: GradientPreset, args: argparse.Namespace, processes: Processes | None = None
    ):
        torch.manual_seed(args.seed)
        self.preset, self.device = preset, args.device
        self.weights: dict[str, str] = {}
        self.processes, self.parts = processes or Processes(device=args.device), args.accumulate
        self.batches = Batches(preset, args, self.processes)
        # Not channels-last: instance normalisation returns plain tensors, so layers would copy.
        self.model = GradientCompletion(preset.model).to(self.device)
        self.discriminator = PatchDiscriminator(4, preset.discriminator_width).to(self.device)
        self.ema = Average(self.model, preset.ema)
        self.averaged = cast(GradientCompletion, self.ema.module)
        self.modules: dict[str, nn.Module] = {
            "model": self.model,
            "ema": self.ema,
            "discriminator": self.discriminator,
        }
        # EdgeConnect's Adam, without first-moment momentum as is usual against a discriminator.
        matrices, others = split(self.model.parameters())
        if not preset.muon:
            matrices, others = [], list(self.model.parameters())
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.Adam(others, betas=(0.0, 0.9)),
            "discriminator": torch.optim.Adam(
                [
                    {
                        "params": list(self.discriminator.parameters()),
                        "lr_scale": preset.discriminator_lr,
                    }
                ],
                betas=(0.0, 0.9),
            ),
        }
        if isinstance(preset.model.generator, UNetConfig) and compiles(preset, self.device):
            self.model.generator.compile(dynamic=False)
        if matrices:
            scaled = {"params": matrices, "lr_scale": preset.muon}
            self.optimizers["matrices"] = Muon([scaled])
        # As they learn, together with the other processes, and in this order.
        self.joined = {
            "discriminator": self.processes.joined(self.discriminator),
            "model": self.processes.joined(BoundMethod(self.model, "companded")),
        }
        self.validator = None
        if args.val and self.processes.main:
            self.validator = GradientValidator(self.averaged, args.val, self.device)

    def step(self, step: int) -> dict[str, Tensor]:
        """One update of the discriminator and one of the generator."""
        sums: dict[str, Tensor] = {}
        maps = None
        for name, joined in self.joined.items():
            optimizers = [self.optimizers[name]]
            if name == "model" and "matrices" in self.optimizers:
                optimizers.append(self.optimizers["matrices"])
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            # The generator learns through the discriminator, which does not learn from that.
            self.discriminator.requires_grad_(name == "discriminator")
            for part in range(self.parts):
                with self.processes.alone(joined, part < self.parts - 1):
                    if maps is None or self.parts > 1:
                        # Of several parts none is kept: each is completed once for either.
                        with torch.set_grad_enabled(name == "model" or self.parts == 1):
                            maps = self._drawn(step, part)
                    terms = self._terms(name, *maps)
                    (sum(terms.values()) / self.parts).backward()
                for term, value in terms.items():
                    sums[term] = sums.get(term, 0) + value.detach() / self.parts
            torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), self.preset.clip)
            for optimizer in optimizers:
                optimizer.step()
        self.ema.update_parameters(self.model)
        return sums

    def _drawn(self, step: int, part: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Photos of a part of a step's batch, and their :meth:`_maps`."""
        _, image, mask = self.batches.draw(step, part)
        return image, *self._maps(self.joined["model"], image, mask)

    def _terms(
        self, name: str, image: Tensor, truth: Tensor, fake: Tensor, unknown: Tensor
    ) -> dict[str, Tensor]:
        """Terms of the loss of one of the two networks."""
        with autocast(self.preset, self.device):
            if name == "discriminator":
                loss = discriminator_loss(self.joined["discriminator"], image, truth, fake)
                return {"discriminator": loss}
            return generator_loss(self.discriminator, image, truth, fake, unknown, self.preset.loss)

    def _maps(
        self, companded: Callable[..., Tensor], image: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Companded true map, companded completed map, and where it was completed."""
        gradient, unknown = known_gradient(image, mask)
        truth = image_gradient(image).sqrt()
        with autocast(self.preset, self.device):
            predicted = companded(image, mask)
        return truth, torch.where(unknown > 0.5, predicted, gradient.sqrt()), unknown

    def gather(self) -> None:
        """Every process holds all weights."""

    @torch.no_grad()
    def samples(self, path: Path) -> None:
        """Rows of corrupted photo, true map and completed map for eight training crops."""
        image, mask = self.batches.sample()
        self.ema.eval()
        truth, fake, _ = self._maps(self.averaged.companded, image, mask)
        self.ema.train()
        maps = [(2 * m - 1).expand(-1, 3, -1, -1) for m in (truth, fake)]
        rows = torch.cat([torch.cat(list(part), 2) for part in (image * (1 - mask), *maps)], 1)
        write_atomic(path, lambda p: to_pil(rows.cpu()).save(p))

    def validate(self) -> dict[str, float] | None:
        """Scores on held-out photos, or None without any."""
        return None if self.validator is None else self.validator()

    def export(self, folder: Path, training: dict) -> None:
        """Write the averaged generator."""
        self.ema.eval()
        save_weights(folder, self.averaged, training)
        self.ema.train()


main = program(
    partial(parser, "train.gradient", GRADIENT_PRESETS, __doc__),
    lambda args: run(GradientTrainer, chosen_preset(GRADIENT_PRESETS, args), args),
)

if __name__ == "__main__":
    sys.exit(main())
