"""Picture formats: which are written and how, what each can hold, and which are read."""

from typing import Any

# Nothing heavy is imported here, so that the command line knows these at once.
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
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # in pixels, that a format can hold
LONGEST_SEGMENT = 65_000  # bytes of Exif or of XMP in a JPEG file, slightly below the limit
FIELD = "asyncdsb"  # text of a restored PNG that holds its settings

PARTS = {
    "icc_profile": ("the colour profile", "PNG TIFF WEBP JPEG"),
    "exif": ("Exif data", "PNG TIFF WEBP JPEG"),
    "dpi": ("the resolution", "PNG TIFF WEBP JPEG BMP"),
    "xmp": ("XMP data", "PNG TIFF WEBP JPEG"),
    "text": ("PNG text", "PNG"),
    "comment": ("the comment", "PNG JPEG"),
    "gamma": ("the gamma", "PNG"),
    "alpha": ("transparency", "PNG TIFF WEBP"),
    "16 bits": ("16 bits per channel", "PNG TIFF"),
}
"""Parts of a photograph beside 8-bit colours: their names in messages, and what can hold them."""

READ = (
    "PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "AVIF", "JPEG2000",
    "ICO", "PCX", "SGI", "HEIF",
)  # fmt: skip
"""Formats that are read, by Pillow's names; it would hand EPS files to another program."""

NOT_READ = frozenset(
    ".heic .heif .hif .jxl .svg .psd .xcf .eps .pdf .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf".split()
)
"""Suffixes of pictures that are not read, or not without a further package."""
