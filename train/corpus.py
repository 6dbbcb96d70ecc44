"""Pack photographs into checksummed tar shards, for training from more than fits into memory.

python -m train.corpus pack PHOTOS corpus --size 512
python -m train.corpus check corpus

The shards are plain tar files. Their photographs come in an order that is shuffled once, the same
every time. ``index.json`` tells what each shard holds and what could not be read. A run that was
killed does the shards that are missing, and ends with the same files, byte for byte.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import tarfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from asyncdsb.photo.images import encoded, write_atomic
from asyncdsb.store.checkpoint import file_sha256
from train.data.sources import FoundPhoto, find_photos, numbered, scaled
from train.loop.options import program

FORMAT, VERSION = "asyncdsb-corpus", 1
QUALITY, SHARD_PHOTOS = 92, 1000  # what is packed by default

INDEX = "index.json"  # Name of the file that describes a finished corpus.
_PROGRESS = "progress.json"  # Index of the shards that are done, until all are.


@dataclass(frozen=True)
class Shard:
    """What the index says of one tar file beside it: photographs, length in bytes, checksum."""

    name: str
    records: int
    bytes: int
    sha256: str


def pack(
    paths: Iterable[str | Path],
    out: Path,
    size: int,
    quality: int = QUALITY,
    shard_photos: int = SHARD_PHOTOS,
    workers: int = 1,
) -> dict:
    """Write a corpus, or what an earlier run has left of it to write; return its index.

    ``paths`` are those of :func:`train.data.sources.find_photos`. Photos are scaled down to a short
    side of ``size`` pixels, none is enlarged; each of the ``workers`` processes writes one shard at
    a time. ValueError if no photo can be read, ``out`` holds something else or a number is wrong.
    """
    if min(size, shard_photos, workers) < 1 or not 1 <= quality <= 100:
        raise ValueError(
            "expected --size, --shard-photos and --workers of at least 1 and a quality from 1 to "
            f"100, got {size}, {shard_photos}, {workers} and {quality}"
        )
    photos = find_photos(paths)
    # Neighbours in a folder resemble one another, and a training mixes only so far.
    random.Random(0).shuffle(photos)
    names = b"".join(p.source.encode("utf-8", "surrogateescape") + b"\0" for p in photos)
    head: dict = {"format": FORMAT, "version": VERSION, "size": size, "quality": quality}
    head |= {"shard_photos": shard_photos, "photos": hashlib.sha256(names).hexdigest()}
    out.mkdir(parents=True, exist_ok=True)
    progress, index = out / _PROGRESS, head | {"records": 0, "shards": [], "broken": []}
    if (out / INDEX).exists():
        read_index(out)
    if there := [path for path in (out / INDEX, progress) if path.exists()]:
        try:
            index = json.loads(there[0].read_text("utf-8"))
            same = head.items() <= index.items()
        except (ValueError, AttributeError) as error:
            told = f"expected {there[0]} to say what is done, got a damaged file: empty {out} first"
            raise ValueError(told) from error
        if not same:
            got = "a corpus of other photos or settings"
            raise ValueError(f"expected {out} to be empty, got {got}")
        if there[0] != progress:
            return index
    elif any(out.glob("[!.]*")):
        raise ValueError(f"expected {out} to be empty or a corpus, got another folder")
    for leftover in (*out.glob(".shard-*.tar"), *out.glob(".progress-*.json")):
        leftover.unlink()
    # Different keys for all photos; a key has no dot, which would end it.
    keys = numbered([re.sub(r"[^\w-]+", "_", photo.key)[:80] for photo in photos])
    records = list(zip(keys, photos, strict=True))
    left = [
        (out / f"shard-{first // shard_photos:06d}.tar", records[first : first + shard_photos])
        for first in range(0, len(records), shard_photos)[len(index["shards"]) :]
    ]
    # Not forked: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else None
    with pool or nullcontext():
        write = partial(_write_shard, size=size, quality=quality)
        found = (pool.map if pool else map)(write, left)
        try:
            for shard, broken in tqdm(found, total=len(left), unit="shard", leave=False):
                index["shards"].append(asdict(shard))
                index["records"] += shard.records
                index["broken"] = sorted(index["broken"] + broken, key=lambda entry: entry["photo"])
                text = json.dumps(index, indent=1) + "\n"
                write_atomic(progress, partial(Path.write_text, data=text, encoding="utf-8"))
        except BrokenProcessPool as error:
            reason = "a worker was killed, perhaps for lack of memory: try fewer --workers"
            raise ValueError(reason) from error
    if not index["records"]:
        raise ValueError(f"expected photos, got {len(photos)} files none of which can be read")
    progress.rename(out / INDEX)
    return index


def _write_shard(
    item: tuple[Path, list[tuple[str, FoundPhoto]]], size: int, quality: int
) -> tuple[Shard, list[dict]]:
    """Write a shard; return what the index says of it, and of what could not be read."""
    (path, photos), broken = item, []

    def fill(temporary: Path) -> None:
        with tarfile.open(temporary, "w") as tar:
            for key, photo in photos:
                try:
                    data = _encoded(photo, size, quality)
                except (ValueError, OSError) as error:
                    reason = " ".join(str(error).split()).removeprefix(f"{photo.source}: ")
                    broken.append({"photo": photo.source, "reason": reason})
                    continue
                # Owner, mode and time keep their defaults, which are the same everywhere.
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    write_atomic(path, fill)
    count = len(photos) - len(broken)
    return Shard(path.name, count, path.stat().st_size, file_sha256(path)), broken


def _encoded(photo: FoundPhoto, size: int, quality: int) -> bytes:
    """The JPEG file of a photo."""
    picture = photo.read()
    if min(picture.size) > size:
        picture = scaled(picture, size)
    # Colours at full resolution: these pixels are what a network learns to paint.
    return encoded(picture, format="JPEG", quality=quality, subsampling=0)


def read_index(folder: Path) -> list[Shard]:
    """The shards of a finished corpus; ValueError if the folder holds none, or a damaged index."""
    path = folder / INDEX
    if (folder / _PROGRESS).exists():
        raise ValueError(f"expected a finished corpus in {folder}; run its pack command again")
    if not path.is_file():
        raise ValueError(f"expected a corpus, found no {path}")
    try:
        index = json.loads(path.read_text("utf-8", "replace"))
        found = f"{index['format']}, version {index['version']}"
        if found == f"{FORMAT}, version {VERSION}":
            shards = [Shard(**entry) for entry in index["shards"]]
            # Names are joined to the index's folder: nothing may lead out of it.
            if all(re.fullmatch(r"\w[\w.-]*\.tar", shard.name) for shard in shards):
                return shards
            found = "other names of shards"
    except (ValueError, KeyError, TypeError) as error:
        found = f"a damaged one ({type(error).__name__}: {error})"
    wanted = f"the index of a corpus, version {VERSION}, in {path}"
    raise ValueError(f"expected {wanted}, got {found}")


def check(folder: Path) -> list[str]:
    """Say what is missing, strange or changed in a corpus since it was packed, line by line."""
    shards = read_index(folder)
    strangers = {path.name for path in folder.glob("*.tar")} - {shard.name for shard in shards}
    wrong = [f"{name}: not in {INDEX}" for name in sorted(strangers)]
    for shard in tqdm(shards, unit="shard", leave=False):
        path = folder / shard.name
        if not path.is_file():
            wrong.append(f"{shard.name}: missing")
        elif file_sha256(path) != shard.sha256:
            wrong.append(f"{shard.name}: expected another SHA-256, its contents have changed")
    return wrong


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(
        prog="python -m train.corpus", description=__doc__.split("\n\n")[0]
    )
    commands = options.add_subparsers(dest="command", required=True)
    command = partial(commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = command("pack", help="write or finish a corpus").add_argument
    add("photos", nargs="+", metavar="PHOTOS", help="folders, tar shards, lists")
    add("out", type=Path, metavar="OUT", help="folder of the corpus; a run that stopped goes on")
    add("--size", type=int, default=512, help="short side in pixels")
    add("--quality", type=int, default=QUALITY, help="of the JPEG files")
    add("--shard-photos", type=int, default=SHARD_PHOTOS, help="photos a shard")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    checking = command("check", help="verify a corpus")
    checking.add_argument("out", type=Path, metavar="CORPUS", help="its folder")
    return options


def run(args: argparse.Namespace) -> int:
    """Pack or check; return 1 if something is wrong with the corpus that was checked."""
    if args.command == "check":
        wrong = check(args.out)
        print("\n".join(wrong) or f"{args.out}: all is well")
        return int(bool(wrong))
    index = pack(args.photos, args.out, args.size, args.quality, args.shard_photos, args.workers)
    broken = f", {len(index['broken'])} broken, see {INDEX}" if index["broken"] else ""
    print(f"{args.out}: {index['records']} photos in {len(index['shards'])} shards{broken}")
    return 0


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
