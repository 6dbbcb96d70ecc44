"""Training photographs that are held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from train.data.draws import Draws, to_device
from train.data.sources import iter_photos, scaled


class PhotoBank:
    """All training photos as uint8 on one device, cropped there.

    Each photo is kept at several sizes, so that a random crop at a random scale is a plain copy:
    no interpolation, no aliasing, nothing for the host to do. The pixels of all copies lie behind
    one another in one (N, 3) tensor, in which a batch of crops is a single gather.

    Args:
        paths: see :func:`train.data.sources.find_photos`.
        short_sides: sizes to keep, by length of the short side in pixels. A photo is never
            enlarged, except to the smallest of them.
        device: where the pixels live.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        short_sides: Sequence[int],
        device: torch.device | str = "cpu",
    ):
        pixels, sizes, self.keys = [], [], []
        for path in paths:
            for key, photo in tqdm(iter_photos([path]), desc=str(path), unit="photo", leave=False):
                self.keys.append(key)
                for copy in _copies(photo, sorted(short_sides)):
                    array = np.array(copy)
                    sizes.append(array.shape[:2])
                    pixels.append(torch.from_numpy(array.reshape(-1, 3)))
        if not self.keys:
            raise ValueError("expected photos, got no path")
        areas = torch.tensor([h * w for h, w in sizes])
        self.sizes = torch.tensor(sizes)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.long), areas.cumsum(0)[:-1]])
        self.pixels = torch.cat(pixels).to(device)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.keys)

    @property
    def contents(self) -> dict:
        """What tells these photographs from others: how many, and the sum of their values."""
        return {"photographs": len(self), "sum": int(self.pixels.sum(dtype=torch.int64))}

    def holding(self, size: int) -> Tensor:
        """Which copies hold a square crop of this side, (n,) of int64; ValueError if none does."""
        fits = torch.nonzero(self.sizes.amin(1) >= size).flatten()
        if len(fits) == 0:
            raise ValueError(
                f"expected a photo that holds crops of {size} x {size} pixels, got copies of at "
                f"most {int(self.sizes.amin(1).max())} on the short side: photos are not enlarged"
            )
        return fits

    def crops(self, size: int, draws: Draws) -> Tensor:
        """Random crops (B, 3, size, size), each mirrored with probability one half.

        Copies of all sizes are equally likely. float32 in [-1, 1] on the bank's device; ValueError
        if no photo is large enough.
        """
        fits = self.holding(size)
        which = fits[draws.randint(0, len(fits))]
        free = self.sizes[which] - size + 1
        corner = (draws.rand(2) * free).long()
        mirrored = draws.rand() < 0.5
        start = self.offsets[which] + corner[:, 0] * self.sizes[which, 1] + corner[:, 1]
        columns = torch.arange(size)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns)
        device = self.pixels.device
        widths, start, columns = (
            to_device(values, device) for values in (self.sizes[which, 1], start, columns)
        )
        rows = torch.arange(size, device=device)[None, :] * widths[:, None]
        index = start[:, None, None] + rows[:, :, None] + columns[:, None, :]
        crops = self.pixels[index].permute(0, 3, 1, 2)
        return crops.float() / 127.5 - 1


def _copies(photo: Image.Image, short_sides: Sequence[int]) -> Iterator[Image.Image]:
    """The photo scaled to each short side that does not enlarge it, or at least to the first."""
    for index, side in enumerate(short_sides):
        if side > min(photo.size) and index > 0:
            break
        yield scaled(photo, side)
