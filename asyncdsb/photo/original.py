"""A photograph with everything that its file holds, on the way in and on the way out.

The networks see 8-bit RGB. 16 bits per channel, transparency, grey, the colour profile, Exif data,
XMP, resolution and texts stay with the photograph.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from asyncdsb.photo.decoding import (
    Decoded,
    ImageSource,
    decode,
    eight_bit,
    fitting,
    flatten,
    sixteen_bit_grey,
    with_alpha,
)
from asyncdsb.photo.exif import EXIF_PARTS, STRUCTURE, directory, exif_tags, in_bytes
from asyncdsb.photo.fill import harmonic_fill
from asyncdsb.photo.formats import CALLED, FIELD, HOLDS, LONGEST_SEGMENT, SAVE_OPTIONS
from asyncdsb.photo.images import encoded


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph as its file holds it.

    Attributes:
        pixels: (H, W, C) uint8 or uint16; C is 1 for grey, 3 for RGB, and one more with alpha.
        info: metadata, see :class:`asyncdsb.photo.decoding.Decoded`.
        lost: what could not be read from the file, in words.
    """

    pixels: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    @cached_property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8, as a viewer shows it on white."""
        if self.pixels.dtype == np.uint8 and self.pixels.shape[2] == 3:
            return self.pixels
        return np.asarray(flatten(_picture(self._eight), "the photo"))

    @property
    def picture(self) -> Image.Image:
        """As a picture of Pillow's, with ``info``: L, LA, RGB or RGBA, or I;16 for 16-bit grey."""
        deep_grey = self.pixels.dtype == np.uint16 and self.pixels.shape[2] == 1
        found = _picture(self.pixels if deep_grey else self._eight)
        found.info.update(**fitting(self.info, "GRAY" if self.colours == 1 else "RGB"))
        return found

    @property
    def _eight(self) -> np.ndarray:
        return self.pixels if self.pixels.dtype == np.uint8 else eight_bit(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def colours(self) -> int:
        """Channels without alpha: 1 for grey, or 3."""
        return 1 if self.pixels.shape[2] < 3 else 3

    def restored(self, rgb: np.ndarray, hole: np.ndarray) -> Photograph:
        """The photograph with the pixels of ``rgb`` (H, W, 3) uint8 in its hole (H, W) bool."""
        pixels = self.pixels.copy()
        values = rgb[..., : self.colours][hole]
        scale = 257 if pixels.dtype == np.uint16 else 1
        pixels[..., : self.colours][hole] = values.astype(pixels.dtype) * scale
        if pixels.shape[2] > self.colours:
            pixels[..., -1] = _continued(pixels[..., -1], hole)
        return replace(self, pixels=pixels)

    def not_kept(self, suffix: str) -> list[str]:
        """Parts of the photograph that a file with this suffix cannot hold, in words."""
        kind = SAVE_OPTIONS[suffix.lower()]["format"]
        present = set(self.info)
        present |= {"16 bits"} if self.pixels.dtype == np.uint16 else set()
        present |= {"alpha"} if self.pixels.shape[2] > self.colours else set()
        missing = present - HOLDS[kind]
        if kind == "JPEG":
            missing |= {
                name for name in ("exif", "xmp") if len(self.info.get(name, b"")) > LONGEST_SEGMENT
            }
        # Pillow writes grey WebP files in RGB.
        space = "GRAY" if self.colours == 1 and kind != "WEBP" else "RGB"
        if self.info.keys() - fitting(self.info, space).keys():
            missing |= {"icc_profile"}
        return [words for name, words in CALLED.items() if name in missing] + list(self.lost)

    def save(self, path: Path, settings: Mapping[str, object] | None = None) -> Path:
        """Write the photograph with everything that the format of the file can hold.

        The suffix is one of :data:`asyncdsb.photo.formats.SAVE_OPTIONS`; a PNG holds the settings
        too.
        """
        options = SAVE_OPTIONS[path.suffix.lower()]
        kind = options["format"]
        lost = {name for name, words in CALLED.items() if words in self.not_kept(path.suffix)}
        info = {name: value for name, value in self.info.items() if name not in lost}
        if kind == "PNG":
            self._save_png(path, info, settings)
        elif kind == "TIFF":
            self._save_tiff(path, info)
        else:
            told = {name: info[name] for name in HOLDS[kind] & info.keys()}
            if kind == "WEBP" and told.pop("dpi", None):
                told["exif"] = _with_dpi(info)
            picture = Image.fromarray(self.rgb) if "alpha" in lost else _picture(self._eight)
            path.write_bytes(encoded(picture, **options, **told))
        return path

    def _save_png(
        self, path: Path, info: dict[str, Any], settings: Mapping[str, object] | None
    ) -> None:
        note = PngImagePlugin.PngInfo()
        for key, value in info.get("text", {}).items():
            note.add_text(key, value)
        if "comment" in info:
            note.add_text("Comment", _text(info["comment"]))
        if "xmp" in info:
            note.add_itxt("XML:com.adobe.xmp", info["xmp"].decode("utf-8", "replace"))
        if "gamma" in info:
            gamma, places = info["gamma"]
            note.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
            if places:
                note.add(b"cHRM", struct.pack(">8I", *(round(xy * 100_000) for xy in places)))
        if settings is not None:
            note.add_text(FIELD, json.dumps(settings))
        told: dict[str, Any] = {name: info[name] for name in ("exif", "dpi") if name in info}
        told["icc_profile"] = info.get("icc_profile")
        # Level 1 is three times as fast as the default and a tenth larger.
        told |= {"format": "PNG", "pnginfo": note, "compress_level": 1}
        if self.pixels.dtype == np.uint8:
            _picture(self.pixels).save(path, **told)
            return
        # Pillow writes no colours of 16 bits, OpenCV writes no metadata: the file is joined from
        # the chunks of both.
        pixels = self.pixels
        head = encoded(_picture(eight_bit(pixels[:1, :1])), **told)
        if pixels.shape[2] == 2:
            pixels = pixels[..., [0, 0, 0, 1]]
        swapped = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 2 else pixels
        done, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        found = list(_chunks(data.tobytes()))
        others = [part for name, part in _chunks(head) if name not in _CRITICAL]
        first, rest = found[0][1], [part for name, part in found[1:] if name in _CRITICAL]
        path.write_bytes(b"".join([PNG_SIGNATURE, first, *others, *rest]))

    def _save_tiff(self, path: Path, info: dict[str, Any]) -> None:
        # By hand: Pillow writes neither colours of 16 bits, nor Exif data with compression.
        height, width, channels = self.pixels.shape
        rows = self.pixels.copy()
        rows[:, 1:] -= self.pixels[:, :-1]
        data = zlib.compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes(), 6)
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        exif = exif_tags(info.get("exif"))
        for tag in exif:
            if tag in EXIF_PARTS:
                tags[tag] = directory(exif, tag)
            elif tag not in STRUCTURE:
                tags.tagtype |= {tag: 2} if isinstance(exif[tag], str) else {}
                tags[tag] = in_bytes(exif[tag])
        tags[256], tags[257] = width, height
        tags[258] = (8 * self.pixels.itemsize,) * channels
        tags[259], tags[317] = 8, 2  # deflate, differences along a row
        tags[262] = 1 if self.colours == 1 else 2
        tags[273], tags[277], tags[278], tags[279] = 0, channels, height, len(data)
        tags[284] = 1
        if channels > self.colours:
            tags[338] = 2
        if "dpi" in info:
            (tags[282], tags[283]), tags[296] = info["dpi"], 2
        for tag, name in ((34675, "icc_profile"), (700, "xmp")):
            if name in info:
                tags.tagtype[tag] = 7 if name == "icc_profile" else 1
                tags[tag] = info[name]
        with path.open("wb") as file:
            tags.save(file)
            file.write(data)


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def _chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and bytes of a PNG file's chunks."""
    place = len(PNG_SIGNATURE)
    while place < len(file):
        (length,) = struct.unpack_from(">I", file, place)
        yield file[place + 4 : place + 8], file[place : place + length + 12]
        place += length + 12


def _with_dpi(info: dict[str, Any]) -> bytes:
    """Exif data with the resolution in them, for formats that have no other place for it."""
    found = exif_tags(info.get("exif"))
    if 282 in found and 283 in found:
        return info["exif"]
    exif = Image.Exif()
    for tag in found:
        exif[tag] = directory(found, tag) if tag in EXIF_PARTS else in_bytes(found[tag])
    (exif[282], exif[283]), exif[296] = info["dpi"], 2
    return exif.tobytes()


def _text(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _picture(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2]
    return Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels))


def _continued(alpha: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Alpha with its known values continued smoothly into the hole.

    What is erased within an opaque photograph becomes opaque; a hole across the edge of a cut-out
    keeps that edge.
    """
    top = int(np.iinfo(alpha.dtype).max)
    missing = torch.from_numpy(hole)[None, None]
    known = torch.from_numpy(alpha.astype(np.float32))[None, None] / top
    filled = harmonic_fill(known.masked_fill_(missing, 0), missing)[0, 0].numpy()
    inside = np.rint(filled.clip(0, 1) * top).astype(alpha.dtype)
    return np.where(hole, inside, alpha)


def read_photograph(source: ImageSource | np.ndarray | Photograph) -> Photograph:
    """Read a photograph with everything that it holds.

    Grey stays grey; transparency stays unless all is opaque; 16 bits stay where Pillow or OpenCV
    can read them. Palettes and other colours become RGB; CMYK does through its profile.

    Args:
        source: what :func:`asyncdsb.photo.images.read_image` takes, an array of uint8 or uint16,
            (H, W) or (H, W, C) with C as in :class:`Photograph`, or a photograph, which stays.

    Raises:
        ValueError: unreadable, or an array of another shape or type.
    """
    if isinstance(source, Photograph):
        return source
    if isinstance(source, np.ndarray):
        return _of(_checked(source))
    found = decode(source)
    if found.deep is not None:
        return _of(found.deep, found)
    picture = found.picture
    if picture.mode == "CMYK":
        picture, found = _from_inks(found)
    if picture.mode == "F":
        flatten(picture, found.name)  # Refuses it.
    if picture.mode.startswith("I"):
        values = sixteen_bit_grey(picture, found.name)[..., None]
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            opaque = np.where(values == clear, 0, 65535).astype(np.uint16)
            values = np.concatenate([values, opaque], 2)
        return _of(values, found)
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        layer = np.asarray(with_alpha(picture))
        return _of(layer[..., [0, 3]] if grey else layer, found)
    if grey:
        return _of(np.asarray(picture.convert("L"))[..., None], found)
    return _of(np.asarray(flatten(picture, found.name)), found)


def _of(pixels: np.ndarray, found: Decoded | None = None) -> Photograph:
    """A photograph of these pixels, without an alpha that is opaque everywhere."""
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() == np.iinfo(pixels.dtype).max:
        pixels = np.ascontiguousarray(pixels[..., :-1])
    return Photograph(pixels, found.info, found.lost) if found else Photograph(pixels)


def _checked(values: np.ndarray) -> np.ndarray:
    pixels = values[..., None] if values.ndim == 2 else values
    shaped = pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4) and 0 not in pixels.shape
    if not shaped or values.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            "expected a uint8 or uint16 array of shape (H, W), (H, W, 3) or (H, W, 4), "
            f"got {values.dtype} {values.shape}"
        )
    return pixels


def _from_inks(found: Decoded) -> tuple[Image.Image, Decoded]:
    """A CMYK picture in RGB, through its profile if it has one."""
    profile = found.info.get("icc_profile", b"")
    info = {name: value for name, value in found.info.items() if name != "icc_profile"}
    found = replace(found, info=info, lost=(*found.lost, "CMYK (converted to RGB)"))
    if profile[16:20] == b"CMYK":
        try:
            ours = ImageCms.createProfile("sRGB")
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            rgb = ImageCms.profileToProfile(found.picture, inks, ours, outputMode="RGB")
            return cast(Image.Image, rgb), found
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return flatten(found.picture, found.name), found
