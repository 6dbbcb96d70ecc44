"""Compare restorations with the truth: ``python -m train.evaluate --data PHOTOS -o OUT``.

Crops, masks and seeds follow :mod:`train.judge.protocol`, methods are those of
:mod:`train.judge.methods`, scores and gauges those of :mod:`train.judge.scores`; see
``docs/measuring.md``. PSNR counts at most 100 dB per crop.

Each restored crop is kept as a PNG under ``OUT/restored``, under a name that depends on all that
decides its restoration, with its scores and features beside it; a run that was interrupted, or
extended by methods, masks or photos, does only what is missing.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from asyncdsb.measure.perceptual import INCEPTION_FILE
from asyncdsb.photo.images import write_atomic
from train.judge import report
from train.judge.methods import HeldOut, Method, load_methods
from train.judge.results import load, restore_and_score, summarise
from train.judge.scores import Judges
from train.loop.options import held_out_parser, program, sampling
from train.loop.processes import Processes

METHODS = "bridge,bridge+patches,patch-fill,telea,navier-stokes,patchmatch"
"""What is compared by default."""

CROPS = 4  # Crops per photo by default, of photos that are not portraits.


def write_inputs(held_out: HeldOut, folder: Path) -> None:
    """Write what other programs need: KIND/CROP.png, black in the hole, and masks/KIND/CROP.png."""
    for crop in held_out.crops():
        for kind in held_out.kinds:
            mask = crop.mask(kind).astype(np.uint8) * 255
            for part, pixels in (("", crop.corrupted(kind)), ("masks", mask)):
                path = folder / part / kind / f"{crop.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, Image.fromarray(pixels).save)
    print(f"wrote {len(held_out) * len(held_out.kinds)} crops and masks to {folder}")


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser("train.evaluate", __doc__, methods=METHODS)
    add = options.add_argument
    values = "try each bridge with each of these values, as steps=10,20; again for combinations"
    add("--vary", action="append", metavar="SETTING=VALUES", help=values)
    add("--inception", metavar="FILE", help=f"{INCEPTION_FILE}, or 'download', for FID, KID and IS")
    add("--write-inputs", action="store_true", help="only write crops and masks")
    add("--sheet", type=int, default=4, help="photos on the contact sheet, 0 = no sheet")
    return options


def run(args: argparse.Namespace) -> None:
    """Evaluate, write ``results.json``, ``results.md`` and the pictures."""
    if args.sheet < 0:
        raise ValueError(f"expected --sheet of at least 0, got {args.sheet}")
    if args.write_inputs:
        write_inputs(HeldOut(args, (), CROPS), args.out)
        return
    processes = Processes.started(args.device)
    args.device = processes.device
    methods = load_methods(args)
    held_out = HeldOut(args, methods, CROPS)
    kinds = held_out.kinds
    # What is missing is told before the work, not after some of it.
    elsewhere = [method for method in methods if method.source is not None]
    for crop in held_out.crops() if elsewhere else ():
        for method, kind in product(elsewhere, kinds):
            method.made_elsewhere(crop, kind)
    judges = Judges.load(args.device, args.inception)
    share = processes.index, processes.count
    total = len(held_out) * len(kinds) * len(methods) // processes.count
    with tqdm(total=total, unit="crop", smoothing=0.05, disable=not processes.main) as bar:
        restore_and_score(
            held_out.crops(), methods, kinds, args.out, args.batch, judges, share, bar.update
        )
    processes.wait()
    if not processes.main:
        return
    summary = summarise(held_out.crops(), methods, kinds, args.out, judges)
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
    report.publish(args.out, "results", results, tables_of(summary, methods, judges))
    if args.sheet:
        write_sheets(held_out, methods, summary, args)


def tables_of(summary: dict, methods: Sequence[Method], judges: Judges) -> str:
    """Return all tables of an evaluation, Markdown."""
    set_names = [name for extractor in judges.extractors for name in extractor.names]
    frechet = [extractor.names.frechet for extractor in judges.extractors]
    first = methods[0]
    tables = [
        report.legend(summary),
        report.markdown_table(summary, set_names),
        report.gauge_table(summary),
    ]
    if len(methods) > 1:
        tables.append(report.difference_table(summary, first.name, ["lpips", *frechet]))
    if first.pipe is not None and report.classical(summary):
        scores = report.known(summary, first.name, frechet[0])
        tables.append(report.ratio_table(summary, first.name, scores))
    return "\n".join(tables)


def write_sheets(
    held_out: HeldOut, methods: Sequence[Method], summary: dict, args: argparse.Namespace
) -> None:
    """Write contact sheets (input, methods, truth) of the first photos and of the worst crops."""
    worst = {(summary[kind][methods[0].name]["worst"], kind) for kind in held_out.kinds}
    shown = {crop.name for crop in held_out.first(args.sheet)}
    rows: dict[str, list] = {"sheet.png": [], "worst.png": []}
    for crop in held_out.crops():
        for kind in held_out.kinds:
            chosen = {"sheet.png": crop.name in shown, "worst.png": (crop.name, kind) in worst}
            for name in filter(chosen.get, rows):
                restored = [load(method.cached(args.out, crop, kind)) for method in methods]
                rows[name].append([crop.corrupted(kind, 128), *restored, crop.pixels])
    heads = ["input", *(method.name for method in methods), "truth"]
    for name, pictures in rows.items():
        write_atomic(args.out / name, report.contact_sheet(pictures, heads).save)


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
