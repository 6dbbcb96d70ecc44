"""Crops restored by methods and scored, kept on disk, and what all of them add up to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from asyncdsb.photo.images import read_image, write_atomic
from train.judge.intervals import clustered_mean, set_scores
from train.judge.methods import Method, to_batch
from train.judge.protocol import Crop
from train.judge.scores import SCORES, Judges, crop_scores, first_errors, gauges

SCORES_VERSION = 6
"""Part of the name of kept scores: raise it when a metric changes."""

FIRST_ERROR = "first_error"
"""Text of a kept PNG: the squared error of the first estimate, of bridges only."""

Scores = dict[str, np.ndarray]
"""By name, the value of each crop: scores and parts of gauges as
:func:`train.judge.scores.crop_scores` has them, and features (n, d) by the extractor's slug."""


@dataclass
class Collected:
    """All scores of an evaluation.

    Attributes:
        scores: kind of mask -> name of method -> scores.
        truth: features of the true crops.
        photos: for each crop, its photo.
        names: for each crop, its name.
        side: of the crops in pixels.
    """

    scores: dict[str, dict[str, Scores]]
    truth: Scores
    photos: list[str]
    names: list[str]
    side: int


def restore(crops: Sequence[Crop], kind: str, method: Method) -> tuple[list[np.ndarray], list]:
    """Crops restored by a method, or as another program left them, uint8 (S, S, 3) each.

    With them the squared errors of the first estimates; None but for bridges.

    Raises:
        ValueError: a restoration made elsewhere is missing or of another size.
    """
    masks = [crop.mask(kind) for crop in crops]
    if method.source is None:
        # What the hole shows must have no influence, so no method gets to see it.
        inputs = [crop.corrupted(kind) for crop in crops]
        seeds = [crop.noise_seed(kind) for crop in crops]
        restored, first = method.restore(inputs, masks, seeds)
        if first is None:
            return restored, [None] * len(crops)
        return restored, first_errors(first, [crop.pixels for crop in crops], masks)
    results = []
    for crop, mask in zip(crops, masks, strict=True):
        path = method.made_elsewhere(crop, kind)
        found = np.array(read_image(path))
        if found.shape != crop.pixels.shape:
            raise ValueError(f"expected {path} of {crop.pixels.shape[:2]}, got {found.shape[:2]}")
        results.append(np.where(mask[..., None], found, crop.pixels))
    return results, [None] * len(crops)


def score(
    restored: Sequence[np.ndarray],
    errors: Sequence[float | None],
    crops: Sequence[Crop],
    kind: str,
    judges: Judges,
) -> list[dict]:
    """Score what :func:`restore` returned; each crop's part of :data:`Scores`."""
    truths, holes = [crop.pixels for crop in crops], [crop.mask(kind) for crop in crops]
    rows = crop_scores(restored, truths, holes, judges.lpips)
    for row, features, error in zip(rows, _features(restored, judges), errors, strict=True):
        row |= features | ({} if error is None else {FIRST_ERROR: error})
    return rows


def stacked(rows: Sequence[dict]) -> Scores:
    """The values of all crops, by name."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _features(pictures: Sequence[np.ndarray], judges: Judges) -> list[dict]:
    """Features of each picture by the extractor's slug."""
    found = {x.slug: x(to_batch(pictures)).astype(np.float32) for x in judges.extractors}
    return [{slug: rows[n] for slug, rows in found.items()} for n in range(len(pictures))]


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
    (index, count), source, number = share, iter(crops), -1
    while chunk := list(islice(source, batch)):
        number += 1
        if number % count != index:
            continue
        files = [_kept(_truth(folder, crop), judges) for crop in chunk]
        if _missing(files):
            _keep(files, _features([crop.pixels for crop in chunk], judges))
        for kind in kinds:
            for method in methods:
                _restore_and_score(chunk, kind, method, folder, judges)
                if progress is not None:
                    progress.update(len(chunk))


def _restore_and_score(
    chunk: list[Crop], kind: str, method: Method, folder: Path, judges: Judges
) -> None:
    """Restore a batch and score it, as far as that is missing on disk."""
    paths = [method.cached(folder, crop, kind) for crop in chunk]
    if _missing(paths):
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for path, result, error in zip(paths, *restore(chunk, kind, method), strict=True):
            # Of a first estimate nothing is kept but its error: it is taken in the same run.
            note = PngInfo()
            if error is not None:
                note.add_text(FIRST_ERROR, repr(error))
            write_atomic(path, partial(Image.fromarray(result).save, pnginfo=note))
    files = [_kept(path, judges) for path in paths]
    if _missing(files):
        texts = [Image.open(path).info for path in paths]
        errors = [float(text[FIRST_ERROR]) if FIRST_ERROR in text else None for text in texts]
        _keep(files, score([load(path) for path in paths], errors, chunk, kind, judges))


def load(path: Path) -> np.ndarray:
    """A kept restoration, uint8 (S, S, 3)."""
    return np.array(Image.open(path).convert("RGB"))


def _missing(paths: Sequence[Path]) -> bool:
    """Whether any is missing.

    What is done at all is done for the whole batch: rounding differs between batches, and a result
    must not depend on where a run was interrupted.
    """
    return not all(path.exists() for path in paths)


def _truth(folder: Path, crop: Crop) -> Path:
    digest = hashlib.sha256(crop.pixels.tobytes()).hexdigest()[:12]
    return folder / "truth" / f"{crop.name}-{digest}.png"


def _kept(path: Path, judges: Judges) -> Path:
    """Where the scores of a picture by these judges lie."""
    return path.with_suffix(".".join(["", str(SCORES_VERSION), *judges.slugs, "npz"]))


def _keep(files: Sequence[Path], rows: Sequence[dict]) -> None:
    for file, row in zip(files, rows, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, partial(np.savez, **row))


def collect(
    crops: Iterable[Crop],
    methods: Sequence[Method],
    kinds: Sequence[str],
    folder: Path,
    judges: Judges,
) -> Collected:
    """Read what :func:`restore_and_score` kept for the same arguments."""

    def read(path: Path) -> dict:
        with np.load(_kept(path, judges)) as values:
            return dict(values)

    rows: dict[str, dict[str, list[dict]]] = {k: {m.name: [] for m in methods} for k in kinds}
    truth, photos, names, side = [], [], [], 0
    for crop in crops:
        photos.append(crop.key)
        names.append(crop.name)
        side = len(crop.pixels)
        truth.append(read(_truth(folder, crop)))
        for kind in kinds:
            for method in methods:
                rows[kind][method.name].append(read(method.cached(folder, crop, kind)))
    scores = {k: {name: stacked(row) for name, row in found.items()} for k, found in rows.items()}
    return Collected(scores, stacked(truth), photos, names, side)


def summarise(found: Collected, judges: Judges) -> dict:
    """Means and distances of what was collected.

    Returns:
        kind -> method -> score -> :func:`train.judge.intervals.clustered_mean` result; distances
        between sets are numbers, None where there are fewer than two crops; for all methods but the
        first "lpips_difference" and, by extractor, "... difference" are those to the first;
        "first_error" and "power" are those of :func:`train.judge.scores.gauges`; "worst" is the
        name of the crop with the largest LPIPS.
    """
    return {kind: _summarise(methods, found, judges) for kind, methods in found.scores.items()}


def _summarise(by_method: dict[str, Scores], found: Collected, judges: Judges) -> dict:
    summary: dict[str, dict] = {}
    first = next(iter(by_method.values()))
    for name, values in by_method.items():
        scores: dict = {score: clustered_mean(values[score], found.photos) for score in SCORES}
        if values is not first:
            difference = values["lpips"] - first["lpips"]
            scores["lpips_difference"] = clustered_mean(difference, found.photos)
        for extractor in judges.extractors:
            features = (x[extractor.slug].astype(float) for x in (values, found.truth, first))
            ours, truth, theirs = features
            reference = None if values is first else theirs
            scores |= set_scores(ours, truth, extractor, found.photos, reference)
        scores |= gauges(values, found.side)
        scores["worst"] = found.names[int(np.argmax(values["lpips"]))]
        summary[name] = scores
    return summary
