"""Reading picture files: pixels of every kind, and metadata.

A file that cannot be read raises a ``ValueError`` of one sentence.
"""

from __future__ import annotations

import io
import os
import re
from codecs import getincrementaldecoder
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageOps

from asyncdsb.photo.exif import exif_tags, kept_exif, kept_xmp, read_directories
from asyncdsb.photo.formats import FIELD, READ

MAX_PIXELS = 64_000_000
"""Largest photograph that is decoded, in pixels (width times height)."""

_READABLE = "a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")

ImageSource = str | os.PathLike | bytes | BinaryIO | Image.Image


def flatten(picture: Image.Image, name: str) -> Image.Image:
    """Composite on white and convert to 8-bit RGB; always a new picture.

    Raises:
        ValueError: it has more than 16 bits, or Pillow cannot convert it.
    """
    try:
        picture = eight_bit_grey(picture, name)
        if picture.has_transparency_data:
            layer = with_alpha(picture)
            white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, layer).convert("RGB")
        return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error})") from error


def fitting(info: dict[str, Any], space: str) -> dict[str, Any]:
    """``info`` without a colour profile of another colour space than this ("RGB" or "GRAY")."""
    profile = info.get("icc_profile")
    if profile is None or profile[16:20].strip() == space.encode():
        return info
    return {key: value for key, value in info.items() if key != "icc_profile"}


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that Pillow can read here, in lower case."""
    known_kinds()
    return frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in known_kinds())


@cache
def known_kinds() -> tuple[str, ...]:
    """Formats that Pillow can read here, by its names."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    return tuple(kind for kind in READ if kind in Image.OPEN)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, upright.

    Attributes:
        picture: of any mode.
        name: for messages.
        info: metadata, see :data:`asyncdsb.photo.formats.CALLED`: ``icc_profile``, ``exif`` (bytes,
            without rotation and preview), ``dpi``, ``xmp`` (bytes), ``text`` (a dictionary),
            ``comment`` (bytes), ``gamma`` (a PNG's gamma, and its eight chromaticities or None).
        deep: (H, W, C) uint16 where the picture has 16 bits per channel and ``picture`` only 8.
        lost: what could not be read, in words.
    """

    picture: Image.Image
    name: str
    info: dict[str, Any] = field(default_factory=dict)
    deep: np.ndarray | None = None
    lost: tuple[str, ...] = ()


def decode(source: ImageSource) -> Decoded:
    """Open a picture, check the size in its header, decode it, and turn it upright.

    Raises:
        ValueError: as :func:`asyncdsb.photo.images.read_image`.
    """
    name = _name(source)
    if isinstance(source, Image.Image):
        return _load(source, name)
    if isinstance(source, str | os.PathLike):
        try:
            with Path(source).open("rb") as file:
                return _load(_open(file, name), name, file)
        except FileNotFoundError as error:
            raise ValueError(f"{name}: there is no such file ({source})") from error
        except IsADirectoryError as error:
            raise ValueError(f"{name}: expected a picture, got a folder") from error
        except OSError as error:
            raise ValueError(f"{name}: cannot read the file ({error.strerror})") from error
    if hasattr(source, "read"):
        # Copied, so that the caller's position and a stream that cannot seek do not matter.
        source = source.read()
    if isinstance(source, bytes | bytearray | memoryview):
        data = io.BytesIO(source)
        return _load(_open(data, name), name, data)
    raise ValueError(
        f"expected a path, bytes, a binary file or a PIL picture, got {type(source).__name__}"
    )


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name or str(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return Path(name).name if isinstance(name, str) and name else "the picture"


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Read the header only."""
    head = file.read(512)
    file.seek(0)
    if not head:
        raise ValueError(f"{name}: expected {_READABLE}, got an empty file")
    try:
        return Image.open(file, formats=known_kinds())
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {_too_large('a larger one')}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected {_READABLE}, got {_guess(head)}") from error
    except Exception as error:  # A damaged header makes the parsers raise nearly anything.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error


def _load(picture: Image.Image, name: str, file: BinaryIO | None = None) -> Decoded:
    """Decode the pixels, once the size is known to be acceptable."""
    width, height = picture.size
    if width < 1 or height < 1:
        raise ValueError(f"{name}: expected at least 1x1 pixel, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {_too_large(f'{width}x{height}')}")
    # Before the pixels are loaded: what says so is gone afterwards.
    data, lost = _file_of(picture, file), []
    deep = _more_than_eight_bits(picture, data)
    if getattr(picture, "is_animated", False):
        # The further pictures of cameras and telephones are previews, depth maps and gain maps.
        lost.append("further pictures" if picture.format == "MPO" else "frames after the first")
    try:
        read_directories(picture)
        picture.load()
    except Exception as error:  # As above: what a decoder raises on damaged data is not defined.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error
    values = None
    if deep and picture.mode not in SIXTEEN_BIT:
        values = _sixteen_bit(data, picture, _orientation(picture))
        lost += ["more than 8 bits per channel"] if values is None else []
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:
        # Unreadable metadata is no reason to refuse a readable picture.
        upright = picture.copy()
    exif, readable = kept_exif(picture, upright.size)
    lost += [] if readable else ["Exif data that cannot be read"]
    lost += _not_read(picture, data)
    return Decoded(upright, name, _carried(picture, upright, exif), values, tuple(lost))


def _file_of(picture: Image.Image, file: BinaryIO | None) -> bytes:
    """The bytes of the file of a picture that was not loaded yet; none if there is no file."""
    file = file or getattr(picture, "fp", None)
    if file is None:
        return b""
    try:
        place = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(place)
        return data
    except (OSError, ValueError):
        return b""


def _more_than_eight_bits(picture: Image.Image, data: bytes) -> bool:
    """Whether a file holds more bits per channel than 8, which is what Pillow reads of colours."""
    kind = picture.format
    if kind == "HEIF":
        return int(picture.info.get("bit_depth", 8)) > 8
    if kind == "AVIF":
        place = data.find(b"av1C")
        return 0 <= place < len(data) - 6 and bool(data[place + 6] & 0x40)
    if kind == "JPEG2000":
        place = data.find(b"\xff\x4f\xff\x51")
        return 0 <= place < len(data) - 42 and data[place + 42] & 0x7F > 7
    return bool(re.search(r";16|, 65535\)", str([t[3] for t in getattr(picture, "tile", [])])))


def _not_read(picture: Image.Image, data: bytes) -> list[str]:
    """What a file holds beside the pixels and is not read, in words."""
    found = []
    photoshop = picture.info.get("photoshop")
    if isinstance(photoshop, dict) and 0x0404 in photoshop:
        found.append("IPTC data")
    if picture.info.get("aux") or picture.info.get("depth_images"):  # of HEIC files
        found.append("depth and gain maps")
    segments = getattr(picture, "applist", [])
    if any(part.startswith(b"http://ns.adobe.com/xmp/extension/") for _, part in segments):
        found.append("extended XMP data")
    # ITU-T H.273: primaries and transfer other than sRGB's, unless a profile says more.
    name = b"cICP" if picture.format == "PNG" else b"colrnclx"
    head = data[: data.find(b"IDAT")] if picture.format == "PNG" else data
    place = -1 if "icc_profile" in picture.info else head.find(name)
    if picture.format in ("PNG", "AVIF", "HEIF") and place >= 0:
        codes = data[place + len(name) :][:4]
        primaries, transfer = codes[:2] if picture.format == "PNG" else codes[1::2]
        if primaries not in (1, 2) or transfer not in (1, 2, 6, 13):
            found.append("the description of its colours (CICP)")
    return found


def _resolution(exif: bytes | None) -> tuple[float, float]:
    """Pixels per inch by Exif data, the only place in WebP files."""
    tags = exif_tags(exif)
    inches = 2.54 if tags.get(296) == 3 else 1.0
    return float(tags[282]) * inches, float(tags[283]) * inches


def _orientation(picture: Image.Image) -> int:
    try:
        tags = getattr(picture, "tag_v2", exif_tags(picture.info.get("exif")))
        return int(tags.get(0x0112, 1))
    except Exception:
        return 1


def _carried(picture: Image.Image, upright: Image.Image, exif: bytes | None) -> dict[str, Any]:
    """Metadata of a file of any format."""
    found, info = upright.info, dict[str, Any]()
    profile = found.get("icc_profile")
    if profile and len(profile) >= 128:
        info["icc_profile"] = profile
    if exif:
        info["exif"] = exif
    # Pillow says 72 of JPEG files whose Exif data have no resolution.
    stated = "dpi" in found and (picture.format != "JPEG" or found.get("jfif_unit"))
    try:
        across, down = map(float, found["dpi"] if stated else _resolution(exif))
        if 0 < across < 1e6 and 0 < down < 1e6:
            info["dpi"] = across, down
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass
    xmp = found.get("xmp") or found.get("XML:com.adobe.xmp")
    if xmp:
        xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
        info["xmp"] = kept_xmp(xmp, upright.size)
    gamma = found.get("gamma")
    # Told by a PNG in place of a profile; 1 / 2.2 is as good as sRGB.
    if gamma and not profile and "srgb" not in found and abs(gamma - 1 / 2.2) > 0.001:
        info["gamma"] = gamma, found.get("chromaticity")
    text = getattr(picture, "text", None)
    text = found.get("text") if text is None else text
    if isinstance(text, dict):
        kept = {
            key: value
            for key, value in text.items()
            # Copies of Exif data by ImageMagick, rotation included; and our own, of another run.
            if not key.startswith("Raw profile type") and key not in ("XML:com.adobe.xmp", FIELD)
        }
        info |= {"text": kept} if kept else {}
    comment = found.get("comment")
    if comment and isinstance(comment, bytes | str):
        info["comment"] = comment.encode() if isinstance(comment, str) else comment
    return info


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an orientation of Exif, 1 to 8."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _sixteen_bit(data: bytes, picture: Image.Image, orientation: int) -> np.ndarray | None:
    """Decode all 16 bits of a colour picture, which Pillow cannot: (H, W, C) uint16, or None."""
    if not data:
        return None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    bands = len(picture.getbands())
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    values = values.astype(np.uint16, copy=False)
    values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    values = values[..., [0, 3]] if bands == 2 and values.shape[2] == 4 else values
    seen = np.asarray(picture)
    # One colour may be transparent, which OpenCV has as alpha.
    clear = values.shape[2] == bands + 1 and "transparency" in picture.info
    colours = values[..., :bands] if clear else values
    # Proof that both decoders mean the same: rounding apart, there is no difference.
    if colours.shape != seen.shape or np.abs(colours // 256 - seen.astype(int)).max() > 1:
        return None
    return _upright(values, orientation)


def _too_large(got: str) -> str:
    return f"expected a picture of at most {MAX_PIXELS // 1_000_000} megapixels, got {got}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _guess(head: bytes) -> str:
    """Guess what a file that is not a readable picture is, from its first bytes."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")) or b"<svg" in text:
        return "an SVG drawing; export it as PNG"
    if head[4:8] == b"ftyp":
        return "an HEIC picture or a film; export it as JPEG or PNG"
    if head.startswith(b"%PDF"):
        return "a PDF document"
    try:
        # An incremental decoder, because the end of the sample may cut a character in two.
        if "\0" not in getincrementaldecoder("utf-8")().decode(head):
            return "a text file"
    except UnicodeDecodeError:
        pass
    return "something else, or a damaged file"


def sixteen_bit_grey(picture: Image.Image, name: str) -> np.ndarray:
    """Values of a 16-bit grey picture, (H, W) uint16; raise ValueError outside [0, 65535]."""
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{name}: expected 16-bit values in [0, 65535], got [{low}, {high}]")
    return values.astype(np.uint16)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Scale uint16 to uint8: round(values / 257)."""
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def eight_bit_grey(picture: Image.Image, name: str) -> Image.Image:
    """Convert 16-bit grey to mode L (or LA); leave the other modes alone."""
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got 32-bit floats")
    if picture.mode not in SIXTEEN_BIT:
        return picture
    values = sixteen_bit_grey(picture, name)
    grey = Image.fromarray(eight_bit(values))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def with_alpha(picture: Image.Image) -> Image.Image:
    """The picture in mode RGBA."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def sizes_differ(size: tuple[int, int], mask: np.ndarray) -> str:
    """The message for a photo of ``size`` (width, height) and a mask (H, W) of another size."""
    return (
        "the photo and the mask must have the same size: the photo is "
        f"{size[0]}x{size[1]}, the mask {mask.shape[1]}x{mask.shape[0]} (width x height)"
    )
