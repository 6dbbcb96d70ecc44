"""Training crops from corpora that need not fit into memory (:mod:`train.corpus`).

In every epoch each photograph comes once, in an order that follows from (seed, epoch); scale, place
and orientation of sample n follow from (seed, n). Any sample can be had at any time: the number of
samples drawn so far is all that a checkpoint needs to hold, however many processes share them.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.corpus import read_index
from train.data.draws import to_device
from train.data.sources import FoundPhoto, read_range, scaled_size, tar_members

_ORDER, _CROP = 1, 2  # Kinds of random numbers; without them epoch 3 would share sample 3's.


def window(photo: Image.Image, side: int, corner: Sequence[float], size: int) -> Image.Image:
    """Cut a square out of a photo scaled to ``side``; its corner is x and y, shares in [0, 1)."""
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

    A photo is shown at any of the ``short_sides``, in pixels, and never enlarged, except to the
    smallest of them that holds the crop. The workers are ahead by as many samples as were asked for
    last, at least four each; there are ``workers`` of them, by default one for each core but one,
    divided among the processes. ValueError if a shard holds another number than its index says.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        short_sides: Sequence[int],
        seed: int,
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ):
        self.shards: list[Path] = []
        places = []
        for folder in map(Path, paths):
            for shard in read_index(folder):
                path, index = folder / shard.name, len(self.shards)
                found = [(index, m.offset_data, m.size) for m in tar_members(path)]
                if len(found) != shard.records:
                    got = len(found)
                    raise ValueError(f"expected {shard.records} photographs in {path}, got {got}")
                self.shards.append(path)
                places.append(np.array(found, np.int64).reshape(-1, 3))
        self._places = np.concatenate(places)
        self.short_sides, self.seed = sorted(short_sides), seed
        # One core is left to each training process; what is drawn does not depend on the number.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.workers = workers or max(2, (os.cpu_count() or 1) // processes - 1)
        self.device = device
        self._order = lru_cache(2)(self._permutation)
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="crops")
        self._pending: dict[tuple[int, int], Future[np.ndarray]] = {}

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
        epoch, position = divmod(number, len(self))
        shard, offset, length = self._places[self._order(epoch)[position]].tolist()
        source = f"{self.shards[shard]}, byte {offset}"
        photo = FoundPhoto(source, source, self.shards[shard], (offset, length)).read()
        holding = [side for side in self.short_sides if side >= size]
        fitting = [side for side in holding if side <= min(photo.size)] or holding[:1]
        side = fitting[int(scale * len(fitting))]
        crop = np.asarray(window(photo, side, corner, size))
        return crop[:, ::-1] if mirrored < 0.5 else crop
