"""Step 2: train the bridge's denoiser (Eq. 4 with per-pixel clocks).

python -m train.bridge --preset cpu --data PHOTOS --gradient runs/gradient/weights --out runs/bridge
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from asyncdsb.checkpoint import load_weights, save_weights
from asyncdsb.denoiser import BridgeDenoiser, Context
from asyncdsb.images import to_pil, write_atomic
from asyncdsb.samplers import sample
from asyncdsb.schedule import tau_map
from train.batches import SAMPLE_STEP, Batches, draw_tau, draw_times
from train.presets import BRIDGE_PRESETS, BridgePreset
from train.run import autocast, average, chosen_preset, parser, run


class BridgeTrainer:
    """Denoising over random times, tau maps and both bridges.

    Args:
        preset: see :class:`BridgePreset`.
        args: of the command line; ``args.gradient`` is the folder of the completion's weights.
    """

    def __init__(self, preset: BridgePreset, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.preset, self.device = preset, args.device
        self.batches = Batches(preset, args.data, args.seed, args.device)
        self.completion = load_weights(args.gradient, "gradient")[0].requires_grad_(False)
        self.completion.to(self.device, memory_format=torch.channels_last)
        if args.init:
            self.model = load_weights(args.init, "bridge")[0].train()
        else:
            self.model = BridgeDenoiser(preset.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        self.config = self.model.config
        self.schedule = self.config.schedule
        self.ema = average(self.model, preset.ema)
        self.modules = {"model": self.model, "ema": self.ema}
        self.optimizers = {
            "model": torch.optim.AdamW(
                self.model.parameters(),
                weight_decay=preset.weight_decay,
                fused=True,
            )
        }
        if preset.compile:
            self.model.unet.compile()

    def step(self, step: int) -> dict[str, Tensor]:
        """One update."""
        generator = self.batches.generator(step)
        image, mask = self.batches.draw(generator)
        t = draw_times(self.preset, generator).to(self.device)
        gradient = self._complete(image, mask)
        tau = draw_tau(self.preset, gradient, mask, generator)
        noise, z = self.batches.noise(step, 2, *image.shape)
        context = self.model.context(image, mask, gradient, self._bridges(generator), noise)
        s = self.schedule.clock(t, tau)
        with autocast(self.preset, self.device):
            loss = self.model.loss(image, t, s, z, context, self.schedule.total_var)
        total = loss.mean()
        optimizer = self.optimizers["model"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.preset.clip)
        optimizer.step()
        self.ema.update_parameters(self.model)
        return {"loss": total, "norm": norm}

    @torch.no_grad()
    def _complete(self, image: Tensor, mask: Tensor) -> Tensor:
        with autocast(self.preset, self.device):
            return self.completion(image, mask)

    def _bridges(self, generator: torch.Generator) -> Tensor:
        """Which bridge each sample trains, (B,) bool, evenly over the configured ones."""
        if len(self.config.bridges) == 2:
            chosen = torch.rand(self.preset.batch, generator=generator) < 0.5
        else:
            chosen = torch.full((self.preset.batch,), self.config.bridges[0] == "stochastic")
        return chosen.to(self.device)

    @torch.no_grad()
    def samples(self, path: Path) -> None:
        """Rows of corrupted photo, tau map, restoration by each bridge, and truth."""
        image, mask = self.batches.draw(self.batches.generator(SAMPLE_STEP))
        image, mask = image[:8], mask[:8]
        gradient = self._complete(image, mask)
        tau = tau_map(gradient, 0.2, 0.5, self.config.blur_sigma, mask)
        noise = self.batches.noise(SAMPLE_STEP, *image.shape)
        model = self.ema.module.eval()
        rows = [image * (1 - mask), (4 * tau - 1).clamp(-1, 1).expand_as(image)]
        for name in self.config.samplers:
            stochastic = torch.full((len(image),), name != "ode", device=self.device)
            context = model.context(image, mask, gradient, stochastic, noise)
            rows.append(self._sampled(model, context, tau, name))
        model.train()
        rows = torch.cat([torch.cat(list(part), 2) for part in (*rows, image)], 1)
        write_atomic(path, lambda p: to_pil(rows.cpu()).save(p))

    def _sampled(self, model: BridgeDenoiser, context: Context, tau: Tensor, name: str) -> Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(len(tau))]
        *_, last = sample(
            model.bind(context, self.schedule.total_var),
            context.x1,
            context.mask,
            tau,
            self.schedule,
            steps=10,
            sampler=name,
            eta=0.0,
            generators=generators,
        )
        return last.x_t

    def export(self, folder: Path, training: dict) -> None:
        """Write the averaged denoiser."""
        save_weights(folder, self.ema.module, training)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = parser("train.bridge", BRIDGE_PRESETS, __doc__)
    options.add_argument("--gradient", required=True, help="weights folder of train.gradient")
    options.add_argument("--init", help="weights folder of a bridge to start from")
    args = options.parse_args(argv)
    preset = chosen_preset(BRIDGE_PRESETS, args)
    run(BridgeTrainer(preset, args), preset, args)


if __name__ == "__main__":
    main()
