"""Training photographs that are held in memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from train.data.draws import Draws, to_device
from train.data.sources import FoundPhoto, find_photos, scaled

ESTIMATED_AFTER = 64  # Photos from which the memory that all of them take is estimated.


def check_room(needed: float, device: str) -> None:
    """Raise ValueError if so many bytes of photographs do not fit into memory."""
    room = {}
    if hasattr(os, "sysconf"):  # Not on Windows. Half, because the copies are joined in the end.
        room["memory"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    if device.startswith("cuda"):
        room["the GPU's memory"] = torch.cuda.mem_get_info(device)[0]
    for name, bytes_left in room.items():
        if needed > bytes_left:
            raise ValueError(
                f"expected photographs that fit into {name}, got about {needed / 1e9:.0f} GB for "
                f"{bytes_left / 1e9:.0f} GB: pack them with train.corpus and add --stream"
            )


class PhotoBank:
    """All training photos as uint8 on one device, cropped there.

    Each photo is kept at several ``short_sides``, in pixels, so that a random crop at a random
    scale is a plain copy; it is never enlarged, except to the smallest of them. All copies lie
    behind one another in one (N, 3) tensor, in which a batch of crops is a single gather.
    """

    def __init__(self, paths: Sequence[str], short_sides: Sequence[int], device: str = "cpu"):
        pixels, sizes = [], []
        smallest, *others = sorted(short_sides)

        def copies(found: FoundPhoto) -> list[np.ndarray]:
            photo = found.read()
            kept = smallest, *(side for side in others if side <= min(photo.size))
            return [np.array(scaled(photo, side)) for side in kept]

        photos = find_photos(paths)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = tqdm(pool.map(copies, photos), unit="photo", total=len(photos), leave=False)
            for number, arrays in enumerate(decoded, 1):
                sizes += [array.shape[:2] for array in arrays]
                pixels += [torch.from_numpy(array.reshape(-1, 3)) for array in arrays]
                if number == ESTIMATED_AFTER:
                    try:
                        check_room(sum(map(torch.numel, pixels)) * len(photos) / number, device)
                    except ValueError:
                        pool.shutdown(cancel_futures=True)
                        raise
        areas = torch.tensor([h * w for h, w in sizes])
        self.sizes = torch.tensor(sizes)
        self.offsets = areas.cumsum(0) - areas
        self.pixels = torch.cat(pixels).to(device)

    def holding(self, size: int) -> Tensor:
        """Which copies hold a square crop of this side, (n,) of int64; ValueError if none does."""
        shortest = self.sizes.amin(1)
        if size > shortest.max():
            raise ValueError(
                f"expected a photo that holds crops of {size} x {size} pixels, got copies of at "
                f"most {int(shortest.max())} on the short side: photos are not enlarged"
            )
        return torch.nonzero(shortest >= size).flatten()

    def crops(self, size: int, draws: Draws) -> Tensor:
        """Random crops (B, 3, size, size) in [-1, 1], each mirrored with probability one half.

        Copies of all sizes are equally likely. ValueError if no photo is large enough.
        """
        fits = self.holding(size)
        which = fits[draws.randint(len(fits))]
        corner = (draws.rand(2) * (self.sizes[which] - size + 1)).long()
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
        return self.pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
