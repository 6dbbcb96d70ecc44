"""Training crops from corpora that need not fit into memory (:mod:`train.corpus`).

In every epoch each photograph comes once, in an order that follows from (seed, epoch); scale, place
and orientation of sample n follow from (seed, n). Any sample can be had at any time: the number of
samples drawn so far is all that a checkpoint needs to hold, however many processes share them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.photo.images import read_image
from train.corpus import read_index
from train.data.draws import to_device
from train.data.sources import read_range, scaled_size, tar_members

WARNINGS = 5  # Photographs that cannot be decoded, of which a training tells.
BROKEN_IN_A_ROW = 1000  # So many of them, one after another, end it.
_ORDER, _CROP = 1, 2  # Kinds of random numbers; without them epoch 3 would share sample 3's.


def find_shards(paths: Iterable[str | Path]) -> list[tuple[Path, int | None]]:
    """The tar files of corpora, or tar files, each with how many photographs it should hold."""
    shards: list[tuple[Path, int | None]] = []
    for path in map(Path, paths):
        if path.is_dir():
            shards += [(path / shard.name, shard.records) for shard in read_index(path)]
        elif path.is_file():
            shards.append((path, None))
        else:
            raise ValueError(f"expected a corpus or a tar shard, found nothing at {path}")
    return shards


def window(photo: Image.Image, side: int, corner: Sequence[float], size: int) -> Image.Image:
    """Cut a square out of the photo scaled to ``side``, without scaling what lies around it.

    The square's corner is x and y, as shares of what is possible, in [0, 1).
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


class CropStream:
    """Random crops of photographs in tar files, which threads read and decode ahead.

    Args:
        paths: see :func:`find_shards`.
        short_sides: sizes at which photographs are shown, by length of the short side in pixels. A
            photo is never enlarged, except to the smallest of them that holds the crop.
        seed: of everything drawn.
        device: where the crops go.
        workers: threads that read, decode and scale, ahead by as many samples as were asked for
            last, at least four each.

    Raises:
        ValueError: no photograph, or a tar file that holds another number than its index says.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        short_sides: Sequence[int],
        seed: int,
        device: torch.device | str = "cpu",
        workers: int = 2,
    ):
        self.shards, places = [], []
        for index, (path, records) in enumerate(find_shards(paths)):
            found = [(index, m.offset_data, m.size) for m in tar_members(path)]
            if records not in (None, len(found)):
                raise ValueError(f"expected {records} photographs in {path}, got {len(found)}")
            self.shards.append(path)
            places.append(np.array(found, np.int64).reshape(-1, 3))
        self._places = np.concatenate(places)
        if not len(self):
            raise ValueError(f"expected photographs, found none in {self.shards[0]}, ...")
        self.short_sides, self.seed = sorted(short_sides), seed
        self.workers, self.device = workers, device
        self._order = lru_cache(2)(self._permutation)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="crops")
        self._pending: dict[tuple[int, int], Future[np.ndarray]] = {}
        self._broken: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self._places)

    def crops(self, first: int, count: int, size: int, step: int = 1) -> Tensor:
        """Samples number first, first + step, ... of the training: (count, 3, size, size).

        Each is a photo at one of the short sides that hold the crop, all equally likely, cut out at
        random and mirrored with probability one half. float32 in [-1, 1] on the stream's device.
        """
        ahead = max(count, 4 * self.workers)
        wanted = [(n, size) for n in range(first, first + (count + ahead) * step, step)]
        for key in self._pending.keys() - set(wanted):
            self._pending.pop(key).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._load, *key)
        pixels = np.stack([self._pending.pop(key).result() for key in wanted[:count]])
        crops = to_device(torch.from_numpy(pixels), self.device)
        return crops.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)

    def read(self, index: int) -> bytes:
        """The file of a photograph, from 0 in the order of the tar files."""
        shard, *place = self._places[index].tolist()
        return read_range(self.shards[shard], *place)

    def close(self) -> None:
        """End the threads; the stream cannot be used any more."""
        self._pool.shutdown(cancel_futures=True)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self))

    def _load(self, number: int, size: int) -> np.ndarray:
        """Decode a sample and cut out its crop, uint8 (size, size, 3)."""
        rng = np.random.default_rng([self.seed, _CROP, number])
        scale, *corner, mirrored = rng.random(4).tolist()
        # In the place of one that cannot be decoded comes the next one that can.
        for place in range(number, number + BROKEN_IN_A_ROW):
            epoch, position = divmod(place, len(self))
            index = int(self._order(epoch)[position])
            try:
                photo = read_image(self.read(index))
            except ValueError as error:
                with self._lock:
                    told = index in self._broken or len(self._broken) >= WARNINGS
                    self._broken.add(index)
                if not told:
                    shard, offset, _ = self._places[index].tolist()
                    where = f"{self.shards[shard]}, byte {offset}"
                    warnings.warn(f"passed over the photograph at {where}: {error}", stacklevel=2)
                continue
            holding = [side for side in self.short_sides if side >= size]
            fitting = [side for side in holding if side <= min(photo.size)] or holding[:1]
            side = fitting[int(scale * len(fitting))]
            crop = np.asarray(window(photo, side, corner, size))
            return crop[:, ::-1] if mirrored < 0.5 else crop
        raise ValueError(f"expected photographs, got {BROKEN_IN_A_ROW} in a row that are broken")
