"""Does restoration keep to its schedule? ``python -m train.mismatch --data PHOTOS -o OUT``.

The paper's Figures 2, 3 and 7 on held-out photos: the speed of the restoration, for the hole and
the terciles of its true gradient, by default with one schedule for all pixels (I2SB) and with the
schedule of the pixel's gradient. :mod:`asyncdsb.measure.analysis` says what is measured, and
against what.

The curves of all photos are averaged first and then differentiated, so that a photo whose
similarity hardly changes, and whose own centroid would be anywhere, does not rule the mean.
Intervals come from a bootstrap over photos, the same draws for every method, so that methods can be
compared.

Writes ``mismatch.json``, ``mismatch.md`` and ``mismatch.png``; the curves of every run are kept,
and a program that was interrupted does only what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asyncdsb.gradient import image_gradient
from asyncdsb.measure.analysis import (
    MEASURES,
    PARTS,
    centroids,
    correlation,
    gradient_parts,
    oracle_progress,
    progress,
    speeds,
)
from asyncdsb.photo.images import write_atomic
from train.judge.intervals import RESAMPLES
from train.judge.methods import Method, held_out_of, load_bridges, trace
from train.judge.protocol import Crop
from train.judge.report import difference, publish
from train.loop.options import guarded, held_out_parser

SIGNALS = {"x_t": MEASURES, "x0_hat": ("ssim",)}
"""What is followed, and by which measures; no schedule says where x0_hat should be, so that it is
compared with beta only."""

LEAST_GAIN = 0.01
"""Gain of a measure over the run below which its course has no speed to speak of."""

CURVES = ("run", "oracle", "beta")


class CurveSet:
    """Curves of all runs by (method, signal, measure), and what follows from them.

    Attributes:
        t: (N + 1,) times of all runs.
    """

    def __init__(self) -> None:
        self.t: np.ndarray | None = None
        self._curves: dict[tuple, list] = defaultdict(list)
        self._photos: dict[tuple, list[str]] = defaultdict(list)

    def add(self, method: str, photo: str, stored: Mapping[str, np.ndarray]) -> None:
        """Take in what :func:`follow` measured on one run."""
        self.t = stored["t"]
        for signal, measures in SIGNALS.items():
            for measure in measures:
                key = (method, signal, measure)
                self._photos[key].append(photo)
                for part in PARTS:
                    row = [stored[f"{signal}/{measure}/{part}/{curve}"] for curve in CURVES]
                    self._curves[key, part].append(row)

    def summary(self, first: str, others: list[str]) -> dict:
        """Numbers and mean curves.

        Args:
            first: method to compare the others with.
            others: the other methods.

        Returns:
            "curves": "METHOD/SIGNAL/MEASURE" -> part -> ``{"delay", "delay_beta"}`` with intervals
            (None where undefined), ``{"correlation", "correlation_beta"}`` and "speed", the shares
            per step. "changes": for each other method and the same keys, how much larger
            |delay| (x_t) or |delay_beta| (x0_hat) is than that of the first.
        """
        curves, draws = {}, {}
        for key in self._photos:
            rows = {}
            for part in PARTS:
                rows[part], draws[key, part] = self._row(key, part)
            curves["/".join(key)] = rows
        changes = {}
        for other in others:
            for _, signal, measure in [key for key in self._photos if key[0] == first]:
                name = "delay_beta" if signal == "x0_hat" else "delay"
                pair = [(method, signal, measure) for method in (first, other)]
                changes["/".join(pair[1])] = {
                    part: _interval(
                        np.abs(draws[pair[1], part][name]) - np.abs(draws[pair[0], part][name])
                    )
                    for part in PARTS
                }
        return {"curves": curves, "changes": changes}

    def _row(self, key: tuple, part: str) -> tuple[dict, dict[str, np.ndarray]]:
        value, oracle, beta = (self._drawn(key, part, index) for index in range(len(CURVES)))
        speed, ideal, beta = (speeds(curve, LEAST_GAIN) for curve in (value, oracle, beta))
        # Time runs from 1 to 0: a smaller centroid is later.
        came = centroids(self.t, speed)
        draws = {
            "delay": centroids(self.t, ideal) - came,
            "delay_beta": centroids(self.t, beta) - came,
        }
        row = {
            "speed": {
                name: [_defined(round(float(v), 6)) for v in shares[0]]
                for name, shares in zip(CURVES, (speed, ideal, beta), strict=True)
            },
            "delay_beta": _interval(draws["delay_beta"]),
            "correlation_beta": _defined(correlation(speed[0], beta[0])),
        }
        if key[1] == "x_t":
            row["delay"] = _interval(draws["delay"])
            row["correlation"] = _defined(correlation(speed[0], ideal[0]))
        return row, draws

    def _drawn(self, key: tuple, part: str, index: int) -> np.ndarray:
        """Mean curves of all photos and of resampled ones, (1 + RESAMPLES, N + 1)."""
        rows = np.array([row[index] for row in self._curves[key, part]])
        names, member = np.unique(self._photos[key], return_inverse=True)
        sums = np.zeros((len(names), rows.shape[1]))
        np.add.at(sums, member, rows)
        counts = np.bincount(member)
        rng = np.random.default_rng(0)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
        weights = np.concatenate([np.ones((1, len(names))), drawn])
        return weights @ sums / (weights @ counts)[:, None]


def _defined(number: float) -> float | None:
    """The number, None in place of NaN, which JSON has not."""
    return None if number != number else number


def _interval(draws: np.ndarray) -> dict[str, float] | None:
    """The first value with the 95 % range of the others; None if any is undefined."""
    if not np.isfinite(draws).all():
        return None
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return {"mean": float(draws[0]), "low": float(low), "high": float(high)}


def follow(method: Method, crop: Crop, kind: str, runs: int) -> dict[str, np.ndarray]:
    """Restore one crop and follow the run, and runs of the oracle.

    Returns:
        "t" (N + 1,), and for "SIGNAL/MEASURE/PART/" the curves "run" and "oracle", the progress
        (N + 1,), and "beta", the schedule's own progress, 1 minus the mean clock (N + 1,).
    """
    pipe, settings = method.pipe, method.settings
    x0, mask, tau, states = trace(method, crop, kind)
    parts = gradient_parts(image_gradient(x0), mask)
    schedule, x1 = pipe.config.schedule, states[0].x_t
    found: dict[str, np.ndarray] = {}
    for measure in MEASURES:
        oracle = oracle_progress(
            x0,
            x1,
            mask,
            tau,
            schedule,
            parts,
            steps=settings["steps"],
            sampler="ode" if settings["sampler"] == "ode" else "posterior",
            grid=settings["grid"],
            start_std=pipe.config.hole_noise,
            measure=measure,
            runs=1 if settings["sampler"] == "ode" else runs,
        )
        for signal in (signal for signal, measures in SIGNALS.items() if measure in measures):
            run = progress(states, x0, tau, schedule, parts, measure, signal)
            found["t"] = run.t
            for part in PARTS:
                name = f"{signal}/{measure}/{part}"
                found[f"{name}/run"] = run.value[part]
                found[f"{name}/oracle"] = np.mean([one.value[part] for one in oracle], 0)
                found[f"{name}/beta"] = np.concatenate([[0.0], run.beta[part].cumsum()])
    return found


def figure(results: dict, path: Path) -> None:
    """Speed of the restoration over time: one row a method, one column a signal and measure."""
    from matplotlib.figure import Figure

    columns = [(signal, measure) for signal, measures in SIGNALS.items() for measure in measures]
    methods = results["methods"]
    drawing = Figure(figsize=(4.2 * len(columns), 3.1 * len(methods)), layout="constrained")
    panels = drawing.subplots(len(methods), len(columns), squeeze=False, sharex=True)
    times = np.array(results["t"])
    middle = (times[1:] + times[:-1]) / 2
    colours = dict(zip(PARTS, ("black", "#3b528b", "#21918c", "#d95f02"), strict=True))
    for line, method in zip(panels, methods, strict=True):
        for panel, (signal, measure) in zip(line, columns, strict=True):
            rows = results["curves"][f"{method}/{signal}/{measure}"]
            for part in PARTS:
                speed = {k: np.array(v, float) for k, v in rows[part]["speed"].items()}
                panel.plot(middle, speed["run"], color=colours[part], label=part)
                panel.plot(middle, speed["beta"], color=colours[part], ls=":", lw=1)
                if signal == "x_t":
                    panel.plot(middle, speed["oracle"], color=colours[part], ls="--", lw=0.8)
            panel.set_title(f"{method}: {measure} of {signal}", fontsize=9)
            panel.set_xlim(1, 0)
    for panel in panels[-1]:
        panel.set_xlabel("t, from the start of the run to its end")
    panels[0][0].legend(fontsize=7, title="run –   oracle - -   beta ···", title_fontsize=7)
    drawing.savefig(path, dpi=100)


def table(results: dict) -> str:
    """Delays in thousandths of T with intervals, correlations, and the change between methods."""
    lines = [
        "| method, signal, measure | part | delay to oracle, T/1000 | correlation "
        "| delay to beta, T/1000 | correlation | change of the delay's size, T/1000 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, rows in results["curves"].items():
        for part, row in rows.items():
            cells = []
            for end in ("", "_beta"):
                cells.append(thousandths(row.get(f"delay{end}")))
                found = row.get(f"correlation{end}")
                cells.append("-" if found is None else f"{found:.2f}")
            cells.append(thousandths(results["changes"].get(key, {}).get(part)))
            lines.append(f"| {key.replace('/', ', ')} | {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def thousandths(found: Mapping | None) -> str:
    """Return a delay with its interval in thousandths of T."""
    return difference(found and {k: 1000 * v for k, v in found.items()}, 0)


def measure_all(args: argparse.Namespace) -> dict:
    """Restore everything and summarise.

    Raises:
        ValueError: methods that are no bridges, or whose runs have not the same times.
    """
    methods = load_bridges(args)
    held_out = held_out_of(args, methods)
    axes = {(method.settings["steps"], method.settings["grid"]) for method in methods}
    if len(axes) > 1 or methods[0].settings["grid"] != "uniform":
        raise ValueError("expected the same steps and the uniform grid for all methods")
    collected = CurveSet()
    with tqdm(total=len(held_out) * len(held_out.kinds) * len(methods), unit="run") as bar:
        for crop in held_out.crops():
            for kind in held_out.kinds:
                for method in methods:
                    path = method.cached(args.out, crop, kind)
                    path = path.with_suffix(f".curves-{args.runs}.npz")
                    if not path.exists():
                        path.parent.mkdir(parents=True, exist_ok=True)
                        curves: dict[str, Any] = follow(method, crop, kind, args.runs)
                        write_atomic(path, partial(np.savez, **curves))
                    with np.load(path) as stored:
                        collected.add(method.name, crop.key, dict(stored))
                    bar.update()
    names = [method.name for method in methods]
    return {
        "t": collected.t.tolist(),
        "photos": len(held_out.photos),
        "masks": list(held_out.kinds),
        "methods": {method.name: method.settings for method in methods},
        **collected.summary(names[0], names[1:]),
    }


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    # What is copied after the run is no part of it.
    options = held_out_parser("train.mismatch", __doc__, masks="center,narrow", finish="none")
    options.set_defaults(grid="uniform", size=None, crops=None)
    options.add_argument(
        "--methods", default="synchronous,asyncdsb", help="see train.judge.methods"
    )
    options.add_argument("--runs", type=int, default=4, help="runs of the oracle per restoration")
    return options


def run(args: argparse.Namespace) -> dict:
    """Measure, write ``mismatch.json``, ``.md`` and ``.png``, return the results."""
    return publish(args.out, "mismatch", measure_all(args), table, figure)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    args = parser().parse_args(argv)
    return guarded("train.mismatch", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
