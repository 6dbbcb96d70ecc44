"""Training on one process and on two: ``python -m benchmarks.processes``.

The bridge's own trainer on the bundled photographs, with the batch of the preset shared by all
processes (gloo, started as by ``torchrun``). For each row: samples a second from the median step;
the bytes that a process hands to the all-reduce in a step, counted in a hook of the wrapper that
averages gradients; and the median seconds of an all-reduce of so many bytes on its own, while
nothing is computed. Rows take turns, ``--rounds`` times, and each shows its best round, as whatever
else a machine does only makes it slower.

One process with two threads and two processes with one thread each have the same two cores to
compute with. What an exchange takes among GPUs follows from these bytes and the bandwidth of a
link, see :mod:`benchmarks.training_cost`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from asyncdsb.store.bundled import BUNDLED
from benchmarks.train_throughput import PHOTOS, trainer_arguments
from train.bridge import BridgeTrainer
from train.loop.processes import Processes
from train.presets import BRIDGE_PRESETS

ROWS = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""

WARM_UP = 3


def work(args: argparse.Namespace) -> None:
    """Train as one of the processes; the main one prints what was measured as JSON."""
    preset = dataclasses.replace(
        BRIDGE_PRESETS[args.preset], large_every=0, masks=200, compile=args.compiled
    )
    preset = dataclasses.replace(preset, batch=args.batch or preset.batch)
    processes = Processes.started(args.device)
    trainer = BridgeTrainer(preset, trainer_arguments(args), processes)
    sent = 0

    def counting(state, bucket):  # Torch refuses annotations that are strings, as they are here.
        nonlocal sent
        sent += bucket.buffer().nbytes
        return allreduce_hook(state, bucket)

    if isinstance(trainer.loss, DistributedDataParallel):
        trainer.loss.register_comm_hook(None, counting)
    for group in trainer.optimizers["model"].param_groups:
        group["lr"] = 1e-5
    count = iter(range(10**9))
    steps = timed(lambda: trainer.step(next(count)), args.steps, processes)
    each, alone = sent // (args.steps + WARM_UP), 0.0
    if processes.count > 1:
        gradients = torch.zeros(each // 4)
        alone = timed(lambda: dist.all_reduce(gradients), args.steps, processes)
    if processes.main:
        found = {"samples/s": preset.batch / steps, "bytes": each, "all-reduce": alone}
        print(json.dumps(found), flush=True)
    processes.end()


def timed(call: Callable[[], object], repeats: int, processes: Processes) -> float:
    """Median seconds of a call that all processes start together, after some to warm up."""
    seconds = []
    for _ in range(repeats + WARM_UP):
        processes.wait()
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:])


def launch(processes: int, threads: int, options: list[str]) -> dict[str, float]:
    """Start this program on so many processes, as its users start a training.

    Raises:
        RuntimeError: one of them failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), "-m", "benchmarks.processes", "--work"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{processes} processes failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.processes", description=__doc__.split("\n\n")[0]
    )
    add = options.add_argument
    add("--preset", choices=BRIDGE_PRESETS, default="cpu")
    add("--data", nargs="+", default=[str(PHOTOS)], help="photos")
    add("--gradient", default=str(BUNDLED / "scenes"), help="weights of the completion")
    add("--batch", type=int, help="of all processes together, instead of the preset's")
    add("--steps", type=int, default=10, help="steps timed")
    add("--rounds", type=int, default=3, help="how often each row is measured")
    add("--compiled", action="store_true", help="compile the network, as the preset says")
    add("--work", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    args.device = "cpu"
    if args.work:
        work(args)
        return
    given = sys.argv[1:] if argv is None else argv
    rounds = [{row: launch(*row, given) for row in ROWS} for _ in range(args.rounds)]
    print(
        "| processes | threads of each | samples/s | of one thread | all-reduced a step "
        "| all-reduce alone |"
    )
    print("| ---: " * 6 + "|")
    best = {row: max(found[row]["samples/s"] for found in rounds) for row in ROWS}
    for row in ROWS:
        seconds = min(found[row]["all-reduce"] for found in rounds)
        cells = [
            *map(str, row),
            f"{best[row]:.1f}",
            f"{best[row] / best[ROWS[0]]:.2f}",
            f"{rounds[0][row]['bytes'] / 1e6:.1f} MB",
            f"{1e3 * seconds:.0f} ms",
        ]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
