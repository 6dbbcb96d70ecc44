"""What a training costs, counted: ``python -m benchmarks.training_cost --preset paper --rate 400``.

Nothing is trained: the networks stand on torch's meta device, which computes shapes alone. What
cannot be counted is given: the rate of a device in TFLOP/s and the bandwidth of its link in GB/s.

- Operations: a step of training counts three times the bridge's forward pass for every sample, four
  times where its features are computed once more (checkpointing), plus the completion of the
  gradient. A restoration counts one forward pass a step.
- Memory: weights, their average, both moments of the optimiser and the gradients, 4 bytes each, the
  gradients twice where several devices exchange them; and what the backward pass needs of every
  sample, counted in float32. Mixed precision and compilation keep less, libraries take workspace.
- Time: operations at the rate. Devices exchange gradients in a ring, 4 bytes a parameter times
  2 (P - 1) / P, after the last part of a step, in the best case during its backward pass. Reading
  photographs, validation and checkpoints are not counted.
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

from asyncdsb.data import iter_photos
from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from asyncdsb.networks.adm import Stage
from asyncdsb.pipeline import BUNDLED
from train.corpus import Settings, pack
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS, BridgePreset

PHOTOS = (BUNDLED.parent / "examples", BUNDLED.parent / "heldout")


@dataclass(frozen=True)
class Cost:
    """Counted work of a preset.

    Attributes:
        parameters: of the bridge's network.
        forward: floating-point operations of one evaluation of it.
        completion: of the completion network.
        passes: forward passes that the arithmetic of a training step amounts to.
        samples: of the whole training.
        kept: bytes that the backward pass needs of a sample.
    """

    parameters: int
    forward: float
    completion: float
    passes: int
    samples: int
    kept: int

    @property
    def sample(self) -> float:
        """Operations of training on a sample."""
        return self.passes * self.forward + self.completion

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


def count(preset: BridgePreset) -> Cost:
    """Count the work of a preset, a sample at a time."""
    size = preset.size
    with torch.device("meta"), torch.no_grad():
        model = BridgeDenoiser(preset.model)
        completion = GradientCompletion(GRADIENT_PRESETS["shipped"].model)
        inputs = torch.zeros(1, model.unet.in_channels, size, size), torch.zeros(1, 2)
        with FlopCounterMode(display=False) as once:
            completion.companded(torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size))
        with FlopCounterMode(display=False) as forward:
            model.unet(*inputs)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        forward=forward.get_total_flops(),
        completion=once.get_total_flops(),
        passes=4 if preset.checkpointing else 3,
        samples=preset.samples(preset.steps),
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
        index = pack(PHOTOS, corpus, Settings(size=size))
        pixels = sum(photo.width * photo.height for _, photo in iter_photos([corpus]))
    return size**2 * sum(shard["bytes"] for shard in index["shards"]) / pixels


def counted(preset: BridgePreset, cost: Cost, args: argparse.Namespace) -> list[tuple[str, str]]:
    """What does not depend on a machine."""
    restoration = args.steps * cost.forward
    rows = [
        ("parameters", f"{cost.parameters / 1e6:.1f} million"),
        ("one evaluation", f"{cost.forward / 1e9:.1f} GFLOP"),
        ("completion of a gradient", f"{cost.completion / 1e9:.1f} GFLOP"),
        ("training", f"{cost.samples:,} samples, {cost.training:.2e} FLOP"),
        (f"a restoration, {args.steps} steps", f"{restoration / 1e12:.1f} TFLOP"),
        ("memory, whatever the batch", f"{cost.state() / 1e9:.1f} GB"),
        ("memory, a sample", f"{cost.kept / 1e9:.2f} GB"),
    ]
    if args.records:
        record = mean_record(preset.size)
        total = args.records * record / 1e9
        rows.append(("disk", f"{record / 1e3:.1f} kB a picture, {total:.1f} GB"))
    return rows


def timed(preset: BridgePreset, cost: Cost, args: argparse.Namespace) -> list[str]:
    """A table with a row for each number of devices."""
    lines = [
        "| devices | parts | memory a device | arithmetic | exchange | samples/s | overlapped "
        "| hours | device hours |",
        "| ---: " * 9 + "|",
    ]
    for devices, link, parts in zip(args.devices, args.link, args.accumulate, strict=True):
        step = cost.step(preset.batch, devices, 1e12 * args.rate)
        exchange = cost.exchange(devices, 1e9 * link)
        hidden = cost.hidden(preset.batch, devices, 1e12 * args.rate, parts)
        best = step + max(0.0, exchange - hidden)
        memory = cost.state(devices) + preset.batch / devices / parts * cost.kept
        hours = cost.samples / preset.batch * best / 3600
        cells = [
            f"{devices} at {link:g} GB/s" if devices > 1 else "1",
            f"{parts}",
            f"{memory / 1e9:.1f} GB",
            f"{step:.3g} s",
            f"{exchange:.3g} s",
            f"{preset.batch / (step + exchange):.3g}",
            f"{preset.batch / best:.3g}",
            f"{hours:,.3g}" if hours < 100 else f"{hours:,.0f}",
            f"{hours * devices:,.3g}" if hours * devices < 100 else f"{hours * devices:,.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=BRIDGE_PRESETS, default="paper")
    add("--rate", type=float, help="TFLOP/s that each device sustains")
    add("--devices", type=int, nargs="+", default=[1], help="one or more numbers of them")
    add("--link", type=float, nargs="+", default=[math.inf], help="GB/s of each, for each number")
    add("--accumulate", type=int, nargs="+", default=[1], help="parts of a batch, for each number")
    add("--records", type=int, help="photographs of a corpus")
    add("--steps", type=int, default=1000, help="of a restoration")
    add("--batch", type=int, help="instead of the preset's")
    add("--training-steps", type=int, help="instead of the preset's")
    args = parser.parse_args(argv)
    for name in ("link", "accumulate"):
        given = getattr(args, name)
        if len(given) == 1:
            setattr(args, name, given * len(args.devices))
        elif len(given) != len(args.devices):
            parser.error(f"expected {len(args.devices)} values of --{name}, got {len(given)}")
    given = {"batch": args.batch, "steps": args.training_steps}
    preset = dataclasses.replace(
        BRIDGE_PRESETS[args.preset], **{name: value for name, value in given.items() if value}
    )
    cost = count(preset)
    print("| | |\n| --- | --- |")
    for name, value in counted(preset, cost, args):
        print(f"| {name} | {value} |")
    if args.rate:
        print("\n" + "\n".join(timed(preset, cost, args)))


if __name__ == "__main__":
    main()
