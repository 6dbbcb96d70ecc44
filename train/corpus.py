"""Pack photographs into checksummed tar shards, for training from more than fits into memory.

python -m train.corpus pack PHOTOS corpus --size 512
python -m train.corpus check corpus

The shards are plain tar files. Their photographs come in an order that is shuffled once, the same
every time. ``index.json`` tells what each shard holds and what could not be read. A run that was
killed goes on with the shard it was at, and ends with the same files, byte for byte, whatever the
number of workers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import re
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from tqdm import tqdm

from asyncdsb.photo.images import write_atomic
from asyncdsb.store.checkpoint import file_sha256
from train.data.sources import FoundPhoto, find_photos, numbered, scaled
from train.loop.jsonl import add_line, read_lines
from train.loop.options import guarded

FORMAT, VERSION = "asyncdsb-corpus", 1

INDEX = "index.json"
"""Name of the file that describes a finished corpus."""

_PROGRESS = "progress.jsonl"
"""Settings, then a line for every shard that is done; kept until the index is written."""

_OTHER = "expected {} to be empty, got a corpus of other photos or settings"


@dataclass(frozen=True)
class Shard:
    """What the index says of one tar file.

    Attributes:
        name: file name, beside the index.
        records: photographs in it.
        bytes: length of the file.
        sha256: of the file.
    """

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackSettings:
    """What decides the bytes of a corpus, besides the photographs.

    Attributes:
        size: short side in pixels; longer ones are scaled down to it, none is enlarged.
        quality: of the JPEG files, 1 to 100.
        shard_mib: a shard is closed once it has so many MiB.

    Raises:
        ValueError: on values out of range.
    """

    size: int = 512
    quality: int = 92
    shard_mib: float = 64

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.quality <= 100 or not self.shard_mib > 0:
            raise ValueError(
                "expected a size of at least 1, a quality from 1 to 100 and positive MiB, "
                f"got {self.size}, {self.quality} and {self.shard_mib:g}"
            )


def pack(paths: Iterable[str | Path], out: Path, settings: PackSettings, workers: int = 1) -> dict:
    """Write a corpus, or what an earlier run has left of it to write.

    Args:
        paths: see :func:`train.data.sources.find_photos`.
        out: folder of the corpus.
        settings: of the corpus.
        workers: processes that decode, scale and encode.

    Returns:
        The index that was written.

    Raises:
        ValueError: no photo, or none that can be read; a folder that holds something else.
    """
    photos = find_photos(paths)
    # Neighbours in a folder resemble one another, and a training mixes only so far.
    random.Random(0).shuffle(photos)
    head = {"format": FORMAT, "version": VERSION, **asdict(settings), "photos": _digest(photos)}
    out.mkdir(parents=True, exist_ok=True)
    if (index := _finished(out, head)) is not None:
        return index
    done = _resumed(out, head)
    left = photos[done[-1]["next"] :] if done else photos
    keys = _keys(photos)[len(photos) - len(left) :]
    bar = tqdm(total=len(photos), initial=len(photos) - len(left), unit="photo", leave=False)
    with bar, _mapping(workers) as apply:
        records = zip(left, keys, apply(partial(_encoded, settings=settings), left), strict=True)
        taken = len(photos) - len(left)
        while taken < len(photos):
            line = _write_shard(out / f"shard-{len(done):06d}.tar", records, settings, bar)
            taken += line["next"]
            line["next"] = taken
            done.append(line)
            if line["shard"]["records"]:
                add_line(out / _PROGRESS, line)
    return _finish(out, head, done)


def _write_shard(
    path: Path, items: Iterator[tuple[FoundPhoto, str, tuple]], settings: PackSettings, bar: tqdm
) -> dict:
    """Write the next photos; return the line of progress, with the photos taken as "next"."""
    records, taken, broken = 0, 0, []

    def fill(temporary: Path) -> None:
        nonlocal records, taken
        with tarfile.open(temporary, "w") as tar:
            for photo, key, (data, reason) in items:
                taken += 1
                bar.update()
                if data is None:
                    broken.append({"photo": photo.source, "reason": reason})
                    continue
                # Owner, mode and time keep their defaults, which are the same everywhere.
                member = tarfile.TarInfo(f"{key}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                records += 1
                if tar.offset >= settings.shard_mib * 2**20:
                    break

    write_atomic(path, fill)
    shard = Shard(path.name, records, path.stat().st_size, file_sha256(path))
    return {"shard": asdict(shard), "next": taken, "broken": broken}


def _finish(out: Path, head: dict, done: list[dict]) -> dict:
    """Write the index; the last line may stand for broken files alone."""
    if not done[-1]["shard"]["records"]:
        (out / done[-1]["shard"]["name"]).unlink()
    shards = [line["shard"] for line in done if line["shard"]["records"]]
    if not shards:
        raise ValueError(f"expected photos, got {done[-1]['next']} files none of which can be read")
    broken = sorted((e for line in done for e in line["broken"]), key=lambda e: e["photo"])
    records = sum(shard["records"] for shard in shards)
    index = head | {"records": records, "shards": shards, "broken": broken}
    text = json.dumps(index, indent=1) + "\n"
    write_atomic(out / INDEX, lambda p: p.write_text(text, "utf-8"))
    (out / _PROGRESS).unlink()
    return index


def _finished(out: Path, head: dict) -> dict | None:
    """The index, if the corpus needs nothing more; ValueError on a folder with anything else."""
    if (out / _PROGRESS).exists():
        return None
    if (out / INDEX).exists():
        read_index(out)
        index = json.loads((out / INDEX).read_text("utf-8"))
        if head.items() <= index.items():
            return index
        raise ValueError(_OTHER.format(out))
    if any(out.iterdir()):
        raise ValueError(f"expected {out} to be empty or a corpus, got another folder")
    return None


def _resumed(out: Path, head: dict) -> list[dict]:
    """Lines of progress whose shards are there, in a file that is started if there is none."""
    path = out / _PROGRESS
    lines = read_lines(path) if path.exists() else []
    if path.exists() and lines[:1] != [head]:
        raise ValueError(_OTHER.format(out))
    done = []
    for line in lines[1:]:
        shard = out / line["shard"]["name"]
        if not shard.is_file() or shard.stat().st_size != line["shard"]["bytes"]:
            break
        done.append(line)
    for leftover in out.glob(".*"):
        if re.fullmatch(r"\.[\w-]+-[0-9a-f]{8}\.(tar|jsonl?|txt)", leftover.name):
            leftover.unlink()
    text = "".join(json.dumps(line) + "\n" for line in [head, *done])
    write_atomic(path, lambda p: p.write_text(text, "utf-8"))
    return done


def read_index(folder: Path) -> list[Shard]:
    """The shards of a finished corpus.

    Raises:
        ValueError: if the folder holds none, or its index is of another version or damaged.
    """
    path = folder / INDEX
    if (folder / _PROGRESS).exists():
        raise ValueError(f"expected a finished corpus in {folder}; run its pack command again")
    if not path.is_file():
        raise ValueError(f"expected a corpus, found no {path}")
    try:
        index = json.loads(path.read_text("utf-8", "replace"))
        found: object = (index["format"], index["version"])
        if found == (FORMAT, VERSION):
            shards = [Shard(**entry) for entry in index["shards"]]
            # Names are joined to the index's folder: nothing may lead out of it.
            if shards and all(re.fullmatch(r"\w[\w.-]*\.tar", shard.name) for shard in shards):
                return shards
            found = "other names of shards"
    except (ValueError, KeyError, TypeError) as error:
        found = f"a damaged one ({type(error).__name__}: {error})"
    raise ValueError(f"expected the index of a corpus, version {VERSION}, in {path}, got {found}")


def check(folder: Path, workers: int = 1) -> list[str]:
    """Say what is wrong with a corpus, one line for each thing; every photograph is decoded.

    Raises:
        ValueError: if there is no index to check against.
    """
    shards = read_index(folder)
    names = {shard.name for shard in shards}
    strangers = sorted(path.name for path in folder.glob("*.tar") if path.name not in names)
    wrong = [f"{name}: not in {INDEX}" for name in strangers]
    with _mapping(workers) as apply:
        found = apply(partial(_check_shard, folder), shards)
        for lines in tqdm(found, total=len(shards), unit="shard", leave=False):
            wrong += lines
    return wrong


def _check_shard(folder: Path, shard: Shard) -> list[str]:
    path = folder / shard.name
    if not path.is_file():
        return [f"{shard.name}: missing"]
    wrong = []
    size = path.stat().st_size
    if size != shard.bytes:
        wrong.append(f"{shard.name}: expected {shard.bytes} bytes, got {size}")
    elif file_sha256(path) != shard.sha256:
        wrong.append(f"{shard.name}: expected another SHA-256, its contents have changed")
    try:
        photos = find_photos([path])
    except ValueError as error:
        return [*wrong, f"{shard.name}: {_one_line(error)}"]
    if len(photos) != shard.records:
        wrong.append(f"{shard.name}: expected {shard.records} records, got {len(photos)}")
    for photo in photos:
        try:
            photo.read()
        except ValueError as error:
            reason = _one_line(error).removeprefix(f"{photo.source}: ")
            wrong.append(f"{shard.name}/{photo.key}: {reason}")
    return wrong


@contextmanager
def _mapping(workers: int) -> Iterator[Callable]:
    """A ``map`` that so many processes do, results in the order of the items."""
    if workers == 1:
        yield map
    else:
        with Pool(workers) as pool:
            yield pool.imap


def _encoded(photo: FoundPhoto, settings: PackSettings) -> tuple[bytes | None, str]:
    """The JPEG file of a photo and nothing, or None and the reason in one line."""
    try:
        picture = photo.read()
        if min(picture.size) > settings.size:
            picture = scaled(picture, settings.size)
        file = io.BytesIO()
        # Colours at full resolution: these pixels are what a network learns to paint.
        picture.save(file, "JPEG", quality=settings.quality, subsampling=0)
    except (ValueError, OSError) as error:
        return None, _one_line(error).removeprefix(f"{photo.source}: ")
    return file.getvalue(), ""


def _keys(photos: Iterable[FoundPhoto]) -> list[str]:
    """Different keys for all photos; a key has no dot, which would end it."""
    return numbered([re.sub(r"[^\w-]+", "_", photo.key)[:80] for photo in photos])


def _digest(photos: Iterable[FoundPhoto]) -> str:
    """SHA-256 of the photos' names in their order."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(photo.source.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, 1 if the check failed, or 2 with one line on stderr."""
    options = argparse.ArgumentParser(
        prog="python -m train.corpus", description=__doc__.split("\n\n")[0]
    )
    commands = options.add_subparsers(dest="command", required=True)
    command = partial(commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    packing = command("pack", help="write or finish a corpus")
    add = packing.add_argument
    add("photos", nargs="+", metavar="PHOTOS", help="folders, tar shards, lists")
    add("out", type=Path, metavar="OUT", help="folder of the corpus; a run that stopped goes on")
    add("--size", type=int, default=PackSettings.size, help="short side in pixels")
    add("--quality", type=int, default=PackSettings.quality, help="of the JPEG files")
    add("--shard-mib", type=float, default=PackSettings.shard_mib, help="size of a shard in MiB")
    checking = command("check", help="verify a corpus")
    checking.add_argument("out", type=Path, metavar="CORPUS", help="its folder")
    for parser in (packing, checking):
        parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    args = options.parse_args(argv)
    wrong: list[str] = []

    def run() -> None:
        if args.workers < 1:
            raise ValueError(f"expected --workers of at least 1, got {args.workers}")
        if args.command == "pack":
            settings = PackSettings(args.size, args.quality, args.shard_mib)
            index = pack(args.photos, args.out, settings, args.workers)
            broken = f", {len(index['broken'])} broken" if index["broken"] else ""
            print(f"{args.out}: {index['records']} photos in {len(index['shards'])} shards{broken}")
        else:
            wrong.extend(check(args.out, args.workers))
            print("\n".join(wrong) or f"{args.out}: all is well")

    return guarded("train.corpus", run) or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
