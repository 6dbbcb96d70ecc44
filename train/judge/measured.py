"""The model card that lies beside exported weights."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from asyncdsb.measure.perceptual import EfficientNetFeatures
from asyncdsb.store.card import Facts, model_card
from train.judge.report import classical, gauge_table, ratio_table

OURS = "bridge"  # Name of our method in an evaluation: the bridge alone, without copied patches.
WORST = "worst.webp"  # Picture of the worst cases, beside the card.


def measured_card(
    facts: Facts,
    manifest: Path | None,
    results: Path | None,
    notes: str = "",
    licence: str | None = None,
) -> str:
    """Write the card of weights with what they were trained on and what they reach.

    Args:
        facts: of the weights, with those of both trainings.
        manifest: CSV with the columns key, split, source, licence, one row a photo; the rows whose
            split is the stem of a shard's name, less its number, were trained on. None leaves the
            table of photos out.
        results: folder that :mod:`train.evaluate` wrote; None leaves the measurements out.
        notes: Markdown on where the weights fail.
        licence: see :func:`asyncdsb.store.card.model_card`.
    """
    parts = [
        model_card(facts, licence),
        "All settings: `train/presets.py`; what was tried: `train/LOG.md`.\n",
    ]
    if manifest is not None:
        parts.append(_photos(facts, manifest))
    if results is not None:
        parts.append(measured(results))
    if notes or results is not None:
        parts.append("## Where it fails\n")
    if notes:
        parts.append(notes.strip() + "\n")
    if results is not None and (Path(results) / "worst.png").exists():
        parts.append(
            "For each kind of mask the held-out crop with the largest LPIPS, from the input on the "
            f"left to the truth on the right.\n![The worst held-out crop of each mask]({WORST})\n"
        )
    return "\n".join(parts)


def _photos(facts: Facts, manifest: Path) -> str:
    shards = {name for training in facts.training.values() for name in training.get("photos", [])}
    splits = {Path(name).stem.rsplit("-", 1)[0] for name in shards}
    with open(manifest, encoding="utf-8", newline="") as file:
        used = [row for row in csv.DictReader(file) if row["split"] in splits]
    found = Counter((row["source"], row["licence"]) for row in used)
    rows = [f"| {source} | {n} | {licence} |\n" for (source, licence), n in found.most_common()]
    return (
        f"{sum(found.values())} photographs ({', '.join(sorted(splits))}):\n\n"
        "| source | photographs | licence |\n| --- | ---: | --- |\n"
    ) + "".join(rows)


def measured(folder: Path) -> str:
    """The card's part on an evaluation; ValueError if the bridge alone was not evaluated."""
    results = json.loads((Path(folder) / "results.json").read_text("utf-8"))
    summary = results["results"]
    names = next(iter(summary.values()))
    if OURS not in names:
        raise ValueError(
            f"expected the method {OURS} in {folder}/results.json, got {', '.join(names)}"
        )
    protocol, settings = results["protocol"], results["settings"]
    count = protocol["photos"] * protocol["crops_per_photo"]
    crops = "1 crop" if protocol["crops_per_photo"] == 1 else f"{protocol['crops_per_photo']} crops"
    sampling = (
        f"{settings['steps']} {settings['sampler']} steps, tau from {settings['tau_min']} to "
        f"{settings['tau_max']}"
    )
    # One crop has no distance between sets.
    distance = EfficientNetFeatures.names.frechet
    scores, distance_text, share_text = ["lpips"], "", ""
    if all(methods[OURS][distance] is not None for methods in summary.values()):
        scores.append(distance)
        distance_text = (
            ", and the Frechet distance on EfficientNet-Lite2 features, which is not FID and "
            "comparable only at the same n"
        )
    if others := classical(summary):
        share_text = (
            "; the share is that of the bridge alone over the best classical method "
            f"({', '.join(others)})"
        )
    return (
        "## Measured\n\n"
        f"Held out: {protocol['photos']} photographs, {crops} of {protocol['size']} pixels each "
        f"(n = {count}), masks and noise at fixed seeds "
        f"(`train/judge/protocol.py`); {sampling}. LPIPS (AlexNet) with 95 % intervals from a "
        f"bootstrap over photographs{distance_text}. Lower is better{share_text}.\n\n"
        + ratio_table(summary, OURS, scores)
        + "\n"
        + gauge_table({kind: {OURS: methods[OURS]} for kind, methods in summary.items()})
    )
