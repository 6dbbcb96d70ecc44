"""Picture formats: which are written and how, what each can hold, and which are read.

Nothing is imported here, so that the command line knows them at once.
"""

from __future__ import annotations

from typing import Any

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".bmp": {"format": "BMP"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
"""Suffixes of the files that can be written, with Pillow's options."""

LOSSY = (".jpg", ".jpeg")

LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}
"""Longest side in pixels that a format can hold."""

LONGEST_SEGMENT = 65_000
"""Most bytes of Exif or of XMP in a JPEG file; the format's own limit is slightly larger."""

HOLDS: dict[str, set[str]] = {
    "PNG": {"icc_profile", "exif", "dpi", "xmp", "text", "comment", "gamma", "alpha", "16 bits"},
    "TIFF": {"icc_profile", "exif", "dpi", "xmp", "alpha", "16 bits"},
    "WEBP": {"icc_profile", "exif", "dpi", "xmp", "alpha"},
    "JPEG": {"icc_profile", "exif", "dpi", "xmp", "comment"},
    "BMP": {"dpi"},
}  # fmt: skip
"""Parts of a photograph that a format can hold beside 8-bit colours."""

CALLED = {
    "icc_profile": "the colour profile",
    "exif": "Exif data",
    "dpi": "the resolution",
    "xmp": "XMP data",
    "text": "PNG text",
    "comment": "the comment",
    "gamma": "the gamma",
    "alpha": "transparency",
    "16 bits": "16 bits per channel",
}
"""Names of these parts in messages."""

FIELD = "asyncdsb"
"""Text field of a restored PNG that holds its settings."""

READ = (
    "PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "AVIF", "JPEG2000",
    "ICO", "PCX", "SGI", "HEIF",
)  # fmt: skip
"""Formats that are read, by Pillow's names. Only plain raster formats: Pillow would hand EPS files
to an external interpreter. HEIF needs the package pillow-heif."""

NOT_READ = frozenset(
    ".heic .heif .hif .jxl .svg .psd .xcf .eps .pdf .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split()
)
"""Suffixes of pictures that are not read, or not without a further package."""
