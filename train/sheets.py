"""Contact sheets of held-out photos, uncurated: ``python -m train.sheets --data PHOTOS -o OUT``.

The first photos in the order of their keys: input, restorations by the bridge alone from three
seeds, truth. Small pictures stand side by side, several photos to a row. Photos are dealt to the
kinds of mask, one sheet a kind (``--masks center`` for one sheet of all photos). ``--manifest`` is
a CSV with the columns key and source; with it only photos of one source are shown.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from asyncdsb.photo.images import write_atomic
from train.data.sources import manifest_rows
from train.judge.methods import HeldOut, load_bridges
from train.judge.protocol import derived_seed
from train.judge.report import contact_sheet
from train.loop.options import held_out_parser, program

SEEDS = 3
WIDTH = 2100  # Photos stand side by side as long as a sheet is no wider than this, in pixels.
HEADS = ["input", *(f"seed {i}" for i in range(SEEDS)), "truth"]


def keys_of(manifest: Path, source: str) -> set[str]:
    """Keys of the photos of a source, of a CSV with the columns key and source."""
    rows = manifest_rows(manifest, "key", "source")
    known = sorted({line["source"] for line in rows})
    if source not in known:
        raise ValueError(f"expected a source out of {', '.join(known)}, got {source!r}")
    return {line["key"] for line in rows if line["source"] == source}


def run(args: argparse.Namespace) -> None:
    """Restore the photos and write a sheet for every kind of mask."""
    if (args.manifest is None) != (args.source is None):
        raise ValueError("expected --manifest and --source together, got one of them")
    (method,) = load_bridges(args, 1)
    held_out = HeldOut(args, [method])
    if args.manifest is not None:
        wanted = keys_of(args.manifest, args.source)
        held_out.photos = [photo for photo in held_out.photos if photo.key in wanted]
        if not held_out.photos:
            raise ValueError(f"expected photos of {args.source} in the data, found none")
    rows: dict[str, list] = {kind: [] for kind in held_out.kinds}
    for index, crop in enumerate(held_out.first(args.photos)):
        kind = held_out.kinds[index % len(held_out.kinds)]
        corrupted = crop.corrupted(kind, 128)
        seeds = [derived_seed(crop.key, crop.index, kind, "noise", i) for i in range(SEEDS)]
        restored = method.restore([corrupted] * SEEDS, [crop.mask(kind)] * SEEDS, seeds)[0]
        rows[kind].append([corrupted, *restored, crop.pixels])
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, pictures in rows.items():
        if pictures:
            path = args.out / f"{kind}.webp"
            write_atomic(path, partial(sheet(pictures).save, quality=82, method=6))


def sheet(photos: list[list[np.ndarray]]) -> Image.Image:
    """Lay out photos, a picture for each of :data:`HEADS`, as many in a row as fit."""
    across = max(1, min(len(photos), WIDTH // (len(HEADS) * (len(photos[0][0]) + 6))))
    lines = [sum(photos[n : n + across], []) for n in range(0, len(photos), across)]
    return contact_sheet(lines, HEADS * across)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser("train.sheets", __doc__)
    options.add_argument("--photos", type=int, default=24, help="how many are shown")
    options.add_argument("--manifest", type=Path, help="CSV that says which photo has which source")
    options.add_argument("--source", help="show the photos of this source only")
    return options


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
