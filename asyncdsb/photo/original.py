"""A photograph with everything that its file holds beyond the 8-bit RGB that networks see."""

from __future__ import annotations

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
from PIL import Image, PngImagePlugin, TiffImagePlugin

from asyncdsb.photo import decoding
from asyncdsb.photo.exif import STRUCTURE, exif_tags, tags_of
from asyncdsb.photo.fill import harmonic_fill
from asyncdsb.photo.formats import FIELD, LARGEST_PROFILE, LONGEST_SEGMENT, PARTS, SAVE_OPTIONS
from asyncdsb.photo.images import encoded

Settings = Mapping[str, object] | None
PNG_HEADER = 33  # bytes of a PNG's signature and its first chunk, the size and kind of its pixels


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
        return decoding.shown(self.pixels)

    @property
    def picture(self) -> Image.Image:
        """As a picture of Pillow's, with ``info``: L, LA, RGB or RGBA, or I;16 for 16-bit grey."""
        found = decoding.as_picture(self.pixels)
        decoding.inform(found, self.info, "GRAY" if self.colours == 1 else "RGB")
        return found

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
        values = rgb[..., : self.colours][hole].astype(np.float64)
        if pixels.shape[2] > self.colours:
            # Known values of alpha continued smoothly.
            alpha, top = pixels[..., -1], int(np.iinfo(pixels.dtype).max)
            missing = torch.from_numpy(hole)[None, None]
            known = torch.from_numpy(alpha.astype(np.float32))[None, None] / top
            filled = harmonic_fill(known.masked_fill_(missing, 0), missing)[0, 0].numpy()
            alpha[hole] = np.rint(filled.clip(0, 1) * top).astype(alpha.dtype)[hole]
            # A viewer puts the colours on white again, which ``rgb`` holds already.
            share = np.maximum(alpha[hole, None] / top, 1 / top)
            values = (255 - (255 - values) / share).clip(0, 255)
        scale = 257 if pixels.dtype == np.uint16 else 1
        pixels[..., : self.colours][hole] = np.rint(values * scale).astype(pixels.dtype)
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
            sizes = {name: len(self.info.get(name, b"")) for name in ("exif", "xmp", "comment")}
            lost |= {name for name, size in sizes.items() if size > LONGEST_SEGMENT}
            if not all(0.5 < dots < 65535 for dots in self.info.get("dpi", ())):
                lost |= {"dpi"}  # They are whole numbers of 16 bits.
        if kind == "PNG" and len(self.info.get("icc_profile", b"")) > LARGEST_PROFILE:
            lost |= {"icc_profile"}
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
                found, exif = exif_tags(info.get("exif", b"")), Image.Exif()
                if not (282 in found and 283 in found):
                    exif.update(tags_of(found))
                    (exif[282], exif[283]), exif[296] = dpi, 2
                    info["exif"] = exif.tobytes()
            pixels = self.rgb if "alpha" in lost else decoding.eight_bit(self.pixels)
            path.write_bytes(encoded(decoding.as_picture(pixels), **options, **info))
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
        # Level 1 is three times as fast as the default and a tenth larger.
        told: dict[str, Any] = {"format": "PNG", "pnginfo": note, "compress_level": 1}
        told |= {name: info[name] for name in ("exif", "dpi", "icc_profile") if name in info}
        if self.pixels.dtype == np.uint8:
            decoding.as_picture(self.pixels).save(path, **told)
            return
        # Pillow writes no colours of 16 bits, OpenCV no metadata: the latter's file gets what the
        # former puts between header and pixels.
        order = {1: [0], 2: [0, 0, 0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[self.pixels.shape[2]]
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        data = cv2.imencode(".png", self.pixels[..., order], options)[1].tobytes()
        told_file = encoded(decoding.as_picture(self.pixels[:1, :1]), **told)
        between = told_file[PNG_HEADER : told_file.rindex(b"IDAT") - 4]
        path.write_bytes(data[:PNG_HEADER] + between + data[PNG_HEADER:])

    def _save_tiff(self, path: Path, info: dict[str, Any]) -> None:
        # By hand: Pillow writes neither colours of 16 bits, nor Exif data with compression.
        pixels, colours = self.pixels, self.colours
        if pixels.dtype == np.uint16 and pixels.shape[2] == 2:
            # Neither Pillow nor OpenCV reads grey with transparency in 16 bits.
            pixels, colours = pixels[..., [0, 0, 0, 1]], 3
        height, width, channels = pixels.shape
        rows = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
        data = zlib.compress(rows.astype(rows.dtype.newbyteorder("<"), copy=False).tobytes(), 6)
        tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
        exif = exif_tags(info.get("exif", b""))
        for tag, value in tags_of(exif, STRUCTURE):
            tags.tagtype |= {tag: 2} if isinstance(exif[tag], str) else {}
            tags[tag] = value
        depth, grey = (8 * pixels.itemsize,) * channels, colours == 1
        tags.update({256: width, 257: height, 258: depth, 262: 1 if grey else 2, 284: 1})
        tags.update({273: 0, 277: channels, 278: height, 279: len(data)})
        tags.update({259: 8, 317: 2})  # deflate, differences along a row
        if channels > colours:
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
    if isinstance(source, np.ndarray):
        pixels = source[..., None] if source.ndim == 2 else source
        shaped = pixels.ndim == 3 and pixels.shape[2] in (1, 2, 3, 4)
        if not shaped or source.dtype not in (np.uint8, np.uint16):
            expected = "expected a uint8 or uint16 array of shape (H, W), (H, W, 3) or (H, W, 4)"
            raise ValueError(f"{expected}, got {source.dtype} {source.shape}")
        # A copy: a stream's last frame may come after the caller has changed the array.
        return Photograph(decoding.without_opaque(pixels.copy()))
    found = decoding.decode(source)
    return Photograph(found.pixels, found.info, found.lost)
