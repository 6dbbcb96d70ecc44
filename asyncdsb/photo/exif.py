"""Exif data and XMP of a photograph: what is kept of them once its pixels have changed.

The pixels are stored upright, and what the hole covers must not show in a preview. All else stays.
"""

import re
import struct
from collections.abc import Container, Iterator
from typing import Any

from PIL import Image

EXIF_PARTS = (0x8769, 0x8825)  # exposure and GPS position, directories of their own
PREFIX = b"Exif\0\0"  # what Exif data begin with, which some formats leave out
_SIZES = (0x0100, 0x0101, 0xA002, 0xA003)  # tags of width and height, twice
# Tags of TIFF files that belong to the file, not to the picture, or are kept elsewhere.
STRUCTURE = {
    *range(254, 260), *range(262, 267), *range(273, 274 + 1), *range(277, 280), 284, 292, 293, 297,
    317, *range(320, 326), *range(330, 333), *range(338, 348), *range(512, 533), 700, 34377, 34675,
}  # fmt: skip


def kept_exif(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """Exif data without rotation and previews, of this upright size; raises if they are damaged."""
    if hasattr(picture, "tag_v2"):
        return _from_tiff(picture, size)
    data = picture.info.get("exif")
    if not data:  # PNG files of older programs have them as a text.
        tags = picture.getexif()
        data = tags.tobytes() if len(tags) else b""
    return _changed(data, size) if data else b""


def _changed(data: bytes, size: tuple[int, int]) -> bytes:
    """Exif data with the changes made in place: what programs do not know keeps its offsets."""
    body = bytearray(data.removeprefix(PREFIX))
    order = {b"II": "<", b"MM": ">"}[bytes(body[:2])]

    def read(kind: str, place: int) -> int:
        return int(struct.unpack_from(order + kind, body, place)[0])

    def entries(place: int) -> tuple[dict[int, int], int]:
        """Where each tag of a directory has its entry, and where the directory ends."""
        end = place + 2 + 12 * read("H", place)
        return {read("H", entry): entry for entry in range(place + 2, end, 12)}, end

    first, end = entries(read("I", 4))
    places = first | (entries(read("I", first[0x8769] + 8))[0] if 0x8769 in first else {})
    for tag, value in ((0x0112, 1), *zip(_SIZES, 2 * size, strict=True)):
        if tag in places:
            kind = "H" if read("H", places[tag] + 2) == 3 else "I"
            struct.pack_into(order + kind, body, places[tag] + 8, value)
    if end + 4 <= len(body) and (preview := read("I", end)):
        struct.pack_into(order + "I", body, end, 0)
        second, _ = entries(preview)
        for offset, length in ((0x0201, 0x0202), (0x0111, 0x0117)):
            if offset in second and length in second:
                place, count = (read("I", second[one] + 8) for one in (offset, length))
                body[place : place + count] = bytes(len(body[place : place + count]))
                if place + count >= len(body):
                    del body[place:]
    if 0x927C in places:
        length, place = (read("I", places[0x927C] + n) for n in (4, 8))
        body[place : place + length] = _without_jpeg(bytes(body[place : place + length]), b"|$")
    return PREFIX + _without_jpeg(bytes(body))


def _without_jpeg(data: bytes, ends: bytes = b"") -> bytes:
    """Blank the JPEG pictures in data: makers of cameras have previews of their own in theirs."""
    whole = rb"\xff\xd8\xff[\xc0-\xef].*?(?:\xff\xd9" + ends + b")"
    return re.sub(whole, lambda found: bytes(len(found[0])), data, flags=re.DOTALL)


def _from_tiff(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """Exif data out of a TIFF file, whose own tags are among them."""
    exif = Image.Exif()
    for tag, value in tags_of(picture.getexif(), STRUCTURE):
        if tag in EXIF_PARTS:
            sizes = zip(_SIZES, 2 * size, strict=True)
            value |= {name: edge for name, edge in sizes if name in value}
            note = value.get(0x927C)
            value |= {0x927C: _without_jpeg(note, b"|$")} if isinstance(note, bytes) else {}
        exif[tag] = value
    return exif.tobytes() if len(exif) else b""


def exif_tags(data: bytes) -> Image.Exif:
    """Parse Exif data."""
    tags = Image.Exif()
    tags.load(data)
    return tags


def tags_of(exif: Image.Exif, leave: Container[int] = ()) -> Iterator[tuple[int, Any]]:
    """The tags and values of Exif data as Pillow needs them to write them again."""
    for tag in exif:
        if tag in EXIF_PARTS:
            part = {name: _as_read(value) for name, value in exif.get_ifd(tag).items()}
            if 0xA005 in part:  # How the colours are to be read: a directory of its own.
                part[0xA005] = dict(exif.get_ifd(0xA005))
            yield tag, part
        elif tag not in leave:
            yield tag, _as_read(exif[tag])


def _as_read(value: Any) -> Any:
    """Texts beyond ASCII as bytes, because Pillow would write them as "?"."""
    return value.encode("latin-1") if isinstance(value, str) and not value.isascii() else value


def kept_xmp(data: bytes, size: tuple[int, int]) -> bytes:
    """XMP without previews, and with the size (width, height) of the picture, which is upright."""
    data = re.sub(rb"<xmp:Thumbnails\b.*?</xmp:Thumbnails>", b"", data, flags=re.DOTALL)
    for names, side in ((rb"ImageWidth|PixelXDimension", 0), (rb"ImageLength|PixelYDimension", 1)):
        told = rb"(\b(?:tiff|exif):(?:" + names + rb")(?:\s*=\s*[\"']|>))\d+"
        data = re.sub(told, rb"\g<1>%d" % size[side], data)
    # Pillow resets it in double quotes alone.
    return re.sub(rb"(\btiff:Orientation(?:\s*=\s*[\"']|>))\d+", rb"\g<1>1", data)
