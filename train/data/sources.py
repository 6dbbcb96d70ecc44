"""Photographs for training and evaluation: folders and tar shards, decoded once."""

import csv
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from PIL import Image

from asyncdsb.photo.decoding import readable_suffixes
from asyncdsb.photo.formats import NOT_READ
from asyncdsb.photo.images import read_image


@dataclass(frozen=True)
class FoundPhoto:
    """A photo that was found but not read yet."""

    key: str  # the file's stem, in a folder or in a tar; numbered where it comes again
    source: str  # the file's path, or a tar file's path, a slash and the member's name
    file: Path
    place: tuple[int, int] | None = None  # of a tar's member: first byte and how many

    def read(self) -> Image.Image:
        """Return the RGB picture; ValueError with the source if it cannot be read."""
        try:
            return read_image(read_range(self.file, *self.place) if self.place else self.file)
        except ValueError as error:
            name = "the picture" if self.place else self.file.name
            raise ValueError(f"{self.source}: {str(error).removeprefix(f'{name}: ')}") from error


def is_picture_name(name: str) -> bool:
    """Whether a file is called like a picture, of any kind, also such as cannot be read."""
    path = PurePath(name)
    known = readable_suffixes() | NOT_READ
    return path.suffix.lower() in known and not path.name.startswith(".")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and all its folders, sorted; none if there is no such folder."""
    return sorted(p for p in folder.rglob("*") if is_picture_name(p.name) and p.is_file())


def find_photos(paths: Iterable[str | Path]) -> list[FoundPhoto]:
    """List the photos of folders, tar shards, lists and single files; ValueError if there is none.

    Folders are searched recursively, one without pictures for the tar files in it, and sorted.
    ``.txt`` files name one photo a line, relative to their own folder, and keep their order.
    """
    places = [Path(path) for path in paths]
    photos: list[FoundPhoto] = []
    for path in places:
        if not path.exists():
            raise ValueError(f"expected a folder, a tar shard or a photo, found nothing at {path}")
        files, tars = [path], []
        if path.is_dir():
            files = pictures_in(path)
            tars = [] if files else sorted(path.glob("[!.]*.tar"))
        elif path.suffix == ".tar":
            files, tars = [], [path]
        elif path.suffix == ".txt":
            try:
                # Programs on Windows mark the encoding.
                lines = path.read_text("utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise ValueError(f"expected a list in UTF-8, got {path}: {error}") from error
            files = [path.parent / line.strip() for line in lines if line.strip()]
        photos += [FoundPhoto(file.stem, str(file), file) for file in files]
        photos += [photo for tar in tars for photo in _from_tar(tar)]
    if not photos:
        raise ValueError(f"expected photos, found none in {', '.join(map(str, places))}")
    keys = numbered([photo.key for photo in photos])
    return [replace(photo, key=key) for photo, key in zip(photos, keys, strict=True)]


def iter_photos(paths: Iterable[str | Path]) -> Iterator[tuple[str, Image.Image]]:
    """Yield (key, RGB photo) of what :func:`find_photos` finds, reading one at a time."""
    for photo in find_photos(paths):
        yield photo.key, photo.read()


def manifest_rows(manifest: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV of photographs; ValueError if a column is missing, or every row."""
    with open(manifest, encoding="utf-8-sig", newline="") as file:  # As spreadsheets write it.
        rows = list(csv.DictReader(file))
    if not rows or not set(columns) <= rows[0].keys():
        raise ValueError(f"expected the columns {', '.join(columns)} in {manifest}")
    return rows


def numbered(keys: Sequence[str]) -> list[str]:
    """The keys made different: those that come again get a number, and a key that none has yet."""
    taken, numbers = set(keys), Counter[str]()
    found = dict[str, None]()
    for given in keys:
        key = given
        while key in found or (key != given and key in taken):
            numbers[given] += 1
            key = f"{given}-{numbers[given] + 1}"
        found[key] = None
    return list(found)


def tar_members(path: Path) -> list[tarfile.TarInfo]:
    """The pictures in a tar file, as they lie in it; ValueError if it is none, or compressed."""
    try:
        # Uncompressed only: a member is then read from its place, without its neighbours.
        with tarfile.open(path, "r:") as shard:
            return [m for m in shard if m.isfile() and is_picture_name(m.name)]
    except tarfile.TarError as error:
        raise ValueError(f"expected an uncompressed tar file, got {path}: {error}") from None


def read_range(path: Path, offset: int, size: int) -> bytes:
    """So many bytes of a file."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def _from_tar(path: Path) -> Iterator[FoundPhoto]:
    for member in sorted(tar_members(path), key=lambda m: m.name):
        source, place = f"{path}/{member.name}", (member.offset_data, member.size)
        yield FoundPhoto(Path(member.name).stem, source, path, place)


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of a picture that is scaled so that its short side has ``side`` pixels."""
    scale = side / min(size)
    width, height = (max(side, round(edge * scale)) for edge in size)
    return width, height


def scaled(photo: Image.Image, side: int) -> Image.Image:
    """The photo scaled so that its short side has ``side`` pixels."""
    return photo.resize(scaled_size(photo.size, side), Image.Resampling.LANCZOS)
