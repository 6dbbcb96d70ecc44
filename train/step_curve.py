"""Quality against network evaluations: ``python -m train.step_curve --data PHOTOS -o OUT``.

Every sampler that the weights were trained for restores the same held-out crops from the same seeds
with more and more steps. The reference is the posterior sampler with ``--reference`` steps; the
first table gives every LPIPS and its ratio to that one, the second the power of what is restored
in each band of frequency over that of the truth (:mod:`train.judge.scores`).

Restored crops are kept like those of :mod:`train.evaluate`: a run that was interrupted does only
what is missing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asyncdsb.measure.metrics import frechet_distance
from train.evaluate import evaluate
from train.judge.methods import bridge_method, held_out_of, load_bridges
from train.judge.report import publish
from train.judge.scores import Judges, gauges
from train.loop.options import guarded, held_out_parser


def measure(args: argparse.Namespace) -> dict:
    """Restore with every sampler and number of steps, and summarise."""
    (chosen,) = load_bridges(args, most=1)
    held_out, judges = held_out_of(args, [chosen]), Judges.load(args.device)
    samplers = args.samplers.split(",") if args.samplers else list(chosen.pipe.samplers)
    steps = sorted({int(n) for n in args.steps_list.split(",")} | {args.reference})
    extractor = judges.extractors[0]
    rows = []
    runs = [(sampler, n) for sampler in samplers for n in steps]
    for sampler, n in tqdm(runs, unit="run"):
        settings = chosen.settings | {"sampler": sampler, "steps": n}
        method = bridge_method(f"{sampler}-{n}", chosen.pipe, chosen.identity, settings)
        found = evaluate(held_out.crops, [method], held_out.kinds, args.out, args.batch, judges)
        for kind in held_out.kinds:
            (tally,) = found.tallies[kind].values()
            row = {"sampler": sampler, "steps": n, "mask": kind}
            row["lpips"] = float(np.mean(tally.scores["lpips"]))
            row["power"] = gauges(tally.sums, found.side)["power"]
            truth = found.truth.matrix(extractor)
            if len(truth) > 1:
                row["frechet"] = float(frechet_distance(tally.matrix(extractor), truth))
            rows.append(row)
    return {
        "photos": len(held_out.photos),
        "crops": len(held_out),
        "size": args.size,
        "grid": chosen.settings["grid"],
        "reference": args.reference,
        "frechet": extractor.names.frechet,
        "rows": rows,
    }


def table(results: dict) -> str:
    """One row a sampler and number of steps: LPIPS of each mask, and its ratio to the reference."""
    rows = results["rows"]
    kinds = list(dict.fromkeys(row["mask"] for row in rows))
    at = {(row["sampler"], row["steps"], row["mask"]): row["lpips"] for row in rows}
    lines = [
        "| sampler | steps | " + " | ".join(kinds) + " |",
        "| --- | ---: |" + " ---: |" * len(kinds),
    ]
    for sampler, steps in dict.fromkeys((row["sampler"], row["steps"]) for row in rows):
        cells = []
        for kind in kinds:
            value = at[sampler, steps, kind]
            best = at.get(("posterior", results["reference"], kind))
            ratio = "" if best is None else f" ({value / best - 1:+.1%})"
            cells.append(f"{value:.3f}{ratio}")
        lines.append(f"| {sampler} | {steps} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\n" + _power_table(rows)


def _power_table(rows: list[dict]) -> str:
    """One row a sampler, number of steps and mask: ratio of power in each band."""
    bands = list(rows[0]["power"])
    lines = [
        "Power of the restored holes beyond a smooth fill over that of the true ones, by band of "
        "frequency in cycles per picture.\n",
        "| sampler | steps | mask | " + " | ".join(bands) + " |",
        "| --- | ---: | --- |" + " ---: |" * len(bands),
    ]
    for row in rows:
        values = (row["power"][band] for band in bands)
        cells = [row["sampler"], str(row["steps"]), row["mask"]]
        cells += ["-" if value is None else f"{value:.2f}" for value in values]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(results: dict, path: Path) -> None:
    """A curve for every sampler, one panel a mask."""
    from matplotlib.figure import Figure

    rows = results["rows"]
    kinds = list(dict.fromkeys(row["mask"] for row in rows))
    drawing = Figure(figsize=(3.6 * len(kinds), 3.2), layout="constrained")
    for panel, kind in zip(drawing.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for sampler in dict.fromkeys(row["sampler"] for row in rows):
            mine = [r for r in rows if r["sampler"] == sampler and r["mask"] == kind]
            panel.plot(
                [r["steps"] for r in mine], [r["lpips"] for r in mine], marker=".", label=sampler
            )
        panel.set_xscale("log")
        panel.set(title=kind, xlabel="network evaluations")
    drawing.axes[0].set_ylabel("LPIPS")
    drawing.axes[0].legend(fontsize=8)
    drawing.savefig(path, dpi=100)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser(
        "train.step_curve", __doc__, masks="center,wide,narrow", size=None, crops=None
    )
    options.add_argument("--methods", default="bridge", help="one bridge, see train.judge.methods")
    options.add_argument("--samplers", help="comma-separated; without, all that were trained for")
    options.add_argument("--steps-list", default="10,20,50,100", help="numbers of steps")
    options.add_argument("--reference", type=int, default=100, help="steps of the reference")
    return options


def run(args: argparse.Namespace) -> dict:
    """Measure, write ``step_curve.json``, ``.md`` and ``.png``, return the results."""
    return publish(args.out, "step_curve", measure(args), table, figure)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    args = parser().parse_args(argv)
    return guarded("train.step_curve", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
