"""Does asynchrony help? Train small networks, restore held-out portraits in many orders, compare.

python -m train.claims --data PORTRAITS --held-out HELD_OUT -o runs/claims

The design is fixed before a run, here and in :mod:`train.judge.answer`, so that no result can
choose it; what was added later says so.

Primary question   LPIPS, mean of center and half holes, 20 evaluations: networks trained for tau
                   by the gradient, restoring in that order, minus networks trained for tau = .5,
                   restoring with it. Five training seeds each, paired by seed (same data order and
                   start) and by photograph (same mask and noise). Each arm has the better of two
                   time grids. The arms count as equal if two one-sided tests put the difference
                   within :data:`train.judge.answer.EQUAL` of the synchronous arm's LPIPS.
Tuned              the same question with less chance, added after the primary result: both arms
                   start from one network for any order and learn on for their own, with the same
                   data and noise, :data:`train.judge.answer.TUNED`.
Secondary          the comparisons of :data:`train.judge.answer.COMPARISONS`, at 20 evaluations,
                   with Holm's correction over all of them.
Gate               nothing is reported unless both primary arms beat every classical method on
                   both holes.
Mechanism          how much later than beta the restoration comes (see :mod:`train.mismatch`), and
                   when the process reaches pixels of flat, middle and steep gradient.

Pictures have 32 x 32 pixels, so that many seeds are affordable; for LPIPS both are enlarged four
times. Each step skips what is on disk: a run that was stopped goes on, and several processes that
are started with ``--only`` share the work. ``--report`` only writes the report anew from the kept
scores, the folder ``scores`` or, without it, ``scores.npz``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asyncdsb.bridge import clock_at_level
from asyncdsb.gradient import image_gradient
from asyncdsb.measure import baselines
from asyncdsb.measure.metrics import frechet_distance, kernel_distance
from asyncdsb.measure.perceptual import EfficientNetFeatures, Lpips
from asyncdsb.photo.images import write_atomic
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.checkpoint import load_weights
from train.data.sources import find_photos
from train.judge.answer import (
    ARMS,
    CLASSICAL,
    CURVE,
    GRIDS,
    KINDS,
    LONG,
    PAPER,
    PRIMARY,
    SEEDS,
    STEPS,
    Arm,
    Kept,
    figure,
    report,
)
from train.judge.delay import PARTS, SIGNALS, gradient_parts, progress
from train.judge.methods import to_batch
from train.judge.orders import ORDERS, Case
from train.judge.protocol import Crop, iter_crops
from train.loop.options import program
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

ENLARGED = 4
WATCHED = 100
"""Photographs whose states the mechanism is measured on, with 50 even steps and center holes."""

LEVEL = 0.1
"""sigma_eff, the noise in x_t in units of the picture, below which a pixel counts as restored."""

FEW = 50
"""Photographs that are restored with :data:`LONG` and :data:`PAPER` evaluations."""

CURVE_ARMS: list[Arm] = [*PRIMARY]
CURVE_ARMS += product(["any"], ["synchronous", "gradient", "flat first", "easy first"])
"""Arms with other numbers of evaluations too, with the first training seed."""


def cells(arm: Arm, seed: int) -> list[tuple[str, str, int]]:
    """(kind of mask, grid, evaluations) that an arm restores with a seed."""
    steps = CURVE if seed == 0 and arm in CURVE_ARMS else (STEPS,)
    found = list(product(KINDS, GRIDS, steps))
    if arm in PRIMARY or (seed == 0 and arm[0] == "any"):
        found += product(("wide", "narrow"), ("log",), (STEPS,))
    if seed == 0 and arm in PRIMARY:
        found += [*product(KINDS, GRIDS, [LONG]), ("center", "uniform", PAPER)]
    return found


class Claims:
    """The experiment in a folder.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.out = args, args.out
        photos = find_photos(args.held_out)[: args.limit]
        cut = iter_crops(((photo.key, photo.read()) for photo in photos), 1, 32)
        self.crops: list[Crop] = list(cut)
        self.lpips, self.features = Lpips(), EfficientNetFeatures()
        # Jobs come network by network, so that few of each need to be kept.
        self.pipe = lru_cache(1)(self._pipe)
        self.case = lru_cache(4)(self._case)
        self.tau = lru_cache(4)(self._tau)

    def train(self, which: str, name: str, seed: int) -> Path:
        """Train a network unless its weights are there; return their folder."""
        presets = GRADIENT_PRESETS if which == "gradient" else BRIDGE_PRESETS
        steps = min(presets[name].steps, self.args.steps or presets[name].steps)
        folder = self.out / "networks" / f"{which}-{name}-{seed}"
        facts = folder / "weights" / f"{which}.json"
        if not facts.exists() or json.loads(facts.read_text("utf-8"))["training"]["steps"] < steps:
            command = [sys.executable, "-m", f"train.{which}", "--preset", name, "--data"]
            command += [*self.args.data, "--seed", str(seed), "--steps", str(steps)]
            if which == "bridge":
                command += ["--gradient", str(self.train("gradient", "claims", 0))]
            if name.startswith("claims-tuned"):
                command += ["--init", str(self.train("bridge", "claims-any", seed))]
            subprocess.run([*command, "--out", str(folder)], check=True)
        return folder / "weights"

    def _pipe(self, network: str, seed: int) -> AsyncDSBPipeline:
        """Load a network with the completion that all networks share, trained if need be."""
        completion = load_weights(self.train("gradient", "claims", 0), "gradient")[0]
        denoiser = load_weights(self.train("bridge", f"claims-{network}", seed), "bridge")[0]
        return AsyncDSBPipeline(denoiser, completion, "cpu")

    def keep(self, name: str, make: Callable[[], np.ndarray]) -> None:
        """Keep an array under a name in ``scores``, unless it is there."""
        path = self.out / "scores" / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make().astype(np.float32)
            write_atomic(path, partial(np.save, arr=made))

    def distance(self, restored: Tensor, truth: Tensor) -> np.ndarray:
        """LPIPS of enlarged pictures, (B,)."""
        return self.lpips(_enlarged(restored), _enlarged(truth)).numpy()

    @torch.no_grad()
    def work_on(self, arm: Arm, seed: int) -> None:
        """Restore and score all cells of an arm with one training seed."""
        network, order = arm
        place = f"{network}-{seed}/{order}"
        for kind, grid, steps in cells(arm, seed):
            made = partial(self.scores, network, seed, order, kind, grid, steps)
            self.keep(f"{place}/{kind}-{grid}-{steps}", made)
        if arm in PRIMARY:
            for kind in KINDS:
                made = partial(self.sets, network, seed, order, kind)
                self.keep(f"{place}/{kind}-sets", made)
        if arm in PRIMARY or (network == "any" and seed == 0):
            self.keep(f"{place}/speeds", partial(self.speeds, network, seed, order))
            self.keep(f"{place}/times", partial(self.times, network, seed, order))

    def restored(
        self, network: str, seed: int, order: str, kind: str, grid: str, steps: int
    ) -> tuple[Tensor, Tensor]:
        """All photographs of a cell restored, and the true ones, (n, 3, S, S)."""
        case, tau = self.case(network, seed, kind), self.tau(network, seed, order, kind)
        if steps >= LONG:
            case, tau = case.first(FEW), tau[:FEW]
        *_, last = case.run(tau, steps, grid)
        return torch.where(case.hole > 0.5, last.x_t, case.truth), case.truth

    def scores(
        self, network: str, seed: int, order: str, kind: str, grid: str, steps: int
    ) -> np.ndarray:
        """LPIPS of all photographs in one cell, (n,)."""
        return self.distance(*self.restored(network, seed, order, kind, grid, steps))

    def sets(self, network: str, seed: int, order: str, kind: str) -> np.ndarray:
        """Frechet and kernel distance between all restored and all true photographs, (2,)."""
        pair = self.restored(network, seed, order, kind, "log", STEPS)
        ours, truth = (self.features(_enlarged(x)).astype(float) for x in pair)
        return np.array([frechet_distance(ours, truth), kernel_distance(ours, truth)])

    def _case(self, network: str, seed: int, kind: str) -> Case:
        """All held-out photographs with a kind of hole, for a network."""
        pipe = self.pipe(network, seed)
        truth = to_batch([crop.pixels for crop in self.crops])
        hole = torch.from_numpy(np.stack([c.mask(kind) for c in self.crops])[:, None]).float()
        seeds = [crop.noise_seed(kind) for crop in self.crops]
        image = truth.masked_fill(hole > 0.5, 0)
        return Case(pipe, image, hole, pipe.completion(image, hole), truth, seeds)

    def _tau(self, network: str, seed: int, order: str, kind: str) -> Tensor:
        """The tau map of an order, (n, 1, S, S)."""
        return ORDERS[order](self.case(network, seed, kind))

    def watched(self, network: str, seed: int, order: str) -> tuple[Case, Tensor, list[dict]]:
        """The photographs of the mechanism, their tau and the parts of their center holes."""
        case = self.case(network, seed, "center").first(WATCHED)
        tau = self.tau(network, seed, order, "center")[:WATCHED]
        pairs = zip(image_gradient(case.truth).split(1), case.hole.split(1), strict=True)
        return case, tau, [gradient_parts(*pair) for pair in pairs]

    def speeds(self, network: str, seed: int, order: str) -> np.ndarray:
        """Mean progress and due progress by signal and part, (signals, parts, 2, N + 1)."""
        case, tau, parts = self.watched(network, seed, order)
        states = list(case.run(tau, 50, "uniform"))
        total: np.ndarray | float = 0.0
        for n, part in enumerate(parts):
            one = slice(n, n + 1)
            own = [replace(s, x_t=s.x_t[one], x0_hat=s.x0_hat[one], t=s.t[one]) for s in states]
            pair = case.truth[one], tau[one], case.pipe.config.schedule, part
            found = [progress(own, *pair, signal) for signal in SIGNALS]
            total = total + np.array([[one[name] for name in PARTS] for one in found])
        return np.asarray(total) / len(parts)

    def times(self, network: str, seed: int, order: str) -> np.ndarray:
        """Mean t by part at which 1 - s passes .5 and sigma_eff :data:`LEVEL`, (parts, 2).

        Both are properties of the process, see :func:`asyncdsb.bridge.clock_at_level`.
        """
        case, tau, parts = self.watched(network, seed, order)
        config = case.pipe.config
        schedule, level = config.schedule, torch.tensor(LEVEL)
        low = clock_at_level(level, schedule.total_var, config.hole_noise)
        maps = [schedule.inverse_clock(s, tau)[:, 0].numpy() for s in (0.5, low)]
        found = [
            [[one[n][part[name]].mean() for one in maps] for name in PARTS]
            for n, part in enumerate(parts)
        ]
        return np.mean(found, 0)

    def classical(self) -> None:
        """Restore and score with the classical methods."""
        for method, kind in product(CLASSICAL, KINDS):

            def restored(method: str = method, kind: str = kind) -> np.ndarray:
                done = [baselines.restore(method, c.pixels, c.mask(kind)) for c in self.crops]
                return self.distance(to_batch(done), to_batch([c.pixels for c in self.crops]))

            self.keep(f"classical/{method}/{kind}", restored)

    def work(self) -> None:
        """Do all that is missing, the primary arms first, seed by seed."""
        self.classical()
        first = [(arm, seed) for seed in range(5) for arm in PRIMARY]
        others = [arm for arm in ARMS if arm not in PRIMARY]
        jobs = first + [(arm, seed) for seed in range(5) for arm in others]
        jobs = [(arm, seed) for arm, seed in jobs if seed < SEEDS[arm[0]]]
        jobs = [job for job in jobs if self.args.seeds is None or job[1] < self.args.seeds]
        if self.args.only:
            jobs = [job for job in jobs if job[0][0] in self.args.only]
        for arm, seed in tqdm(jobs, unit="arm"):
            self.work_on(arm, seed)


def _enlarged(pictures: Tensor) -> Tensor:
    large = F.interpolate(pictures.clamp(-1, 1), scale_factor=ENLARGED, mode="bicubic")
    return large.clamp(-1, 1)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(
        prog="python -m train.claims", description=__doc__.split("\n\n")[0]
    )
    add = options.add_argument
    add("--data", nargs="+", default=[], help="folders or tar shards of portraits to train on")
    add("--held-out", nargs="+", default=[], help="portraits to restore")
    add("-o", "--out", required=True, type=Path, help="networks, scores and report")
    add("--steps", type=int, help="most steps of a training")
    add("--seeds", type=int, help="most training seeds of a network")
    add("--only", nargs="+", choices=SEEDS, help="work on these networks only, without a report")
    add("--limit", type=int, help="use only the first so many held-out portraits")
    add("--report", action="store_true", help="only write the report anew from kept scores")
    return options


def run(args: argparse.Namespace) -> None:
    """Work, then write ``claims.md`` and ``claims.png``.

    Raises:
        ValueError: photographs are missing, or see :func:`train.judge.answer.report`.
    """
    if not args.report:
        if not args.data or not args.held_out:
            raise ValueError("expected --data and --held-out, or --report")
        Claims(args).work()
        if args.only:
            return
    kept = Kept.read(args.out)
    text = report(kept)
    write_atomic(args.out / "claims.md", lambda path: path.write_text(text, "utf-8"))
    write_atomic(args.out / "claims.png", partial(figure, kept))
    write_atomic(args.out / "scores.npz", kept.write)
    print(text)


main = program(parser, run)

if __name__ == "__main__":
    sys.exit(main())
