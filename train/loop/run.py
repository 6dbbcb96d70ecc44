"""The part all trainings share: run folder, resuming, learning rate, the loop."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from asyncdsb.networks.device import keep_freed, usable
from asyncdsb.photo.images import write_atomic
from asyncdsb.store.checkpoint import read_tensors, write_tensors
from train.judge.validation import DIGITS, add_line, held_out_records, keep_lines, keep_scores
from train.loop.processes import Processes
from train.loop.trainer import Trainer
from train.presets import AnyPreset

LOG_EVERY = 50  # Steps between records of the log, at most.
AGREE_EVERY = 10  # Steps after which several processes ask whether to stop.
LEFT_OPEN = ("preset.steps", "preset.compile", "preset.precision", "data", "contents.")
"""What may differ when a run is taken up again; ``contents`` is from earlier versions."""


class Interruption:
    """Keeps the first SIGINT or SIGTERM for the loop, which ends with a checkpoint.

    A second SIGINT interrupts at once.
    """

    received: int | None = None  # number of the signal

    def __enter__(self) -> Interruption:
        self.before = {}
        # Python takes signals in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @property
    def code(self) -> int:
        """The exit code that tells the signal, 0 if none came."""
        return 0 if self.received is None else 128 + self.received

    def _keep(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = number


def run(
    make: Callable[[AnyPreset, argparse.Namespace, Processes], Trainer],
    presets: dict[str, AnyPreset],
    args: argparse.Namespace,
) -> int:
    """Train from the last checkpoint in ``args.out``, or from the start, to the preset's length.

    Running the same command again goes on where it stopped, with any number of processes. The
    folder holds ``state.*`` (the checkpoint), ``log.jsonl``, ``samples/`` and ``weights/`` (the
    average); with held-out photos also ``validation.json``, ``curves.png`` and ``best/``.
    SIGINT (Ctrl-C) and SIGTERM end it with a checkpoint. Returns the exit code, 0 or that of the
    signal.
    """
    keep_freed()
    usable(args.device)
    processes = Processes.started(args.device)
    args.device = processes.device
    out = Path(args.out)
    trainer = make(chosen_preset(presets, args), args, processes)
    if processes.main:
        (out / "samples").mkdir(parents=True, exist_ok=True)
        describe(out, trainer, args)
        # A process that was killed while it wrote leaves as much as a checkpoint each time.
        for leftover in out.rglob(".*-*.safetensors"):
            leftover.unlink()
    processes.wait()
    with Interruption() as interruption:
        loop(trainer, args, processes, interruption)
    processes.end()
    return interruption.code


def loop(
    trainer: Trainer, args: argparse.Namespace, processes: Processes, interruption: Interruption
) -> None:
    """Train, and look at the training at intervals; see :func:`run`."""
    preset, out, main = trainer.preset, Path(args.out), processes.main
    step, before = load_state(out, trainer)
    if processes.agreed(step) != step:
        raise ValueError(f"expected all processes to see the same checkpoint in {out}")
    if main:
        # A run that was killed goes through the steps after its checkpoint once more.
        keep_lines(out / "log.jsonl", step)
    if step and main:
        # A run that was stopped after its checkpoint may not have come to weights and scores.
        missing = all(record["step"] < step for record in held_out_records(out))
        due = step % preset.validate_every == 0 or step >= preset.steps
        show(trainer, args, step, before, missing and due)
    first, saved, started = step, step, time.monotonic()
    logged, last, sums = step, started, dict[str, Tensor]()
    total, done = preset.samples(preset.steps), preset.samples(step)
    with tqdm(total=total, initial=done, unit="sample", disable=not main) as bar:
        while step < preset.steps:
            set_lr(trainer, step)
            for name, value in trainer.step(step).items():
                sums[name] = sums.get(name, 0) + value.detach()
            step += 1
            if step - first == LOG_EVERY:
                check_learning(trainer)
            bar.update(preset.samples(step) - preset.samples(step - 1))
            elapsed = time.monotonic() - started
            ended, stopped = step == preset.steps, False
            # Several processes wait for one another here, so not after each step.
            if processes.count == 1 or step % AGREE_EVERY == 0:
                ended |= processes.agreed(elapsed > 60 * args.max_minutes)
                stopped = processes.agreed(interruption.received is not None)
            judging = step % preset.validate_every == 0 or ended
            saving = step % preset.checkpoint_every == 0 or judging or stopped
            if step - logged == LOG_EVERY or saving:
                means = {name: float(value) / (step - logged) for name, value in sums.items()}
                means = {name: round(value, 6) for name, value in processes.mean(means).items()}
                # A GPU is behind until its values have come.
                now = time.monotonic()
                check_finite(means, step, saved)
                bar.set_postfix(means)
                if main:
                    drawn = preset.samples(step) - preset.samples(logged)
                    rate, seconds = round(drawn / (now - last), 2), round(before + elapsed)
                    record = {"step": step, "samples_per_s": rate, "seconds": seconds}
                    add_line(out / "log.jsonl", record | means)
                sums, logged, last = {}, step, now
            if main and (step % preset.samples_every == 0 or step == preset.steps):
                trainer.samples(out / "samples" / f"{step:07d}.png")
            if saving:
                saved = step
                if main:
                    save_state(out, trainer, step, before + elapsed)
                    show(trainer, args, step, before + elapsed, judging)
                    last = time.monotonic() if judging else last
            if ended or stopped:
                break
    processes.wait()
    if main and step < preset.steps:
        print(f"stopped after step {step} of {preset.steps}; the same command goes on from there")


def check_finite(means: dict[str, float], step: int, saved: int) -> None:
    """Raise ValueError if a training diverged, before its last checkpoint, ``saved``, is lost."""
    if bad := [f"{name} {value}" for name, value in means.items() if not math.isfinite(value)]:
        kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
        raise ValueError(
            f"the training diverged at step {step} ({', '.join(bad)}); {kept}: "
            "start another run with a lower --lr"
        )


def check_learning(trainer: Trainer) -> None:
    """Raise ValueError if a weight got no gradient in the last step; a compiler has done it."""
    if idle := [
        f"{name}.{key}"
        for name, module in trainer.modules.items()
        for key, p in module.named_parameters()
        if name in trainer.optimizers and (p.grad is None or not p.grad.any())
    ]:
        raise ValueError(
            f"expected every weight to learn, got a gradient of zero for {len(idle)} of them "
            f"({', '.join(idle[:3])}{', ...' if len(idle) > 3 else ''}): try --no-compile"
        )


def show(
    trainer: Trainer, args: argparse.Namespace, step: int, seconds: float, judging: bool
) -> None:
    """Write the averaged weights; score them, if there are held-out photos, and keep the best."""
    out, name = Path(args.out), args.device
    trained = {
        "preset": args.preset,
        "steps": step,
        "samples": trainer.preset.samples(step),
        "crop_size": trainer.preset.size,
        "seed": args.seed,
        "minutes": round(seconds / 60, 1),
        "device": torch.cuda.get_device_name(name) if name.startswith("cuda") else name,
        "photos": [Path(path).name for path in args.data],
    }
    if args.init:
        digest = trainer.weights["init"][:12]
        trained["started_from"] = f"{Path(args.init).resolve().name}, SHA-256 {digest}"
    trainer.export(out / "weights", trained)
    if judging and trainer.validator is not None:
        scores = trainer.validator()
        earlier = [record["score"] for record in held_out_records(out) if record["step"] < step]
        if all(round(scores["score"], DIGITS) <= score for score in earlier):
            trainer.export(out / "best", trained)
        # The record comes last: as long as it is not there, the next start does this again.
        keep_scores(out, step, scores)


def parser(program: str, presets: dict, doc: str) -> argparse.ArgumentParser:
    """Options that all trainers share."""
    options = argparse.ArgumentParser(prog=f"python -m {program}", description=doc)
    add = options.add_argument
    add("--preset", choices=presets, default="shipped")
    add("--data", nargs="+", required=True, help="folders or tar shards of photos")
    add("--stream", action="store_true", help="read --data, corpora of train.corpus, on the way")
    add("--val", nargs="+", help="held-out photos, scored at intervals")
    add("--out", required=True, help="run folder; an existing run is resumed")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--steps", type=int, help="length of the training instead of the preset's")
    add("--batch", type=int, help="samples per step, all processes together")
    add("--init", help="weights folder of the same kind of network to start from")
    add("--size", type=int, help="side of the crops instead of the preset's")
    add("--lr", type=float, help="peak learning rate instead of the preset's")
    as_it_is = "run the networks as they are, whatever the preset says"
    add("--no-compile", dest="compile", action="store_const", const=False, help=as_it_is)
    stop = "stop with a checkpoint after this time"
    add("--max-minutes", type=float, default=math.inf, help=stop)
    parts = "in how many parts each process does its share of a batch, to spare memory"
    add("--accumulate", type=int, default=1, help=parts)
    return options


def chosen_preset(presets: dict[str, AnyPreset], args: argparse.Namespace) -> AnyPreset:
    """The preset with the command line's overrides."""
    names = ("steps", "batch", "size", "lr", "compile")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(presets[args.preset], **given)


def describe(out: Path, trainer: Trainer, args: argparse.Namespace) -> None:
    """Write the configuration; ValueError if the run in the folder has another."""
    now: dict[str, Any] = {
        "preset": dataclasses.asdict(trainer.preset),
        "data": args.data,
        "seed": args.seed,
        "order": trainer.batches.identity,
        "weights": trainer.weights,
    }
    path = out / "config.json"
    # Before the first record nothing was learned with the other one.
    begun = ("log.jsonl", "state.safetensors", "weights", "best")
    if path.exists() and any((out / name).exists() for name in begun):
        # What a run of an earlier version lacks came later, which changes nothing at its default.
        preset = dataclasses.asdict(type(trainer.preset)())
        before = {"weights": now["weights"]} | json.loads(path.read_text("utf-8"))
        # Photos may have moved; what they are called tells whether they are others.
        old, new = (sorted(Path(path).name for path in one["data"]) for one in (before, now))
        if old != new:
            print(f"resuming {out} with other data: {', '.join(old)}, now {', '.join(new)}")
        past, present = flat({"preset": preset}) | flat(before), flat(now)
        if found := [
            f"{name} {past.get(name)}, now {present.get(name)}"
            for name in sorted(past.keys() | present.keys())
            if past.get(name) != present.get(name)
            and not name.startswith(LEFT_OPEN)
            and (name in present or not name.startswith("preset."))
        ]:
            raise ValueError(
                f"expected {out} to be empty or a run of the same configuration, got other "
                + "; ".join(found)
            )
    text = json.dumps(now, indent=2, sort_keys=True) + "\n"
    write_atomic(path, lambda p: p.write_text(text, "utf-8"))


def flat(values: dict, inside: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, ``{"preset.batch": 16, ...}``; tuples become lists."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{inside}{key}.")
        else:
            found[inside + key] = list(value) if isinstance(value, tuple) else value
    return found


def set_lr(trainer: Trainer, step: int) -> None:
    """Linear warm-up, then a cosine; each group keeps its ``lr_scale``."""
    preset = trainer.preset
    warm = min(1.0, (step + 1) / max(1, preset.warmup))
    cosine = (1 + math.cos(math.pi * step / preset.steps)) / 2
    factor = warm * (preset.lr_end + (1 - preset.lr_end) * cosine)
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = preset.lr * factor * group.get("lr_scale", 1.0)


def save_state(out: Path, trainer: Trainer, step: int, seconds: float) -> None:
    """Write the checkpoint: modules, optimisers and counters as safetensors."""
    tensors = {
        f"module/{name}/{key}": value
        for name, module in trainer.modules.items()
        for key, value in module.state_dict().items()
    }
    for name, optimizer in trainer.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = value
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    tensors["step"], tensors["seconds"] = torch.tensor(step), torch.tensor(float(seconds))
    write_tensors(out / "state.safetensors", tensors)


def load_state(out: Path, trainer: Trainer) -> tuple[int, float]:
    """Restore the checkpoint if there is one; return its step and seconds, or zeros."""
    path = out / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    tensors = read_tensors(path)
    for name, module in trainer.modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    for name, optimizer in trainer.optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        found: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimizer/{name}/"):
                _, _, index, entry = key.split("/")
                parameter = parameters[int(index)]
                if value.shape == parameter.shape:
                    # Files hold contiguous tensors, fused optimisers walk memory in step with the
                    # parameter: the state must have its strides.
                    value = torch.empty_like(parameter, requires_grad=False).copy_(value)
                found.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict(optimizer.state_dict() | {"state": found})
    return int(tensors["step"]), float(tensors["seconds"])
