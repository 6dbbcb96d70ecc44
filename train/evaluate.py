"""Compare restorations with the truth: ``python -m train.evaluate --data PHOTOS -o OUT``.

Crops, masks and seeds follow :mod:`train.judge.protocol`; the methods are those of
:mod:`train.judge.methods`. Unless it is told otherwise, the crops have the side that the weights
were trained for, one of the whole centred square for weights for portraits, four for others.

Reported for each kind of mask and each method: PSNR and SSIM over the whole crop and over the hole
alone, LPIPS (AlexNet, v0.1), how much the hole's border stands out
(:func:`asyncdsb.measure.metrics.seam`, in grey levels), and the Frechet and kernel distances
between the restored and the true crops and the Inception score of the restored ones, on
EfficientNet-Lite2 features: not FID, KID and IS, which ``--inception`` adds. Two gauges of what a
bridge invents by itself stand in a table of their own, see :mod:`train.judge.scores`. Distances
between sets are comparable only at equal n. Means come with a 95 % interval from a bootstrap over
photos. PSNR counts at most 100 dB per crop, so that one perfect crop does not make the mean
infinite.

Each restored crop is kept as a PNG under ``OUT/restored``, under a name that depends on its
pixels, its mask and everything that decides its restoration, with its scores and features beside
it; a run that was interrupted, or extended by methods, masks or photos, does only what is missing,
and ends with the same numbers as one that was not. ``accelerate launch -m train.evaluate ...``
shares the crops among processes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from asyncdsb.measure.perceptual import INCEPTION_FILE, FeatureExtractor
from asyncdsb.photo.images import read_image, write_atomic
from train.judge.intervals import clustered_mean, set_scores
from train.judge.methods import Method, gradient_picture, held_out_of, load_methods, to_batch
from train.judge.protocol import Crop
from train.judge.report import (
    chart,
    contact_sheet,
    difference_table,
    gauge_table,
    legend,
    markdown_table,
    publish,
    ratio_table,
    wide_table,
)
from train.judge.scores import SCORES, SUMS, Judges, first_errors, gauge_sums, gauges, paired_scores
from train.loop.options import HeldOut, held_out_parser, program, sampling
from train.loop.processes import Processes

METHODS = "bridge,bridge+patches,patch-fill,telea,navier-stokes,patchmatch"
"""What is compared by default: the bridge alone, what copied patches make of it, what they make
without it, and the other classical methods."""

CROPS = 4
"""Crops per photo by default, of photos that are not portraits."""

SCORES_VERSION = 5
"""Part of the name of kept scores: raise it when a metric changes."""


@dataclass
class Tally:
    """What is collected for one kind of mask and one method.

    Attributes:
        scores: for each crop, a number for each of :data:`train.judge.scores.SCORES`.
        features: by extractor, for each crop, its features (d,).
        sums: for each crop, its part in the gauges, see :func:`train.judge.scores.gauges`.
    """

    scores: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCORES})
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    sums: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def matrix(self, extractor: FeatureExtractor) -> np.ndarray:
        """Return the features of all crops, float64 (n, d)."""
        return np.stack(self.features[extractor.slug]).astype(np.float64)


@dataclass
class Collected:
    """All scores of an evaluation.

    Attributes:
        tallies: kind of mask -> name of method -> scores.
        truth: features of the true crops, in ``truth.features``.
        photos: for each crop, its photo.
        names: for each crop, its name.
        side: of the crops in pixels.
    """

    tallies: dict[str, dict[str, Tally]]
    truth: Tally = field(default_factory=Tally)
    photos: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    side: int = 0


def restore_and_score(
    crops: Iterable[Crop],
    methods: Sequence[Method],
    kinds: Sequence[str],
    folder: Path,
    batch: int,
    judges: Judges,
    share: tuple[int, int] = (0, 1),
    progress: tqdm | None = None,
) -> None:
    """Restore crops with all methods, score them, and keep both on disk.

    Args:
        crops: see :func:`train.judge.protocol.iter_crops`; consumed batch by batch.
        methods: at least one.
        kinds: kinds of mask.
        folder: where everything is kept.
        batch: crops per batch.
        judges: see :class:`train.judge.scores.Judges`.
        share: (i, n): of every n batches, only the i-th is done.
        progress: counts restored crops.
    """
    index, count = share
    for number, chunk in enumerate(_batched(crops, batch)):
        if number % count != index:
            continue
        _keep_truth(chunk, folder, judges)
        for kind in kinds:
            for method in methods:
                _keep(chunk, kind, method, folder, judges)
                if progress is not None:
                    progress.update(len(chunk))


def collect(
    crops: Iterable[Crop],
    methods: Sequence[Method],
    kinds: Sequence[str],
    folder: Path,
    judges: Judges,
) -> Collected:
    """Read what :func:`restore_and_score` kept for the same arguments."""
    found = Collected({kind: {method.name: Tally() for method in methods} for kind in kinds})
    for crop in crops:
        found.photos.append(crop.key)
        found.names.append(crop.name)
        found.side = len(crop.pixels)
        _add_features(found.truth, _truth_file(folder, crop), judges)
        for kind in kinds:
            for method in methods:
                tally, path = found.tallies[kind][method.name], method.cached(folder, crop, kind)
                with np.load(_scores_file(path)) as stored:
                    for name, values in tally.scores.items():
                        values.append(float(stored[name]))
                    for name in SUMS:
                        tally.sums.setdefault(name, []).append(stored[name])
                if method.pipe is not None:
                    first = np.load(_first_file(path))
                    tally.sums.setdefault("first_error", []).append(first)
                _add_features(tally, path, judges)
    return found


def _add_features(tally: Tally, path: Path, judges: Judges) -> None:
    for extractor in judges.extractors:
        vector = np.load(_features_file(path, extractor))
        tally.features.setdefault(extractor.slug, []).append(vector)


def summarise(found: Collected, judges: Judges) -> dict:
    """Means and distances of what was collected.

    Returns:
        kind -> method -> score -> :func:`train.judge.intervals.clustered_mean` result; distances
        between sets are numbers, None where there are fewer than two crops; for all methods but the
        first "lpips_difference" and, by extractor, "... difference" are those to the first;
        "first_error" and "power" are those of :func:`train.judge.scores.gauges`; "worst" is the
        name of the crop with the largest LPIPS.
    """
    return {kind: _summarise(by_method, found, judges) for kind, by_method in found.tallies.items()}


def _summarise(by_method: dict[str, Tally], found: Collected, judges: Judges) -> dict:
    summary: dict[str, dict] = {}
    first = next(iter(by_method.values()))
    for name, tally in by_method.items():
        scores: dict[str, Any] = {
            score: clustered_mean(tally.scores[score], found.photos) for score in SCORES
        }
        if tally is not first:
            pairs = zip(tally.scores["lpips"], first.scores["lpips"], strict=True)
            scores["lpips_difference"] = clustered_mean([a - b for a, b in pairs], found.photos)
        for extractor in judges.extractors:
            reference = None if tally is first else first.matrix(extractor)
            truth = found.truth.matrix(extractor)
            scores |= set_scores(tally.matrix(extractor), truth, extractor, found.photos, reference)
        scores |= gauges(tally.sums, found.side)
        scores["worst"] = found.names[int(np.argmax(tally.scores["lpips"]))]
        summary[name] = scores
    return summary


def _batched(crops: Iterable[Crop], batch: int) -> Iterator[list[Crop]]:
    chunk: list[Crop] = []
    for crop in crops:
        chunk.append(crop)
        if len(chunk) == batch:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _truth_file(folder: Path, crop: Crop) -> Path:
    digest = hashlib.sha256(crop.pixels.tobytes()).hexdigest()[:12]
    return folder / "truth" / f"{crop.name}-{digest}.png"


def _scores_file(path: Path) -> Path:
    return path.with_suffix(f".scores{SCORES_VERSION}.npz")


def _first_file(path: Path) -> Path:
    return path.with_suffix(".first.npy")


def _features_file(path: Path, extractor: FeatureExtractor) -> Path:
    return path.with_suffix(f".{extractor.slug}.npy")


def _missing(paths: Sequence[Path]) -> bool:
    """Whether any is missing.

    What is done at all is done for the whole batch: rounding differs between batches, and a result
    must not depend on where a run was interrupted.
    """
    return not all(path.exists() for path in paths)


def _keep_truth(chunk: list[Crop], folder: Path, judges: Judges) -> None:
    paths = [_truth_file(folder, crop) for crop in chunk]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    _keep_features([crop.pixels for crop in chunk], paths, judges)


def _keep_features(pictures: list[np.ndarray], paths: list[Path], judges: Judges) -> None:
    for extractor in judges.extractors:
        files = [_features_file(path, extractor) for path in paths]
        if _missing(files):
            vectors = extractor(to_batch(pictures)).astype(np.float32)
            for file, vector in zip(files, vectors, strict=True):
                write_atomic(file, partial(np.save, arr=vector))


def _keep(chunk: list[Crop], kind: str, method: Method, folder: Path, judges: Judges) -> None:
    """Restore a batch and score it, as far as that is missing on disk."""
    paths = [method.cached(folder, crop, kind) for crop in chunk]
    # Of the first estimates nothing is kept but their errors: they are taken in the same run.
    firsts = [] if method.pipe is None else [_first_file(path) for path in paths]
    if _missing(paths + firsts):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        results, errors = _results(chunk, kind, method)
        for path, result in zip(paths, results, strict=True):
            write_atomic(path, Image.fromarray(result).save)
        for path, error in zip(firsts, errors, strict=True):
            write_atomic(path, partial(np.save, arr=np.float64(error)))
    files = [_scores_file(path) for path in paths]
    features = [_features_file(path, x) for path in paths for x in judges.extractors]
    if not _missing(files + features):
        return
    restored = [_load(path) for path in paths]
    if _missing(files):
        truths = [crop.pixels for crop in chunk]
        holes = [crop.mask(kind) for crop in chunk]
        rows = paired_scores(restored, truths, holes, judges.lpips)
        parts = gauge_sums(restored, truths, holes)
        for file, row, part in zip(files, rows, parts, strict=True):
            values: dict[str, Any] = {**row, **part}
            write_atomic(file, partial(np.savez, **values))
    _keep_features(restored, paths, judges)


def _load(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def _results(crops: list[Crop], kind: str, method: Method) -> tuple[list[np.ndarray], list[float]]:
    """Return crops restored by the method, or as another program left them.

    With them, of bridges only, the squared errors of the first estimates.
    """
    masks = [crop.mask(kind) for crop in crops]
    if method.source is None:
        # What the hole shows must have no influence, so no method gets to see it.
        inputs = [crop.corrupted(kind) for crop in crops]
        seeds = [crop.noise_seed(kind) for crop in crops]
        restored, first = method.restore(inputs, masks, seeds)
        truths = [crop.pixels for crop in crops]
        return restored, [] if first is None else first_errors(first, truths, masks)
    results = []
    for crop, mask in zip(crops, masks, strict=True):
        path = method.made_elsewhere(crop, kind)
        found = np.array(read_image(path))
        if found.shape != crop.pixels.shape:
            raise ValueError(f"expected {path} of {crop.pixels.shape[:2]}, got {found.shape[:2]}")
        results.append(np.where(mask[..., None], found, crop.pixels))
    return results, []


def write_inputs(crops: Iterable[Crop], kinds: Sequence[str], folder: Path) -> int:
    """Write what other programs need: KIND/CROP.png, black in the hole, and masks/KIND/CROP.png.

    Args:
        crops: see :func:`train.judge.protocol.iter_crops`.
        kinds: kinds of mask.
        folder: created if need be.

    Returns:
        How many crops were written.
    """
    count = 0
    for crop in crops:
        for kind in kinds:
            mask = Image.fromarray(crop.mask(kind).astype(np.uint8) * 255)
            for part, picture in (("", Image.fromarray(crop.corrupted(kind))), ("masks", mask)):
                path = folder / part / kind / f"{crop.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, picture.save)
            count += 1
    return count


def draw_sheet(
    rows: Sequence[tuple[Crop, str]], methods: Sequence[Method], summary: dict, folder: Path
) -> Image.Image:
    """Return a contact sheet: input, predicted gradient, bridges, best classical method, truth.

    Args:
        rows: crop and kind of mask of each row.
        methods: as evaluated; their results are read from ``folder``.
        summary: of :func:`summarise`; the best classical method has the lowest mean LPIPS.
        folder: where restored crops are kept.
    """
    bridges = [method for method in methods if method.pipe is not None]
    others = [method for method in methods if method.source is not None]
    classical = [method for method in methods if method.classical]
    pictures = []
    for crop, kind in rows:
        mask = crop.mask(kind)
        row = [np.where(mask[..., None], np.uint8(128), crop.pixels)]
        if bridges:
            row.append(gradient_picture(bridges[0], row[0], mask))
        shown = bridges + others
        if classical:
            means = {m: summary[kind][m.name]["lpips"]["mean"] for m in classical}
            shown.append(min(classical, key=means.get))
        row += [_load(method.cached(folder, crop, kind)) for method in shown]
        pictures.append([*row, crop.pixels])
    heads = ["input"] + ["predicted gradient"] * bool(bridges)
    heads += [method.name for method in bridges + others]
    heads += ["best classical"] * bool(classical) + ["truth"]
    return contact_sheet(pictures, heads)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser("train.evaluate", __doc__, methods=METHODS)
    add = options.add_argument
    add(
        "--vary",
        action="append",
        metavar="SETTING=VALUES",
        help="try each bridge with each of these values, as steps=10,20; again for combinations",
    )
    add("--inception", metavar="FILE", help=f"{INCEPTION_FILE}, or 'download', for FID, KID and IS")
    add("--write-inputs", action="store_true", help="only write crops and masks")
    add("--sheet", type=int, default=4, help="photos on the contact sheet, 0 = no sheet")
    return options


def run(args: argparse.Namespace) -> dict:
    """Evaluate, write ``results.json``, ``results.md`` and the pictures, return the results."""
    if args.sheet < 0:
        raise ValueError(f"expected --sheet of at least 0, got {args.sheet}")
    if args.write_inputs:
        held_out = held_out_of(args, (), CROPS)
        count = write_inputs(held_out.crops(), held_out.kinds, args.out)
        print(f"wrote {count} crops and masks to {args.out}")
        return {}
    processes = Processes.started(args.device)
    args.device = processes.device
    methods = load_methods(args)
    held_out = held_out_of(args, methods, CROPS)
    # What is missing is told before the work, not after some of it.
    elsewhere = [method for method in methods if method.source is not None]
    for crop in held_out.crops() if elsewhere else ():
        for method in elsewhere:
            for kind in held_out.kinds:
                method.made_elsewhere(crop, kind)
    judges = Judges.load(args.device, args.inception)
    args.out.mkdir(parents=True, exist_ok=True)
    kinds, share = held_out.kinds, (processes.index, processes.count)
    total = len(held_out) * len(kinds) * len(methods) // processes.count
    with tqdm(total=total, unit="crop", smoothing=0.05, disable=not processes.main) as progress:
        restore_and_score(
            held_out.crops(), methods, kinds, args.out, args.batch, judges, share, progress
        )
    processes.wait()
    if not processes.main:
        return {}
    found = collect(held_out.crops(), methods, kinds, args.out, judges)
    summary = summarise(found, judges)
    results = {
        "protocol": {
            "data": [Path(path).name for path in args.data],
            "size": args.size,
            "crops_per_photo": args.crops,
            "photos": len(held_out.photos),
        },
        "settings": sampling(args),
        "methods": {method.name: method.identity for method in methods},
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
        "results": summary,
    }
    tables, draw = tables_of(summary, methods, judges), partial(chart, summary, ["lpips", "psnr"])
    publish(args.out, "results", results, tables, draw)
    if args.sheet:
        _write_sheets(held_out, methods, summary, args)
    return results


def tables_of(summary: dict, methods: Sequence[Method], judges: Judges) -> str:
    """Return all tables of an evaluation, Markdown."""
    set_names = [name for extractor in judges.extractors for name in extractor.names]
    distances = [name for extractor in judges.extractors for name in extractor.names[:2]]
    first = methods[0]
    tables = [legend(summary), markdown_table(summary, set_names)]
    tables += [gauge_table(summary), wide_table(summary, ["lpips", *set_names])]
    if len(methods) > 1:
        tables.append(difference_table(summary, first.name, ["lpips", *distances[::2]]))
    if first.pipe is not None and any(method.classical for method in methods):
        enough = all(scores[first.name][distances[0]] is not None for scores in summary.values())
        tables.append(ratio_table(summary, first.name, ["lpips", *distances[:1]][: 1 + enough]))
    return "\n".join(tables)


def _write_sheets(
    held_out: HeldOut, methods: Sequence[Method], summary: dict, args: argparse.Namespace
) -> None:
    kinds = held_out.kinds
    worst = {(summary[kind][methods[0].name]["worst"], kind) for kind in kinds}
    sheets = {
        "sheet.png": [(crop, kind) for crop in held_out.first(args.sheet) for kind in kinds],
        "worst.png": [
            (crop, kind)
            for crop in held_out.crops()
            for kind in kinds
            if (crop.name, kind) in worst
        ],
    }
    for name, rows in sheets.items():
        write_atomic(args.out / name, draw_sheet(rows, methods, summary, args.out).save)


main = program(parser, run)

if __name__ == "__main__":
    sys.exit(main())
