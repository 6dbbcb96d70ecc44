"""Which crops and masks an evaluation restores: fixed by the photos' keys, whatever the method.

Every photo gives the same number of square crops:

- crop 0: the short side is resized to the crop's size, and the centre is cut out;
- crops 1, 2, ...: the short side is resized to a length drawn uniformly between the crop's size
  and the photo's own short side, and a window is cut out at a uniformly drawn place.

Crop windows, masks and the sampler's noise are drawn from seeds derived from (key, crop index,
purpose), so a result depends neither on the order or number of photos nor on the batch size, and
every method meets the same holes. Only masks that a folder gives in turn depend on a crop's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from asyncdsb.masks import AREA_BINS, make_mask, make_mask_in_bin
from asyncdsb.names import MASK_KINDS
from asyncdsb.photo.mask_files import read_mask
from train.data.sources import pictures_in

AREA_KINDS = {f"{round(100 * low)}-{round(100 * high)}%": (low, high) for low, high in AREA_BINS}
"""Kinds of mask that are strokes of a given share of the area."""


class MaskFolder:
    """Masks that lie in a folder; white is the hole, or what is known if ``inverted``.

    A crop takes the mask whose file is called like the crop or like its photo, else the one at the
    crop's place in the sorted list, which begins again after the last. Other sizes are stretched.
    """

    def __init__(self, folder: Path, inverted: bool = False):
        self.files, self.inverted = pictures_in(folder), inverted
        if not self.files:
            raise ValueError(f"expected a folder of masks, found none at {folder}")
        self._by_stem = {path.stem: path for path in self.files}

    def mask(self, crop: Crop) -> np.ndarray:
        """Return a crop's mask: bool (size, size), True = missing; ValueError if it has no hole."""
        turn = self.files[crop.place % len(self.files)]
        path = self._by_stem.get(crop.name) or self._by_stem.get(crop.key) or turn
        mask = (read_mask(path) != self.inverted).astype(np.uint8)
        mask = cv2.resize(mask, crop.pixels.shape[:2], interpolation=cv2.INTER_NEAREST) > 0
        if not mask.any() or mask.all():
            what = "no hole" if not mask.any() else "a hole everywhere"
            raise ValueError(f"expected a mask with a hole and something known, {path} has {what}")
        return mask


@dataclass(frozen=True)
class Crop:
    """One square cut out of a photo."""

    key: str  # name of the photo
    index: int  # which of its crops
    pixels: np.ndarray  # uint8 (size, size, 3)
    place: int = 0  # of the crop among all
    # Kinds of mask that come from folders.
    folders: Mapping[str, MaskFolder] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Key and index, usable as a file name."""
        return f"{self.key}-{self.index}"

    def mask(self, kind: str) -> np.ndarray:
        """Return this crop's mask of a kind: bool (size, size), True = missing."""
        if kind in self.folders:
            return self.folders[kind].mask(self)
        size, seed = len(self.pixels), derived_seed(self.key, self.index, kind)
        if kind in AREA_KINDS:
            return make_mask_in_bin(AREA_KINDS[kind], size, seed)
        return make_mask(kind, size, seed)

    def corrupted(self, kind: str, grey: int = 0) -> np.ndarray:
        """Return the pixels with the hole of this kind of mask black, or in another grey."""
        return np.where(self.mask(kind)[..., None], np.uint8(grey), self.pixels)

    def noise_seed(self, kind: str) -> int:
        """Return the seed of a sampler that restores this crop with this kind of mask."""
        return derived_seed(self.key, self.index, kind, "noise")


def derived_seed(*parts: str | int) -> int:
    """Return a 63-bit seed that depends on all parts and on nothing else."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def iter_crops(
    photos: Iterable[tuple[str, Image.Image]], crops: int, size: int, folders: Mapping | None = None
) -> Iterator[Crop]:
    """Cut so many crops of a side in pixels out of each photo (key, RGB), keys all different."""
    if crops < 1:
        raise ValueError(f"expected at least 1 crop per photo, got {crops}")
    if size < 32:
        raise ValueError(f"expected crops of at least 32 pixels, got {size}")
    for number, (key, photo) in enumerate(photos):
        for index in range(crops):
            place = number * crops + index
            yield Crop(key, index, _cut(photo, key, index, size), place, folders or {})


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


def parse_kinds(text: str, inverted: bool = False) -> tuple[tuple[str, ...], dict[str, MaskFolder]]:
    """Read a comma-separated list of kinds of mask; return them, and the folders among them.

    Each is one of MASK_KINDS or :data:`AREA_KINDS`, or NAME=FOLDER; ValueError otherwise.
    """
    kinds, known = [], (*MASK_KINDS, *AREA_KINDS)
    folders: dict[str, MaskFolder] = {}
    for part in dict.fromkeys(part.strip() for part in text.split(",")):
        name, _, folder = part.partition("=")
        if folder and name in ("", *known, *folders):
            raise ValueError(f"expected another name for the masks in {folder} than {name!r}")
        if folder:
            folders[name] = MaskFolder(Path(folder), inverted)
        elif name not in known:
            raise ValueError(
                f"expected mask kinds out of {', '.join(known)}, or NAME=FOLDER, got {name!r}"
            )
        kinds.append(name)
    return tuple(kinds), folders
