"""What a training costs: ``python -m benchmarks.training_cost --preset paper --rate 400``.

Counted, not run: the networks stand on torch's meta device, which computes shapes alone. A step of
training counts three times the bridge's forward pass, plus the completion of the gradient; one of a
restoration counts one forward pass. Hours follow from the rate that is given, in TFLOP/s sustained
by all devices together; ``benchmarks.train_throughput`` measures it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS, BridgePreset


@dataclass(frozen=True)
class Cost:
    """Counted work of a preset.

    Attributes:
        parameters: of the bridge's network.
        forward: floating-point operations of one evaluation of it.
        completion: of the completion network.
        samples: of the whole training.
    """

    parameters: int
    forward: float
    completion: float
    samples: int

    @property
    def training(self) -> float:
        return self.samples * (3 * self.forward + self.completion)

    @property
    def state(self) -> int:
        """Bytes of weights, average and both moments of the optimiser, float32 each."""
        return 16 * self.parameters


def count(preset: BridgePreset, size: int) -> Cost:
    """Count the work of a preset at pictures of ``size`` pixels."""
    with torch.device("meta"), torch.no_grad():
        model = BridgeDenoiser(preset.model)
        completion = GradientCompletion(GRADIENT_PRESETS["shipped"].model)
        with FlopCounterMode(display=False) as once:
            completion.companded(torch.zeros(1, 3, size, size), torch.zeros(1, 1, size, size))
        with FlopCounterMode(display=False) as forward:
            model.unet(torch.zeros(1, model.unet.in_channels, size, size), torch.zeros(1, 2))
    parameters = sum(p.numel() for p in model.parameters())
    samples = preset.samples(preset.steps)
    return Cost(parameters, forward.get_total_flops(), once.get_total_flops(), samples)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", choices=BRIDGE_PRESETS, default="paper")
    parser.add_argument("--rate", type=float, help="TFLOP/s sustained, all devices together")
    parser.add_argument("--steps", type=int, default=1000, help="of a restoration")
    args = parser.parse_args(argv)
    preset = BRIDGE_PRESETS[args.preset]
    cost = count(preset, preset.size)
    restoration = args.steps * cost.forward
    rows = [
        ("parameters", f"{cost.parameters / 1e6:.1f} million"),
        ("one evaluation", f"{cost.forward / 1e9:.1f} GFLOP"),
        ("completion of a gradient", f"{cost.completion / 1e9:.1f} GFLOP"),
        ("weights, average, optimiser", f"{cost.state / 1e9:.1f} GB"),
        ("training", f"{cost.samples:,} samples, {cost.training:.2e} FLOP"),
        (f"a restoration, {args.steps} steps", f"{restoration / 1e12:.1f} TFLOP"),
    ]
    if args.rate:
        hours, seconds = cost.training / args.rate / 3.6e15, restoration / args.rate / 1e12
        rows.append((f"at {args.rate:g} TFLOP/s", f"{hours:,.0f} hours; {seconds:.2f} s a picture"))
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
