"""Crops restored by methods and scored, kept on disk, and what all of them add up to."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, product
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from asyncdsb.measure.metrics import frechet_distance, inception_score, kernel_distance
from asyncdsb.photo.images import write_atomic
from train.judge.methods import Method
from train.judge.protocol import Crop
from train.judge.scores import FIRST_ERROR, SCORES, Judges, Scores, gauges, restore, score, stacked

SCORES_VERSION = 6  # Part of the name of kept scores: raise it when a metric changes.
RESAMPLES = 2000  # Bootstrap resamples behind an interval.
SET_RESAMPLES = 200  # Bootstrap resamples behind the interval of a difference of Frechet distances.
LARGEST_SET = 600  # Sets beyond this size get no such interval: it would take hours.


def restore_and_score(
    crops: Iterable[Crop],
    methods: list[Method],
    kinds: Sequence[str],
    folder: Path,
    batch: int,
    judges: Judges,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Restore and score crops; of a share (i, n), the i-th of every n batches."""
    source = iter(crops)
    batches = iter(lambda: list(islice(source, batch)), [])
    for chunk in islice(batches, share[0], None, share[1]):
        files = [_kept(_truth(folder, crop), judges) for crop in chunk]
        # Rounding differs between batches, so a batch is done as a whole if any of it is missing.
        if not all(map(Path.exists, files)):
            _keep(files, judges.features([crop.pixels for crop in chunk]))
        for kind, method in product(kinds, methods):
            paths = [method.cached(folder, crop, kind) for crop in chunk]
            if not all(map(Path.exists, paths)):
                paths[0].parent.mkdir(parents=True, exist_ok=True)
                for path, result, error in zip(paths, *restore(chunk, kind, method), strict=True):
                    # Only the error of a first estimate is kept.
                    note = PngInfo()
                    if error is not None:
                        note.add_text(FIRST_ERROR, repr(error))
                    write_atomic(path, partial(Image.fromarray(result).save, pnginfo=note))
            files = [_kept(path, judges) for path in paths]
            if not all(map(Path.exists, files)):
                texts = [Image.open(path).info.get(FIRST_ERROR) for path in paths]
                errors = [None if text is None else float(text) for text in texts]
                _keep(files, score([load(path) for path in paths], errors, chunk, kind, judges))
            progress(len(chunk))


def load(path: Path) -> np.ndarray:
    """A kept restoration, uint8 (S, S, 3)."""
    return np.array(Image.open(path).convert("RGB"))


def _truth(folder: Path, crop: Crop) -> Path:
    digest = hashlib.sha256(crop.pixels.tobytes()).hexdigest()[:12]
    return folder / "truth" / f"{crop.name}-{digest}.png"


def _kept(path: Path, judges: Judges) -> Path:
    """Where the scores of a picture by these judges lie."""
    slugs = [extractor.slug for extractor in judges.extractors]
    return path.with_suffix(".".join(["", str(SCORES_VERSION), *slugs, "npz"]))


def _keep(files: Sequence[Path], rows: Sequence[dict]) -> None:
    for file, row in zip(files, rows, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, partial(np.savez, **row))


def summarise(
    crops: Iterable[Crop], methods: list[Method], kinds: Sequence[str], folder: Path, judges: Judges
) -> dict:
    """Means and distances of what :func:`restore_and_score` kept for the same arguments.

    Returns:
        kind -> method -> score -> :func:`clustered_mean` result; distances between sets are
        numbers, None for a single crop; for all methods but the first "lpips_difference" and, by
        extractor, "... difference" are those to the first; "first_error" and "power" are those of
        :func:`train.judge.scores.gauges`; "worst" is the name of the crop with the largest LPIPS.
    """

    def read(path: Path) -> dict:
        with np.load(_kept(path, judges)) as values:
            return dict(values)

    rows: dict = {kind: {method.name: [] for method in methods} for kind in kinds}
    truths, photos, names = [], [], []
    for crop in crops:
        photos.append(crop.key)
        names.append(crop.name)
        truths.append(read(_truth(folder, crop)))
        for kind in kinds:
            for method in methods:
                rows[kind][method.name].append(read(method.cached(folder, crop, kind)))
    truth, side = stacked(truths), len(crop.pixels)
    summary: dict[str, dict[str, dict]] = {kind: {} for kind in kinds}
    for kind in kinds:
        first: Scores | None = None
        for name, found in rows[kind].items():
            values = stacked(found)
            scores: dict = {score: clustered_mean(values[score], photos) for score in SCORES}
            if first:
                difference = values["lpips"] - first["lpips"]
                scores["lpips_difference"] = clustered_mean(difference, photos)
            for extractor in judges.extractors:
                ours, wanted = (x[extractor.slug].astype(float) for x in (values, truth))
                frechet, kernel, inception = extractor.names
                scores |= dict.fromkeys(extractor.names)
                if len(photos) > 1:
                    scores[frechet] = frechet_distance(ours, wanted)
                    scores[kernel] = kernel_distance(ours, wanted)
                    scores[inception] = inception_score(extractor.logits(ours))
                if first and len(set(photos)) > 1 and len(photos) <= LARGEST_SET:
                    theirs = first[extractor.slug].astype(float)
                    interval = frechet_difference(ours, theirs, wanted, photos)
                    scores[f"{frechet} difference"] = interval
            scores |= gauges(values, side)
            scores["worst"] = names[int(np.argmax(values["lpips"]))]
            summary[kind][name] = scores
            first = first or values
    return summary


def ends(drawn: Sequence[float] | np.ndarray) -> np.ndarray:
    """Both ends of the middle 95 %, (2,)."""
    return np.quantile(drawn, (0.025, 0.975))


def clustered_mean(values: Sequence[float] | np.ndarray, groups: Sequence[str]) -> dict:
    """Mean of one number per crop with a 95 % interval from a bootstrap over groups, the photos.

    Crops of one photo resemble each other, so whole photos are resampled, not crops. ``{"mean",
    "low", "high", "n", "groups"}``; low and high are None for a single group.
    """
    names, member = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(member, weights=np.asarray(values, float)), np.bincount(member)
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    low, high = ends(sums[drawn].sum(1) / counts[drawn].sum(1)).tolist()
    if len(names) == 1:
        low = high = None
    mean = float(sums.sum() / counts.sum())
    return {"mean": mean, "low": low, "high": high, "n": len(values), "groups": len(names)}


def frechet_difference(
    first: np.ndarray, second: np.ndarray, truth: np.ndarray, groups: Sequence[str]
) -> dict[str, float]:
    """Frechet distance of one method minus that of another, with a 95 % bootstrap interval.

    Whole photos are drawn with replacement, the same for both methods and the truth. Because a
    Frechet distance is biased upwards in small sets, the drawn differences are shifted, by their
    mean, onto the measured one, "mean". Features are (n, d); groups are photos, at least two.
    """
    names, member = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(member == index) for index in range(len(names))]
    rng = np.random.default_rng(0)
    measured = frechet_distance(first, truth) - frechet_distance(second, truth)
    drawn = []
    for _ in range(SET_RESAMPLES):
        chosen = np.concatenate([rows[i] for i in rng.integers(len(names), size=len(names))])
        a, b, c = first[chosen], second[chosen], truth[chosen]
        drawn.append(frechet_distance(a, c) - frechet_distance(b, c))
    low, high = measured - np.mean(drawn) + ends(drawn)
    return {"mean": measured, "low": float(low), "high": float(high)}
