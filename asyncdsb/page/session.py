"""What one visitor works on, and the checks of everything that the browser sends."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from asyncdsb.page import canvas
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import check_pair, read_image, shortened
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.record import quantised
from asyncdsb.photo.settings import Settings

MAX_PIXELS = 32_000_000  # Of a photograph that the page accepts.
MAX_STEPS = 250
MAX_TILES = 32
MAX_GUIDANCE = 3
MAX_SEED = 2**31 - 1
MAX_SEEDS = 6  # That one press tries.
MAX_RESULTS = 12  # Of a session; the oldest go first.
MAP_SIDE = 256  # Longest side in pixels of the maps that are sent, and of a painted order.
PAINTED = "painted"  # Strategy of a visitor who paints the order, beside those of the package.

SETTINGS = (
    "tau_min", "tau_max", "steps", "sampler", "strategy", "seed", "eta", "grid", "tiles",
    "guidance", "solver_order", "finish",
)  # fmt: skip
"""The page's controls that hold settings, in the order in which the handlers take them."""


@dataclasses.dataclass(frozen=True)
class Photo:
    """The photograph of one session: a file on the server, at its own resolution."""

    path: str  # the uploaded file, or an example
    size: tuple[int, int]  # (width, height) in pixels, EXIF rotation applied
    stamp: str  # what the browser calls it
    example: str | None = None  # its name if it is an example
    weights: str | None = None  # that restore it; None for the page's first
    before: Photo | None = None  # the photograph whose result this one is, if it is one
    box: Box | None = None  # square around the head that the visitor drew
    said: tuple[str, ...] = ()  # settings that the page's address gave with it
    # Settings that are its own, if the page opened with it.
    opening: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def at(self, stamp: str) -> Photo:
        """Return the photograph that the browser shows: this one, or one it was made from.

        Raises:
            ValueError: none of them has the stamp.
        """
        if self.stamp == stamp:
            return self
        if self.before is None:
            lost = "The server no longer has this photo, for example after a restart"
            raise ValueError(f"{lost}: open it again.")
        return dataclasses.replace(self.before.at(stamp), weights=self.weights)

    @property
    def stem(self) -> str:
        """Name of the file without its suffix, for the download."""
        return shortened(Path(self.path).stem, 120) or "photo"


@dataclasses.dataclass(frozen=True)
class Kept:
    """A finished run of this session, with its files."""

    photo: Photo
    hole: bytes  # the mask's bits, packed
    settings: Settings
    decided: dict[str, Any]  # the settings with all that the weights decided, JSON-serialisable
    folder: str  # of its files
    files: dict[str, str]  # for each finish that was made, the path of the result as PNG
    finish: str  # the one that is shown

    @property
    def mask(self) -> np.ndarray:
        """The mask, bool (H, W)."""
        width, height = self.photo.size
        bits = np.unpackbits(np.frombuffer(self.hole, np.uint8), count=width * height)
        return bits.astype(bool).reshape(height, width)

    @property
    def path(self) -> str:
        """Of the result that is shown."""
        return self.files[self.finish]

    @property
    def record(self) -> dict[str, Any]:
        """What gives the result that is shown, JSON-serialisable."""
        return self.decided | {"finish": self.finish}


@functools.cache
def _results() -> tempfile.TemporaryDirectory:
    """The folder of all results, which goes with the process."""
    return tempfile.TemporaryDirectory(prefix="asyncdsb-results-")


def result_folder() -> Path:
    """A new folder for the files of one run."""
    return Path(tempfile.mkdtemp(dir=_results().name))


def forget(results: Sequence[Kept]) -> None:
    """Remove the files of runs."""
    for kept in results:
        shutil.rmtree(kept.folder, ignore_errors=True)


def open_photo(path: str) -> tuple[Photo, Image.Image]:
    """Read a photograph that was uploaded.

    Raises:
        ValueError: unreadable, or larger than :data:`MAX_PIXELS`.
    """
    with contextlib.suppress(OSError, Image.DecompressionBombError), Image.open(path) as header:
        if header.width * header.height > MAX_PIXELS:
            raise ValueError(
                f"expected a photo of at most {MAX_PIXELS // 1_000_000} megapixels, "
                f"got {header.width}x{header.height}"
            )
    image = read_image(path)
    return Photo(path, image.size, secrets.token_hex(8)), image


def read_settings(values: Sequence[object], painted: np.ndarray | None = None) -> Settings:
    """Check what the page's controls hold; a field that was cleared holds None.

    Args:
        values: in the order of :data:`SETTINGS`.
        painted: (H, W) in [0, 1], where in the range of tau every pixel lies if the order was
            painted.

    Raises:
        ValueError: something is missing or outside its range.
    """
    given: dict[str, Any] = dict(zip(SETTINGS, values, strict=True))
    for name, most in (("steps", MAX_STEPS), ("tiles", MAX_TILES)):
        given[name] = read_count(name, given[name], most)
    if isinstance(given["seed"], float) and given["seed"].is_integer():
        given["seed"] = int(given["seed"])
    strategy = str(given["strategy"])
    settings = Settings(**given | {"strategy": "gradient" if strategy == PAINTED else strategy})
    settings.check()
    if strategy == PAINTED:
        if painted is None:
            raise ValueError("Paint the order of restoration on the heatmap first.")
        span = settings.tau_max - settings.tau_min
        # Rounded as in its file, so that the file gives the same result.
        tau = quantised(settings.tau_min + span * painted)
        settings = dataclasses.replace(settings, strategy=tau)
    return settings


def read_count(name: str, value: Any, limit: int) -> int:
    """Check a number of things, 1 ... limit; raise ValueError on anything else."""
    if value not in range(1, limit + 1):
        raise ValueError(f"expected a whole number from 1 to {limit} for {name}, got {value!r}")
    return int(value)


def read_order(text: str | None, size: tuple[int, int]) -> np.ndarray | None:
    """Decode an order that was painted in the browser: float32 (H, W) in [0, 1], or None.

    Args:
        text: JSON with ``width``, ``height`` and ``data``, uint8 in base64, 255 = first; empty for
            none.
        size: (width, height) of the photograph, to which the order is enlarged.

    Raises:
        ValueError: anything else than such a text.
    """
    if not text:
        return None
    try:
        found = json.loads(text[: 2 * MAP_SIDE**2])
        width, height = int(found["width"]), int(found["height"])
        if not (0 < width <= MAP_SIDE and 0 < height <= MAP_SIDE):
            raise ValueError(f"size {width}x{height}")
        values = np.frombuffer(base64.b64decode(found["data"], validate=True), np.uint8)
        small = values.reshape(height, width).astype(np.float32) / 255
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a painted order, got something else ({error})") from None
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def read_hole(photo: Photo | None, hole: str | None) -> tuple[Photo, np.ndarray]:
    """Return the photograph that the canvas shows, with its box, and the mask at its scale.

    Args:
        photo: the session's photograph.
        hole: what is painted on the canvas, of :func:`asyncdsb.page.canvas.hole_text`.

    Raises:
        ValueError: no photograph, or they do not belong together.
    """
    if photo is None or not hole:
        raise ValueError("Open a photo first: drop one on the canvas, or pick an example.")
    stamp, mask, box = canvas.read_hole_text(hole)
    photo = dataclasses.replace(photo.at(stamp), box=box)
    width, height = canvas.mask_size(photo.size)
    if mask.shape != (height, width):
        raise ValueError(f"expected a hole of {width}x{height}, got {mask.shape[::-1]}")
    return photo, mask


def read_pair(photo: Photo | None, hole: str | None) -> tuple[Photo, Image.Image, np.ndarray]:
    """Return the photograph that the canvas shows, its pixels, and the mask at its own size.

    Raises:
        ValueError: no photograph, nothing painted, or everything painted.
    """
    photo, painted = read_hole(photo, hole)
    mask = canvas.resize_mask(painted, photo.size)
    if not mask.any():
        raise ValueError("Paint over what is to be restored first: the mask is empty.")
    image = read_image(photo.path)
    check_pair(image, mask)
    return photo, image, mask


def read_files(photo: str | None, mask: str | None) -> tuple[Image.Image, np.ndarray]:
    """Return a photograph and its mask from their files.

    Raises:
        ValueError: one of them is missing or unreadable, or they do not belong together.
    """
    if not photo or not mask:
        raise ValueError("expected a photo and a mask, got " + ("no photo" if mask else "no mask"))
    _, image = open_photo(photo)
    hole = read_mask(mask, image.size)
    check_pair(image, hole)
    return image, hole
