"""A photograph with everything that its file holds beyond the 8-bit RGB that networks see."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from asyncdsb.photo import decoding
from asyncdsb.photo.exif import STRUCTURE, exif_tags, tags_of
from asyncdsb.photo.fill import harmonic_fill
from asyncdsb.photo.formats import FIELD, LONGEST_SEGMENT, PARTS, SAVE_OPTIONS
from asyncdsb.photo.images import encoded

Settings = Mapping[str, object] | None


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph as its file holds it.

    ``pixels`` are (H, W, C) uint8 or uint16; C is 1 for grey, 3 for RGB, and one more with alpha.
    """

    pixels: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)  # as of asyncdsb.photo.decoding.Decoded
    lost: tuple[str, ...] = ()  # what could not be read from the file, in words

    @cached_property
    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8, as a viewer shows it on white."""
        if self.pixels.dtype == np.uint8 and self.pixels.shape[2] == 3:
            return self.pixels
        return np.asarray(decoding.flatten(_picture(self._eight), "the photo"))

    @property
    def picture(self) -> Image.Image:
        """As a picture of Pillow's, with ``info``: L, LA, RGB or RGBA, or I;16 for 16-bit grey."""
        deep = self.pixels.dtype == np.uint16 and self.pixels.shape[2] == 1
        found = _picture(self.pixels if deep else self._eight)
        found.info.update(**decoding.fitting(self.info, "GRAY" if self.colours == 1 else "RGB"))
        return found

    @property
    def _eight(self) -> np.ndarray:
        return self.pixels if self.pixels.dtype == np.uint8 else decoding.eight_bit(self.pixels)

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
            # Known values of alpha continued smoothly.
            alpha, top = pixels[..., -1], int(np.iinfo(pixels.dtype).max)
            missing = torch.from_numpy(hole)[None, None]
            known = torch.from_numpy(alpha.astype(np.float32))[None, None] / top
            filled = harmonic_fill(known.masked_fill_(missing, 0), missing)[0, 0].numpy()
            alpha[hole] = np.rint(filled.clip(0, 1) * top).astype(alpha.dtype)[hole]
        return replace(self, pixels=pixels)

    def not_kept(self, suffix: str) -> list[str]:
        """Parts of the photograph that a file with this suffix cannot hold, in words."""
        lost = self._lost(SAVE_OPTIONS[suffix.lower()]["format"])
        return [words for name, (words, _) in PARTS.items() if name in lost] + list(self.lost)

    def _lost(self, kind: str) -> set[str]:
        present = set(self.info)
        present |= {"16 bits"} if self.pixels.dtype == np.uint16 else set()
        present |= {"alpha"} if self.pixels.shape[2] > self.colours else set()
        lost = {name for name in present if kind not in PARTS[name][1]}
        if kind == "JPEG":
            sizes = {name: len(self.info.get(name, b"")) for name in ("exif", "xmp")}
            lost |= {name for name, size in sizes.items() if size > LONGEST_SEGMENT}
        # Pillow writes grey WebP files in RGB.
        space = "GRAY" if self.colours == 1 and kind != "WEBP" else "RGB"
        return lost | (self.info.keys() - decoding.fitting(self.info, space).keys())

    def save(self, path: Path, settings: Settings = None) -> Path:
        """Write all that the format can hold of it, a PNG the settings too; returns the path."""
        options = SAVE_OPTIONS[path.suffix.lower()]
        kind = options["format"]
        lost = self._lost(kind)
        info = {name: value for name, value in self.info.items() if name not in lost}
        if kind == "PNG":
            self._save_png(path, info, settings)
        elif kind == "TIFF":
            self._save_tiff(path, info)
        else:
            if kind == "WEBP" and (dpi := info.pop("dpi", None)):
                # Exif data are the only place for it.
                found, exif = exif_tags(info.get("exif")), Image.Exif()
                if not (282 in found and 283 in found):
                    exif.update(tags_of(found))
                    (exif[282], exif[283]), exif[296] = dpi, 2
                    info["exif"] = exif.tobytes()
            picture = Image.fromarray(self.rgb) if "alpha" in lost else _picture(self._eight)
            path.write_bytes(encoded(picture, **options, **info))
        return path

    def _save_png(self, path: Path, info: dict[str, Any], settings: Settings) -> None:
        note = PngImagePlugin.PngInfo()
        for key, value in info.get("text", {}).items():
            note.add_text(key, value)
        if comment := info.get("comment"):
            try:
                note.add_text("Comment", comment.decode())
            except UnicodeDecodeError:
                note.add_text("Comment", comment.decode("latin-1"))
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
        # Pillow writes no colours of 16 bits, OpenCV no metadata: the chunks of both are joined.
        pixels = self.pixels
        head = encoded(_picture(decoding.eight_bit(pixels[:1, :1])), **told)
        if pixels.shape[2] == 2:
            pixels = pixels[..., [0, 0, 0, 1]]
        swapped = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.shape[2] > 2 else pixels
        done, data = cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        first, *rest = _chunks(data.tobytes(), critical=True)
        path.write_bytes(b"".join([PNG_SIGNATURE, first, *_chunks(head, critical=False), *rest]))

    def _save_tiff(self, path: Path, info: dict[str, Any]) -> None:
        # By hand: Pillow writes neither colours of 16 bits, nor Exif data with compression.
        height, width, channels = self.pixels.shape
        rows = np.diff(self.pixels, axis=1, prepend=self.pixels.dtype.type(0))
        data = zlib.compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes(), 6)
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        exif = exif_tags(info.get("exif"))
        for tag, value in tags_of(exif, STRUCTURE):
            tags.tagtype |= {tag: 2} if isinstance(exif[tag], str) else {}
            tags[tag] = value
        depth, grey = (8 * self.pixels.itemsize,) * channels, self.colours == 1
        tags.update({256: width, 257: height, 258: depth, 262: 1 if grey else 2, 284: 1})
        tags.update({273: 0, 277: channels, 278: height, 279: len(data)})
        tags.update({259: 8, 317: 2})  # deflate, differences along a row
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


def _chunks(file: bytes, critical: bool) -> list[bytes]:
    """The chunks of a PNG file that hold its pixels, or the others."""
    place, found = len(PNG_SIGNATURE), []
    while place < len(file):
        end = place + 12 + int.from_bytes(file[place : place + 4])
        if (file[place + 4 : place + 8] in (b"IHDR", b"PLTE", b"IDAT", b"IEND")) == critical:
            found.append(file[place:end])
        place = end
    return found


def _picture(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2]
    return Image.fromarray(pixels[..., 0] if channels == 1 else np.ascontiguousarray(pixels))


def read_photograph(source: decoding.ImageSource | np.ndarray | Photograph) -> Photograph:
    """Read a photograph with everything that it holds.

    Grey stays grey; transparency stays unless all is opaque; 16 bits stay where Pillow or OpenCV
    can read them. Palettes and other colours become RGB; CMYK does through its profile. The source
    is one of :func:`asyncdsb.photo.images.read_image`, an array of uint8 or uint16, (H, W) or
    (H, W, C) with C as in :class:`Photograph`, or a photograph, which stays.

    Raises:
        ValueError: unreadable, or an array of another shape or type.
    """
    if isinstance(source, Photograph):
        return source
    info, lost = dict[str, Any](), tuple[str, ...]()
    if isinstance(source, np.ndarray):
        pixels = source[..., None] if source.ndim == 2 else source
        shaped = pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4) and 0 not in pixels.shape
        if not shaped or source.dtype not in (np.uint8, np.uint16):
            expected = "expected a uint8 or uint16 array of shape (H, W), (H, W, 3) or (H, W, 4)"
            raise ValueError(f"{expected}, got {source.dtype} {source.shape}")
    else:
        found = decoding.decode(source)
        if found.deep is None and found.picture.mode == "CMYK":
            found = _from_inks(found)
        info, lost = found.info, found.lost
        pixels = _pixels(found.picture, found.name) if found.deep is None else found.deep
    # An alpha that is opaque everywhere is none.
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() == np.iinfo(pixels.dtype).max:
        pixels = np.ascontiguousarray(pixels[..., :-1])
    return Photograph(pixels, info, lost)


def _pixels(picture: Image.Image, name: str) -> np.ndarray:
    """What a picture of Pillow's holds, as in :class:`Photograph`."""
    if picture.mode.startswith("I"):
        return decoding.deep_grey(picture, name)
    grey = picture.mode in ("1", "L", "LA", "La")
    if picture.has_transparency_data and picture.mode != "F":
        layer = np.asarray(decoding.with_alpha(picture))
        return layer[..., [0, 3]] if grey else layer
    if grey:
        return np.asarray(picture.convert("L"))[..., None]
    return np.asarray(decoding.flatten(picture, name))  # Refuses mode F.


def _from_inks(found: decoding.Decoded) -> decoding.Decoded:
    """A CMYK picture in RGB, through its profile if it has one."""
    profile = found.info.get("icc_profile", b"")
    info = {name: value for name, value in found.info.items() if name != "icc_profile"}
    rgb: Any = None
    if profile[16:20] == b"CMYK":
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            ours = ImageCms.createProfile("sRGB")
            inks = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            rgb = ImageCms.profileToProfile(found.picture, inks, ours, outputMode="RGB")
    rgb = rgb or decoding.flatten(found.picture, found.name)
    return replace(found, picture=rgb, info=info, lost=(*found.lost, "CMYK (converted to RGB)"))
