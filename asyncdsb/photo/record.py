"""Settings and maps on disk, from which a restoration can be repeated.

Settings are a JSON object with the fields of :class:`asyncdsb.photo.settings.Settings`, the name of
the weights if it is public, and the precision, float32 if it is missing. Maps in [0, 1] are 16-bit
grey PNG files, value = grey / 65535.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from asyncdsb.photo.decoding import decode, known_kinds, shown
from asyncdsb.photo.formats import FIELD

_UNREADABLE = OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError
LEVELS = 65535  # grey value that stands for 1 in a map
# Field of the page's answers, beside the settings, with what a file does not hold of a photograph.
NOT_KEPT = "not_kept"


def load_settings(path: Path, names: tuple[str, ...]) -> dict[str, object]:
    """Read settings that are not null from a JSON file or a restored PNG; values are not checked.

    Raises:
        ValueError: no such file, no settings in it, or a field that is not among ``names``.
    """
    known_kinds()  # Raises Pillow's limit on the texts of a PNG.
    try:
        if path.suffix.lower() == ".png":
            with Image.open(path) as picture:
                text = picture.info.get(FIELD)
            if text is None:
                raise ValueError("expected a PNG that AsyncDSB restored, found no settings in it")
        else:
            text = path.read_text("utf-8-sig")  # Editors on Windows mark the encoding.
        found = json.loads(text)
    except _UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path.name}: cannot read settings ({reason})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: expected an object with settings, got {type(found)}")
    found.pop(NOT_KEPT, None)
    if unknown := ", ".join(name for name in found if name not in names):
        raise ValueError(f"{path.name}: expected settings out of {', '.join(names)}; got {unknown}")
    return {name: value for name, value in found.items() if value is not None}


def quantised(values: np.ndarray) -> np.ndarray:
    """Round a map in [0, 1] to what its file can hold, float32."""
    return (np.rint(np.clip(values, 0, 1) * LEVELS) / LEVELS).astype(np.float32)


def save_map(path: Path, values: np.ndarray) -> Path:
    """Write a map, (H, W) in [0, 1], as a 16-bit grey PNG; return the path."""
    grey = np.rint(np.clip(values, 0, 1) * LEVELS).astype(np.uint16)
    Image.fromarray(grey).save(path, format="PNG", compress_level=1)
    return path


def load_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a map (H, W) float32 in [0, 1] from a grey picture of 8 or 16 bits, white = 1.

    Raises:
        ValueError: not a readable picture, not of this size (width, height), or with colours.
    """
    pixels = decode(path).pixels
    height, width, channels = pixels.shape
    if (width, height) != tuple(size):
        wanted = f"the photo's size {size[0]}x{size[1]}"
        raise ValueError(f"{path.name} must have {wanted}, got {width}x{height} (width x height)")
    if pixels.dtype == np.uint16 and channels == 1:
        return (pixels[..., 0].astype(np.float64) / LEVELS).astype(np.float32)
    colours = shown(pixels)
    if (colours != colours[..., :1]).any():
        raise ValueError(f"{path.name}: expected a grey picture, got one with colours")
    return colours[..., 0].astype(np.float32) / 255
