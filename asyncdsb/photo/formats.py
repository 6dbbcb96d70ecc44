"""Picture formats: which are written and how, what each can hold, and which are read."""

from pathlib import Path
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
LARGEST_CHUNK = 16 * 2**20  # bytes of a colour profile or text that is read in a PNG file
LARGEST_PROFILE = 2**20  # bytes of a colour profile in a PNG file that Pillow reads everywhere
LONGEST_SEGMENT = 65_000  # bytes of Exif, XMP or comment in a JPEG file, slightly below the limit
FIELD = "asyncdsb"  # text of a restored PNG that holds its settings


def check_side(out: Path, size: tuple[int, int]) -> None:
    """Raise ValueError if a photograph (width, height) is larger than its file's format can be."""
    kind = SAVE_OPTIONS[out.suffix.lower()]["format"]
    most = LARGEST_SIDE.get(kind, max(size))
    if max(size) > most:
        got = f"the picture is {size[0]}x{size[1]}: choose .png or .tif"
        raise ValueError(f"{out.name}: {kind} holds at most {most} pixels a side, {got}")


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
