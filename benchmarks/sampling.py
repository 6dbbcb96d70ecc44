"""What a restoration costs beside the network: ``python -m benchmarks.sampling``.

Every figure is a ratio of two times, or a size, taken in this one run:

- wall time of a run against what its network evaluations and the completion of the gradient take in
  it, alone and with every frame encoded for the page; the same in half precision, and compiled;
- the network's arithmetic against the device's own matrix product;
- the schedule by closed forms against the straightforward way, tables over time for every pixel as
  I2SB keeps them over time alone: memory, time per step, and whether both give the same picture;
- the classical methods against a run of ten steps;
- a portrait in 20 steps;
- scaling with the number of steps, the size of the photograph, that of the hole, and the batch;
- on the command line, start, time and memory for a photograph of 12 megapixels.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from asyncdsb.masks import make_mask
from asyncdsb.measure.baselines import METHODS, restore
from asyncdsb.networks.device import compiles, keep_freed
from asyncdsb.page import payload, session
from asyncdsb.page.engine import run_steps
from asyncdsb.photo.images import read_image, to_tensor
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.samplers import sample
from asyncdsb.schedule import NoiseSchedule
from asyncdsb.store.bundled import BUNDLED
from benchmarks.train_throughput import matmul_rate, precisions

ROOT = Path(__file__).resolve().parent.parent
PHOTO = BUNDLED.parent / "examples" / "colosseum.jpg"
SIDE = 256


@dataclass(frozen=True)
class TableSchedule:
    """Schedules kept as tables, T times the number of pixels, in float32.

    Attributes:
        var: (T + 1, 1, H, W), variance accumulated from 0 up to each time.
        var_bar: the same from each time up to 1.
    """

    var: Tensor
    var_bar: Tensor

    @classmethod
    def of(cls, schedule: NoiseSchedule, tau: Tensor, times: int) -> TableSchedule:
        """Add up what each of ``times`` intervals contributes, from both ends."""
        edges = torch.linspace(0, 1, times + 1, dtype=torch.float64)
        var = torch.zeros(times + 1, *tau.shape[1:])
        for index, edge in enumerate(edges):
            var[index] = schedule.var(edge, tau[0].double())
        return cls(var, var[-1] - var)

    @property
    def bytes(self) -> int:
        """Memory that the tables hold."""
        return sum(x.numel() * x.element_size() for x in (self.var, self.var_bar))

    def step(self, x: Tensor, x0_hat: Tensor, n: int, m: int, z: Tensor) -> Tensor:
        """Posterior step from time index n to m, from the variances as Eq. 5 has them."""
        between = self.var[n] - self.var[m]
        weight = (self.var[m] / self.var[n].clamp(min=1e-12))[None]
        mean = weight * x + (1 - weight) * x0_hat
        return mean + (self.var[m] * between / self.var[n].clamp(min=1e-12)).sqrt()[None] * z


def now() -> float:
    """The time in seconds, once a GPU has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(call: Callable[[], object]) -> float:
    """Time of a call."""
    started = now()
    call()
    return now() - started


def median_seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call, after one to warm up."""
    call()
    return statistics.median(seconds_of(call) for _ in range(repeats))


def photo_and_mask(side: int = SIDE, kind: str = "wide") -> tuple[np.ndarray, np.ndarray]:
    """A square of the example, and a mask for it."""
    photo = read_image(PHOTO)
    edge = min(photo.size)
    square = photo.crop((0, 0, edge, edge)).resize((side, side), Image.Resampling.LANCZOS)
    return np.array(square), make_mask(kind, side, seed=1)


def network_seconds(pipe: AsyncDSBPipeline, repeats: int) -> tuple[float, float]:
    """Seconds of an evaluation of the denoiser's network, and its operations."""
    network = pipe.denoiser.unet
    picture, scalars = torch.randn(1, network.in_channels, SIDE, SIDE), torch.full((1, 2), 0.5)
    inputs = picture.to(pipe.device), scalars.to(pipe.device)
    with torch.no_grad():
        each = median_seconds(lambda: network(*inputs), repeats)
        with FlopCounterMode(display=False) as counter:
            network(*inputs)
    return each, counter.get_total_flops()


def against_networks(
    pipe: AsyncDSBPipeline, work: Callable[[], object], repeats: int
) -> tuple[float, float]:
    """Median seconds of a run, and its median ratio to the time in the networks.

    That time is taken within the same runs, as another program may come between two.
    """
    spent: list[float] = []
    hooks = []
    bridge = pipe.runner.evaluated
    for network in filter(None, (bridge.unet, bridge.guide, pipe.completion)):
        hooks += [
            network.register_forward_pre_hook(lambda *_: spent.append(-now())),
            network.register_forward_hook(lambda *_: spent.append(now())),
        ]
    work()
    whole, found = [], []
    for _ in range(repeats):
        spent.clear()
        whole.append(seconds_of(work))
        found.append(whole[-1] / sum(spent))
    for hook in hooks:
        hook.remove()
    return statistics.median(whole), statistics.median(found)


def run_seconds(pipe: AsyncDSBPipeline, steps: int, repeats: int) -> tuple[float, list[float]]:
    """Seconds of a run with the weights' defaults, and three kinds of runs against their networks.

    The bridge's run, without the patches that are copied in the end; that with frames encoded for
    the page; and the run with the weights' defaults.
    """
    photo, mask = photo_and_mask()
    image = Image.fromarray(photo)

    def run(**settings: Any) -> None:
        for _ in pipe.stream(photo, mask, steps=steps, **settings):
            pass

    def streamed() -> None:
        settings = session.Settings(steps=steps, finish="none")
        for state in run_steps(pipe, image, mask, settings):
            payload.frame_payload(state)

    kinds = partial(run, finish="none"), streamed, run
    measured = [against_networks(pipe, work, repeats) for work in kinds]
    return measured[-1][0], [ratio for _, ratio in measured]


def portrait(device: str, repeats: int) -> list[tuple[str, str]]:
    """A run of the bundled weights for portraits, in each type that the device multiplies well."""
    rows = []
    for precision in precisions(device):
        pipe = AsyncDSBPipeline.from_pretrained("portraits", device, precision=precision)
        side = pipe.config.resolution
        photo, mask = photo_and_mask(side, "center")
        work = partial(pipe, photo, mask, steps=20, box=(0, 0, side))
        whole, ratio = against_networks(pipe, work, 3 * repeats)
        rows.append((f"a portrait in 20 steps, {precision}", f"{whole:.2f} s"))
        rows.append(("the same against the networks in it", f"{ratio:.2f}"))
    return rows


def variants(pipe: AsyncDSBPipeline, steps: int, repeats: int) -> list[tuple[str, str]]:
    """Runs in bf16 and with a compiled network against one in float32, where the device can do it.

    Without the patches that are copied in the end, which are the same for all.
    """
    photo, mask = photo_and_mask()
    networks = (pipe.denoiser, pipe.completion)
    others, rows = {}, []
    for precision in precisions(pipe.device):
        if precision != "fp32":
            others[f"in {precision}"] = AsyncDSBPipeline(
                *networks, pipe.device, precision=precision
            )
        if compiles(pipe.device):
            label = "compiled" if precision == "fp32" else f"compiled in {precision}"
            others[label] = AsyncDSBPipeline(
                *deepcopy(networks), pipe.device, precision=precision, compiled=True
            )

    def run(which: AsyncDSBPipeline) -> None:
        which(photo, mask, steps=steps, finish="none")

    for name, other in others.items():
        first = seconds_of(partial(run, other))
        ratios = []
        for _ in range(repeats):
            ours, plain = (median_seconds(partial(run, each), 1) for each in (other, pipe))
            ratios.append(ours / plain)
        rows.append((f"a run {name} against float32", f"{statistics.median(ratios):.2f}"))
        if name == "compiled":
            rows.append(("compiling, once for a size", f"{first:.0f} s"))
    return rows


def batches(pipe: AsyncDSBPipeline, steps: int) -> list[tuple[str, str]]:
    """Time per picture in a batch, against that of one alone."""
    photo, mask = photo_and_mask()
    picture = to_tensor(photo)
    hole = torch.from_numpy(mask)[None, None].float()

    def run(count: int) -> None:
        images, holes = picture.expand(count, -1, -1, -1), hole.expand(count, -1, -1, -1)
        with torch.no_grad():
            list(pipe.trace(images, holes, range(count), steps=steps)[1])

    alone = median_seconds(lambda: run(1), 3)
    return [
        (f"batch of {n}, per picture against one alone",
         f"{median_seconds(partial(run, n), 1) / n / alone:.2f}")
        for n in (4, 16)
    ]  # fmt: skip


def schedules(times: int, steps: int, repeats: int) -> list[tuple[str, str]]:
    """Closed forms against tables: memory, time per step, difference of the pictures."""
    schedule = NoiseSchedule()
    g = torch.Generator().manual_seed(0)
    tau = 0.2 + 0.3 * torch.rand(1, 1, SIDE, SIDE, generator=g)
    hole = torch.ones_like(tau)
    x1 = torch.randn(1, 3, SIDE, SIDE, generator=g)

    def denoise(x: Tensor, t: object, s: object) -> Tensor:
        return 0.5 * x

    def ours() -> Tensor:
        noise = [torch.Generator().manual_seed(1)]
        # What the tables do: steps of first order, even in t.
        plain: Any = {"steps": steps, "solver_order": 1, "grid": "uniform"}
        *_, last = sample(denoise, x1, hole, tau, schedule, generators=noise, **plain)
        return last.x_t

    tables = TableSchedule.of(schedule, tau, times)

    def theirs() -> Tensor:
        noise = torch.Generator().manual_seed(1)
        x = x1
        for index in range(steps):
            n, m = (times * (steps - k) // steps for k in (index, index + 1))
            x0_hat = denoise(x, n, None)
            if m == 0:
                break
            x = tables.step(x, x0_hat, n, m, torch.randn(x1.shape[1:], generator=noise)[None])
        return x0_hat

    def only_clock() -> None:
        for index in range(steps):
            schedule.clock(torch.tensor(index / steps, dtype=torch.float32), tau)

    difference = float((ours() - theirs()).abs().max())
    build = median_seconds(lambda: TableSchedule.of(schedule, tau, times), 1)
    fresh = median_seconds(only_clock, repeats)
    rows = [
        (f"schedule memory, tables of T = {times}", f"{tables.bytes / 2**20:.0f} MiB"),
        ("schedule memory, closed forms", f"{2 * tau.numel() * 4 / 2**20:.2f} MiB"),
        ("ratio", f"{tables.bytes / (2 * tau.numel() * 4):.0f}"),
        (f"schedule work of {steps} steps, tables", f"{1000 * build:.0f} ms"),
        (f"schedule work of {steps} steps, closed forms", f"{1000 * fresh:.1f} ms"),
        ("ratio", f"{build / fresh:.0f}"),
        ("largest difference of the pictures", f"{difference:.1e}"),
    ]
    return rows


def scaling(pipe: AsyncDSBPipeline, base: float) -> list[tuple[str, str]]:
    """Times against that of a 256-pixel photograph with ten steps."""
    rows = []
    small = photo_and_mask()
    for steps in (5, 20, 50):
        seconds = median_seconds(partial(pipe, *small, steps=steps), 1)
        rows.append((f"{steps} steps", f"{seconds / base:.2f}"))
    for side in (512, 1024, 2048):
        photo, _ = photo_and_mask(side)
        mask = np.zeros((side, side), bool)
        mask[100:160, 100:160] = True
        seconds = median_seconds(partial(pipe, photo, mask, steps=10), 1)
        rows.append((f"{side} x {side}, hole of 60 x 60", f"{seconds / base:.2f}"))
        seconds = median_seconds(partial(pipe, photo, make_mask("center", side), steps=10), 1)
        rows.append((f"{side} x {side}, a quarter missing", f"{seconds / base:.2f}"))
    side = 4000
    photo, _ = photo_and_mask(side)
    mask = np.zeros((side, side), bool)
    for row, column in ((100, 150), (200, 3700), (3600, 100), (3700, 3800), (1900, 2000)):
        mask[row : row + 60, column : column + 60] = True
    seconds = median_seconds(lambda: pipe(photo, mask, steps=10, trajectory=False), 1)
    rows.append((f"{side} x {side}, five such holes far apart", f"{seconds / base:.2f}"))
    return rows


def command_line(megapixels: int, device: str) -> list[tuple[str, str]]:
    """Seconds to the first step and peak memory of a restoration by the command line.

    First with a small hole, then with half of the photograph missing, which takes more memory: the
    peak is that of all children so far.
    """
    side = round((megapixels * 1e6) ** 0.5)
    small = np.zeros((side, side), bool)
    small[500:900, 600:1100] = True
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        big, _ = photo_and_mask(side)
        Image.fromarray(big).save(folder / "photo.png", compress_level=1)
        del big
        for label, hole in (
            (f"command line, {megapixels} megapixels, hole of 400 x 500", small),
            ("the same, half of it missing", make_mask("half", side)),
        ):
            Image.fromarray(hole).save(folder / "mask.png", compress_level=1)
            first, whole = _watched(folder, device)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            rows.append((label, f"{first:.1f} s to the first step, {whole:.1f} s, {peak:.0f} MiB"))
    return rows


def _watched(folder: Path, device: str) -> tuple[float, float]:
    """Seconds until a restoration has done its first step, and until it has ended."""
    command = [sys.executable, "-m", "asyncdsb", "inpaint", "photo.png", "mask.png"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--device", device, "-o", "out.png"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stderr is not None
    first, seen = None, b""
    while part := process.stderr.read(64):
        seen += part
        # The bar is drawn ten times a second, not at every step.
        if first is None and re.search(rb" [1-9]\d*/\d+ \[", seen):
            first = time.perf_counter() - started
    process.wait()
    whole = time.perf_counter() - started
    return first or whole, whole


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--weights", help="folder or Hub repository")
    options.add_argument("--device", default="cpu", help="of all but the schedules (default cpu)")
    arguments = options.parse_args(argv)
    # First, as the peak of all children is asked for.
    rows = command_line(12, arguments.device)
    keep_freed()  # As the programs do.
    pipe = AsyncDSBPipeline.from_pretrained(arguments.weights, arguments.device, precision="fp32")
    steps, repeats = arguments.steps, arguments.repeats
    each, operations = network_seconds(pipe, repeats)
    whole, (alone, streamed, patched) = run_seconds(pipe, steps, repeats)
    rows += [
        ("one evaluation of the network, 256 x 256", f"{1000 * each:.0f} ms"),
        ("its arithmetic against the matrix product",
         f"{operations / each / matmul_rate(arguments.device, torch.float32):.0%}"),
        (f"run of {steps} steps against the networks in it", f"{alone:.2f}"),
        ("the same, frames encoded for the page", f"{streamed:.2f}"),
        ("the run with known patches copied in the end", f"{patched:.2f}"),
    ]  # fmt: skip
    rows += variants(pipe, steps, repeats)
    rows += schedules(1000, steps, repeats)
    photo, mask = photo_and_mask()
    for method in METHODS:
        seconds = median_seconds(partial(restore, method, photo, mask), repeats)
        rows.append((f"{method} against that run", f"{seconds / whole:.3f}"))
    rows += scaling(pipe, whole)
    rows += batches(pipe, steps)
    rows += portrait(arguments.device, repeats)
    threads = f"{torch.get_num_threads()} threads"
    place = torch.cuda.get_device_name() if pipe.device.type == "cuda" else threads
    print(f"{place}, torch {torch.__version__}\n")
    print("| what | |\n| --- | ---: |")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
