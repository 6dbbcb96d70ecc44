"""Contact sheets of held-out photos, uncurated: ``python -m train.sheets --data PHOTOS -o OUT``.

The first photos in the order of their keys, one row each: input, completed gradient, restorations
from three seeds, truth. The kinds of mask take turns, one sheet a kind; crops and masks are those
of :mod:`train.protocol`.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from asyncdsb.data import iter_photos
from asyncdsb.images import write_atomic
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.restoration import Settings
from train.methods import bridge_method
from train.protocol import Crop, derived_seed, iter_crops
from train.report import contact_sheet, shade

KINDS = ("center", "half", "wide", "narrow")
SEEDS = 3


def row(pipe: AsyncDSBPipeline, crop: Crop, kind: str, settings: dict) -> list[np.ndarray]:
    """Pictures of one row, uint8 (S, S, 3) each."""
    mask = crop.mask(kind)
    corrupted = np.where(mask[..., None], np.uint8(128), crop.pixels)
    seeds = [derived_seed(crop.key, crop.index, kind, "noise", i) for i in range(SEEDS)]
    method = bridge_method("asyncdsb", pipe, "", settings)
    restored = method.restore([corrupted] * SEEDS, [mask] * SEEDS, seeds)
    return [corrupted, shade(pipe.predict_gradient(corrupted, mask)), *restored, crop.pixels]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    default = Settings()
    options = argparse.ArgumentParser(prog="python -m train.sheets", description=__doc__)
    options.add_argument("--data", nargs="+", required=True, help="held-out photos")
    options.add_argument("-o", "--out", type=Path, required=True, help="folder of the sheets")
    options.add_argument("--weights", help="a folder or 'user/repo' instead of the bundled ones")
    options.add_argument("--photos", type=int, default=24)
    options.add_argument("--size", type=int, default=256, help="side of a crop in pixels")
    options.add_argument("--steps", type=int, default=default.steps)
    options.add_argument("--sampler", default=default.sampler)
    options.add_argument("--device", help="cpu, cuda, ...")
    args = options.parse_args(argv)
    try:
        pipe = AsyncDSBPipeline.from_pretrained(args.weights, device=args.device)
        settings = {"steps": args.steps, "sampler": args.sampler}
        rows: dict[str, list] = {kind: [] for kind in KINDS}
        photos = islice(iter_photos(args.data), args.photos)
        for index, crop in enumerate(iter_crops(photos, 1, args.size)):
            kind = KINDS[index % len(KINDS)]
            rows[kind].append(row(pipe, crop, kind, settings))
        args.out.mkdir(parents=True, exist_ok=True)
        heads = ["input", "completed gradient", *(f"seed {i + 1}" for i in range(SEEDS)), "truth"]
        for kind, pictures in rows.items():
            if pictures:
                sheet = contact_sheet(pictures, heads)
                path = args.out / f"{kind}.webp"
                write_atomic(path, lambda p, s=sheet: s.save(p, quality=82, method=6))
    except (ValueError, OSError) as error:
        print(f"train.sheets: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
