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
Tuned              added later, with less chance: both arms start from one network for any order and
                   learn on for their own, with the same data and noise.
Secondary          the comparisons of :data:`train.judge.answer.COMPARISONS`, at 20 evaluations,
                   with Holm's correction over all of them.
Gate               nothing is reported unless both primary arms beat every classical method on
                   both holes.
Mechanism          how much later than beta the restoration comes (see :mod:`train.mismatch`), and
                   when the process reaches pixels of flat, middle and steep gradient.

Pictures have 32 x 32 pixels, so that many seeds are affordable; for LPIPS both are enlarged four
times. Each step skips what is on disk: a run that was stopped goes on, and several processes that
are started with ``--only`` share the work.
"""

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
from train.judge import answer
from train.judge.answer import SEEDS, Arm, Kept
from train.judge.delay import gradient_parts, progress
from train.judge.methods import tensors, to_batch
from train.judge.orders import ORDERS, Case
from train.judge.protocol import iter_crops
from train.loop.options import program
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

ENLARGED = 4
WATCHED = 100  # Photographs of the mechanism, with 50 even steps and center holes.
LEVEL = 0.1  # sigma_eff, noise in units of the picture, below which a pixel counts as restored.
FEW = 50  # Photographs that are restored with LONG and PAPER evaluations.

CURVE_ARMS: list[Arm] = [*answer.PRIMARY]
CURVE_ARMS += product(["any"], ["synchronous", "gradient", "flat first", "easy first"])
"""Arms with other numbers of evaluations too, with the first training seed."""


def cells(arm: Arm, seed: int) -> list[tuple[str, str, int]]:
    """(kind of mask, grid, evaluations) that an arm restores with a seed."""
    steps = answer.CURVE if seed == 0 and arm in CURVE_ARMS else (answer.STEPS,)
    found = list(product(answer.KINDS, answer.GRIDS, steps))
    if arm in answer.PRIMARY or (seed == 0 and arm[0] == "any"):
        found += product(answer.STROKES, ["log"], [answer.STEPS])
    if seed == 0 and arm in answer.PRIMARY:
        found += product(answer.KINDS, answer.GRIDS, [answer.LONG])
        found.append(("center", "uniform", answer.PAPER))
    return found


class Claims:
    """The experiment in a folder, by the arguments of the command line."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.out = args, args.out
        photos = find_photos(args.held_out)[: args.limit]
        self.crops = list(iter_crops(((photo.key, photo.read()) for photo in photos), 1, 32))
        self.lpips, self.features = Lpips(), EfficientNetFeatures()
        # Jobs come network by network, so that few of each need to be kept.
        self.case, self.tau = lru_cache(4)(self._case), lru_cache(4)(self._tau)

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
            if code := subprocess.run([*command, "--out", str(folder)]).returncode:
                raise ValueError(f"training {name} ended with exit code {code}, see above")
        return folder / "weights"

    def keep(self, name: str, make: Callable[..., np.ndarray], *args) -> None:
        """Keep the array that ``make(*args)`` returns in ``scores``, unless it is there."""
        path = self.out / "scores" / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, partial(np.save, arr=make(*args).astype(np.float32)))

    def work(self) -> None:
        """Do all that is missing, the primary arms first, seed by seed."""
        self.train("gradient", "claims", 0)  # First, because it refuses photos it cannot use.
        for method, kind in product(answer.CLASSICAL, answer.KINDS):
            self.keep(f"classical/{method}/{kind}", self.classical, method, kind)
        jobs = [
            (arm, seed)
            for arm in answer.ARMS
            for seed in range(SEEDS[arm[0]])[: self.args.seeds]
            if not self.args.only or arm[0] in self.args.only
        ]
        jobs.sort(key=lambda job: (job[0] not in answer.PRIMARY, job[1]))
        for arm, seed in tqdm(jobs, unit="arm"):
            self.work_on(arm, seed)

    @torch.no_grad()
    def work_on(self, arm: Arm, seed: int) -> None:
        """Restore and score all cells of an arm with one training seed."""
        network, order = arm
        place = f"{network}-{seed}/{order}"
        for kind, grid, steps in cells(arm, seed):
            self.keep(f"{place}/{kind}-{grid}-{steps}", self.scores, arm, seed, kind, grid, steps)
        if arm in answer.PRIMARY:
            for kind in answer.KINDS:
                self.keep(f"{place}/{kind}-sets", self.sets, arm, seed, kind)
        if arm in answer.PRIMARY or (network == "any" and seed == 0):
            self.keep(f"{place}/speeds", self.speeds, arm, seed)
            self.keep(f"{place}/times", self.times, arm, seed)

    def classical(self, method: str, kind: str) -> np.ndarray:
        """LPIPS of all photographs that a classical method restored, (n,)."""
        done = [baselines.restore(method, crop.pixels, crop.mask(kind)) for crop in self.crops]
        truth, _ = tensors(self.crops, kind, "cpu")
        return self.lpips(*_enlarged(to_batch(done), truth)).numpy()

    def scores(self, arm: Arm, seed: int, kind: str, grid: str, steps: int) -> np.ndarray:
        """LPIPS of all photographs in one cell, (n,)."""
        return self.lpips(*self.restored(arm, seed, kind, grid, steps)).numpy()

    def sets(self, arm: Arm, seed: int, kind: str) -> np.ndarray:
        """Frechet and kernel distance between all restored and all true photographs, (2,)."""
        pair = self.restored(arm, seed, kind, "log", answer.STEPS)
        ours, truth = (self.features(x).astype(float) for x in pair)
        return np.array([frechet_distance(ours, truth), kernel_distance(ours, truth)])

    def restored(self, arm: Arm, seed: int, kind: str, grid: str, steps: int) -> list[Tensor]:
        """All photographs of a cell restored, and the true ones, enlarged."""
        case, tau = self.case(arm[0], seed, kind), self.tau(arm, seed, kind)
        if steps >= answer.LONG:
            case, tau = case.first(FEW), tau[:FEW]
        *_, last = case.run(tau, steps, grid)
        return _enlarged(torch.where(case.hole > 0.5, last.x_t, case.truth), case.truth)

    def _case(self, network: str, seed: int, kind: str) -> Case:
        """All held-out photographs with a kind of hole, for a network, trained if need be."""
        completion = load_weights(self.train("gradient", "claims", 0), "gradient")[0]
        denoiser = load_weights(self.train("bridge", f"claims-{network}", seed), "bridge")[0]
        pipe = AsyncDSBPipeline(denoiser, completion, "cpu")
        truth, hole = tensors(self.crops, kind, "cpu")
        gradient = completion(truth.masked_fill(hole > 0.5, 0), hole)
        return Case(pipe, hole, gradient, truth, [crop.noise_seed(kind) for crop in self.crops])

    def _tau(self, arm: Arm, seed: int, kind: str) -> Tensor:
        """The tau map of an arm's order, (n, 1, S, S)."""
        return ORDERS[arm[1]](self.case(arm[0], seed, kind))

    def watched(self, arm: Arm, seed: int) -> tuple[Case, Tensor, list[np.ndarray]]:
        """The photographs of the mechanism, their tau and the parts of their center holes."""
        case, tau = self.case(arm[0], seed, "center").first(WATCHED), self.tau(arm, seed, "center")
        pairs = zip(image_gradient(case.truth).split(1), case.hole.split(1), strict=True)
        return case, tau[:WATCHED], [gradient_parts(*pair) for pair in pairs]

    def speeds(self, arm: Arm, seed: int) -> np.ndarray:
        """Mean progress and due progress by signal and part, (signals, parts, 2, N + 1)."""
        case, tau, parts = self.watched(arm, seed)
        states, found = list(case.run(tau, 50, "uniform")), []
        for n, part in enumerate(parts):
            one = slice(n, n + 1)
            own = [replace(s, x_t=s.x_t[one], x0_hat=s.x0_hat[one], t=s.t[one]) for s in states]
            found.append(progress(own, case.truth[one], tau[one], case.pipe.config.schedule, part))
        return np.mean(found, 0)

    def times(self, arm: Arm, seed: int) -> np.ndarray:
        """Mean t by part at which 1 - s passes .5 and sigma_eff :data:`LEVEL`, (parts, 2).

        Both are properties of the process, see :func:`asyncdsb.bridge.clock_at_level`.
        """
        case, tau, parts = self.watched(arm, seed)
        schedule, hole_noise = case.pipe.config.schedule, case.pipe.config.hole_noise
        low = clock_at_level(torch.tensor(LEVEL), schedule.total_var, hole_noise)
        maps = torch.cat([schedule.inverse_clock(s, tau) for s in (0.5, low)], 1).numpy()
        rows = zip(maps, parts, strict=True)
        return np.mean([[[one[part].mean() for one in t] for part in own] for t, own in rows], 0)


def _enlarged(*pictures: Tensor) -> list[Tensor]:
    large = partial(F.interpolate, scale_factor=ENLARGED, mode="bicubic")
    return [large(x.clamp(-1, 1)).clamp(-1, 1) for x in pictures]


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
    """Work, then write ``claims.md`` and ``claims.png``; ValueError if photographs are missing."""
    if not args.report:
        if not args.data or not args.held_out:
            raise ValueError("expected --data and --held-out, or --report")
        Claims(args).work()
        if args.only:
            return
    kept = Kept.read(args.out)
    text = answer.report(kept)
    write_atomic(args.out / "claims.md", lambda path: path.write_text(text, "utf-8"))
    write_atomic(args.out / "claims.png", partial(answer.figure, kept))
    write_atomic(
        args.out / "scores.npz",
        lambda path: np.savez_compressed(path, allow_pickle=False, **kept.arrays),
    )
    print(text)


main = program(parser, run)

if __name__ == "__main__":
    sys.exit(main())
