"""A look at held-out photos during training: scores, their curves, and which weights are best."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asyncdsb.gradient import GradientCompletion
from asyncdsb.measure.metrics import frechet_distance
from asyncdsb.photo.images import write_atomic
from asyncdsb.pipeline import AsyncDSBPipeline
from train.data.sources import find_photos
from train.judge.methods import bridge_method
from train.judge.protocol import Crop, iter_crops
from train.judge.scores import GOOD_POWER, Judges, companded_maps, gauges, restore, score, stacked

KINDS = ("center", "half", "wide", "narrow")  # Masks of the held-out crops.
PHOTOS = 48  # Most photos of a validation; of more, as many are taken at even distances.
STEPS = 20  # Sampling steps of a validation.
BATCH = 9  # Crops restored at once; results do not depend on it.
DIGITS = 5  # Decimal places of the scores that are kept.


class RestorationValidator:
    """Restores one crop of held-out photos with every mask, always at the same seeds."""

    def __init__(self, pipe: AsyncDSBPipeline, paths: Sequence[str]):
        self.pipe = pipe
        self.crops = _crops(paths, pipe.config.resolution)
        self.judges = Judges.load(pipe.device)
        self.truth = stacked([self.judges.features([crop.pixels])[0] for crop in self.crops])

    def __call__(self) -> dict[str, float]:
        """Mean scores and gauges as "KIND/SCORE", "KIND/power/BAND"; "score" is the mean LPIPS."""
        # What is copied from the known part says nothing about the network.
        settings = {"steps": STEPS, "sampler": self.pipe.samplers[0], "finish": "none"}
        method = bridge_method("present", self.pipe, "", settings)
        (slug,) = self.truth
        record: dict[str, Any] = {}
        for kind in KINDS:
            rows = []
            for start in range(0, len(self.crops), BATCH):
                chunk = self.crops[start : start + BATCH]
                rows += score(*restore(chunk, kind, method), chunk, kind, self.judges)
            found = stacked(rows)
            names = ("lpips", "psnr", "ssim", "seam_step")
            ratios = {name: float(found[name].mean()) for name in names}
            gauge = gauges(found, self.pipe.config.resolution)
            ratios["first_error"] = gauge["first_error"]
            ratios |= {f"power/{band}": ratio for band, ratio in gauge["power"].items()}
            if len(rows) > 1:
                ratios["frechet"] = frechet_distance(found[slug], self.truth[slug])
            record |= {f"{kind}/{name}": v for name, v in ratios.items() if v is not None}
        record["score"] = float(np.mean([record[f"{kind}/lpips"] for kind in KINDS]))
        return record


class GradientValidator:
    """Completes the gradient map of one crop of held-out photos with every mask.

    Crops have ``size`` pixels a side.
    """

    def __init__(
        self,
        model: GradientCompletion,
        paths: Sequence[str],
        size: int,
        device: torch.device | str,
    ):
        self.model, self.device = model, device
        self.crops = _crops(paths, size)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Mean over crops, in the hole, of the companded maps' absolute error and correlation."""
        self.model.eval()
        record = {}
        for kind in KINDS:
            maps = [companded_maps(self.model, crop, kind, self.device) for crop in self.crops]
            errors = [float((found - truth).abs().mean()) for found, truth, _ in maps]
            record[f"{kind}/l1"] = float(np.mean(errors))
            record[f"{kind}/correlation"] = float(np.nanmean([one[2] for one in maps]))
        self.model.train()
        record["score"] = float(np.mean([record[f"{kind}/l1"] for kind in KINDS]))
        return record


def add_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, without those that were cut."""
    records = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def keep_lines(path: Path, last: int) -> None:
    """Drop records of steps beyond ``last``, and a line that was cut, from a file of JSON lines."""
    if path.exists():
        records = [record for record in read_lines(path) if record["step"] <= last]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomic(path, lambda p: Path(p).write_text(text, "utf-8"))


def held_out_records(out: Path) -> list[dict]:
    """The records of ``validation.json`` in a run folder, in the order of their steps."""
    path = out / "validation.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def keep_scores(out: Path, step: int, scores: dict[str, float]) -> None:
    """Replace the records from this step on in ``validation.json`` and redraw ``curves.png``."""
    records = [record for record in held_out_records(out) if record["step"] < step]
    records.append({"step": step} | {name: round(value, DIGITS) for name, value in scores.items()})
    text = json.dumps(records, indent=1) + "\n"
    write_atomic(out / "curves.png", lambda p: _curves(records, out, p))
    write_atomic(out / "validation.json", lambda p: Path(p).write_text(text, "utf-8"))


def _curves(records: list[dict], out: Path, path: Path) -> None:
    """Loss and every held-out score over the steps, and the last record's power over the bands."""
    from matplotlib.figure import Figure

    last, log = records[-1], read_lines(out / "log.jsonl")
    names = list(dict.fromkeys(key.split("/")[1] for key in last if "/" in key))
    figure = Figure(figsize=(4 * (1 + len(names)), 3.2), layout="constrained")
    first, *panels = figure.subplots(1, 1 + len(names))
    loss = "loss" if "loss" in log[0] else "l1"
    first.plot([r["step"] for r in log], [r[loss] for r in log], lw=0.8)
    first.set(title=f"training {loss}", xlabel="step")
    for panel, name in zip(panels, names, strict=True):
        panel.set(title=f"held-out {name}", xlabel="step")
        if name == "power":
            panel.axhspan(*GOOD_POWER, alpha=0.15)
            panel.set(title=f"held-out power, step {last['step']}", xlabel="cycles per picture")
        for kind in KINDS:
            start = f"{kind}/{name}"
            lines: dict[Any, float] = {r["step"]: r[start] for r in records if start in r}
            if name == "power":
                lines = {k.split("/")[2]: v for k, v in last.items() if k.startswith(f"{start}/")}
            panel.plot(list(lines), list(lines.values()), marker=".", label=kind)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def _crops(paths: Sequence[str], size: int) -> list[Crop]:
    """The first crop of each photo, of at most :data:`PHOTOS` photos."""
    photos = find_photos(paths)
    places = np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int)
    return list(iter_crops(((photos[n].key, photos[n].read()) for n in places), 1, size))
