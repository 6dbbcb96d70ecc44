"""Step 1: train the completion of gradient maps (Eq. 9, Eq. 10).

python -m train.gradient --preset cpu --data PHOTOS --out runs/gradient
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.networks import PatchDiscriminator, UNetConfig
from asyncdsb.store.checkpoint import load_weights
from train.judge.validation import GradientValidator
from train.loop.losses import discriminator_loss, generator_loss
from train.loop.options import program
from train.loop.processes import BoundMethod, Processes
from train.loop.run import parser, run
from train.loop.trainer import Trainer
from train.presets import GRADIENT_PRESETS, GradientPreset


@torch.no_grad()
def take_weights(model: GradientCompletion, trained: GradientCompletion) -> None:
    """Give a network the weights of another, into which spectral normalisation was folded."""
    for name, value in trained.named_parameters():
        prefix, _, leaf = name.rpartition(".")
        layer = model.get_submodule(prefix)
        if parametrize.is_parametrized(layer, leaf):
            setattr(layer, leaf, value.detach())
            for _ in range(15):
                getattr(layer, leaf)  # a power iteration each, for the new weight's largest value
        else:
            getattr(layer, leaf).copy_(value)


class GradientTrainer(Trainer):
    """Generator against patch discriminator."""

    preset: GradientPreset
    starts = {"init": "gradient"}

    def __init__(
        self, preset: GradientPreset, args: argparse.Namespace, processes: Processes | None = None
    ):
        torch.manual_seed(args.seed)
        processes = processes or Processes(device=args.device)
        # Not channels-last: instance normalisation returns plain tensors, so layers would copy.
        model = GradientCompletion(preset.model)
        if args.init:
            trained = load_weights(args.init, "gradient")[0]
            if trained.config != preset.model:
                wanted = f"weights of the preset's network, {preset.model}"
                raise ValueError(f"expected {wanted}, got {trained.config} in {args.init}")
            take_weights(model, trained)
        self.model = model.to(args.device)
        self.discriminator = PatchDiscriminator(4, preset.discriminator_width).to(args.device)
        super().__init__(preset, args, processes, self.model)
        self.modules["discriminator"] = self.discriminator
        # EdgeConnect's Adam, without first-moment momentum as is usual against a discriminator.
        adam = partial(torch.optim.Adam, betas=(0.0, 0.9))
        self.optimise(adam)
        slower = {"params": self.discriminator.parameters(), "lr_scale": preset.discriminator_lr}
        self.optimizers["discriminator"] = adam([slower])
        if isinstance(preset.model.generator, UNetConfig):
            self.compile(self.model.generator)
        # As they learn, together with the other processes, and in this order.
        self.joined = {
            "discriminator": processes.joined(self.discriminator),
            "model": processes.joined(BoundMethod(self.model, "companded")),
        }
        if args.val and processes.main:
            self.validator = GradientValidator(
                self.averaged, args.val, min(preset.short_sides), self.device
            )

    def step(self, step: int) -> dict[str, Tensor]:
        """One update of the discriminator and one of the generator."""
        means: dict[str, Tensor] = {}
        maps: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

        def terms(part: int) -> dict[str, Tensor]:
            nonlocal maps
            if maps is None or self.parts > 1:
                # The maps of several parts are not kept: each is completed anew for either network.
                with torch.set_grad_enabled(name == "model" or self.parts == 1):
                    _, image, mask = self.batches.draw(step, part)
                    maps = image, *self._maps(self.joined["model"], image, mask)
            with self.mixed():
                if name == "discriminator":
                    return {name: discriminator_loss(self.joined[name], *maps[:3])}
                return generator_loss(self.discriminator, *maps, self.preset.loss)

        for name, joined in self.joined.items():
            # The generator learns through the discriminator, which does not learn from that.
            self.discriminator.requires_grad_(name == "discriminator")
            means |= self.update(name, joined, terms)[0]
        self.ema.update_parameters(self.model)
        return means

    def _maps(
        self, companded: Callable[..., Tensor], image: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Companded true map, companded completed map, and where it was completed."""
        gradient, unknown = known_gradient(image, mask)
        truth = image_gradient(image).sqrt()
        with self.mixed():
            predicted = companded(image, mask)
        return truth, torch.where(unknown > 0.5, predicted, gradient.sqrt()), unknown

    @torch.no_grad()
    def shown(self) -> list[Tensor]:
        """Rows of corrupted photo, true map and completed map."""
        image, mask = self.batches.sample()
        self.ema.eval()
        truth, fake, _ = self._maps(self.averaged.companded, image, mask)
        self.ema.train()
        return [image * (1 - mask), 2 * truth - 1, 2 * fake - 1]


gradient_parser = partial(parser, "train.gradient", GRADIENT_PRESETS, __doc__)
main = program(gradient_parser, partial(run, GradientTrainer, GRADIENT_PRESETS))

if __name__ == "__main__":
    raise SystemExit(main())
