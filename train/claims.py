"""Does asynchrony help? Train small networks, restore held-out portraits in many orders, compare.

python -m train.claims --data PORTRAITS --held-out HELD_OUT -o runs/claims

Everything is fixed here before a run, so that no result can choose it.

Primary question   LPIPS, mean of center and half holes, 20 evaluations: networks trained for tau
                   by the gradient, restoring in that order, minus networks trained for tau = .5,
                   restoring with it. Five training seeds each, paired by seed (same data order and
                   start) and by photograph (same mask and noise). Each arm has the better of two
                   time grids. The arms count as equal if two one-sided tests put the difference
                   within :data:`EQUAL` of the synchronous arm's LPIPS.
Secondary          every other arm minus the synchronous arm of the same network, at 20
                   evaluations, with Holm's correction over all of them.
Gate               nothing is reported unless both primary arms beat every classical method on
                   both holes.

Pictures have 32 x 32 pixels, so that many seeds are affordable; for LPIPS both are enlarged four
times. Each step skips what is on disk: a run that was stopped goes on. ``--report`` only writes
the report anew from the kept scores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from asyncdsb.gradient import image_gradient
from asyncdsb.measure import baselines
from asyncdsb.measure.perceptual import Lpips
from asyncdsb.photo.images import write_atomic
from asyncdsb.photo.settings import Settings
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.samplers import SamplerState
from asyncdsb.schedule import inward_tau, tau_map, uniform_tau
from asyncdsb.store.checkpoint import load_weights
from train.data.sources import find_photos
from train.judge.crossed import Crossed, crossed, holm, smallest_found
from train.judge.methods import to_batch
from train.judge.protocol import Crop, iter_crops
from train.judge.report import markdown
from train.loop.options import program
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

EQUAL = 0.02
"""Share of LPIPS within which two arms count as equal."""

RANGE = (0.2, 0.5)
"""tau_min and tau_max of all arms with an order, the paper's."""

PRIMARY = ("gradient", "gradient"), ("synchronous", "synchronous")
"""(network, order) of the two arms that the question is about."""

KINDS = ("center", "half")
STEPS = 20
CURVE = (5, 10, 20, 50)
"""Evaluations of all arms; arms of seed 0 have :data:`LONG` too."""

LONG = 250
PAPER = 1000
"""Steps of the paper, for the primary arms of seed 0 on its grid."""

GRIDS = ("log", "uniform")
CLASSICAL = ("telea", "navier-stokes", "patchmatch", "patch-fill")
ENLARGED = 4

SEEDS = {"gradient": 5, "synchronous": 5, "any": 5, "low-contrast": 3, "sees-gradient": 3}
SEEDS |= {"free-tau": 3}
"""Networks (presets ``claims-NAME``) and how many training seeds each has, by priority."""


@dataclass(frozen=True)
class Case:
    """What an order may depend on, for a batch of holes.

    Attributes:
        pipe: the networks.
        image: (B, 3, S, S) in [-1, 1], the hole black.
        hole: (B, 1, S, S), 1 = missing.
        gradient: (B, 1, S, S) completed map.
        truth: (B, 3, S, S), for the upper bound alone.
        seeds: of the noise, one per sample.
    """

    pipe: AsyncDSBPipeline
    image: Tensor
    hole: Tensor
    gradient: Tensor
    truth: Tensor
    seeds: list[int]

    def run(self, tau: Tensor, steps: int, grid: str, seeds: list[int]) -> Iterator[SamplerState]:
        """The states of a restoration with this tau map."""
        settings = Settings(steps=steps, grid=grid, finish="none")
        return self.pipe.runner.states(
            self.image, self.hole, self.gradient, tau, seeds, settings, grid
        )

    def by(self, values: Tensor) -> Tensor:
        """Tau that grows with a map, by Eq. 11."""
        return tau_map(values, *RANGE, self.pipe.config.blur_sigma, self.hole)


def synchronous(case: Case) -> Tensor:
    """Tau = .5 everywhere, as in I2SB."""
    return uniform_tau(case.hole, 0.5, 0.5)


def synchronous_mean(case: Case) -> Tensor:
    """Everywhere the mean that the gradient's order has in this hole."""
    tau = gradient(case)
    mean = (tau * case.hole).sum((1, 2, 3), keepdim=True) / case.hole.sum((1, 2, 3), keepdim=True)
    return mean.expand_as(tau).contiguous()


def gradient(case: Case) -> Tensor:
    """The paper's: the completed gradient's steep pixels first."""
    return case.by(case.gradient)


def true_gradient(case: Case) -> Tensor:
    """The same with the gradient of the truth, which no method can know."""
    return case.by(image_gradient(case.truth))


def shuffled(case: Case) -> Tensor:
    """The values of the gradient's order at random places of the hole."""
    tau = gradient(case)
    for one, hole, seed in zip(tau, case.hole > 0.5, case.seeds, strict=True):
        values = one[hole]
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))
        one[hole] = values[order]
    return tau


def flat_first(case: Case) -> Tensor:
    """The gradient's order backwards."""
    return sum(RANGE) - gradient(case)


def easy_first(case: Case) -> Tensor:
    """Pixels on which four quick restorations agree come first; these cost 20 evaluations more."""
    tau, ends = synchronous(case), []
    for turn in range(4):
        *_, last = case.run(tau, 5, "log", [seed ^ (turn + 1) for seed in case.seeds])
        ends.append(last.x_t)
    variance = torch.stack(ends).var(0).mean(1, keepdim=True)
    return sum(RANGE) - case.by(variance.sqrt())


def inward(case: Case) -> Tensor:
    """From the hole's border inwards."""
    return inward_tau(case.hole, *RANGE)


ORDERS: dict[str, Callable[[Case], Tensor]] = {
    "synchronous": synchronous,
    "synchronous, mean tau": synchronous_mean,
    "gradient": gradient,
    "true gradient": true_gradient,
    "shuffled gradient": shuffled,
    "flat first": flat_first,
    "easy first": easy_first,
    "inward": inward,
}

ARMS = [*PRIMARY, *(("any", order) for order in ORDERS)]
ARMS += product(("low-contrast", "sees-gradient", "free-tau"), ("synchronous", "gradient"))
"""(network, order); the network "any" serves all orders."""


def cells(arm: tuple[str, str], seed: int) -> list[tuple[str, str, int]]:
    """(kind of mask, grid, evaluations) that an arm restores with a seed."""
    found = [*product(KINDS, GRIDS, CURVE), ("wide", "log", STEPS), ("narrow", "log", STEPS)]
    if seed == 0:
        found += product(KINDS, GRIDS, [LONG])
        found += [("center", "uniform", PAPER)] if arm in PRIMARY else []
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
        self.lpips = Lpips()

    def train(self, which: str, name: str, seed: int) -> Path:
        """Train a network unless its weights are there; return their folder."""
        presets = GRADIENT_PRESETS if which == "gradient" else BRIDGE_PRESETS
        steps = self.args.steps or presets[name].steps
        folder = self.out / "networks" / f"{which}-{name}-{seed}"
        facts = folder / "weights" / f"{which}.json"
        if not facts.exists() or json.loads(facts.read_text("utf-8"))["training"]["steps"] < steps:
            command = [sys.executable, "-m", f"train.{which}", "--preset", name, "--data"]
            command += [*self.args.data, "--seed", str(seed), "--steps", str(steps)]
            if which == "bridge":
                command += ["--gradient", str(self.train("gradient", "claims", 0))]
            subprocess.run([*command, "--out", str(folder)], check=True)
        return folder / "weights"

    @cache  # noqa: B019
    def pipe(self, network: str, seed: int) -> AsyncDSBPipeline:
        """Load a network with the completion that all networks share, trained if need be."""
        completion = load_weights(self.train("gradient", "claims", 0), "gradient")[0]
        denoiser = load_weights(self.train("bridge", f"claims-{network}", seed), "bridge")[0]
        return AsyncDSBPipeline(denoiser, completion, "cpu")

    def scores(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the kept LPIPS of all photographs, (n,); if none are kept, make and keep them."""
        path = self.out / "scores" / f"{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make().astype(np.float32)
            write_atomic(path, partial(np.save, arr=made))
        return np.load(path)

    def distance(self, restored: Tensor, truth: Tensor) -> np.ndarray:
        """LPIPS of enlarged pictures, (B,)."""
        large = [
            F.interpolate(x.clamp(-1, 1), scale_factor=ENLARGED, mode="bicubic").clamp(-1, 1)
            for x in (restored, truth)
        ]
        return self.lpips(*large).numpy()

    @torch.no_grad()
    def arm(self, arm: tuple[str, str], seed: int) -> None:
        """Restore and score all cells of an arm with one training seed."""
        network, order = arm
        for kind, grid, steps in cells(arm, seed):
            name = f"{network}-{seed}/{order}/{kind}-{grid}-{steps}"
            self.scores(name, partial(self.restored, network, seed, order, kind, grid, steps))

    def restored(
        self, network: str, seed: int, order: str, kind: str, grid: str, steps: int
    ) -> np.ndarray:
        """LPIPS of all photographs in one cell, (n,)."""
        case = self.case(network, seed, kind)
        *_, last = case.run(self.tau(network, seed, order, kind), steps, grid, case.seeds)
        result = torch.where(case.hole > 0.5, last.x_t, case.truth)
        return self.distance(result, case.truth)

    @cache  # noqa: B019
    def case(self, network: str, seed: int, kind: str) -> Case:
        """All held-out photographs with a kind of hole, for a network."""
        pipe = self.pipe(network, seed)
        truth = to_batch([crop.pixels for crop in self.crops])
        hole = torch.from_numpy(np.stack([c.mask(kind) for c in self.crops])[:, None]).float()
        seeds = [crop.noise_seed(kind) for crop in self.crops]
        image = truth.masked_fill(hole > 0.5, 0)
        return Case(pipe, image, hole, pipe.completion(image, hole), truth, seeds)

    @cache  # noqa: B019
    def tau(self, network: str, seed: int, order: str, kind: str) -> Tensor:
        """The tau map of an order, (n, 1, S, S)."""
        return ORDERS[order](self.case(network, seed, kind))

    def classical(self) -> None:
        """Restore and score with the classical methods."""
        for method, kind in product(CLASSICAL, KINDS):

            def restored(method: str = method, kind: str = kind) -> np.ndarray:
                done = [baselines.restore(method, c.pixels, c.mask(kind)) for c in self.crops]
                return self.distance(to_batch(done), to_batch([c.pixels for c in self.crops]))

            self.scores(f"classical/{method}/{kind}", restored)

    def work(self) -> None:
        """Do all that is missing, the primary arms first, seed by seed."""
        self.classical()
        first = [(arm, seed) for seed in range(5) for arm in PRIMARY]
        others = [arm for arm in ARMS if arm not in PRIMARY]
        jobs = first + [(arm, seed) for seed in range(5) for arm in others]
        jobs = [(arm, seed) for arm, seed in jobs if seed < SEEDS[arm[0]]]
        jobs = [job for job in jobs if self.args.seeds is None or job[1] < self.args.seeds]
        for arm, seed in tqdm(jobs, unit="arm"):
            self.arm(arm, seed)


class Kept:
    """The kept scores of an experiment.

    Args:
        out: its folder.
    """

    def __init__(self, out: Path):
        self.folder = out / "scores"

    def table(
        self, arm: tuple[str, str], kinds: tuple[str, ...], grid: str, steps: int
    ) -> np.ndarray:
        """LPIPS, mean over the kinds, (seeds, photographs); no rows where nothing is kept."""
        network, order = arm
        rows = []
        for seed in range(SEEDS[network]):
            folder = self.folder / f"{network}-{seed}" / order
            paths = [folder / f"{kind}-{grid}-{steps}.npy" for kind in kinds]
            if all(path.exists() for path in paths):
                rows.append(np.mean([np.load(path) for path in paths], axis=0))
        return np.array(rows, float) if rows else np.empty((0, 0))

    def best(self, arm: tuple[str, str], steps: int = STEPS) -> tuple[str, np.ndarray]:
        """The better grid of an arm at so many evaluations, and its table."""
        found = {grid: self.table(arm, KINDS, grid, steps) for grid in GRIDS}
        grid = min(GRIDS, key=lambda g: found[g].mean() if found[g].size else np.inf)
        return grid, found[grid]

    def classical(self, kind: str) -> dict[str, float]:
        """Mean LPIPS of each classical method."""
        paths = (self.folder / "classical" / method / f"{kind}.npy" for method in CLASSICAL)
        return {path.parent.name: float(np.load(path).mean()) for path in paths if path.exists()}


def paired(one: np.ndarray, other: np.ndarray) -> Crossed:
    """Difference of two tables over the seeds that both have."""
    seeds = min(len(one), len(other))
    return crossed(one[:seeds] - other[:seeds])


def report(out: Path) -> str:
    """The report as Markdown.

    Raises:
        ValueError: scores of the primary arms are missing, or the gate is not passed.
    """
    kept = Kept(out)
    grids, tables = zip(*(kept.best(arm) for arm in PRIMARY), strict=True)
    if not all(table.size for table in tables):
        raise ValueError(f"expected scores of both primary arms in {out}, got none of one")
    gate = _gate(kept)
    found = paired(*tables)
    base = float(tables[1].mean())
    low, high = found.interval()
    least = smallest_found(found)
    count = f"{found.shape[0]} training seeds and {found.shape[1]} photographs"
    head = [
        "# Does asynchrony help?\n",
        f"- **Asked**: LPIPS of center and half holes after {STEPS} evaluations, the paper's order "
        f"(tau {RANGE[0]} to {RANGE[1]} by the predicted gradient) minus one tau for all pixels, "
        "each with networks trained for it, on the better of two time grids.",
        f"- **Answer**: {100 * found.mean / base:+.1f} % (95 % interval {100 * low / base:+.1f} to "
        f"{100 * high / base:+.1f} %) of the synchronous arm's {base:.4f}, over {count}; p = "
        f"{found.p:.2g}. {_verdict(found, base)}",
        f"- **Power**: this design finds {100 * least / base:.1f} % in 80 % of cases.",
        f"- **Grids**: {grids[0]} for the gradient's order, {grids[1]} for the synchronous one.",
        "- **Gate**: both arms beat every classical method:",
    ]
    return "\n".join([*head, "", gate, *_sections(kept)])


def _verdict(found: Crossed, base: float) -> str:
    low, high = found.interval()
    if low > 0 or high < 0:
        better = "asynchronous" if high < 0 else "synchronous"
        return f"The {better} arm is better."
    if found.within(EQUAL * base):
        return f"They are equal within {100 * EQUAL:.0f} % (two one-sided tests at 5 %)."
    return "Neither a difference nor equality is shown."


def _gate(kept: Kept) -> str:
    """The table of the gate; ValueError unless it is passed."""
    rows = []
    for kind in KINDS:
        others = kept.classical(kind)
        ours = [kept.table(arm, (kind,), kept.best(arm)[0], STEPS).mean() for arm in PRIMARY]
        best = min(others, key=lambda name: others[name])
        if max(ours) >= others[best]:
            raise ValueError(
                f"expected both primary arms to beat {best} on {kind} holes, got LPIPS "
                f"{max(ours):.4f} against {others[best]:.4f}: train longer"
            )
        rows.append([kind, *(f"{v:.4f}" for v in ours), f"{others[best]:.4f} ({best})"])
    return markdown(["hole", "gradient", "synchronous", "best classical"], rows, 1)


def _sections(kept: Kept) -> list[str]:
    """The tables that follow the answer."""
    names, differences = [], []
    for arm in ARMS:
        network, order = arm
        reference = (network, "synchronous")
        if arm in PRIMARY or order == "synchronous" or not kept.best(arm)[1].size:
            continue
        names.append(arm)
        differences.append(paired(kept.best(arm)[1], kept.best(reference)[1]))
    adjusted = holm([one.p for one in differences])
    rows = []
    for (network, order), one, p in zip(names, differences, adjusted, strict=True):
        base = kept.best((network, "synchronous"))[1].mean()
        low, high = (100 * end / base for end in one.interval())
        rows.append(
            [network, order, f"{one.shape[0]}", f"{100 * one.mean / base:+.1f} %"]
            + [f"{low:+.1f} to {high:+.1f}", f"{p:.2g}"]
        )
    heads = ["network", "order", "seeds", "LPIPS against synchronous", "95 %", "p (Holm)"]
    parts = ["## Orders of one network", "", markdown(heads, rows, 2)]
    heads = ["network", "order", "seeds", *(f"{kind}" for kind in (*KINDS, "wide", "narrow"))]
    rows = []
    for arm in ARMS:
        grid, table = kept.best(arm)
        if table.size:
            tables = [kept.table(arm, (kind,), grid, STEPS) for kind in KINDS]
            tables += [kept.table(arm, (kind,), "log", STEPS) for kind in ("wide", "narrow")]
            rows.append([*arm, str(len(table)), *map(_mean, tables)])
    parts += [f"## LPIPS at {STEPS} evaluations", "", markdown(heads, rows, 2)]
    heads = ["network", "order", "grid", *(str(steps) for steps in (*CURVE, LONG, PAPER))]
    rows = []
    for arm, grid in product(ARMS, GRIDS):
        row = [kept.table(arm, KINDS, grid, steps) for steps in (*CURVE, LONG)]
        row.append(kept.table(arm, ("center",), grid, PAPER))
        if row[0].size:
            rows.append([*arm, grid, *map(_mean, row)])
    parts += [
        "## LPIPS by evaluations",
        "",
        f"Mean of center and half; {LONG} with the first training seed, {PAPER} on center alone.",
        "",
        markdown(heads, rows, 3),
    ]
    return parts


def _mean(table: np.ndarray) -> str:
    return f"{table.mean():.4f}" if table.size else ""


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(
        prog="python -m train.claims", description=__doc__.split("\n\n")[0]
    )
    add = options.add_argument
    add("--data", nargs="+", default=[], help="folders or tar shards of portraits to train on")
    add("--held-out", nargs="+", default=[], help="portraits to restore")
    add("-o", "--out", required=True, type=Path, help="networks, scores and report")
    add("--steps", type=int, help="of the trainings instead of the presets'")
    add("--seeds", type=int, help="most training seeds of a network")
    add("--limit", type=int, help="use only the first so many held-out portraits")
    add("--report", action="store_true", help="only write the report anew from kept scores")
    return options


def run(args: argparse.Namespace) -> None:
    """Work, then write ``claims.md``.

    Raises:
        ValueError: photographs are missing, or see :func:`report`.
    """
    if not args.report:
        if not args.data or not args.held_out:
            raise ValueError("expected --data and --held-out, or --report")
        Claims(args).work()
    text = report(args.out)
    write_atomic(args.out / "claims.md", lambda path: path.write_text(text, "utf-8"))
    print(text)


main = program(parser, run)

if __name__ == "__main__":
    sys.exit(main())
