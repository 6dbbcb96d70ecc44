"""Step 2: train the bridge's denoiser (Eq. 4 with per-pixel clocks).

python -m train.bridge --preset cpu --data PHOTOS --gradient runs/gradient/weights --out runs/bridge
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser, Context
from asyncdsb.gradient import image_gradient
from asyncdsb.networks import ADMUNet
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.samplers import sample
from asyncdsb.schedule import tau_map
from asyncdsb.store.checkpoint import load_weights
from train.data.batches import OTHERS, SAMPLE_STEP, draw_tau, draw_times
from train.data.draws import to_device
from train.judge.validation import RestorationValidator
from train.loop.options import program
from train.loop.processes import BoundMethod, Processes
from train.loop.run import parser, run
from train.loop.trainer import Trainer
from train.presets import BRIDGE_PRESETS, BridgePreset


class BridgeBatch(NamedTuple):
    """What one update needs, on the device."""

    image: Tensor  # (B, 3, H, W) clean images in [-1, 1]
    t: Tensor  # (B, 1, 1, 1) times
    s: Tensor  # (B, 1, H, W) clocks
    z: Tensor  # (B, 3, H, W) noise of the bridge
    context: Context  # start of the bridge and conditions
    self_conditioned: bool  # whether the network sees an estimate of its own, if it can


class BridgeTrainer(Trainer):
    """Denoising over random times, tau maps and both bridges."""

    preset: BridgePreset
    starts = {"gradient": "gradient", "init": "bridge"}

    def __init__(
        self, preset: BridgePreset, args: argparse.Namespace, processes: Processes | None = None
    ):
        torch.manual_seed(args.seed)
        processes = processes or Processes(device=args.device)
        if args.val and not args.gradient:
            raise ValueError("expected --gradient beside --val: restorations need the completion")
        self.completion = None
        if args.gradient:
            self.completion = load_weights(args.gradient, "gradient")[0].requires_grad_(False)
            self.completion.to(args.device)
        start = args.init and started_from(args.init, preset.model, processes.main)
        model: Any = start or BridgeDenoiser(preset.model)
        self.model: BridgeDenoiser = model.to(args.device, memory_format=torch.channels_last)
        self.config = self.model.config
        self.schedule = self.config.schedule
        # This refuses checkpointing where the network cannot do it.
        preset = replace(preset, model=self.config)
        if isinstance(self.model.unet, ADMUNet):
            self.model.unet.checkpointing = preset.checkpointing
        super().__init__(preset, args, processes, self.model)
        self.optimise(partial(torch.optim.AdamW, fused=True), weight_decay=preset.weight_decay)
        self.compile(self.model.unet)
        self.loss = processes.joined(BoundMethod(self.model, "loss"))
        if args.val and processes.main:
            networks = self.averaged, self.completion
            pipe = AsyncDSBPipeline(*networks, self.device, precision=self.precision)
            self.validator = RestorationValidator(pipe, args.val)

    def step(self, step: int) -> dict[str, Tensor]:
        """Draw the batch of this step, learn from it, one part after the other."""

        def terms(part: int) -> dict[str, Tensor]:
            batch = self.prepare(step, part)
            with self.mixed():
                loss = self.loss(*batch)
            return {"loss": loss.mean()}

        means, norm = self.update("model", self.loss, terms)
        self.ema.update_parameters(self.model)
        return means | {"norm": norm}

    @torch.no_grad()
    def prepare(self, step: int, part: int = 0) -> BridgeBatch:
        """Draw a part of the batch of a step: all before the network that is trained."""
        preset = self.preset
        draws, image, mask = self.batches.draw(step, part)
        if self.completion is None:
            gradient = image_gradient(self.batches.draw(step, part, OTHERS)[1])
        else:
            gradient = self._complete(image, mask)
        # A photo, its completed gradient and its fill serve for several times and noises.
        image, mask, gradient = (
            x.repeat_interleave(preset.draws, 0) for x in (image, mask, gradient)
        )
        if len(self.config.bridges) == 2:
            chosen = draws.rand() < 0.5
        else:
            chosen = torch.full((len(draws.rows),), self.config.bridges[0] == "stochastic")
        stochastic = to_device(chosen, self.device)
        tau = draw_tau(preset, gradient, mask, draws)
        t = draw_times(preset, tau, mask, stochastic, draws)
        noise, z = self.batches.noise(step, draws.rows, 2, *image.shape[1:]).unbind(1)
        context = self.model.context(image, mask, gradient, stochastic, noise)
        # By the step, so that all processes have the same work.
        return BridgeBatch(image, t, self.schedule.clock(t, tau), z, context, step % 2 == 1)

    @torch.no_grad()
    def _complete(self, image: Tensor, mask: Tensor) -> Tensor:
        """Completed gradients; without a completion those of other photographs of the batch."""
        if self.completion is None:
            return image_gradient(image).roll(1, 0)
        with self.mixed():
            return self.completion(image, mask)

    @torch.no_grad()
    def shown(self) -> list[Tensor]:
        """Rows of corrupted photo, tau map, restoration by each sampler, and truth."""
        image, mask = self.batches.sample()
        gradient = self._complete(image, mask)
        tau = tau_map(gradient, 0.2, 0.5, self.config.blur_sigma, mask)
        noise = self.batches.noise(SAMPLE_STEP, torch.arange(len(image)), *image.shape[1:])
        model = self.averaged.eval()
        rows = [image * (1 - mask), (4 * tau - 1).clamp(-1, 1)]
        for name in self.config.samplers:
            stochastic = torch.full((len(image),), name != "ode", device=self.device)
            context = model.context(image, mask, gradient, stochastic, noise)
            *_, last = sample(
                model.bind(context),
                context.x1,
                context.mask,
                tau,
                self.schedule,
                steps=20,
                sampler=name,
                start_std=self.config.hole_noise,
                generators=[torch.Generator().manual_seed(i) for i in range(len(tau))],
            )
            rows.append(last.x_t)
        model.train()
        return [*rows, image]


# Weights of our network and of ADM's whose last places along an axis are the input's channels.
INPUTS = {"unet.stem.weight": 1, "unet.gain.weight": 0, "unet.gain.bias": 0}
INPUTS |= {"unet.head.weight": 1, "unet.input_blocks.0.0.weight": 1}


def adapted(model: BridgeDenoiser, config: BridgeConfig) -> BridgeDenoiser:
    """A denoiser of another configuration with the same ``unet``, started from trained weights.

    Input channels keep their weights by name; what the model did not see changes nothing at first.
    """
    if model.config == config:
        return model
    fresh = BridgeDenoiser(config).train(model.training)
    area = getattr(config.unet, "patch", 1) ** 2
    pairs = [
        (area * new + pixel, area * model.channels.index(name) + pixel)
        for new, name in enumerate(fresh.channels)
        if name in model.channels
        for pixel in range(area)
    ]
    to, source = (torch.tensor(places) for places in zip(*pairs, strict=True))
    sizes = fresh.state_dict()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("guide.")}
    for name, axis in INPUTS.items():
        if (old := state.get(name)) is not None:
            first = old.shape[axis] - area * len(model.channels)
            kept = torch.arange(first)
            taken = old.index_select(axis, torch.cat([kept, first + source]))
            places = torch.cat([kept, first + to])
            state[name] = torch.zeros_like(sizes[name]).index_copy_(axis, places, taken)
    fresh.load_state_dict(state)
    return fresh


def started_from(folder: str, config: BridgeConfig, tell: bool) -> BridgeDenoiser:
    """Trained weights that see what a configuration says; another network keeps all of its own.

    Their guide, if they have one, is left out, because no training uses it.
    """
    model = load_weights(folder, "bridge")[0].train()
    own = replace(model.config, guide=None, guidance=0.0)
    if own.unet != config.unet:
        if tell:
            preset = f"instead of the preset's, {config.unet}"
            print(f"training the network of {folder}, {own.unet}, {preset}")
        config = replace(own, conditions=tuple(dict.fromkeys(own.conditions + config.conditions)))
    return adapted(model, config)


def bridge_parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = parser("train.bridge", BRIDGE_PRESETS, __doc__)
    others = "without, tau follows other photographs' gradients"
    options.add_argument("--gradient", help=f"weights folder of train.gradient; {others}")
    return options


main = program(bridge_parser, partial(run, BridgeTrainer, BRIDGE_PRESETS))

if __name__ == "__main__":
    raise SystemExit(main())
