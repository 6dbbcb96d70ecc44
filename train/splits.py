"""The paper's splits of its two datasets, as lists that every program here takes as ``--data``.

python -m train.splits celeba-hq --images CelebA-HQ-img --mapping CelebA-HQ-to-CelebA-mapping.txt \
    --partition list_eval_partition.txt -o splits/celeba-hq
python -m train.splits places2 --train data_256 --val val_256 -o splits/places2

CelebA-HQ holds 30,000 of CelebA's faces. CelebA's own partition (Liu et al. 2015) says which are
for training, validation and test. Of Places2's 36,500 validation photos, 6,000 drawn at random are
the test set; the draw depends on the seed and the file names alone. Each list holds one photo a
line, relative to the list's folder.
"""

import argparse
import os
import random
from pathlib import Path

from train.data.sources import pictures_in
from train.loop.options import program

PARTS = ("train", "val", "test")  # Parts by CelebA's numbers 0, 1 and 2.


def celeba_hq(images: Path, mapping: Path, partition: Path) -> dict[str, list[Path]]:
    """Sort the faces of CelebA-HQ, ``0.jpg``, ..., by CelebA's partition: part -> photos by number.

    Lines of the mapping are "index in CelebA-HQ, index in CelebA, file in CelebA", under a head
    line, those of the partition "file in CelebA, 0 | 1 | 2". ValueError if they are not.
    """
    parts = {}
    for number, (name, part) in enumerate(_columns(partition, 2), 1):
        if part not in ("0", "1", "2"):
            raise ValueError(f"expected a part 0, 1 or 2 in line {number} of {partition}")
        parts[name] = PARTS[int(part)]
    originals = {row[0]: row[2] for row in _columns(mapping, 3) if row[0].isdigit()}
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    faces = [path for path in _pictures(images) if path.stem.isdigit()]
    if not faces:
        raise ValueError(f"expected pictures called by numbers in {images}, found none")
    for path in sorted(faces, key=lambda path: int(path.stem)):
        original = originals.get(str(int(path.stem)))
        if original not in parts:
            raise ValueError(f"expected {path.name} in {mapping} and {partition}, found it not")
        found[parts[original]].append(path)
    return found


def places2(train: Path, val: Path, test_photos: int, seed: int) -> dict[str, list[Path]]:
    """Draw the test set from Places2's validation photos; "val" holds those that were not drawn."""
    photos = _pictures(val)
    if not 1 <= test_photos <= len(photos):
        raise ValueError(f"expected {test_photos} photos or more in {val}, found {len(photos)}")
    drawn = set(random.Random(seed).sample(photos, test_photos))
    rest = [path for path in photos if path not in drawn]
    return {"train": _pictures(train), "val": rest, "test": sorted(drawn)}


def _columns(path: Path, count: int) -> list[list[str]]:
    rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not rows or any(len(row) != count for row in rows):
        raise ValueError(f"expected lines of {count} columns in {path}")
    return rows


def _pictures(folder: Path) -> list[Path]:
    if found := pictures_in(folder):
        return found
    raise ValueError(f"expected a folder of photos, found none at {folder}")


def run(args: argparse.Namespace) -> None:
    """Write ``PART.txt`` for every part and say how long they are."""
    if args.dataset == "celeba-hq":
        found = celeba_hq(args.images, args.mapping, args.partition)
    else:
        found = places2(args.train, args.val, args.test_photos, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for part, photos in found.items():
        text = "".join(f"{os.path.relpath(photo, args.out)}\n" for photo in photos)
        (args.out / f"{part}.txt").write_text(text, "utf-8")
    print(", ".join(f"{part}: {len(photos)}" for part, photos in found.items()))


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(
        prog="python -m train.splits", description=__doc__.split("\n\n")[0]
    )
    datasets = options.add_subparsers(dest="dataset", required=True)
    faces, places = datasets.add_parser("celeba-hq"), datasets.add_parser("places2")
    for name in ("images", "mapping", "partition"):
        faces.add_argument(f"--{name}", type=Path, required=True)
    places.add_argument("--train", type=Path, required=True)
    places.add_argument("--val", type=Path, required=True)
    test_photos = "photos of the test set, by default as many as in the paper"
    places.add_argument("--test-photos", type=int, default=6000, help=test_photos)
    places.add_argument("--seed", type=int, default=0)
    for one in (faces, places):
        one.add_argument("-o", "--out", type=Path, required=True, help="folder of the lists")
    return options


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
