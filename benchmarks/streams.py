"""How fast photographs are packed and streamed: ``python -m benchmarks.streams``.

The bundled photographs, enlarged to a short side of 1024 pixels because most corpora are made of
larger files, are packed at 512 pixels; the corpus is streamed as a trainer does, in batches of
random crops at the short sides of the preset ``shipped``. Runs with one and two workers take turns;
the table has the best of each, as other programs may be running. "CPU" is the processor time of all
processes and threads, which those change little.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from asyncdsb.store.bundled import BUNDLED
from train.corpus import pack
from train.data.sources import iter_photos, scaled
from train.data.streams import CropStream
from train.presets import BRIDGE_PRESETS

Times = dict[int, list[tuple[float, float]]]
"""By number of workers: seconds on the clock and on the processor, one pair a run."""

ASSETS = BUNDLED.parent
WORKERS = (1, 2)


def write_photos(folder: Path, count: int) -> Path:
    """So many files, from the bundled photographs in turn."""
    folder.mkdir()
    paths = sorted((ASSETS / "examples").glob("*.jpg")) + [ASSETS / "heldout"]
    photos = [scaled(photo, 1024) for _, photo in iter_photos(paths)]
    for number, photo in zip(range(count), itertools.cycle(photos), strict=False):
        photo.save(folder / f"{number:05d}.jpg", quality=92)
    return folder


@contextmanager
def timed(runs: list[tuple[float, float]]) -> Iterator[None]:
    """Append seconds on the clock and of the processor, ended processes included."""

    def used() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, kinds))

    started, before = time.perf_counter(), used()
    yield
    runs.append((time.perf_counter() - started, used() - before))


def row(name: str, count: int, runs: Times) -> str:
    """Records a second with each number of workers, and processor time a record."""
    rates = [max(count / clock for clock, _ in runs[workers]) for workers in runs]
    cpu = statistics.median(cpu / count for each in runs.values() for _, cpu in each)
    cells = [f"{rate:.0f}" for rate in rates] + [""] * (len(WORKERS) - len(rates))
    return f"| {name} | {' | '.join(cells)} | {1000 * cpu:.2f} ms |"


def main(argv: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.streams")
    options.add_argument("--photos", type=int, default=128)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--batch", type=int, default=32)
    args = options.parse_args(argv)
    torch.set_num_threads(1)
    sides = BRIDGE_PRESETS["shipped"].short_sides
    count = args.photos - args.photos % args.batch
    packing: Times = {workers: [] for workers in WORKERS}
    streaming: dict[int, Times] = {
        size: {workers: [] for workers in WORKERS} for size in (128, 256)
    }
    reading: Times = {1: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = write_photos(folder / "photos", args.photos)
        for repeat, workers in itertools.product(range(args.repeats), WORKERS):
            corpus = folder / f"corpus-{repeat}-{workers}"
            with timed(packing[workers]):
                pack([photos], corpus, 512, shard_photos=32, workers=workers)
            for size, runs in streaming.items():
                with closing(CropStream([corpus], sides, seed=0, workers=workers)) as stream:
                    # As much is prepared beyond the last batch as was before the first.
                    stream.crops(0, args.batch, size)
                    with timed(runs[workers]):
                        for first in range(args.batch, args.batch + count, args.batch):
                            stream.crops(first, args.batch, size)
            with timed(reading[1]):
                with closing(CropStream([corpus], sides, seed=0)) as stream:
                    for index in range(len(stream)):
                        stream.read(index)
    print("| records a second | 1 worker | 2 workers | CPU a record |")
    print("| --- | ---: | ---: | ---: |")
    print(row("pack, short side 1024 to 512", args.photos, packing))
    for size, runs in streaming.items():
        print(row(f"stream, crops of {size}", count, runs))
    print(row("read the shards alone", args.photos, reading))


if __name__ == "__main__":
    main()
