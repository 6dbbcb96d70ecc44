"""Step 1: train the completion of gradient maps (Eq. 9, Eq. 10).

python -m train.gradient --preset cpu --data PHOTOS --out runs/gradient
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from asyncdsb.checkpoint import save_weights
from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.images import to_pil, write_atomic
from asyncdsb.losses import discriminator_loss, generator_loss
from asyncdsb.networks import PatchDiscriminator
from train.batches import SAMPLE_STEP, Batches
from train.precision import autocast
from train.presets import GRADIENT_PRESETS, GradientPreset
from train.run import average, chosen_preset, parser, run
from train.validation import GradientValidator


class GradientTrainer:
    """Generator against patch discriminator.

    Args:
        preset: see :class:`GradientPreset`.
        args: of the command line.
    """

    def __init__(self, preset: GradientPreset, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.preset, self.device = preset, args.device
        self.batches = Batches(preset, args.data, args.seed, args.device, args.shares)
        # Not channels-last: instance normalisation returns plain tensors, so layers would copy.
        self.model = GradientCompletion(preset.model).to(self.device)
        self.discriminator = PatchDiscriminator(4, preset.discriminator_width).to(self.device)
        self.ema = average(self.model, preset.ema)
        self.modules = {
            "model": self.model,
            "ema": self.ema,
            "discriminator": self.discriminator,
        }
        # EdgeConnect's Adam, without first-moment momentum as is usual against a discriminator.
        self.optimizers = {
            "model": torch.optim.Adam(self.model.parameters(), betas=(0.0, 0.9)),
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
        self.validator = None
        if args.val:
            self.validator = GradientValidator(self.ema.module, args.val, preset, self.device)

    def step(self, step: int) -> dict[str, Tensor]:
        """One update of the discriminator and one of the generator."""
        image, mask = self.batches.draw(self.batches.generator(step), *self.preset.shape(step))
        truth, fake, unknown = self._maps(self.model, image, mask)
        with autocast(self.preset, self.device):
            loss_d = discriminator_loss(self.discriminator, image, truth, fake)
        self._update("discriminator", loss_d)
        with autocast(self.preset, self.device):
            terms = generator_loss(
                self.discriminator, image, truth, fake, unknown, self.preset.loss
            )
        self._update("model", sum(terms.values()))
        self.ema.update_parameters(self.model)
        return {"discriminator": loss_d, **terms}

    def _maps(
        self, model: GradientCompletion, image: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Companded true map, companded completed map, and where it was completed."""
        gradient, unknown = known_gradient(image, mask)
        truth = image_gradient(image).sqrt()
        with autocast(self.preset, self.device):
            predicted = model.companded(image, mask)
        return truth, torch.where(unknown > 0.5, predicted, gradient.sqrt()), unknown

    def _update(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), self.preset.clip)
        optimizer.step()

    @torch.no_grad()
    def samples(self, path: Path) -> None:
        """Rows of corrupted photo, true map and completed map for eight training crops."""
        image, mask = self.batches.draw(self.batches.generator(SAMPLE_STEP), 8)
        self.ema.eval()
        truth, fake, _ = self._maps(self.ema.module, image, mask)
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
        save_weights(folder, self.ema.module, training)
        self.ema.train()


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    args = parser("train.gradient", GRADIENT_PRESETS, __doc__).parse_args(argv)
    preset = chosen_preset(GRADIENT_PRESETS, args)
    run(GradientTrainer(preset, args), preset, args)


if __name__ == "__main__":
    main()
