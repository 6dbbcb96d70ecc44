"""What a training costs, counted: ``python -m benchmarks.training_cost --preset paper --rate 400``.

Nothing is trained: the networks stand on torch's meta device, which computes shapes alone. What
cannot be counted is given: the rate of a device in TFLOP/s and the bandwidth of its link in GB/s.

- Operations: a step of training counts three times the bridge's forward pass for every sample, four
  times where its features are computed once more (checkpointing), half a pass more where every
  second step begins with the network's own estimate, plus the completion of the gradient, once for
  all samples that share a photograph. A perceptual term is not counted. Steps with larger crops
  count like the others, as they have fewer. A restoration counts one forward pass a step. The
  training of the completion itself, both networks and all passes, is a line of its own.
- Memory: weights, their average, both moments of the optimiser and the gradients, 4 bytes each, the
  gradients twice where several devices exchange them; and what the backward pass needs of every
  sample, counted in float32. Mixed precision and compilation keep less, libraries take workspace.
- Time: operations at the rate. Devices exchange gradients in a ring, 4 bytes a parameter times
  2 (P - 1) / P, after the last part of a step, in the best case during its backward pass. Reading
  photographs, validation and checkpoints are not counted. With ``--price`` the last column is what
  the device hours cost.
- Disk, with ``--records``: pictures of so many pixels a side, at the bytes a pixel that packing the
  bundled photographs with :mod:`train.corpus` gives.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from asyncdsb.networks import PatchDiscriminator
from asyncdsb.networks.layers import Stage
from asyncdsb.store.bundled import BUNDLED
from train.corpus import pack
from train.data.sources import iter_photos
from train.loop.losses import discriminator_loss, generator_loss
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS, BridgePreset, GradientPreset

PHOTOS = (BUNDLED.parent / "examples", BUNDLED.parent / "heldout")


@dataclass(frozen=True)
class Cost:
    """Counted work of a preset.

    Attributes:
        parameters: of the bridge's network.
        forward: floating-point operations of one evaluation of it.
        before: of what a sample needs before its step, its share of the completion and of the
            network's own estimate.
        passes: forward passes that the arithmetic of a training step amounts to.
        samples: of the whole training, as if all crops had the usual size.
        kept: bytes that the backward pass needs of a sample.
    """

    parameters: int
    forward: float
    before: float
    passes: int
    samples: int
    kept: int

    @property
    def sample(self) -> float:
        """Operations of training on a sample."""
        return self.passes * self.forward + self.before

    @property
    def training(self) -> float:
        """Operations of the whole training."""
        return self.samples * self.sample

    def state(self, devices: int = 1) -> int:
        """Bytes that do not depend on the batch, on each of so many devices."""
        return (20 if devices == 1 else 24) * self.parameters

    def step(self, batch: int, devices: int, rate: float) -> float:
        """Seconds of arithmetic of a step, ``rate`` being operations a second of a device."""
        return batch / devices * self.sample / rate

    def exchange(self, devices: int, link: float) -> float:
        """Seconds in which all devices have each other's gradients, at ``link`` bytes a second."""
        return 2 * (devices - 1) / devices * 4 * self.parameters / link

    def hidden(self, batch: int, devices: int, rate: float, parts: int) -> float:
        """Seconds of the last backward pass of a step, behind which an exchange can hide."""
        backward = (self.passes - 1) * self.forward / self.sample
        return self.step(batch, devices, rate) / parts * backward


@dataclass(frozen=True)
class CompletionCost:
    """Counted work of training the completion of gradients.

    Attributes:
        parameters: of the completion and of the discriminator.
        sample: floating-point operations of training both on a sample.
        samples: of the whole training.
        memory: bytes at the preset's batch.
    """

    parameters: int
    sample: float
    samples: int
    memory: int

    @property
    def training(self) -> float:
        """Operations of the whole training."""
        return self.samples * self.sample


class CompletionLosses(nn.Module):
    """Both losses of a step of :mod:`train.gradient`."""

    def __init__(self, preset: GradientPreset):
        super().__init__()
        self.weights = preset.loss
        self.completion = GradientCompletion(preset.model)
        self.discriminator = PatchDiscriminator(4, preset.discriminator_width)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        truth, fake = torch.zeros_like(mask), self.completion.companded(image, mask)
        terms = generator_loss(self.discriminator, image, truth, fake, mask, self.weights)
        total = torch.stack(list(terms.values())).sum()
        return discriminator_loss(self.discriminator, image, truth, fake), total


def count_completion(preset: GradientPreset) -> CompletionCost:
    """Count the work of training the completion of gradients, a sample at a time."""
    with torch.device("meta"):
        losses = CompletionLosses(preset)
        inputs = [torch.zeros(1, channels, preset.size, preset.size) for channels in (3, 1)]
    with FlopCounterMode(display=False) as step:
        for loss in losses(*inputs):
            loss.backward()
    parameters = sum(p.numel() for p in losses.parameters())
    return CompletionCost(
        parameters=parameters,
        sample=step.get_total_flops(),
        samples=preset.samples(preset.steps),
        memory=20 * parameters + preset.batch * kept(losses, inputs),
    )


def count(preset: BridgePreset, completed: GradientPreset) -> Cost:
    """Count the work of a preset, a sample at a time.

    Args:
        preset: of the bridge.
        completed: of the completion of its gradients.
    """
    size = preset.size
    with torch.device("meta"), torch.no_grad():
        model = BridgeDenoiser(preset.model)
        completion = GradientCompletion(completed.model)
        inputs = torch.zeros(1, model.unet.in_channels, size, size), torch.zeros(1, 2)
        with FlopCounterMode(display=False) as once:
            completion.companded(torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size))
        with FlopCounterMode(display=False) as forward:
            model.unet(*inputs)
    own = forward.get_total_flops() / 2 if "estimate" in preset.model.conditions else 0
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        forward=forward.get_total_flops(),
        before=once.get_total_flops() / preset.draws + own,
        passes=4 if preset.checkpointing else 3,
        samples=preset.steps * preset.batch,
        kept=kept(model.unet, inputs, preset.checkpointing),
    )


def kept(network: nn.Module, inputs: Sequence[Tensor], checkpointing: bool = False) -> int:
    """Bytes that the backward pass of a network needs, apart from its parameters.

    Args:
        network: on the meta device; it is left with hooks.
        inputs: of its forward pass.
        checkpointing: whether of each :class:`Stage` only the input is kept, and what lies inside
            is there for one stage at a time.
    """
    parameters = {p.untyped_storage()._cdata for p in network.parameters()}
    alive: list[object] = []  # Or another storage could take the place of a counted one.
    outside: dict[int, int] = {}
    inside: list[dict[int, int]] = []
    present = [outside]

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters | outside.keys():
            alive.append(storage)
            present[-1][storage._cdata] = storage.nbytes()
        return tensor

    def enter(stage: nn.Module, given: tuple[Tensor, ...]) -> None:
        note(given[0])
        inside.append({})
        present.append(inside[-1])

    def leave(*_: object) -> None:
        present.pop()

    if checkpointing:
        for stage in network.modules():
            if isinstance(stage, Stage):
                stage.register_forward_pre_hook(enter)
                stage.register_forward_hook(leave)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        alive.append(network(*inputs))
    return sum(outside.values()) + max((sum(sizes.values()) for sizes in inside), default=0)


def mean_record(size: int) -> float:
    """Bytes of a packed picture of ``size`` by ``size`` pixels, from the bundled photographs."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        index = pack(PHOTOS, corpus, size)
        pixels = sum(photo.width * photo.height for _, photo in iter_photos([corpus]))
    return size**2 * sum(shard["bytes"] for shard in index["shards"]) / pixels


def counted(
    preset: BridgePreset, cost: Cost, first: CompletionCost, args: argparse.Namespace
) -> list[tuple[str, str]]:
    """What does not depend on the number of devices."""
    restoration = args.steps * cost.forward
    rows = [
        ("parameters", f"{cost.parameters / 1e6:.1f} million"),
        ("one evaluation", f"{cost.forward / 1e9:.1f} GFLOP"),
        ("before a step, for a sample", f"{cost.before / 1e9:.1f} GFLOP"),
        ("training", f"{preset.samples(preset.steps):,} samples, {cost.training:.2e} FLOP"),
        (f"a restoration, {args.steps} steps", f"{restoration / 1e12:.1f} TFLOP"),
        ("memory, whatever the batch", f"{cost.state() / 1e9:.1f} GB"),
        ("memory, a sample", f"{cost.kept / 1e9:.2f} GB"),
        (
            "training of the completion",
            f"{first.samples:,} samples, {first.training:.2e} FLOP, {first.memory / 1e9:.1f} GB",
        ),
    ]
    if args.rate:
        hours = first.training / (1e12 * args.rate) / 3600
        rows.append(("hours of that, one device", f"{hours:.2g}"))
    if args.records:
        record = mean_record(preset.size)
        total = args.records * record / 1e9
        rows.append(("disk", f"{record / 1e3:.1f} kB a picture, {total:.1f} GB"))
    return rows


def timed(preset: BridgePreset, cost: Cost, args: argparse.Namespace) -> list[str]:
    """A table with a row for each number of devices."""
    price = args.price is not None
    lines = [
        "| devices | parts | memory a device | arithmetic | exchange | samples/s | overlapped "
        "| hours | device hours |" + " price |" * price,
        "| ---: " * (9 + price) + "|",
    ]
    for devices, link, parts in zip(args.devices, args.link, args.accumulate, strict=True):
        step = cost.step(preset.batch, devices, 1e12 * args.rate)
        exchange = cost.exchange(devices, 1e9 * link)
        hidden = cost.hidden(preset.batch, devices, 1e12 * args.rate, parts)
        best = step + max(0.0, exchange - hidden)
        memory = cost.state(devices) + preset.batch / devices / parts * cost.kept
        hours = cost.samples / preset.batch * best / 3600
        spent = (hours, hours * devices) + ((hours * devices * args.price,) if price else ())
        cells = [
            f"{devices} at {link:g} GB/s" if devices > 1 else "1",
            f"{parts}",
            f"{memory / 1e9:.1f} GB",
            f"{step:.3g} s",
            f"{exchange:.3g} s",
            f"{preset.batch / (step + exchange):.3g}",
            f"{preset.batch / best:.3g}",
            *(f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in spent),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=BRIDGE_PRESETS, default="paper")
    add("--completion", choices=GRADIENT_PRESETS, help="of the gradients; without, the same name")
    add("--rate", type=float, help="TFLOP/s that each device sustains")
    add("--price", type=float, help="of an hour of a device")
    add("--devices", type=int, nargs="+", default=[1], help="one or more numbers of them")
    add("--link", type=float, nargs="+", default=[math.inf], help="GB/s of each, for each number")
    add("--accumulate", type=int, nargs="+", default=[1], help="parts of a batch, for each number")
    add("--records", type=int, help="photographs of a corpus")
    add("--steps", type=int, default=1000, help="of a restoration")
    add("--batch", type=int, help="instead of the preset's")
    add("--training-steps", type=int, help="instead of the preset's")
    add("--checkpointing", action=argparse.BooleanOptionalAction, help="instead of the preset's")
    args = parser.parse_args(argv)
    for name in ("link", "accumulate"):
        given = getattr(args, name)
        if len(given) == 1:
            setattr(args, name, given * len(args.devices))
        elif len(given) != len(args.devices):
            parser.error(f"expected {len(args.devices)} values of --{name}, got {len(given)}")
    given = {
        "batch": args.batch,
        "steps": args.training_steps,
        "checkpointing": args.checkpointing,
    }
    given = {name: value for name, value in given.items() if value is not None}
    preset = dataclasses.replace(BRIDGE_PRESETS[args.preset], **given)
    default = args.preset if args.preset in GRADIENT_PRESETS else "shipped"
    completion = GRADIENT_PRESETS[args.completion or default]
    cost = count(preset, completion)
    print("| | |\n| --- | --- |")
    for name, value in counted(preset, cost, count_completion(completion), args):
        print(f"| {name} | {value} |")
    if args.rate:
        print("\n" + "\n".join(timed(preset, cost, args)))


if __name__ == "__main__":
    main()
