"""Compare restorations with the truth: ``python -m train.evaluate --data PHOTOS -o OUT``.

Crops, masks and seeds follow :mod:`train.protocol`; the methods are those of
:mod:`train.methods`.

Reported for each kind of mask and each method: PSNR and SSIM over the whole crop and over the hole
alone, LPIPS (AlexNet, v0.1), how much the hole's border stands out (:func:`asyncdsb.metrics.seam`,
in grey levels), and the Frechet and kernel distances between the restored and the true
crops, on EfficientNet-Lite2 features: not FID, and comparable only at equal n. Means come with a
95 % interval from a bootstrap over photos. PSNR counts at most 100 dB per crop, so that one perfect
crop does not make the mean infinite.

Each restored crop is kept as a PNG under ``OUT/restored``, under a name that depends on its
pixels, its mask and everything that decides its restoration, with its scores and features beside
it; a run that was interrupted, or extended by methods, masks or photos, does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from asyncdsb.data import iter_photos
from asyncdsb.images import read_image, write_atomic
from asyncdsb.metrics import (
    FRECHET_NAME,
    KERNEL_NAME,
    FeatureNet,
    Lpips,
    frechet_distance,
    kernel_distance,
)
from asyncdsb.restoration import Settings
from asyncdsb.samplers import GRIDS
from asyncdsb.schedule import STRATEGIES
from train.methods import BRIDGE_METHODS, Method, bridge_settings, load_methods, to_batch
from train.protocol import Crop, check_kinds, iter_crops
from train.report import (
    clustered_mean,
    contact_sheet,
    difference_table,
    markdown_table,
    ratio_table,
    shade,
)
from train.scores import SCORES, Distances, Features, score_crops

PRESETS = {
    "shipped": {},
    "quick": {"crops": 1, "steps": 10, "methods": "asyncdsb,telea,navier-stokes"},
}
"""What is measured: "shipped" is the protocol of the model card, "quick" its first glance."""

SCORES_VERSION = 2
"""Part of the name of kept scores: raise it when a metric changes."""


@dataclass
class Tally:
    """What is collected for one kind of mask and one method.

    Attributes:
        scores: for each crop, a number for each of :data:`train.scores.SCORES`.
        features: for each crop, its features (d,).
    """

    scores: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in SCORES})
    features: list[np.ndarray] = field(default_factory=list)

    def add(self, path: Path) -> None:
        """Add a crop's scores from the file that :func:`_score` wrote."""
        with np.load(path) as stored:
            for name, values in self.scores.items():
                values.append(float(stored[name]))
            self.features.append(stored["features"].astype(np.float64))


def evaluate(
    crops: Iterator[Crop],
    methods: Sequence[Method],
    kinds: Sequence[str],
    folder: Path,
    batch: int,
    lpips: Distances,
    features: Features,
    progress: tqdm | None = None,
) -> dict:
    """Restore all crops with all methods and score them.

    Args:
        crops: see :func:`train.protocol.iter_crops`; consumed batch by batch.
        methods: at least one; differences of LPIPS are taken to the first.
        kinds: kinds of mask.
        folder: where restored crops are kept.
        batch: crops per batch.
        lpips: (images, truths) float32 (B, 3, H, W) in [-1, 1] -> (B,).
        features: images -> float64 (B, d).
        progress: counts restored crops.

    Returns:
        kind -> method -> score -> :func:`train.report.clustered_mean` result; the distances
        between sets are numbers, or None where there are fewer than two crops; "worst" is the name
        of the crop with the largest LPIPS.
    """
    tallies = {kind: {method.name: Tally() for method in methods} for kind in kinds}
    photos: list[str] = []
    names: list[str] = []
    true_features: list[np.ndarray] = []
    for chunk in _batched(crops, batch):
        photos += [crop.key for crop in chunk]
        names += [crop.name for crop in chunk]
        truths = to_batch([crop.pixels for crop in chunk])
        true_features.append(features(truths))
        for kind in kinds:
            for method in methods:
                for path in _score(chunk, kind, method, folder, lpips, features):
                    tallies[kind][method.name].add(path)
                if progress is not None:
                    progress.update(len(chunk))
    truth = np.concatenate(true_features)
    return {
        kind: _summarise(by_method, methods[0].name, photos, names, truth)
        for kind, by_method in tallies.items()
    }


def _batched(crops: Iterator[Crop], batch: int) -> Iterator[list[Crop]]:
    chunk: list[Crop] = []
    for crop in crops:
        chunk.append(crop)
        if len(chunk) == batch:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _restore(chunk: list[Crop], kind: str, method: Method, folder: Path) -> list[np.ndarray]:
    """Return the chunk restored, from disk where it is there, and kept there where it was not."""
    paths = [method.cached(folder, crop, kind) for crop in chunk]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if missing:
        crops = [chunk[index] for index in missing]
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        for index, result in zip(missing, _results(crops, kind, method), strict=True):
            write_atomic(paths[index], Image.fromarray(result).save)
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def _results(crops: list[Crop], kind: str, method: Method) -> list[np.ndarray]:
    """Return crops restored by the method, or as another program left them."""
    masks = [crop.mask(kind) for crop in crops]
    if method.source is None:
        # What the hole shows must have no influence, so no method gets to see it.
        inputs = [crop.corrupted(kind) for crop in crops]
        return method.restore(inputs, masks, [crop.noise_seed(kind) for crop in crops])
    results = []
    for crop, mask in zip(crops, masks, strict=True):
        path = method.made_elsewhere(crop, kind)
        found = np.array(read_image(path))
        if found.shape != crop.pixels.shape:
            raise ValueError(f"expected {path} of {crop.pixels.shape[:2]}, got {found.shape[:2]}")
        results.append(np.where(mask[..., None], found, crop.pixels))
    return results


def write_inputs(crops: Iterator[Crop], kinds: Sequence[str], folder: Path) -> int:
    """Write what other programs need: KIND/CROP.png, black in the hole, and masks/KIND/CROP.png.

    Args:
        crops: see :func:`train.protocol.iter_crops`.
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


def _score(
    chunk: list[Crop],
    kind: str,
    method: Method,
    folder: Path,
    lpips: Distances,
    features: Features,
) -> list[Path]:
    """Return the files with the chunk's scores, written beside the pictures where missing."""
    restored = _restore(chunk, kind, method, folder)
    paths = [
        method.cached(folder, crop, kind).with_suffix(f".scores{SCORES_VERSION}.npz")
        for crop in chunk
    ]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    scores = score_crops(
        [restored[index] for index in missing],
        [chunk[index].pixels for index in missing],
        [chunk[index].mask(kind) for index in missing],
        lpips,
        features,
    )
    for index, values in zip(missing, scores, strict=True):
        write_atomic(paths[index], partial(np.savez, **values))
    return paths


def _summarise(
    by_method: dict[str, Tally],
    first: str,
    photos: list[str],
    names: list[str],
    truth: np.ndarray,
) -> dict:
    summary = {}
    reference = by_method[first].scores["lpips"]
    for name, tally in by_method.items():
        scores = {score: clustered_mean(tally.scores[score], photos) for score in SCORES}
        if name != first:
            pairs = zip(tally.scores["lpips"], reference, strict=True)
            scores["lpips_difference"] = clustered_mean([a - b for a, b in pairs], photos)
        found = np.stack(tally.features)
        enough = len(truth) > 1
        scores[FRECHET_NAME] = frechet_distance(found, truth) if enough else None
        scores[KERNEL_NAME] = kernel_distance(found, truth) if enough else None
        scores["worst"] = names[int(np.argmax(tally.scores["lpips"]))]
        summary[name] = scores
    return summary


def draw_sheet(
    rows: Sequence[tuple[Crop, str]],
    methods: Sequence[Method],
    summary: dict,
    folder: Path,
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
) -> Image.Image:
    """Return a contact sheet: input, predicted gradient, ours, best classical method, truth.

    Args:
        rows: crop and kind of mask of each row.
        methods: as evaluated; their results are read from ``folder``.
        summary: of :func:`evaluate`; the best classical method has the lowest mean LPIPS.
        folder: where restored crops are kept.
        gradient: (crop uint8 (S, S, 3), mask bool (S, S)) -> float (S, S) in [0, 1], or None.
    """
    ours = [method for method in methods if method.name in BRIDGE_METHODS]
    classical = [method for method in methods if method.name not in BRIDGE_METHODS]
    pictures = []
    for crop, kind in rows:
        mask = crop.mask(kind)
        row = [np.where(mask[..., None], np.uint8(128), crop.pixels)]
        if gradient is not None:
            row.append(shade(gradient(row[0], mask)))
        shown = list(ours)
        if classical:
            means = {m: summary[kind][m.name]["lpips"]["mean"] for m in classical}
            shown.append(min(classical, key=means.get))
        row += [_restore([crop], kind, method, folder)[0] for method in shown]
        pictures.append([*row, crop.pixels])
    heads = ["input"] + ["predicted gradient"] * (gradient is not None)
    heads += [method.name for method in ours] + ["best classical"] * bool(classical) + ["truth"]
    return contact_sheet(pictures, heads)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate",
        description="Compare the bridge and classical methods on held-out photos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="shipped", help="defaults of the other options")
    add("--data", nargs="+", required=True, metavar="PATH", help="folders, tar shards or photos")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="results and restored crops")
    add("--weights", default="bundled", help="'bundled', a folder or 'user/repo'")
    add("--methods", default="asyncdsb,telea,navier-stokes,patchmatch", help="comma-separated")
    add("--masks", default="center,half,wide,narrow", help="comma-separated")
    add("--crops", type=int, default=4, help="crops per photo")
    add("--size", type=int, default=256, help="side of a crop in pixels")
    add("--write-inputs", action="store_true", help="only write crops and masks")
    add("--limit", type=int, help="use only the first so many photos")
    add("--batch", type=int, default=8, help="crops per batch")
    add("--device", default="cpu", help="cpu, cuda, ...")
    default = Settings()
    add("--steps", type=int, default=default.steps, help="network evaluations per crop")
    add("--sampler", default=default.sampler, help="posterior, ode or implicit")
    add("--strategy", default=default.strategy, choices=STRATEGIES, help="layout of tau")
    add("--grid", default=default.grid, choices=GRIDS, help="time grid")
    add("--tau-min", type=float, default=default.tau_min, help="tau of the flattest pixels")
    add("--tau-max", type=float, default=default.tau_max, help="tau of the sharpest pixels")
    add("--eta", type=float, default=default.eta, help="noise of the implicit sampler")
    add("--temperature", type=float, help="scale of all noise, instead of the weights'")
    add("--sheet", type=int, default=4, help="photos on the contact sheet, 0 = no sheet")
    return parser


def run(args: argparse.Namespace) -> dict:
    """Evaluate, write ``results.json``, ``results.md`` and the sheets, return the results."""
    kinds = check_kinds(kind.strip() for kind in args.masks.split(",") if kind.strip())
    for name, least in (("batch", 1), ("sheet", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"expected --{name} of at least {least}, got {getattr(args, name)}")
    if args.write_inputs:
        crops = iter_crops(islice(iter_photos(args.data), args.limit), args.crops, args.size)
        count = write_inputs(crops, kinds, args.out)
        print(f"wrote {count} crops and masks to {args.out}")
        return {}
    methods, pipe = load_methods(args)
    lpips, features = Lpips.load(device=args.device), FeatureNet(device=args.device)
    args.out.mkdir(parents=True, exist_ok=True)

    def crops() -> Iterator[Crop]:
        return iter_crops(islice(iter_photos(args.data), args.limit), args.crops, args.size)

    shown = list(islice((crop for crop in crops() if crop.index == 0), args.sheet))

    with tqdm(unit="crop", desc="restored and scored", smoothing=0.05) as progress:
        summary = evaluate(crops(), methods, kinds, args.out, args.batch, lpips, features, progress)
    results = {
        "protocol": {
            "data": [str(path) for path in args.data],
            "size": args.size,
            "crops_per_photo": args.crops,
            "photos": summary[kinds[0]][methods[0].name]["psnr"]["groups"],
        },
        "settings": bridge_settings(args, synchronous=False),
        "methods": {method.name: method.identity for method in methods},
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
        "results": summary,
    }
    text = json.dumps(results, indent=1) + "\n"
    write_atomic(args.out / "results.json", lambda path: path.write_text(text))
    table = markdown_table(summary, (FRECHET_NAME, KERNEL_NAME))
    if len(methods) > 1:
        table += "\n" + difference_table(summary, methods[0].name)
    classical = any(method.name not in BRIDGE_METHODS for method in methods)
    if methods[0].name in BRIDGE_METHODS and classical:
        enough = summary[kinds[0]][methods[0].name][FRECHET_NAME] is not None
        scores = ("lpips", FRECHET_NAME) if enough else ("lpips",)
        table += "\n" + ratio_table(summary, methods[0].name, scores)
    write_atomic(args.out / "results.md", lambda path: path.write_text(table))
    if shown:
        gradient = None if pipe is None else pipe.predict_gradient
        worst = {(summary[kind][methods[0].name]["worst"], kind) for kind in kinds}
        sheets = {
            "sheet.png": [(crop, kind) for crop in shown for kind in kinds],
            "worst.png": [
                (crop, kind) for crop in crops() for kind in kinds if (crop.name, kind) in worst
            ],
        }
        for name, rows in sheets.items():
            sheet = draw_sheet(rows, methods, summary, args.out, gradient)
            write_atomic(args.out / name, sheet.save)
    print(table)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    parser = _parser()
    parser.set_defaults(**PRESETS[parser.parse_args(argv).preset])
    args = parser.parse_args(argv)
    try:
        run(args)
    except (ValueError, OSError) as error:
        print(f"train.evaluate: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
