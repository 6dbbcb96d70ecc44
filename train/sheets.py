"""Contact sheets of held-out photos, uncurated: ``python -m train.sheets --data PHOTOS -o OUT``.

The first photos in the order of their keys, one row each: input, completed gradient, restorations
from three seeds, truth. The kinds of mask take turns, one sheet a kind; crops and masks are those
of :mod:`train.protocol`.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import numpy as np

from asyncdsb.images import write_atomic
from train.methods import Method, gradient_picture, load_bridges
from train.options import HeldOut, guarded, held_out_parser
from train.protocol import Crop, derived_seed
from train.report import contact_sheet

SEEDS = 3


def row(method: Method, crop: Crop, kind: str) -> list[np.ndarray]:
    """Pictures of one row, uint8 (S, S, 3) each."""
    mask = crop.mask(kind)
    corrupted = np.where(mask[..., None], np.uint8(128), crop.pixels)
    seeds = [derived_seed(crop.key, crop.index, kind, "noise", i) for i in range(SEEDS)]
    restored = method.restore([corrupted] * SEEDS, [mask] * SEEDS, seeds)
    gradient = gradient_picture(method, corrupted, mask)
    return [corrupted, gradient, *restored, crop.pixels]


def run(args: argparse.Namespace) -> None:
    """Restore the photos and write a sheet for every kind of mask."""
    held_out = HeldOut(args)
    (method,) = load_bridges(args, most=1)
    rows: dict[str, list] = {kind: [] for kind in held_out.kinds}
    for index, crop in enumerate(held_out.first(args.photos)):
        kind = held_out.kinds[index % len(held_out.kinds)]
        rows[kind].append(row(method, crop, kind))
    args.out.mkdir(parents=True, exist_ok=True)
    heads = ["input", "completed gradient", *(f"seed {i + 1}" for i in range(SEEDS)), "truth"]
    for kind, pictures in rows.items():
        if pictures:
            sheet = contact_sheet(pictures, heads)
            path = args.out / f"{kind}.webp"
            write_atomic(path, partial(sheet.save, quality=82, method=6))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    options = held_out_parser("train.sheets", __doc__)
    options.add_argument("--methods", default="asyncdsb", help="one bridge, see train.methods")
    options.add_argument("--photos", type=int, default=24)
    args = options.parse_args(argv)
    return guarded("train.sheets", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
