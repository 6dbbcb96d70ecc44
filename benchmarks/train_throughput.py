"""How much of a training step is arithmetic: ``python -m benchmarks.train_throughput``.

For the bridge of a preset, eager and compiled, in each precision: samples a second, floating-point
operations a sample, the share of the device's own matrix-product rate that they amount to, and the
share of a step that passes before the trained network starts (crops, masks, fill, completed
gradient, clocks, noise).

The rate of the device is that of one large square matrix product in the same precision, measured
here, in the same run. The share of convolutions is their time by torch's profiler, forward and
backward, over that of the steps. Operations are counted by torch (convolutions and matrix products,
a multiply and an add being two); a training step counts three times the trained network's forward
pass, plus the completion's.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from asyncdsb.networks.device import multiplies_bf16
from asyncdsb.store.bundled import BUNDLED
from train.bridge import BridgeTrainer, bridge_parser
from train.presets import BRIDGE_PRESETS, BridgePreset

PHOTOS = BUNDLED.parent / "examples"


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of the best of 20 large matrix products, on random values."""
    side = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(_times(lambda: a @ b, 20, device))


def precisions(device: str | torch.device) -> tuple[str, ...]:
    """The types in which a device multiplies well."""
    return ("fp32", "bf16") if multiplies_bf16(device) else ("fp32",)


def step_parts(trainer: BridgeTrainer, steps: int) -> tuple[float, float]:
    """Median seconds of a whole step, and of its preparation alone."""
    for group in trainer.optimizers["model"].param_groups:
        group["lr"] = 1e-5
    count = iter(range(10**9))
    whole = _times(lambda: trainer.step(next(count)), steps, trainer.device)
    prepared = _times(lambda: trainer.prepare(next(count)), steps, trainer.device)
    return statistics.median(whole), statistics.median(prepared)


def operations(trainer: BridgeTrainer) -> float:
    """Floating-point operations of a step, per sample."""
    with torch.no_grad(), FlopCounterMode(display=False) as preparation:
        batch = trainer.prepare(0)
    with torch.no_grad(), trainer.mixed():
        with FlopCounterMode(display=False) as forward:
            trainer.model.loss(batch.image, batch.t, batch.s, batch.z, batch.context)
    total = preparation.get_total_flops() + 3 * forward.get_total_flops()
    return total / trainer.preset.batch


def convolution_share(trainer: BridgeTrainer) -> float:
    """Share of a step that is spent in convolutions, their backward pass included."""
    on_gpu = str(trainer.device).startswith("cuda")
    kind = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    started = time.perf_counter()
    with profile(activities=[kind]) as profiler:
        for step in range(3):
            trainer.step(step)
    spent = time.perf_counter() - started
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = profiler.key_averages()
    inside = sum(getattr(row, name) for row in rows if "conv" in row.key.lower())
    # Compiled loops are none of torch's operations: on a processor the clock counts them.
    whole = sum(getattr(row, name) for row in rows) if on_gpu else spent * 1e6
    return inside / whole


def _times(call: Callable[[], object], repeats: int, device: str) -> list[float]:
    """Seconds of each call, after three to warm up."""
    seconds = []
    for index in range(repeats + 3):
        started = time.perf_counter()
        call()
        if str(device).startswith("cuda"):
            torch.cuda.synchronize()
        if index >= 3:
            seconds.append(time.perf_counter() - started)
    return seconds


def trainer_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """What a trainer is given: photographs, completion and device of ``args``, defaults beside."""
    # The preset is handed to the trainer itself, and nothing is written.
    options = ["--preset", "debug", "--out", "none", "--device", args.device]
    return bridge_parser().parse_args([*options, "--gradient", args.gradient, "--data", *args.data])


def measure(preset: BridgePreset, args: argparse.Namespace) -> str:
    """One row of the table."""
    trainer_args = trainer_arguments(args)
    # Counted without compilation, which hides the operations from torch's counter.
    eager = dataclasses.replace(preset, compile=False, masks=200)
    per_sample = operations(BridgeTrainer(eager, trainer_args))
    torch.compiler.reset()
    trainer = BridgeTrainer(dataclasses.replace(eager, compile=preset.compile), trainer_args)
    whole, prepared = step_parts(trainer, args.steps)
    dtype = torch.bfloat16 if preset.precision == "bf16" else torch.float32
    rate = preset.batch / whole
    peak = matmul_rate(args.device, dtype)
    cells = [
        preset.precision,
        "compiled" if preset.compile else "eager",
        f"{preset.batch} x {preset.size}",
        f"{rate:.1f}",
        f"{per_sample / 1e9:.2f}",
        f"{rate * per_sample / 1e9:.0f}",
        f"{peak / 1e9:.0f}",
        f"{100 * rate * per_sample / peak:.0f} %",
        f"{100 * prepared / whole:.0f} %",
        f"{100 * convolution_share(trainer):.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.train_throughput")
    options.add_argument("--preset", choices=BRIDGE_PRESETS)
    options.add_argument("--data", nargs="+", default=[str(PHOTOS)], help="photos")
    options.add_argument("--gradient", default=str(BUNDLED / "scenes"), help="a completion")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--steps", type=int, default=10, help="steps timed")
    options.add_argument("--batch", type=int, help="instead of the preset's")
    options.add_argument("--size", type=int, help="instead of the preset's")
    args = options.parse_args(argv)
    if args.preset is None:
        args.preset = "shipped" if args.device.startswith("cuda") else "cpu"
    preset = BRIDGE_PRESETS[args.preset]
    given = {k: getattr(args, k) for k in ("batch", "size") if getattr(args, k)}
    preset = dataclasses.replace(preset, **given, large_every=0)
    print(
        "| precision | step | batch | samples/s | GFLOP/sample | GFLOP/s | matrix product GFLOP/s "
        "| share | before the network | convolutions |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for precision in precisions(args.device):
        for compiled in (False, True):
            row = dataclasses.replace(preset, precision=precision, compile=compiled)
            print(measure(row, args), flush=True)


if __name__ == "__main__":
    main()
