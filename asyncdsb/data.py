"""Photographs for training and evaluation: folders and tar shards, decoded once."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from asyncdsb.images import read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Photo:
    """A photo that was found but not read yet.

    Attributes:
        key: the file's stem, the same whether a photo lies in a folder or in a tar.
        read: returns it as an RGB picture; ValueError if it cannot be read. Other processes can
            call it too.
        source: the file's path, or a tar file's path, a slash and the member's name.
    """

    key: str
    read: Callable[[], Image.Image]
    source: str


def find_photos(paths: Iterable[str | Path]) -> list[Photo]:
    """List the photos of folders, tar shards, lists and single files, in sorted order.

    Args:
        paths: folders (searched recursively; one without pictures for the tar files in it),
            ``.tar`` files, ``.txt`` files that name one photo a line, relative to their own folder
            and kept in their order, or picture files.

    Returns:
        At least one photo.

    Raises:
        ValueError: if a path does not exist, or there is no photo at all.
    """
    paths = [Path(path) for path in paths]
    photos = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"expected a folder, a tar shard or a photo, found nothing at {path}")
        if path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            photos += [_from_file(p) for p in files]
            if not files:
                photos += [photo for p in sorted(path.glob("[!.]*.tar")) for photo in _from_tar(p)]
        elif path.suffix == ".tar":
            photos += _from_tar(path)
        elif path.suffix == ".txt":
            lines = path.read_text("utf-8").splitlines()
            photos += [_from_file(path.parent / line.strip()) for line in lines if line.strip()]
        else:
            photos.append(_from_file(path))
    if not photos:
        raise ValueError(f"expected photos, found none in {', '.join(map(str, paths))}")
    return photos


def iter_photos(paths: Iterable[str | Path]) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB photo) of what :func:`find_photos` finds, reading one at a time.

    Raises:
        ValueError: as :func:`find_photos`, or if a file cannot be read.
    """
    for photo in find_photos(paths):
        yield photo.key, photo.read()


def _from_file(path: Path) -> Photo:
    return Photo(path.stem, partial(read_image, path), str(path))


def _from_tar(path: Path) -> list[Photo]:
    try:
        # Uncompressed only: a member is then read from its place, without its neighbours.
        with tarfile.open(path, "r:") as shard:
            members = [m for m in shard if m.isfile() and Path(m.name).suffix.lower() in SUFFIXES]
    except tarfile.TarError as error:
        raise ValueError(f"expected an uncompressed tar file, got {path}: {error}") from None

    members.sort(key=lambda m: m.name)
    return [
        Photo(
            Path(m.name).stem,
            partial(_read_member, path, m.offset_data, m.size),
            f"{path}/{m.name}",
        )
        for m in members
    ]


def _read_member(path: Path, offset: int, size: int) -> Image.Image:
    with open(path, "rb") as file:
        file.seek(offset)
        return read_image(file.read(size))


class PhotoBank:
    """All training photos as uint8 on one device, cropped there.

    Each photo is kept at several sizes, so that a random crop at a random scale is a plain copy:
    no interpolation, no aliasing, nothing for the host to do. The pixels of all copies lie behind
    one another in one (N, 3) tensor, in which a batch of crops is a single gather.

    Args:
        paths: see :func:`iter_photos`.
        short_sides: sizes to keep, by length of the short side in pixels. A photo is never
            enlarged, except to the smallest of them.
        device: where the pixels live.
        shares: relative frequency of each of ``paths``; None if every photo counts the same.

    Raises:
        ValueError: on no photo, on an empty list of sizes, or on shares that are not one positive
            number for each path.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        short_sides: Sequence[int],
        device: torch.device | str = "cpu",
        shares: Sequence[float] | None = None,
    ):
        paths = list(paths)
        if not short_sides:
            raise ValueError("expected at least one short side, got none")
        if shares is not None and (len(shares) != len(paths) or min(shares) <= 0):
            raise ValueError(f"expected {len(paths)} positive shares, one a path, got {shares}")
        self.shares = None if shares is None else torch.tensor(shares, dtype=torch.float64)
        pixels, sizes, groups, self.keys = [], [], [], []
        for group, path in enumerate(paths):
            for key, photo in tqdm(iter_photos([path]), desc=str(path), unit="photo", leave=False):
                self.keys.append(key)
                for copy in _copies(photo, sorted(short_sides)):
                    array = np.array(copy)
                    groups.append(group)
                    sizes.append(array.shape[:2])
                    pixels.append(torch.from_numpy(array.reshape(-1, 3)))
        if not self.keys:
            raise ValueError("expected photos, got no path")
        self.groups = torch.tensor(groups)
        areas = torch.tensor([h * w for h, w in sizes])
        self.sizes = torch.tensor(sizes)
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.long), areas.cumsum(0)[:-1]])
        self.pixels = torch.cat(pixels).to(device)

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.keys)

    def crops(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        """Random square crops, each mirrored with probability one half.

        Copies of all sizes are equally likely, hence large photos are not preferred; with shares,
        so are those of one path.

        Args:
            count: B, number of crops.
            size: side in pixels.
            generator: CPU generator.

        Returns:
            (B, 3, size, size) float32 in [-1, 1] on the bank's device.

        Raises:
            ValueError: if no photo is large enough.
        """
        fits = torch.nonzero(self.sizes.amin(1) >= size).flatten()
        if len(fits) == 0:
            raise ValueError(
                f"expected a photo of at least {size} x {size} pixels, "
                f"got at most {int(self.sizes.amin(1).max())} on the short side"
            )
        which = fits[self._choice(self.groups[fits], count, generator)]
        free = self.sizes[which] - size + 1
        corner = (torch.rand(count, 2, generator=generator) * free).long()
        mirrored = torch.rand(count, generator=generator) < 0.5
        start = self.offsets[which] + corner[:, 0] * self.sizes[which, 1] + corner[:, 1]
        columns = torch.arange(size)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns)
        device = self.pixels.device
        rows = torch.arange(size, device=device)[None, :] * self._to(self.sizes[which, 1])[:, None]
        index = self._to(start)[:, None, None] + rows[:, :, None] + self._to(columns)[:, None, :]
        crops = self.pixels[index].permute(0, 3, 1, 2)
        return crops.float() / 127.5 - 1

    def _choice(self, groups: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Indices (count,) into copies that belong to the given groups."""
        if self.shares is None:
            return torch.randint(len(groups), (count,), generator=generator)
        weights = (self.shares / groups.bincount(minlength=len(self.shares)))[groups]
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def _to(self, values: Tensor) -> Tensor:
        """Copy small host values to the device without waiting for it."""
        if self.pixels.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.pixels.device, non_blocking=True)


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture that is scaled so that its short side has ``side`` pixels."""
    scale = side / min(size)
    return tuple(max(side, round(edge * scale)) for edge in size)


def scaled(photo: Image.Image, side: int) -> Image.Image:
    """The photo scaled so that its short side has ``side`` pixels."""
    return photo.resize(scaled_size(photo.size, side), Image.Resampling.LANCZOS)


def _copies(photo: Image.Image, short_sides: Sequence[int]) -> Iterator[Image.Image]:
    """The photo scaled to each short side that does not enlarge it, or at least to the first."""
    for index, side in enumerate(short_sides):
        if side > min(photo.size) and index > 0:
            break
        yield scaled(photo, side)
