"""The paper's claims, measured: every number and figure of the report, by one command.

python -m train.claims --data HELD_OUT --models runs/matched -o OUT

Restores held-out photos with matched models (``--models``: a folder that holds weights of the
presets i2sb, i2sb-gradient, asyncdsb and bbdm by these names, the same network, photos, seeds and
steps; they differ in the schedule and in what they see) and with the bundled weights, and writes
``REPORT.md`` with its tables and figures. What is restored is kept under ``--work``: a run that was
interrupted does only what is missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from asyncdsb.measure.perceptual import EfficientNetFeatures
from asyncdsb.photo.images import write_atomic
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.bundled import BUNDLED_NAMES
from asyncdsb.store.checkpoint import load_weights
from train import evaluate, figures, mismatch, tau_grid
from train.judge.report import difference, markdown_table, ratio_table, wide_table
from train.loop.options import guarded

ASYNC, I2SB_GRADIENT, I2SB, BBDM = "AsyncDSB", "I2SB+gradient", "I2SB", "BBDM-style"
MATCHED = {ASYNC: "asyncdsb", I2SB_GRADIENT: "i2sb-gradient", I2SB: "i2sb", BBDM: "bbdm"}
"""Matched models, by their folder."""

CLASSICAL = "patch-fill,telea,navier-stokes,patchmatch"
FD = EfficientNetFeatures.names.frechet
SET_NAMES = EfficientNetFeatures.names

FULL = {
    "matched": "--crops 4 --steps 20 --batch 27",
    "schedules": "--size 256 --crops 4",
    "grid": "--size 128 --masks center,wide,1-10%,11-20%,21-30%,31-40% --batch 9",
    "mismatch": "--steps 50 --masks center,wide --runs 4",
    "bundled-mismatch": "--size 128 --steps 20 --masks center,wide --runs 4",
    "figures": "--size 256 --steps 48 --photos 2",
}
"""Options of each part."""

QUICK = {
    "matched": "--crops 1 --steps 2 --limit 2",
    "schedules": "--size 64 --crops 1 --steps 2 --limit 2",
    "grid": "--size 64 --steps 1 --points 3 --limit 2 --masks center,1-10%",
    "mismatch": "--steps 4 --masks center --runs 2 --limit 2",
    "bundled-mismatch": "--size 64 --steps 4 --masks center --runs 2 --limit 2",
    "figures": "--size 64 --steps 6 --photos 1",
}
"""The same in a minute, on two photos: to see that everything runs, not to learn from it."""


ANSWERS = ("yes", "the opposite", "no difference shown")
"""What a comparison can say to a claim."""


def verdict(found: Mapping | None) -> str:
    """What a difference to AsyncDSB says: positive, with its whole interval, is in its favour."""
    if found is None or found["low"] is None or found["low"] <= 0 <= found["high"]:
        return ANSWERS[2]
    return ANSWERS[0] if found["low"] > 0 else ANSWERS[1]


class Report:
    """Runs the parts and writes them down.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.out, self.work, self.models = args.out, args.work, args.models
        self.plan = QUICK if args.quick else FULL
        self.weights = args.weights
        self.common = ["--data", *args.data, "--weights", args.weights, "--device", args.device]
        # The claims are about the bridge, not about what is copied when it has arrived.
        self.common += ["--finish", "none", "--grid", "uniform"]
        self.lines: list[str] = []

    def options(self, part: str, methods: str) -> list[str]:
        """The command line of a part."""
        own = [*self.plan[part].split(), "--methods", methods, "-o", str(self.work / part)]
        return self.common + own

    def matched(self, *names: str) -> str:
        """The matched models by name, as ``--methods`` takes them."""
        return ",".join(
            f"{name}={self.models / MATCHED[name]}"
            + ("" if name == ASYNC else "?tau_min=0.5&tau_max=0.5")
            for name in names
        )

    def say(self, *paragraphs: str) -> None:
        """Add paragraphs or tables."""
        self.lines += [paragraph.rstrip("\n") + "\n" for paragraph in paragraphs]

    def show(self, part: str, file: str, text: str) -> None:
        """Copy a figure of a part and show it."""
        shutil.copyfile(self.work / part / file, self.out / f"{part}-{file}")
        self.say(f"![{text}]({part}-{file})", f"*{text}*")

    def write(self) -> None:
        """Measure everything, then write the report."""
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"expected a folder for the report, got the file {self.out}")
        self.out.mkdir(parents=True, exist_ok=True)
        self.head()
        opening = len(self.lines)
        verdicts = [*self.tables_1_and_3(), *self.schedules(), *self.grid(), *self.mismatch()]
        self.pictures()
        self.lines[opening:opening] = ["## In short\n", in_short(verdicts)]
        self.say(
            "## All in one table",
            "`yes`: the whole 95 % interval of the difference supports the claim; `the opposite`: "
            "the whole interval contradicts it; otherwise no difference is shown.",
            claims_table(verdicts),
        )
        text = "\n".join(self.lines)
        write_atomic(self.out / "REPORT.md", lambda p: p.write_text(text, "utf-8"))

    def head(self) -> None:
        """What is compared, on what."""
        rows = ["| model | steps | samples | minutes | device | crops |"]
        rows.append("| --- | ---: | ---: | ---: | --- | ---: |")
        for name, folder in MATCHED.items():
            facts = [
                str(self._training(folder).get(fact, "-"))
                for fact in ("steps", "samples", "minutes", "device", "crop_size")
            ]
            rows.append(f"| {name} | " + " | ".join(facts) + " px |")
        source = self.weights
        bundled = AsyncDSBPipeline.from_pretrained(source).training["bridge"]
        self.say(
            "# The paper's claims, measured",
            "Does asynchrony help, where, and by how much? This report answers with the paper's "
            "own tables and figures, on models that anybody can train on a desktop processor. "
            "It is written by `python -m train.claims --data HELD_OUT --models MODELS -o OUT`, "
            "sentences about results included; nothing was selected.",
            "Two kinds of models are compared:",
            "- **Matched models**, trained for this report alone: same network (1.8M parameters), "
            "photographs, order of the data, seed, number of steps. They differ in the schedule "
            f"and in what the network sees. {ASYNC}: tau from 0.2 to 0.5 by the completed "
            "gradient; the network sees the mask, the gradient and the clock of every pixel, which "
            f"tells it the noise there. {I2SB_GRADIENT}: tau = 0.5 everywhere, the network sees "
            f"the same (the paper's Table 3). {I2SB}: without gradient and clock. {BBDM}: as "
            f"{I2SB}, with constant beta, M = 2, and no noise in the start. The first three start "
            "from noise in the hole, as I2SB does.\n"
            "- **The bundled weights**, one network trained for any (tau_min, tau_max), which "
            "can run both schedules itself "
            f"({bundled.get('samples', '-')} samples); without copied patches.",
            "\n".join(rows) + "\n",
            "These are small trainings: the paper's networks see millions of photographs. What is "
            "found here holds for networks like these; it neither proves nor refutes the "
            "paper's figures for CelebA-HQ and Places2. Lower is better for LPIPS and for "
            f"{FD}, a Frechet distance on other features than FID's: its values cannot be "
            "compared with published FIDs. Intervals are 95 %, from a bootstrap over "
            "photographs. Bold differences exclude zero.",
        )

    def _training(self, folder: str) -> dict:
        """What a matched model's weights say about their training."""
        return load_weights(self.models / folder, "bridge")[1]

    def tables_1_and_3(self) -> list[tuple[str, str, list[str]]]:
        """Methods by masks and metrics, and the comparison at equal conditions."""
        size = self._size()
        command = self.options("matched", f"{self.matched(*MATCHED)},{CLASSICAL}")
        results = evaluate.run(evaluate.parser().parse_args([*command, "--size", str(size)]))
        summary, protocol = results["results"], results["protocol"]
        count = protocol["photos"] * protocol["crops_per_photo"]
        steps = results["settings"]["steps"]
        self.say(
            "## Table 1: methods, masks, metrics",
            f"{protocol['photos']} held-out photographs, n = {count} crops of {size} pixels per "
            f"mask, {steps} steps of the posterior sampler. Best of a column bold, second "
            "underlined.",
            wide_table(summary, ["lpips", FD]),
            wide_table(summary, ["psnr", SET_NAMES.score]),
            "<details><summary>Every score with its interval</summary>",
            markdown_table(summary, SET_NAMES),
            "</details>",
        )
        self.show("matched", "results.png", "LPIPS and PSNR of all methods, with intervals")
        self.say(
            "How far the matched models have come: AsyncDSB beside the best classical method. "
            "Where the share is above 1, the training was too short to reach even that, and the "
            "comparison of schedules is one of an early phase of training.",
            ratio_table(summary, ASYNC, ["lpips", FD]),
        )
        rows = ["| minus AsyncDSB | mask | LPIPS | " + FD + " |", "| --- | --- | ---: | ---: |"]
        answers = []
        for other, title in (
            (I2SB_GRADIENT, "Table 3: AsyncDSB is better than I2SB that sees the gradient"),
            (I2SB, "Table 1: AsyncDSB is better than I2SB"),
        ):
            found: dict[str, dict] = {}
            for kind, scores in summary.items():
                lpips = scores[other]["lpips_difference"]
                distance = scores[other].get(f"{FD} difference")
                found |= {f"{kind}, LPIPS": lpips, f"{kind}, {FD}": distance}
                rows.append(
                    f"| {other} | {kind} | {difference(lpips, 4)} | {difference(distance, 1)} |"
                )
            answers.append((title, "matched models", _answers(found)))
        self.say(
            "## Table 3: the same condition, another schedule",
            "What the other method has more than AsyncDSB, on the same crops: positive means that "
            "AsyncDSB is better.",
            "\n".join(rows) + "\n",
        )
        return answers

    def _size(self) -> int:
        return int(self._training(MATCHED[ASYNC])["crop_size"])

    def schedules(self) -> list[tuple[str, str, list[str]]]:
        """One network with both schedules."""
        command = self.options("schedules", f"asyncdsb,synchronous,{CLASSICAL}")
        results = evaluate.run(evaluate.parser().parse_args(command))
        summary, protocol = results["results"], results["protocol"]
        count = protocol["photos"] * protocol["crops_per_photo"]
        rows = ["| mask | LPIPS | PSNR | " + FD + " |", "| --- | ---: | ---: | ---: |"]
        found = {}
        for kind, scores in summary.items():
            ours, other = scores["asyncdsb"], scores["synchronous"]
            found[f"{kind}, LPIPS"] = other["lpips_difference"]
            found[f"{kind}, {FD}"] = other.get(f"{FD} difference")
            rows.append(
                f"| {kind} | {difference(other['lpips_difference'], 4)} "
                f"| {other['psnr']['mean'] - ours['psnr']['mean']:+.2f} "
                f"| {difference(found[f'{kind}, {FD}'], 1)} |"
            )
        self.say(
            "## One network, both schedules",
            f"The bundled weights at {protocol['size']} pixels, n = {count}, "
            f"{results['settings']['steps']} steps: tau = 0.5 everywhere minus tau from 0.2 to "
            "0.5 by the gradient, same network, same noise. Positive LPIPS and distance mean that "
            "asynchrony is better.",
            "\n".join(rows) + "\n",
            wide_table(summary, ["lpips", FD]),
        )
        return [
            ("Asynchrony helps a network that can do both", "bundled weights", _answers(found)),
        ]

    def grid(self) -> list[tuple[str, str, list[str]]]:
        """Figure 6 and Table 2."""
        command = self.options("grid", "asyncdsb")
        results = tau_grid.run(tau_grid.parser().parse_args(command))
        gains = {
            kind: _minus(found["best"].get("cross_fit")) for kind, found in results["masks"].items()
        }
        self.say(
            "## Figure 6 and Table 2: which range of tau",
            f"The bundled weights, {results['crops']} crops of {results['size']} pixels per mask, "
            "over the grid of (tau_min, tau_max). The paper finds (0.2, 0.5) best for regular "
            "masks, (0.001, 0.4) for irregular ones, and larger tau the larger the hole. "
            "The best of many pairs looks better than it is on the photographs that chose it: "
            "the cross-fit chooses on one half of them and measures on the other. A later or "
            "earlier peak for all pixels alike is but another time grid, so that the best pair is "
            "also compared with the best tau that all pixels share: the rest is asynchrony. "
            "Negative differences are gains.",
            tau_grid.table(results),
        )
        self.show("grid", "tau_grid.png", "LPIPS and Frechet distance over (tau_min, tau_max)")
        over_any = {
            kind: _minus(found["best"].get("cross_fit_diagonal"))
            for kind, found in results["masks"].items()
        }
        return [
            (
                "Table 2: a range of tau chosen by the kind of hole beats tau = 0.5",
                "bundled weights",
                _answers(gains),
            ),
            (
                "A range of tau beats the best tau that all pixels share",
                "bundled weights",
                _answers(over_any),
            ),
        ]

    def mismatch(self) -> list[tuple[str, str, list[str]]]:
        """Figures 2, 3 and 7."""
        size = self._size()
        command = self.options("mismatch", self.matched(I2SB_GRADIENT, ASYNC))
        matched = mismatch.run(mismatch.parser().parse_args([*command, "--size", str(size)]))
        command = self.options("bundled-mismatch", "synchronous,asyncdsb")
        bundled = mismatch.run(mismatch.parser().parse_args(command))
        self.say(
            "## Figures 2, 3 and 7: schedule against restoration",
            "How fast each part of the hole is restored, over the time of the run, against the "
            "schedule. The paper follows the slope of SSIM and sets it against beta(t). SSIM is "
            "not linear, so that even a run whose states follow the bridge exactly departs from "
            "beta: the yardstick here is the same measure on runs of an oracle that knows the "
            "truth, with the same start, tau map and times; the delay is the distance of both "
            "centroids in thousandths of T, positive where the restoration is late. The distance "
            "to beta itself stands beside it, and the last column says by how much the size of the "
            "delay (x0_hat: of that to beta) differs from the synchronous run's. `low`, `middle` "
            "and `high` are terciles of the true gradient. The speed is that of the mean curve; "
            "where similarity changes by less than 0.01 over the run it is not defined.",
        )
        for part, results, title in (
            ("mismatch", matched, "matched models"),
            ("bundled-mismatch", bundled, "bundled weights"),
        ):
            self.say(f"### {title.capitalize()}", mismatch.table(results))
            self.show(part, "mismatch.png", f"Speed of the restoration, {title}")
        answers = []
        for results, other, title in (
            (matched, ASYNC, "matched models"),
            (bundled, "asyncdsb", "bundled weights"),
        ):
            said = [
                f"{measure} of {signal}, {part}: {_change(results, other, signal, measure, part)}"
                for signal, measure in (("x_t", "projection"), ("x_t", "ssim"), ("x0_hat", "ssim"))
                for part in ("low", "middle", "high")
            ]
            answers.append(("Figure 7: asynchrony makes the mismatch smaller", title, said))
        return answers

    def pictures(self) -> None:
        """Figures 1 and 8."""
        command = self.options("figures", "synchronous,asyncdsb")
        figures.run(figures.parser().parse_args(command))
        self.say("## Figures 1 and 8: the way of a restoration")
        self.show("figures", "schedule.png", "Figure 1: one run over its schedule")
        self.show(
            "figures", "process.png", "Figure 8: both schedules at the same seed, bundled weights"
        )


def _answers(found: Mapping[str, Mapping | None]) -> list[str]:
    """Answers of differences that are positive where AsyncDSB is better."""
    return [f"{name}: {verdict(difference)}" for name, difference in found.items()]


def _minus(found: Mapping | None) -> dict | None:
    """The difference the other way round."""
    if found is None or found["low"] is None:
        return None
    return {"low": -found["high"], "high": -found["low"]}


def _change(results: dict, method: str, signal: str, measure: str, part: str) -> str:
    """Answer to whether the delay became smaller."""
    found = results["changes"][f"{method}/{signal}/{measure}"][part]
    return verdict(_minus(found))


def in_short(verdicts: list[tuple[str, str, list[str]]]) -> str:
    """How many comparisons support each claim, contradict it, or show nothing."""
    lines = []
    for claim, on, said in verdicts:
        counts = [sum(one.endswith(f": {answer}") for one in said) for answer in ANSWERS]
        lines.append(
            f"- {claim} ({on}): supported by {counts[0]} of {len(said)} comparisons, contradicted "
            f"by {counts[1]}, no difference shown in {counts[2]}."
        )
    return "\n".join(lines) + "\n"


def claims_table(verdicts: list[tuple[str, str, list[str]]]) -> str:
    """Claim, on what, and what was found, see :func:`verdict`."""
    lines = ["| claim | on | found |", "| --- | --- | --- |"]
    lines += [f"| {claim} | {on} | {'; '.join(said)} |" for claim, on, said in verdicts]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    options = argparse.ArgumentParser(
        prog="python -m train.claims", description=__doc__.split("\n\n")[0]
    )
    options.add_argument("--data", nargs="+", required=True, help="held-out photos")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder of the report")
    options.add_argument("--models", type=Path, default=Path("runs/matched"))
    options.add_argument("--weights", default=BUNDLED_NAMES[0], help="a folder, ...")
    options.add_argument("--work", type=Path, default=Path("runs/claims"), help="what is kept")
    options.add_argument("--device", default="cpu")
    options.add_argument("--quick", action="store_true", help="two photos, to see that it runs")
    args = options.parse_args(argv)
    return guarded("train.claims", lambda: Report(args).write())


if __name__ == "__main__":
    sys.exit(main())
