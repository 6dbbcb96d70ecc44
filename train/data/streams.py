"""Training crops from tar shards that need not fit into memory, nor lie on this machine.

The samples of a training are numbered. Sample n comes from lane n mod L, as its n div L-th; shard i
belongs to lane i mod L. In every epoch of its own a lane visits its shards in another order and
mixes their records in a buffer that is drained at the end, so that each record comes once. Orders
follow from (seed, lane, epoch), crops from (seed, lane, position). Hence sample n is the same
whatever was asked for before, by however many processes and workers: the number of samples drawn so
far is all that a checkpoint needs to hold.

Positions count records as they lie in the shards. Where one cannot be decoded, its sample shows the
lane's next one that can, which then comes twice; this needs no memory of what came before either.
"""

from __future__ import annotations

import itertools
import signal
import tarfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from webdataset.gopen import Pipe, gopen
from webdataset.shardlists import expand_urls
from webdataset.tariterators import tar_file_iterator

from asyncdsb.photo.images import read_image
from train.corpus import INDEX, parse_index, read_index
from train.data.draws import to_device
from train.data.sources import is_picture_name, scaled_size

WAITS = (1.0, 4.0, 16.0)
"""Seconds before a shard is opened again that could not be read; then it is given up."""

LANES = 16
"""Most lanes of a stream that is not told how many."""

WARNINGS = 5
"""How many records that cannot be decoded are named; the others are only counted."""

BROKEN_IN_A_ROW = 1000
"""So many records that cannot be decoded, one after another, end the training."""

_ORDER, _CROP = 1, 2  # Kinds of random numbers; without them epoch 3 would share position 3's.

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A shard.

    Attributes:
        url: path or address, as :func:`webdataset.gopen.gopen` takes it.
        records: pictures in it; None if no index says.
    """

    url: str
    records: int | None = None


@dataclass(frozen=True)
class Record:
    """An encoded picture.

    Attributes:
        name: of the shard and of the member in it.
        data: contents of the file.
    """

    name: str
    data: bytes


def find_shards(sources: Iterable[str | Path]) -> list[Source]:
    """List the shards of a stream, in the order that is given.

    Args:
        sources: folders of corpora (see :mod:`train.corpus`), paths and ``http(s)://`` addresses of
            tar files or of the ``index.json`` of a corpus, and ``pipe:COMMAND`` whose output is a
            tar file. Braces are expanded: ``shard-{000000..000099}.tar``. A shell runs the command
            of a pipe: use none that you have not read.

    Returns:
        At least one shard.

    Raises:
        ValueError: if there is none, or something is not there.
    """
    shards: list[Source] = []
    for source in map(str, sources):
        plain = not _remote(source) and Path(source).exists()
        for url in [source] if plain else expand_urls(source):
            if _remote(url):
                shards += _listed(url) if url.endswith(f"/{INDEX}") else [Source(url)]
                continue
            path = Path(url).absolute()
            folder = path.parent if path.name == INDEX else path
            if folder.is_dir():
                shards += [Source(str(folder / s.name), s.records) for s in read_index(folder)]
            elif path.is_file():
                shards.append(Source(str(path)))
            else:
                raise ValueError(f"expected a corpus or a tar shard, found nothing at {url}")
    if not shards:
        raise ValueError("expected shards, got none")
    return shards


def read_shard(source: Source) -> Iterator[Record]:
    """Read the pictures of a shard in their order.

    What fails on the way from elsewhere is tried again, and goes on with the next picture.

    Raises:
        ValueError: if the shard cannot be read, or holds another number of pictures than it should.
    """

    def pictures() -> Iterator[Record]:
        count, expected = 0, source.records
        with _opened(source.url) as stream:
            for file in tar_file_iterator(stream, select_files=is_picture_name):
                count += 1
                if expected is not None and count > expected:
                    raise tarfile.ReadError(f"expected {expected} pictures, got more")
                yield Record(f"{source.url}/{file['fname']}", file["data"])
        # A tar file that is cut off between two records looks like a shorter one.
        if expected is not None and count < expected:
            raise tarfile.ReadError(f"expected {expected} pictures, got {count}")

    return _persistent(source.url, pictures)


def mixed(items: Iterator[T], size: int, rng: np.random.Generator) -> Iterator[T]:
    """Give out items in a random order, holding ``size`` of them; at the end all that are held.

    The order depends on the number of items, on ``size`` and on the generator alone.
    """
    held = list(itertools.islice(items, size))
    drawn = iter(lambda: rng.integers(len(held), size=4096).tolist(), None)
    for item, place in zip(items, itertools.chain.from_iterable(drawn), strict=False):
        yield held[place]
        held[place] = item
    for place in rng.permutation(len(held)):
        yield held[place]


def window(photo: Image.Image, side: int, corner: Sequence[float], size: int) -> Image.Image:
    """Cut a square out of the scaled photo, without scaling what lies around it.

    Args:
        photo: RGB.
        side: short side of the scaled photo.
        corner: x and y of the square's corner, as shares of what is possible, in [0, 1).
        size: side of the square, at most ``side``.

    Returns:
        Picture of ``size`` by ``size`` pixels.
    """
    edges = scaled_size(photo.size, side)
    left, top = (int(share * (edge - size + 1)) for share, edge in zip(corner, edges, strict=True))
    if edges == photo.size:
        return photo.crop((left, top, left + size, top + size))
    # Pillow's filter sees beyond the box, so there is no seam at its border.
    across, down = (edge / to for edge, to in zip(photo.size, edges, strict=True))
    right = min((left + size) * across, photo.width)
    bottom = min((top + size) * down, photo.height)
    box = (left * across, top * down, right, bottom)
    return photo.resize((size, size), Image.Resampling.LANCZOS, box)


def default_lanes(shards: Sequence[Source]) -> int:
    """Most lanes, up to 16, of which none holds a quarter more photographs than another.

    Lanes take turns, so that a photograph in a small lane would come more often.
    """
    sizes = [shard.records for shard in shards]
    if None in sizes:
        sizes = [1] * len(shards)
    for lanes in range(min(LANES, len(shards)), 1, -1):
        loads = [sum(sizes[lane::lanes]) for lane in range(lanes)]
        if max(loads) <= 1.25 * min(loads):
            return lanes
    return 1


class CropStream:
    """Random crops of photographs in tar shards, which threads read and decode ahead.

    Sample n is one and the same photograph, scale, place and orientation for given shards, lanes,
    buffer and seed. Any samples can be asked for at any time. To go on from the last ones is cheap;
    so is a start anywhere, after which the shards that the present epoch is through with are not
    read again, where an index tells how many records they hold (otherwise they are read, and
    nothing in them decoded). A lane is opened once it is needed.

    Processes should interleave: the r-th of P asks for every P-th sample from r on. What follows in
    these steps is then prepared in time, which it is not for blocks of a batch; and where P divides
    the number of lanes, each process reads only a P-th of the shards. Keep lanes that hold about
    the same, see :func:`default_lanes`.

    Args:
        sources: see :func:`find_shards`.
        short_sides: sizes at which photographs are shown, by length of the short side in pixels. A
            photo is never enlarged, except to the smallest of them that holds the crop.
        seed: of everything drawn.
        device: where the crops go.
        workers: threads that read, decode and scale (Pillow leaves Python free meanwhile). They
            are ahead by as many samples as were asked for last, at least four each.
        lanes: L; None for :func:`default_lanes`.
        buffer: photographs that are mixed, encoded as they are, in all lanes together.

    Raises:
        ValueError: on no shard, numbers out of range, or an index that cannot be read.
    """

    def __init__(
        self,
        sources: Iterable[str | Path],
        short_sides: Sequence[int],
        seed: int,
        device: torch.device | str = "cpu",
        workers: int = 2,
        lanes: int | None = None,
        buffer: int = 4096,
    ):
        self.shards = find_shards(sources)
        self.lanes = default_lanes(self.shards) if lanes is None else lanes
        if not 1 <= self.lanes <= len(self.shards):
            raise ValueError(f"expected 1 to {len(self.shards)} lanes, got {lanes}")
        if workers < 1 or buffer < 1 or not short_sides or min(short_sides) < 1:
            raise ValueError(
                "expected workers, a buffer and short sides of at least 1, "
                f"got {workers}, {buffer} and {tuple(short_sides)}"
            )
        self.short_sides = sorted(set(short_sides))
        self.seed, self.workers, self.device = seed, workers, torch.device(device)
        self._held = max(1, buffer // self.lanes)
        # Without counts, a new start reads all that lies before it, so reading on is never worse.
        counted = all(shard.records is not None for shard in self.shards)
        reach = self._held if counted else None
        self._lanes = [_Lane(partial(self.records, i), reach) for i in range(self.lanes)]
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
        self._pending: dict[int, tuple[int, Future[np.ndarray]]] = {}
        self._broken: set[tuple[int, int]] = set()
        self._broken_lock = threading.Lock()

    @property
    def broken(self) -> int:
        """How many records were met that cannot be decoded, each once an epoch."""
        return len(self._broken)

    def crops(self, first: int, count: int, size: int, step: int = 1) -> Tensor:
        """Samples number first, first + step, ... of the training, ``count`` of them.

        Each is a photo at one of the short sides that hold the crop, all equally likely, cut out at
        random and mirrored with probability one half.

        Args:
            first: number of the first sample, from 0.
            count: B, how many.
            size: side in pixels; it does not change which photograph a sample shows.
            step: from one sample to the next; process r of P asks for first + r in steps of P.

        Returns:
            (B, 3, size, size) float32 in [-1, 1] on the stream's device.

        Raises:
            ValueError: if no short side holds the crop, or a shard cannot be read.
        """
        if size > self.short_sides[-1]:
            raise ValueError(
                f"expected crops of at most {self.short_sides[-1]} pixels, the largest short side, "
                f"got {size}"
            )
        if first < 0 or min(count, step, size) < 1:
            raise ValueError(
                "expected a first sample from 0 and a count, step and size of at least 1, "
                f"got {first}, {count}, {step} and {size}"
            )
        ahead = max(count, 4 * self.workers)
        wanted = range(first, first + (count + ahead) * step, step)
        for number in [number for number in self._pending if number not in wanted]:
            self._pending.pop(number)[1].cancel()
        starts: dict[int, int] = {}
        for number in wanted:
            starts.setdefault(number % self.lanes, number // self.lanes)
        for lane, position in starts.items():
            self._lanes[lane].move(position)
        for number in wanted:
            # What was prepared for crops of another size is made again.
            if self._pending.get(number, (0,))[0] != size:
                self._pending[number] = size, self._pool.submit(self._load, number, size)
        try:
            pixels = np.stack([self._pending.pop(number)[1].result() for number in wanted[:count]])
        except ValueError:
            # Nobody waits for the rest, each of which might first wait for the network.
            for _, future in self._pending.values():
                future.cancel()
            self._pending.clear()
            raise
        crops = to_device(torch.from_numpy(pixels), self.device)
        return crops.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def records(self, lane: int, position: int = 0) -> Iterator[Record]:
        """Encoded photographs of a lane from a position on, without end.

        Raises:
            ValueError: while it runs, if a shard cannot be read or the lane holds no photograph.
        """
        mine = range(lane, len(self.shards), self.lanes)
        epoch = 0
        while True:
            counts = [self.shards[i].records for i in mine]
            total = None if None in counts else sum(counts)
            if total == 0:
                names = ", ".join(self.shards[i].url for i in mine)
                raise ValueError(f"expected photographs, found none in {names}")
            if total is not None:
                epoch, position = epoch + position // total, position % total
            rng = self._rng(lane, epoch, _ORDER)
            order = [mine[i] for i in rng.permutation(len(mine))]
            if total is None:
                read = 0
                for record in mixed(self._counted(order), self._held, rng):
                    if read >= position:
                        yield record
                    read += 1
                position = max(0, position - read)
            else:
                yield from self._from(position, order, total, rng)
                position = 0
            epoch += 1

    def close(self) -> None:
        """End the threads; the stream cannot be used any more."""
        self._pool.shutdown(cancel_futures=True)
        for lane in self._lanes:
            lane.close()

    def __enter__(self) -> CropStream:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _counted(self, order: Iterable[int]) -> Iterator[Record]:
        """Records of shards in this order; counts them for the epochs to come."""
        for index in order:
            count = 0
            for record in read_shard(self.shards[index]):
                yield record
                count += 1
            self.shards[index] = replace(self.shards[index], records=count)

    def _from(
        self, position: int, order: Sequence[int], total: int, rng: np.random.Generator
    ) -> Iterator[Record]:
        """Records of an epoch from a position on: the mixing is gone through with numbers alone."""
        sequence = mixed(iter(range(total)), self._held, rng)
        passed = bytearray(total)
        for ordinal in itertools.islice(sequence, position):
            passed[ordinal] = 1
        reading = self._missing(order, passed)
        waiting: dict[int, Record] = {}
        for ordinal in sequence:
            while ordinal not in waiting:
                number, record = next(reading)
                waiting[number] = record
            yield waiting.pop(ordinal)
        for _ in reading:  # The end of a shard tells whether it was whole.
            pass

    def _missing(self, order: Sequence[int], passed: bytearray) -> Iterator[tuple[int, Record]]:
        """Records that are not passed yet, with their numbers; shards without any stay closed."""
        start = 0
        for index in order:
            end = start + self.shards[index].records
            if passed.find(0, start, end) >= 0:
                for number, record in enumerate(read_shard(self.shards[index]), start):
                    if not passed[number]:
                        yield number, record
            start = end

    def _load(self, number: int, size: int) -> np.ndarray:
        """Decode a sample and cut out its crop, uint8 (size, size, 3)."""
        position, lane = divmod(number, self.lanes)
        rng = self._rng(lane, position, _CROP)
        ranks = dict(zip(self.short_sides, rng.random(len(self.short_sides)), strict=True))
        corner, mirrored = rng.random(2).tolist(), rng.random() < 0.5
        for place in range(position, position + BROKEN_IN_A_ROW):
            record = self._lanes[lane].record(place)
            try:
                photo = read_image(record.data)
            except ValueError as error:
                self._report(lane, place, record, error)
                continue
            holding = [side for side in self.short_sides if side >= size]
            fitting = [side for side in holding if side <= min(photo.size)] or holding[:1]
            # The first by rank, so that crops of two sizes mostly show the photo at one scale.
            crop = np.asarray(window(photo, min(fitting, key=ranks.get), corner, size))
            return crop[:, ::-1] if mirrored else crop
        raise ValueError(
            f"expected photographs, got {BROKEN_IN_A_ROW} records in a row that cannot be decoded, "
            f"the last one {record.name}"
        )

    def _report(self, lane: int, position: int, record: Record, error: ValueError) -> None:
        with self._broken_lock:
            if (lane, position) in self._broken:
                return
            self._broken.add((lane, position))
            count = len(self._broken)
        if count <= WARNINGS:
            rest = "; no more of these are reported" if count == WARNINGS else ""
            warnings.warn(f"passed over {record.name}: {error}{rest}", stacklevel=2)

    def _rng(self, lane: int, index: int, kind: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, lane, index, kind])


class _Lane:
    """Records of one lane by position, read forward and kept until they are passed.

    Args:
        start: opens the lane's records from a position on.
        reach: so far ahead records are read and dropped; beyond, the lane is opened anew. None for
            always the former.
    """

    def __init__(self, start: Callable[[int], Iterator[Record]], reach: int | None):
        self._start, self._reach = start, reach
        self._lock = threading.Lock()
        self._records: Iterator[Record] | None = None
        self._floor = self._head = 0
        self._kept: dict[int, Record] = {}

    def move(self, position: int) -> None:
        """Nothing before the position will be asked for until the next call."""
        with self._lock:
            far = self._reach is not None and position > self._head + self._reach
            if position < self._floor or far:
                self._reset()
                self._head = position
            self._floor = position
            self._kept = {p: record for p, record in self._kept.items() if p >= position}

    def record(self, position: int) -> Record:
        """The record at a position."""
        with self._lock:
            if position < self._floor:  # Left over from a request that nobody waits for.
                raise LookupError(f"position {position} is passed")
            while self._head <= position:
                if self._records is None:
                    self._records = self._start(self._head)
                try:
                    record = next(self._records)
                except BaseException:
                    # A generator that has failed is at its end; the next one starts here again.
                    self._records = None
                    raise
                if self._head >= self._floor:
                    self._kept[self._head] = record
                self._head += 1
            return self._kept[position]

    def close(self) -> None:
        """Close the open shard."""
        with self._lock:
            self._reset()

    def _reset(self) -> None:
        self._records = None
        self._kept.clear()


def _persistent(url: str, produce: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What ``produce`` yields; if it fails it is called again, and what was yielded left out."""
    done = 0
    for wait in (*(WAITS if _remote(url) else ()), None):
        try:
            for item in itertools.islice(produce(), done, None):
                yield item
                done += 1
            return
        except (OSError, EOFError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
        if wait is not None:
            time.sleep(wait)
    raise ValueError(f"cannot read {url}: {reason}")


@contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    """The stream behind an address; its end is waited for, as only that tells of a failure."""
    stream = gopen(url)
    try:
        yield stream
        while stream.read(2**20):
            pass
        stream.close()
    except (OSError, EOFError, tarfile.TarError) as error:
        with suppress(OSError):
            stream.close()
        code = stream.proc.returncode if isinstance(stream, Pipe) else 0
        # The library appends the stream to what tarfile says.
        reason = str(error).split(" @ ")[0]
        raise OSError(reason if code in _HUNG_UP else f"exit code {code}") from error
    finally:
        with suppress(OSError):
            stream.close()


_HUNG_UP = (0, 23, 141, -signal.SIGPIPE)
"""Exit codes of commands that were well when their output was closed."""


def _listed(url: str) -> list[Source]:
    """The shards of the index at an address."""

    def contents() -> Iterator[bytes]:
        with _opened(url) as stream:
            yield stream.read()

    (data,) = _persistent(url, contents)
    base = url.removesuffix(INDEX)
    found = parse_index(data.decode("utf-8", "replace"), url)
    return [Source(base + shard.name, shard.records) for shard in found]


def _remote(url: str) -> bool:
    return "://" in url or url.startswith("pipe:")
