"""Reading picture files: pixels of every kind, and metadata."""

import contextlib
import io
import os
import re
from codecs import getincrementaldecoder
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from asyncdsb.names import MAX_PIXELS
from asyncdsb.photo.exif import EXIF_PARTS, exif_tags, kept_exif, kept_xmp
from asyncdsb.photo.formats import FIELD, LARGEST_CHUNK, READ

_READABLE = "a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"
_TOO_LARGE = f"expected a picture of at most {MAX_PIXELS // 1_000_000} megapixels"
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
ImageSource = str | os.PathLike | bytes | BinaryIO | Image.Image


def shown(pixels: np.ndarray) -> np.ndarray:
    """The pixels of :class:`Decoded` as a viewer shows them on white: (H, W, 3) uint8."""
    pixels = eight_bit(pixels)
    if pixels.shape[2] in (2, 4):
        layer = as_picture(pixels).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, 2)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """A picture of Pillow's, which has 16 bits for grey alone."""
    grey = pixels.shape[2] == 1
    return Image.fromarray(pixels[..., 0] if grey else np.ascontiguousarray(eight_bit(pixels)))


def fitting(info: dict[str, Any], space: str) -> dict[str, Any]:
    """``info`` without a colour profile of another colour space than this ("RGB" or "GRAY")."""
    other = info.get("icc_profile", b"")[16:20].strip() != space.encode()
    return {key: value for key, value in info.items() if key != "icc_profile" or not other}


def inform(picture: Image.Image, info: dict[str, Any], space: str) -> None:
    """Put what fits of ``info`` into a picture of Pillow's, by Pillow's own names."""
    told = fitting(info, space)
    if "gamma" in told:
        told["gamma"], places = told["gamma"]
        told |= {"chromaticity": places} if places else {}
    picture.info.update(told)


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that Pillow can read here, in lower case."""
    kinds = known_kinds()  # Before the loop, because this fills Pillow's list of suffixes.
    return frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in kinds)


@cache
def known_kinds() -> tuple[str, ...]:
    """Formats that Pillow can read here, by its names."""
    Image.init()
    # Pillow refuses PNG files whose colour profile or text is larger than this; it says 1 MiB.
    PngImagePlugin.MAX_TEXT_CHUNK = LARGEST_CHUNK
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(kind for kind in READ if kind in Image.OPEN)


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, upright."""

    # (H, W, C) uint8 or uint16; C is 1 for grey, 3 for RGB, and one more where not all is opaque.
    pixels: np.ndarray
    # See asyncdsb.photo.formats.PARTS: icc_profile, exif (bytes, without rotation and preview),
    # dpi, xmp (bytes), text (a dictionary), comment (bytes), gamma (a PNG's gamma, and its eight
    # chromaticities or None).
    info: dict[str, Any]
    lost: tuple[str, ...]  # what could not be read, in words
    name: str  # for messages


def decode(source: ImageSource) -> Decoded:
    """Open a picture, check its size, decode it, and turn it upright; ValueError if it cannot."""
    path = source if isinstance(source, str | os.PathLike) else None
    told = path or getattr(source, "name", None) or getattr(source, "filename", None)
    name = (isinstance(told, str | os.PathLike) and Path(told).name) or "the picture"
    if isinstance(source, Image.Image):
        return _load(source, name)
    # Copied, so that the caller's position and a stream that cannot seek do not matter.
    data: Any = source.read() if hasattr(source, "read") else source
    if path is None and not isinstance(data, bytes | bytearray | memoryview):
        kind = type(data).__name__
        raise ValueError(f"expected a path, bytes, a binary file or a PIL picture, got {kind}")
    try:
        with io.BytesIO(data) if path is None else Path(path).open("rb") as file:
            return _load(_open(file, name), name, file)
    except FileNotFoundError as error:
        raise ValueError(f"{name}: there is no such file ({path!s})") from error
    except OSError as error:
        raise ValueError(f"{name}: cannot read the file ({error.strerror})") from error


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Read the header only."""
    head = file.read(512)
    file.seek(0)
    try:
        return Image.open(file, formats=known_kinds())
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {_TOO_LARGE}, got a larger one") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected {_READABLE}, got {_guess(head)}") from error
    except Exception as error:  # A damaged header makes the parsers raise nearly anything.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error


def _load(picture: Image.Image, name: str, file: BinaryIO | None = None) -> Decoded:
    """Decode the pixels, once the size is known to be acceptable."""
    if not picture.width * picture.height:
        raise ValueError(
            f"{name}: expected at least 1x1 pixel, got {picture.width}x{picture.height}"
        )
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{name}: {_TOO_LARGE}, got {picture.width}x{picture.height}")
    # Before the pixels are loaded, because Pillow then drops what tells their depth.
    data, lost, values = b"", [], None
    with contextlib.suppress(OSError, ValueError):
        if file := file or getattr(picture, "fp", None):
            place = file.tell()
            file.seek(0)
            data = file.read()
            file.seek(place)
    deep = _more_than_eight_bits(picture, data)
    if getattr(picture, "is_animated", False):
        # The further pictures of cameras and telephones are previews, depth maps and gain maps.
        lost.append("further pictures" if picture.format == "MPO" else "frames after the first")
    if hasattr(picture, "tag_v2"):  # Pillow closes a TIFF file with the pixels.
        with contextlib.suppress(Exception):  # Damaged data make the parser raise nearly anything.
            for tag in (*EXIF_PARTS, 0xA005):
                picture.getexif().get_ifd(tag)
    try:
        picture.load()
    except Exception as error:  # As above: what a decoder raises on damaged data is not defined.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error
    if deep and picture.mode not in SIXTEEN_BIT:
        values = _sixteen_bit(data, picture)
        lost += ["more than 8 bits per channel"] if values is None else []
    try:
        upright, turn = ImageOps.exif_transpose(picture), picture.getexif().get(0x0112, 1)
    except Exception:  # Unreadable metadata is no reason to refuse a readable picture.
        upright, turn = picture.copy(), 1
    try:
        exif = kept_exif(picture, upright.size)
    except Exception:  # As above.
        exif = b""
        lost.append("Exif data that cannot be read")
    lost += _not_read(picture, data)
    info = _carried(picture, upright, exif)
    if values is not None:
        values = values.swapaxes(0, 1) if turn in (5, 6, 7, 8) else values
        values = values[:, ::-1] if turn in (2, 3, 6, 7) else values
        values = np.ascontiguousarray(values[::-1] if turn in (3, 4, 7, 8) else values)
    else:
        if picture.mode == "CMYK":
            lost.append("CMYK (converted to RGB)")
            upright = _from_inks(upright, info.pop("icc_profile", b""))
        values = _pixels(upright, name)
    return Decoded(without_opaque(values), info, tuple(lost), name)


def _pixels(picture: Image.Image, name: str) -> np.ndarray:
    """What a picture of Pillow's holds, as in :class:`Decoded`."""
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got 32-bit floats")
    if picture.mode in SIXTEEN_BIT:
        values, clear = np.asarray(picture), picture.info.get("transparency")
        if values.min() < 0 or values.max() > 65535:
            got = f"[{values.min()}, {values.max()}]"
            raise ValueError(f"{name}: expected 16-bit values in [0, 65535], got {got}")
        alpha = [np.where(values == clear, 0, 65535)] if isinstance(clear, int) else []
        return np.stack([values, *alpha], 2).astype(np.uint16)
    grey = picture.mode in ("1", "L", "LA", "La")
    try:
        if picture.has_transparency_data:
            picture = picture.convert("LA") if picture.mode == "La" else picture
            layer = np.asarray(picture.convert("RGBA"))
            return layer[..., [0, 3]] if grey else layer
        if grey:
            return np.asarray(picture.convert("L"))[..., None]
        return np.asarray(picture.convert("RGB"))
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error})") from error


def _from_inks(picture: Image.Image, profile: bytes) -> Image.Image:
    """A CMYK picture in RGB, through its profile if it has one."""
    if profile[16:20] == b"CMYK":
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            ours = ImageCms.createProfile("sRGB")
            found: Any = ImageCms.profileToProfile(picture, inks, ours, outputMode="RGB")
            return found
    return picture.convert("RGB")


def without_opaque(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, C) without an alpha that is opaque everywhere."""
    opaque = pixels.shape[2] in (2, 4) and pixels[..., -1].min() == np.iinfo(pixels.dtype).max
    return np.ascontiguousarray(pixels[..., :-1]) if opaque else pixels


def _more_than_eight_bits(picture: Image.Image, data: bytes) -> bool:
    """Whether a file holds more bits per channel than 8, which is what Pillow reads of colours."""
    kind = picture.format
    if kind == "HEIF":
        return int(picture.info.get("bit_depth", 8)) > 8
    if kind == "AVIF":
        return bool(re.search(rb"av1C..[@-\x7f\xc0-\xff]", data, re.DOTALL))
    if kind == "JPEG2000":
        found = re.search(rb"\xff\x4f\xff\x51.{38}(.)", data, re.DOTALL)
        return found is not None and found[1][0] & 0x7F > 7
    tiles = [(tile[0], tile[3]) for tile in getattr(picture, "tile", [])]
    if kind == "PPM":  # The arguments end with the largest value.
        return any(isinstance(told, tuple) and told[-1] > 255 for _, told in tiles)
    return any(codec == "SGI16" or ";16" in str(told) for codec, told in tiles)


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


def _carried(picture: Image.Image, upright: Image.Image, exif: bytes) -> dict[str, Any]:
    """Metadata of a file of any format."""
    found, info = upright.info, dict[str, Any]()
    profile = found.get("icc_profile")
    if profile and len(profile) >= 128:
        info["icc_profile"] = profile
    if exif:
        info["exif"] = exif
    # Pillow says 72 of JPEG files whose Exif data have no resolution.
    stated = "dpi" in found and (picture.format != "JPEG" or found.get("jfif_unit"))
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        # By Exif data, the only place in WebP files, in pixels per inch or centimetre.
        tags = exif_tags(b"" if stated else exif)
        inches = 2.54 if tags.get(296) == 3 else 1.0
        told = found["dpi"] if stated else (float(tags[one]) * inches for one in (282, 283))
        across, down = map(float, told)
        if 0 < across < 1e6 and 0 < down < 1e6:
            info["dpi"] = across, down
    if xmp := found.get("xmp") or found.get("XML:com.adobe.xmp"):
        xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
        info["xmp"] = kept_xmp(xmp, upright.size)
    gamma = found.get("gamma")
    # Told by a PNG in place of a profile; 1 / 2.2 is as good as sRGB.
    if gamma and not profile and "srgb" not in found and abs(gamma - 1 / 2.2) > 0.001:
        info["gamma"] = gamma, found.get("chromaticity")
    text = getattr(picture, "text", found.get("text"))
    if isinstance(text, dict):
        # Not copies of Exif data by ImageMagick, rotation included; nor our own, of another run.
        other = re.compile(rf"Raw profile type|(XML:com\.adobe\.xmp|{FIELD})\Z")
        kept = {key: value for key, value in text.items() if not other.match(key)}
        info |= {"text": kept} if kept else {}
    comment = found.get("comment")
    if comment and isinstance(comment, bytes | str):
        info["comment"] = comment.encode() if isinstance(comment, str) else comment
    return info


def _sixteen_bit(data: bytes, picture: Image.Image) -> np.ndarray | None:
    """Decode all 16 bits of a colour picture, which Pillow cannot: (H, W, C) uint16, or None."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    bands, seen = len(picture.getbands()), np.asarray(picture)
    values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    values = values[..., [0, 3]] if bands == 2 and values.shape[2] == 4 else values
    # One colour may be transparent, which OpenCV has as alpha.
    clear = values.shape[2] == bands + 1 and "transparency" in picture.info
    colours = values[..., :bands] if clear else values
    # Proof that both decoders mean the same: rounding apart, there is no difference.
    if colours.shape != seen.shape or np.abs(colours // 256 - seen.astype(int)).max() > 1:
        return None
    return values


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _guess(head: bytes) -> str:
    """What a file that is no readable picture may be, by its first bytes."""
    if not head:
        return "an empty file"
    if b"<svg" in head.lower():
        return "an SVG drawing; export it as PNG"
    if head[4:8] == b"ftyp":
        return "an HEIC picture or a film; export it as JPEG or PNG"
    with contextlib.suppress(UnicodeDecodeError):
        # An incremental decoder, because the end of the sample may cut a character in two.
        if "\0" not in getincrementaldecoder("utf-8")().decode(head):
            return "a text file"
    return "something else, or a damaged file"


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Scale uint16 to uint8: round(values / 257); uint8 stays."""
    if values.dtype == np.uint8:
        return values
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def check_size(mask: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError unless a mask (H, W) has the ``size`` (width, height) of its photo."""
    height, width = mask.shape
    if (width, height) != tuple(size):
        got = f"the photo is {size[0]}x{size[1]}, the mask {width}x{height} (width x height)"
        raise ValueError(f"the photo and the mask must have the same size: {got}")
