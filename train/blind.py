"""Which restoration looks better, judged blind: ``python -m train.blind --data PHOTOS -o OUT``.

Scores hardly see whether the two eyes of a face fit; a person does. Every two of ``--methods`` (see
:mod:`train.judge.methods`) restore the photos, and their results stand side by side on sheets
``OUT/pairs-00.png``, left and right at random, the pairs numbered and in random order. Whoever
judges looks at the sheets alone and writes a CSV file: the column pair, and one for each question,
such as ``pair,eyes,face``, with L, R, or = where neither is better. An empty cell is no answer.

The same command with ``--choices FILE FILE ...``, one file for each judge, restores nothing and
writes ``OUT/choices.md``: how often the second method of two was chosen, = counting as a half.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations, islice, product
from pathlib import Path

import numpy as np
from PIL import Image

from asyncdsb.photo.images import write_atomic
from train.data.sources import manifest_rows
from train.judge.methods import HeldOut, load_methods
from train.judge.protocol import derived_seed
from train.judge.report import contact_sheet, markdown, publish, with_interval
from train.judge.results import clustered_mean
from train.judge.scores import restore
from train.loop.options import held_out_parser, program

KEY = "key.json"  # What stands where on the sheets of a folder.
ACROSS, DOWN = 2, 4  # Pairs on a sheet.
HEADS = "mask", "question", "first", "second"
SIDE = 256  # Smaller pictures are enlarged to about so many pixels.

Pair = dict[str, str]
"""photo, mask, first and second, two methods, and which of them is left."""


def restored_pairs(args: argparse.Namespace) -> tuple[list[Pair], list[np.ndarray]]:
    """Every two methods' restorations of every crop, in random order, and their two pictures."""
    methods = load_methods(args)
    if len(methods) < 2:
        raise ValueError(f"expected at least two methods, got {args.methods}")
    held_out = HeldOut(args, methods)
    pairs, pictures = [], []
    crops = held_out.crops()
    while batch := list(islice(crops, args.batch)):
        for kind in held_out.kinds:
            found = {method.name: restore(batch, kind, method)[0] for method in methods}
            for two, (n, crop) in product(combinations(found, 2), enumerate(batch)):
                turned = derived_seed(crop.name, kind, *two) % 2
                left, right = two[::-1] if turned else two
                pair = {"photo": crop.key, "mask": kind, "first": two[0], "second": two[1]}
                pairs.append(pair | {"left": left})
                pictures.append(np.stack([found[left][n], found[right][n]]))
    order = np.random.default_rng(0).permutation(len(pairs))
    return [pairs[i] for i in order], [pictures[i] for i in order]


def sheets(pictures: Sequence[np.ndarray]) -> Iterator[Image.Image]:
    """Lay out pairs (2, size, size, 3), each under its number."""
    side = pictures[0].shape[1] * max(1, SIDE // pictures[0].shape[1])
    for start in range(0, len(pictures), ACROSS * DOWN):
        rows = []
        for first in range(start, min(start + ACROSS * DOWN, len(pictures)), ACROSS):
            numbers = range(first, min(first + ACROSS, len(pictures)))
            row = [_enlarged(picture, side) for n in numbers for picture in pictures[n]]
            heads = [head for n in numbers for head in (f"{n}: L", "R")]
            # A last pair that stands alone leaves its neighbour's place empty.
            row += [np.full_like(row[0], 255)] * (2 * ACROSS - len(row))
            heads += [""] * (2 * ACROSS - len(heads))
            rows.append(np.array(contact_sheet([row], heads)))
        yield Image.fromarray(np.concatenate(rows))


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def read_choices(path: Path, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, str, str]]:
    """The answers of one judge: pair, question and choice; ValueError on anything else."""
    for row in manifest_rows(path, "pair"):
        number = row.pop("pair")
        if not number.isdecimal() or int(number) >= len(pairs):
            raise ValueError(f"expected pairs from 0 to {len(pairs) - 1} in {path}, got {number!r}")
        for question, given in row.items():
            choice = (given or "").strip().upper()
            if choice not in ("", "L", "R", "="):
                raise ValueError(f"expected L, R or = for pair {number} in {path}, got {given!r}")
            if choice:
                yield pairs[int(number)], question, choice


def preferences(answers: Sequence[tuple[Pair, str, str]]) -> list[dict]:
    """How often the second of two methods was chosen, with intervals over photos."""
    groups = defaultdict(list)
    for pair, question, choice in answers:
        chosen = {"=": 0.5, "L": pair["left"] == pair["second"], "R": pair["left"] == pair["first"]}
        group = pair["mask"], question, pair["first"], pair["second"]
        groups[group].append((chosen[choice], pair["photo"]))
    return [
        dict(zip(HEADS, group, strict=False))
        | {"chosen": clustered_mean(*zip(*found, strict=True))}
        for group, found in sorted(groups.items())
    ]


def run(args: argparse.Namespace) -> None:
    """Write the sheets with their key, or what the choices say."""
    if args.choices is None:
        pairs, pictures = restored_pairs(args)
        args.out.mkdir(parents=True, exist_ok=True)
        for number, sheet in enumerate(sheets(pictures)):
            write_atomic(args.out / f"pairs-{number:02}.png", sheet.save)
        text = json.dumps(pairs, indent=1) + "\n"
        write_atomic(args.out / KEY, lambda path: path.write_text(text, "utf-8"))
        print(f"wrote {len(pairs)} pairs to {args.out}")
        return
    if not (args.out / KEY).is_file():
        raise ValueError(f"expected {args.out / KEY}, which the command without --choices writes")
    pairs = json.loads((args.out / KEY).read_text("utf-8"))
    answers = [answer for path in args.choices for answer in read_choices(path, pairs)]
    found = preferences(answers)
    rows = [
        [*(row[name] for name in HEADS), str(row["chosen"]["n"]), with_interval(row["chosen"], 2)]
        for row in found
    ]
    table = markdown([*HEADS, "n", "second chosen"], rows, len(HEADS))
    publish(args.out, "choices", {"preferences": found}, table)


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser("train.blind", __doc__)
    options.add_argument(
        "--choices", nargs="+", type=Path, metavar="FILE", help="CSV of each judge"
    )
    return options


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
