"""Assemble finished trainings into a folder that ``from_pretrained`` loads, with its model card.

python -m train.export --gradient runs/gradient --bridge runs/bridge --out weights \
    --manifest MANIFEST.csv --results runs/evaluation
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from asyncdsb.denoiser import FINISHES, BridgeDenoiser
from asyncdsb.photo.images import write_atomic
from asyncdsb.photo.settings import FROM_WEIGHTS
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.card import CARD
from asyncdsb.store.checkpoint import load_weights, save_weights
from train.judge.measured import WORST, measured, measured_card
from train.loop.options import program

CHOICES = ("best", "last")


def export(run: Path, kind: str, choice: str, out: Path, **decided: str | None) -> dict:
    """Write the averaged weights of a training run in half precision; return its facts.

    Args:
        run: folder of a training run.
        kind: "bridge" or "gradient".
        choice: "best", the weights with the best held-out score, or "last".
        out: weights folder.
        **decided: what a bridge's runs do by default, out of
            :data:`asyncdsb.photo.settings.FROM_WEIGHTS`; None for what its preset says.
    """
    source = run / ("best" if choice == "best" else "weights")
    module, training = load_weights(source, kind)
    path = run / "validation.json"
    if path.exists():
        records = json.loads(path.read_text("utf-8"))
        held_out = [record for record in records if record["step"] == training["steps"]]
        training = training | {"held_out": held_out[0] if held_out else None}
    if isinstance(module, BridgeDenoiser):
        given: dict[str, Any] = {k: v for k, v in decided.items() if v is not None}
        module.config = dataclasses.replace(module.config, **given)
    save_weights(out, module, training)
    return training


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(prog="python -m train.export", description=__doc__)
    add = options.add_argument
    add("--gradient", type=Path, help="run folder of train.gradient")
    add("--bridge", type=Path, help="run folder of train.bridge")
    add("--out", type=Path, required=True, help="weights folder")
    add("--choice", choices=CHOICES, default="last", help="which weights of a run")
    add("--finish", choices=FINISHES, help="what happens to results by default")
    add("--manifest", type=Path, help="CSV of the photos: key, split, source, ...")
    add("--results", type=Path, help="folder that train.evaluate wrote")
    add("--notes", type=Path, help="Markdown on where it fails, for the card")
    add("--licence", help="of the weights, such as apache-2.0, for the card")
    return options


def work(args: argparse.Namespace) -> None:
    """Write weights and card."""
    if args.results is not None:
        measured(args.results)  # Refused, if it is, before anything is written.
    for kind in ("gradient", "bridge"):
        run = getattr(args, kind)
        if run is not None:
            decided = {name: getattr(args, name) for name in FROM_WEIGHTS}
            export(run, kind, args.choice, args.out, **decided)
    pipe = AsyncDSBPipeline.from_pretrained(args.out, device="cpu")
    worst = None if args.results is None else args.results / "worst.png"
    if worst is not None and worst.exists():
        sheet = Image.open(worst)
        write_atomic(args.out / WORST, lambda p: sheet.save(p, quality=80, method=6))
    notes = "" if args.notes is None else args.notes.read_text("utf-8")
    card = measured_card(pipe.facts, args.manifest, args.results, notes, args.licence)
    write_atomic(args.out / CARD, lambda p: Path(p).write_text(card, "utf-8"))
    print(f"wrote {args.out}")


main = program(parser, work)

if __name__ == "__main__":
    sys.exit(main())
