"""The film of a run: labelled panels side by side, written as animated WebP or as MP4 (H.264)."""

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from asyncdsb.photo.images import scaled, write_atomic
from asyncdsb.show import viz

PANEL_SIDE = 384  # Longest side in pixels of a picture in the film.
MARGIN = 1.25  # Side of the square that is shown over the longer side of the hole.
FRAMES_PER_SECOND = 25  # Of an MP4. Frames of a run that stay longer are repeated.

_INK, _QUIET, _GROUND, _LINE, _DONE = "#f1f5f9", "#a3b1c6", "#0f172a", "#334155", "#2dd4bf"
_GAP, _HEAD, _FOOT, _LEAST_WIDTH = 14, 52, 46, 340


@dataclass(frozen=True)
class Panel:
    """One picture of the film, which changes with time, and its label."""

    title: str  # in bold over it, such as the method
    caption: str  # below the title: what is seen
    pictures: Sequence[Image.Image]  # one for each moment, all of one size
    times: Sequence[float]  # t of every picture, falling from 1 (noise) to 0 (the result)


def crop_around(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The part of a picture that shows its hole, bool (H, W), with a margin: a square if it fits.

    Returns left, top, right and bottom in [0, 1], as shares of the picture's sides.
    """
    sides = mask.shape[::-1]
    places = [np.flatnonzero(mask.any(axis)) for axis in (0, 1)]
    longest = max(int(place[-1] - place[0]) + 1 for place in places)
    square = min(MARGIN * max(longest, 24), max(sides))
    spans = []
    for place, side in zip(places, sides, strict=True):
        length = min(square, side)
        start = min(max((place[0] + place[-1] + 1 - length) / 2, 0), side - length)
        spans.append((start / side, (start + length) / side))
    (left, right), (top, bottom) = spans
    return left, top, right, bottom


def draw_film(
    panels: Sequence[Panel], crop: tuple[float, float, float, float]
) -> list[Image.Image]:
    """Draw the frames: the panels side by side, each with its label and its time t.

    All panels have as many pictures and times, at least one; the bar at the foot follows the first.
    ``crop`` is the part of the pictures that is shown, see :func:`crop_around`. Returns RGB
    pictures of one size, both sides even, as H.264 wants them.
    """
    count = len(panels[0].times)
    assert all(count == len(panel.pictures) == len(panel.times) for panel in panels)
    width, height = panels[0].pictures[0].size
    box = (crop[0] * width, crop[1] * height, crop[2] * width, crop[3] * height)
    sides = box[2] - box[0], box[3] - box[1]
    size = scaled(sides, PANEL_SIDE / max(sides))
    column = max(size[0], _LEAST_WIDTH)
    across = _GAP + len(panels) * (column + _GAP)
    down = _HEAD + size[1] + _FOOT
    ground = Image.new("RGB", (across + across % 2, down + down % 2), _GROUND)
    draw = ImageDraw.Draw(ground)
    lefts = [_GAP + index * (column + _GAP) for index in range(len(panels))]
    for left, panel in zip(lefts, panels, strict=True):
        draw.text((left, 22), panel.title, _INK, _font(17, bold=True), anchor="ls")
        draw.text((left, 42), panel.caption, _QUIET, _font(13), anchor="ls")
    bar, right = _HEAD + size[1] + 12, across - _GAP
    draw.rectangle((_GAP, bar, right, bar + 3), _LINE)
    draw.text((_GAP, bar + 22), "t = T, noise", _QUIET, _font(13), anchor="ls")
    draw.text((right, bar + 22), "0, restored", _QUIET, _font(13), anchor="rs")
    frames = []
    for number in range(count):
        frame = ground.copy()
        draw = ImageDraw.Draw(frame)
        for left, panel in zip(lefts, panels, strict=True):
            shown = panel.pictures[number].convert("RGB")
            shown = shown.resize(size, Image.Resampling.BICUBIC, box)
            frame.paste(shown, (left + (column - size[0]) // 2, _HEAD))
            time = f"t = {panel.times[number]:.2f} T"
            draw.text((left + column, 22), time, _INK, _font(14, bold=True), anchor="rs")
        done = 1 - panels[0].times[number]
        draw.rectangle((_GAP, bar, _GAP + done * (right - _GAP), bar + 3), _DONE)
        frames.append(frame)
    return frames


@functools.cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, which has Greek letters."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size)


def save_film(pictures: Sequence[Image.Image], path: str | os.PathLike) -> Path:
    """Write the frames of a film, of one size; the first and the last stay longer.

    The path, which is returned, ends in ``.webp`` (loops in a browser) or ``.mp4`` (H.264, for even
    sides; ValueError if there is no encoder).
    """
    if Path(path).suffix != ".mp4":
        return viz.save_animation(pictures, path)
    if (encoder := h264_encoder()) is None:
        raise ValueError("MP4 needs ffmpeg with libx264: pip install imageio-ffmpeg")
    return write_atomic(path, lambda target: _encode(encoder, pictures, target))


@functools.cache
def h264_encoder() -> str | None:
    """Path of an ffmpeg that encodes H.264 with libx264; None if there is none.

    The one of the package imageio-ffmpeg comes first, then the one on the PATH.
    """
    candidates = [shutil.which("ffmpeg")]
    # RuntimeError: the package came without its program.
    with contextlib.suppress(ImportError, RuntimeError):
        from imageio_ffmpeg import get_ffmpeg_exe

        candidates.insert(0, get_ffmpeg_exe())
    for program in filter(None, candidates):
        asked = [program, "-hide_banner", "-encoders"]
        try:
            told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        if "libx264" in told.stdout:
            return program
    return None


def _encode(encoder: str, pictures: Sequence[Image.Image], path: Path) -> None:
    width, height = pictures[0].size
    command = [
        encoder, "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}",
        "-framerate", str(FRAMES_PER_SECOND), "-i", "-",
        "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "2",
        # All players know this pixel format. The index comes first: a browser can begin at once.
        "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as raw:
        sent, ends = 0, itertools.accumulate(viz.durations(len(pictures)))
        for picture, end in zip(pictures, ends, strict=True):
            # As often as its time on the screen asks for.
            while sent * 1000 < end * FRAMES_PER_SECOND:
                raw.write(picture.tobytes())
                sent += 1
        raw.seek(0)
        done = subprocess.run(command, stdin=raw, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the film could not be encoded: {' '.join(done.stderr.split())}")
