"""Does restoration keep to its schedule? ``python -m train.mismatch --data PHOTOS -o OUT``.

The paper's Figures 2, 3 and 7 on held-out photos: the speed of the restoration, for the hole and
the terciles of its true gradient, by default with one schedule for all pixels (I2SB) and with the
schedule of the pixel's gradient. :mod:`asyncdsb.analysis` says what is measured, and against what.
Writes ``mismatch.json``, ``mismatch.md`` and ``mismatch.png``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asyncdsb.analysis import (
    MEASURES,
    PARTS,
    Mismatch,
    Progress,
    gradient_parts,
    mismatch,
    oracle_progress,
    progress,
)
from asyncdsb.gradient import image_gradient
from asyncdsb.images import write_atomic
from asyncdsb.restoration import Settings
from train.intervals import clustered_mean
from train.methods import Method, load_methods, to_batch
from train.options import HeldOut, guarded, held_out_parser
from train.protocol import Crop

SIGNALS = {"x_t": MEASURES, "x0_hat": ("ssim",)}
"""What is followed, and by which measures; no schedule says where x0_hat should be, so that it is
compared with beta only."""

NUMBERS = [f.name for f in dataclasses.fields(Mismatch)]


class Collected:
    """Mismatches and mean speeds over the photos, by (method, signal, measure)."""

    def __init__(self) -> None:
        self.numbers = defaultdict(lambda: defaultdict(list))
        self.speeds = defaultdict(lambda: defaultdict(list))
        self.photos = defaultdict(list)

    def add(self, key: tuple, photo: str, run: Progress, oracle: list[Progress]) -> None:
        """Take in one run."""
        self.photos[key].append(photo)
        for part, found in mismatch([run], oracle).items():
            for name in NUMBERS:
                self.numbers[key][part, name].append(getattr(found, name))
            self.speeds[key][part].append(
                [run.speed(part), np.mean([o.speed(part) for o in oracle], 0), run.beta[part]]
            )

    def summary(self) -> dict:
        """Means with intervals from a bootstrap over photos, and the mean curves."""
        result = {}
        for key, numbers in self.numbers.items():
            rows = {part: {} for part in PARTS}
            for (part, name), values in numbers.items():
                if key[1] == "x0_hat" and name in ("delay", "error", "correlation"):
                    continue
                good = [(v, p) for v, p in zip(values, self.photos[key], strict=True) if v == v]
                if good:
                    rows[part][name] = clustered_mean(*(list(x) for x in zip(*good, strict=True)))
            for part, curves in self.speeds[key].items():
                mean = np.nanmean(curves, 0).round(6).tolist()
                rows[part]["speed"] = dict(zip(("run", "oracle", "beta"), mean, strict=True))
            result["/".join(key)] = rows
        return result


def follow(
    method: Method, crop: Crop, kind: str, runs: int
) -> dict[tuple[str, str], tuple[Progress, list[Progress]]]:
    """Restore one crop; (signal, measure) -> its progress and that of the oracle."""
    pipe, settings = method.pipe, method.settings
    x0 = to_batch([crop.pixels]).to(pipe.device)
    mask = torch.from_numpy(crop.mask(kind))[None, None].float().to(pipe.device)
    known = torch.where(mask > 0.5, torch.zeros(()), x0)
    tau, states = pipe.trace(known, mask, [crop.noise_seed(kind)], **settings)
    states = list(states)
    parts = gradient_parts(image_gradient(x0), mask)
    schedule, x1 = pipe.config.schedule, states[0].x_t
    oracles = {
        measure: oracle_progress(
            x0,
            x1,
            mask,
            tau,
            schedule,
            parts,
            steps=settings["steps"],
            sampler="ode" if settings["sampler"] == "ode" else "posterior",
            grid=settings["grid"],
            temperature=pipe.resolved(Settings(**settings)).temperature,
            measure=measure,
            runs=1 if settings["sampler"] == "ode" else runs,
        )
        for measure in MEASURES
    }
    return {
        (signal, measure): (
            progress(states, x0, tau, schedule, parts, measure, signal),
            oracles[measure],
        )
        for signal, measures in SIGNALS.items()
        for measure in measures
    }


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
                speed = rows[part]["speed"]
                panel.plot(middle, speed["run"], color=colours[part], label=part)
                panel.plot(middle, speed["beta"], color=colours[part], ls=":", lw=1)
                if signal == "x_t":
                    panel.plot(middle, speed["oracle"], color=colours[part], ls="--", lw=0.8)
            panel.set_title(f"{method}: {measure} of {signal}", fontsize=9)
            panel.invert_xaxis()
    for panel in panels[-1]:
        panel.set_xlabel("t (runs from 1 to 0)")
    panels[0][0].legend(fontsize=7, title="run –   oracle - -   beta ···", title_fontsize=7)
    drawing.savefig(path, dpi=100)


def table(results: dict) -> str:
    """Delays in thousandths of T with intervals, and correlations."""
    lines = [
        "| method, signal, measure | part | delay to oracle, T/1000 | correlation "
        "| delay to beta, T/1000 | correlation |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for key, rows in results["curves"].items():
        for part, row in rows.items():
            cells = [
                f"{1000 * row[n]['mean']:+.0f} ({1000 * row[n]['low']:+.0f} to "
                f"{1000 * row[n]['high']:+.0f})"
                if n.startswith("delay")
                else f"{row[n]['mean']:.2f}"
                for n in ("delay", "correlation", "delay_beta", "correlation_beta")
                if n in row
            ]
            cells = ["-"] * (4 - len(cells)) + cells
            lines.append(f"| {key.replace('/', ', ')} | {part} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def measure_all(args: argparse.Namespace) -> dict:
    """Restore everything and summarise."""
    held_out, methods = HeldOut(args), load_methods(args)
    for method in methods:
        if method.pipe is None:
            raise ValueError(f"expected bridges, got {method.name}")
    collected = Collected()
    with tqdm(total=len(held_out) * len(held_out.kinds) * len(methods), unit="run") as bar:
        for crop in held_out.crops():
            for kind in held_out.kinds:
                for method in methods:
                    for key, (run, oracle) in follow(method, crop, kind, args.runs).items():
                        collected.add((method.name, *key), crop.key, run, oracle)
                    bar.update()
    return {
        "t": run.t.tolist(),
        "photos": len(held_out.photos),
        "masks": list(held_out.kinds),
        "methods": {method.name: method.settings for method in methods},
        "curves": collected.summary(),
    }


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser("train.mismatch", __doc__, masks="center,narrow")
    options.add_argument("--methods", default="synchronous,asyncdsb", help="see train.methods")
    options.add_argument("--runs", type=int, default=4, help="runs of the oracle per restoration")
    return options


def run(args: argparse.Namespace) -> dict:
    """Measure, write ``mismatch.json``, ``.md`` and ``.png``, return the results."""
    results = measure_all(args)
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    write_atomic(args.out / "mismatch.json", lambda p: p.write_text(text, "utf-8"))
    write_atomic(args.out / "mismatch.md", lambda p: p.write_text(table(results), "utf-8"))
    write_atomic(args.out / "mismatch.png", lambda p: figure(results, p))
    print(table(results))
    return results


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    args = parser().parse_args(argv)
    return guarded("train.mismatch", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
