"""Exif data and XMP of a photograph whose pixels have changed: what stays, and what must not."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic_photo
from PIL import Image
from test_original import saved, written

from asyncdsb.photo.exif import exif_tags
from asyncdsb.photo.original import Photograph, read_photograph

SIZE = (96, 64)
PHOTO = synthetic_photo(*SIZE)
SUFFIXES = ("png", "tif", "webp", "jpg")
AUTHOR = "© Zaunkönig"
PREVIEW = saved(Image.new("RGB", (8, 8), (250, 0, 0)), "JPEG")


def exif_data(
    entries: dict[int, tuple[int, bytes]], second: dict[int, tuple[int, bytes]] | None = None
) -> bytes:
    """Exif data of entries by tag, (type, bytes), with those of the directory of a preview."""
    order, sizes = ">", {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}
    data = b"MM\0*" + struct.pack(order + "I", 8)
    for number, part in enumerate(filter(None, (entries, second))):
        end = len(data) + 2 + 12 * len(part) + 4
        table, values = struct.pack(order + "H", len(part)), b""
        for tag, (kind, value) in sorted(part.items()):
            if tag == 0x0201:  # Where the preview lies: at the end.
                value = struct.pack(order + "I", end + len(values))
            table += struct.pack(order + "HHI", tag, kind, len(value) // sizes[kind])
            if len(value) > 4:
                table += struct.pack(order + "I", end + len(values))
                values += value + bytes(len(value) % 2)
            else:
                table += value.ljust(4, b"\0")
        more = end + len(values) if number == 0 and second else 0
        data += table + struct.pack(order + "I", more) + values
    return b"Exif\0\0" + data


def exif_of(photo: Photograph, folder: Path, suffix: str) -> Image.Exif:
    return written(photo, folder, suffix).getexif()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_beyond_ascii_stay(tmp_path, suffix):
    text = AUTHOR.encode() + b"\0"
    photo = read_photograph(saved(PHOTO, "JPEG", exif=exif_data({0x013B: (2, text)})))
    photo.save(tmp_path / f"out.{suffix}")
    assert AUTHOR.encode() in (tmp_path / f"out.{suffix}").read_bytes()
    again = read_photograph(tmp_path / f"out.{suffix}")
    assert AUTHOR.encode() in again.info["exif"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_size_in_them_is_that_of_the_upright_picture(tmp_path, kind, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = SIZE
    xmp = b"<x exif:PixelXDimension='96'><tiff:ImageLength>64</tiff:ImageLength></x>"
    more = {} if kind in ("TIFF", "PNG") else {"xmp": xmp}
    if kind == "TIFF":
        exif = exif.tobytes()
    photo = read_photograph(saved(PHOTO, kind, exif=exif, **more))
    got = exif_of(photo, tmp_path, suffix)
    assert got.get(0x0112, 1) == 1
    part = got.get_ifd(0x8769)
    assert (part[0xA002], part[0xA003]) == photo.size == SIZE[::-1]
    if more:
        assert b"PixelXDimension='64'" in photo.info["xmp"]
        assert b"<tiff:ImageLength>96<" in photo.info["xmp"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_how_colours_are_to_be_read_stays(tmp_path, suffix):
    """Cameras tell of Adobe RGB in this way alone."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    photo = read_photograph(saved(PHOTO, "JPEG", exif=exif, dpi=(300, 300)))
    again = read_photograph(photo.save(tmp_path / f"out.{suffix}"))
    assert exif_tags(again.info["exif"]).get_ifd(0xA005)[1] == "R03"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_preview_stays(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    exif.get_ifd(0x8769)[0x927C] = b"CAMERA 1.0\0" + PREVIEW + b"more"
    exif.get_ifd(0x8825)[1] = "N"
    xmp = (
        b"<x:xmpmeta><xmp:Thumbnails><rdf:Alt>/9j/4AAQ</rdf:Alt></xmp:Thumbnails>a wren</x:xmpmeta>"
    )
    photo = read_photograph(saved(PHOTO, "JPEG", exif=exif.tobytes() + PREVIEW, xmp=xmp))
    photo.save(tmp_path / f"out.{suffix}")
    data = (tmp_path / f"out.{suffix}").read_bytes()
    assert PREVIEW[2:60] not in data and b"Thumbnails" not in data and b"a wren" in data
    got = Image.open(io.BytesIO(data)).getexif()
    assert got[0x013B] == "Ada" and got.get_ifd(0x8825)[1] == "N"
    note = got.get_ifd(0x8769)[0x927C]
    assert note.startswith(b"CAMERA 1.0\0") and note.endswith(b"more")


@pytest.mark.parametrize("kind", ["compressed", "plain"])
def test_the_directory_of_the_preview_goes(kind):
    if kind == "compressed":
        values = PREVIEW
        second = {0x0201: (4, b"\0\0\0\0"), 0x0202: (4, struct.pack(">I", len(PREVIEW)))}
        data = exif_data({0x013B: (2, b"Ada\0")}, second) + PREVIEW
    else:
        values = bytes(range(1, 193))
        second = {0x0111: (4, b"\0\0\0\0"), 0x0117: (4, struct.pack(">I", len(values)))}
        data = exif_data({0x013B: (2, b"Ada\0")}, second)
        place = data.index(struct.pack(">HHI", 0x0111, 4, 1)) + 8
        data = data[:place] + struct.pack(">I", len(data) - 6) + data[place + 4 :] + values
    assert values in data
    kept = read_photograph(saved(PHOTO, "JPEG", exif=data)).info["exif"]
    assert values not in kept and len(kept) < len(data) - len(values) + 8
    assert Image.open(io.BytesIO(saved(PHOTO, "JPEG", exif=kept))).getexif()[0x013B] == "Ada"


def test_a_tiff_of_the_caller_keeps_them(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    path = read_photograph(saved(PHOTO, "JPEG", exif=exif)).save(tmp_path / "in.tif")
    photo = read_photograph(Image.open(path))
    assert photo.lost == () and exif_tags(photo.info["exif"]).get_ifd(0xA005)[1] == "R03"


def test_what_is_not_changed_stays_bit_for_bit():
    note = b"offsets of a maker count from the start of all" * 3
    data = exif_data(
        {0x013B: (2, b"Ada\0"), 0x0132: (2, b"2026:01:01 00:00:00\0"), 0xC000: (7, note)}
    )
    assert read_photograph(saved(PHOTO, "JPEG", exif=data)).info["exif"] == data


def test_what_cannot_be_read_is_told():
    data = exif_data({0x013B: (2, b"Ada\0")})[:14] + b"\xff\xff"
    photo = read_photograph(saved(PHOTO, "JPEG", exif=data))
    assert photo.not_kept(".png") == ["Exif data that cannot be read"]


def test_no_resolution_is_made_up(tmp_path):
    photo = read_photograph(saved(PHOTO, "JPEG", exif=exif_data({0x013B: (2, b"Ada\0")})))
    assert "dpi" not in photo.info
    got = exif_of(photo, tmp_path, "webp")
    assert set(got) == {0x013B}
    np.testing.assert_array_equal(photo.rgb.shape[:2], SIZE[::-1])
