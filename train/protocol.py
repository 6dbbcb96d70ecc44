"""Which crops and masks an evaluation restores: fixed by the photos' keys, whatever the method.

Every photo gives the same number of square crops.

- Crop 0: the short side is resized to the crop's size, and the centre is cut out.
- Crops 1, 2, ...: the short side is resized to a length drawn uniformly between the crop's size
  and the photo's own short side, and a window is cut out at a uniformly drawn place. So the crops
  show both whole scenes and details, and no photo is enlarged unless it is smaller than a crop.

Each crop is restored once for every kind of mask. Crop windows, masks and the sampler's noise are
drawn from seeds derived from (key, crop index, purpose), so a result depends neither on the order
or number of photos nor on the batch size, and every method meets the same holes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from asyncdsb.masks import MASK_KINDS, make_mask


@dataclass(frozen=True)
class Crop:
    """One square cut out of a photo.

    Attributes:
        key: name of the photo.
        index: which of its crops.
        pixels: uint8 (size, size, 3).
    """

    key: str
    index: int
    pixels: np.ndarray

    @property
    def name(self) -> str:
        """Key and index, usable as a file name."""
        return f"{self.key}-{self.index}"

    def mask(self, kind: str) -> np.ndarray:
        """Return this crop's mask of a kind: bool (size, size), True = missing."""
        return make_mask(kind, len(self.pixels), derived_seed(self.key, self.index, kind))

    def corrupted(self, kind: str) -> np.ndarray:
        """Return the pixels with the hole of this kind of mask black."""
        return np.where(self.mask(kind)[..., None], np.uint8(0), self.pixels)

    def noise_seed(self, kind: str) -> int:
        """Return the seed of a sampler that restores this crop with this kind of mask."""
        return derived_seed(self.key, self.index, kind, "noise")


def derived_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on all parts and on nothing else."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def iter_crops(photos: Iterable[tuple[str, Image.Image]], crops: int, size: int) -> Iterator[Crop]:
    """Cut the crops of all photos.

    Args:
        photos: (key, RGB photo), keys all different.
        crops: how many per photo.
        size: side in pixels.

    Yields:
        The crops, photo by photo.

    Raises:
        ValueError: a key that appears twice, or a count or size out of range.
    """
    if crops < 1:
        raise ValueError(f"expected at least 1 crop per photo, got {crops}")
    if size < 32:
        raise ValueError(f"expected crops of at least 32 pixels, got {size}")
    seen = set()
    for key, photo in photos:
        if key in seen:
            raise ValueError(f"expected photos with different names, got {key} twice")
        seen.add(key)
        for index in range(crops):
            yield Crop(key, index, _cut(photo, key, index, size))


def _cut(photo: Image.Image, key: str, index: int, size: int) -> np.ndarray:
    short = min(photo.size)
    if index == 0:
        window, corner = float(short), [(side - short) / 2 for side in photo.size]
    else:
        rng = np.random.default_rng(derived_seed(key, index, "crop"))
        # A window of this many source pixels is `size` pixels wide once the short side is resized.
        window = short * size / rng.integers(size, max(size, short) + 1)
        corner = [rng.uniform(0, side - window) for side in photo.size]
    left, top = corner
    box = (left, top, min(left + window, photo.width), min(top + window, photo.height))
    return np.array(photo.resize((size, size), Image.Resampling.LANCZOS, box=box))


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of mask as a tuple; ValueError if there is none or an unknown one."""
    kinds = tuple(dict.fromkeys(kinds))
    unknown = [kind for kind in kinds if kind not in MASK_KINDS]
    if not kinds or unknown:
        raise ValueError(
            f"expected mask kinds out of {', '.join(MASK_KINDS)}, got {', '.join(kinds) or 'none'}"
        )
    return kinds
