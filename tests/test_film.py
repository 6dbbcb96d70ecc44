"""The film of a run: its frames and labels, and both files."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from asyncdsb.show import film, viz

RED, BLUE = (200, 30, 30), (30, 30, 200)
WHOLE = (0.0, 0.0, 1.0, 1.0)
TIMES, LATER = [1.0, 0.6, 0.3, 0.0], [1.0, 0.65, 0.35, 0.0]


def flat(colour: tuple[int, ...], size: tuple[int, int] = (90, 60)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8))


def two_panels() -> list[film.Panel]:
    count = len(TIMES)
    # From dark to their own colour, so that every frame differs.
    ways = [
        [flat(tuple(round(c * (n + 1) / count) for c in colour)) for n in range(count)]
        for colour in (RED, BLUE)
    ]
    return [
        film.Panel("Asynchronous", "bridge state, τ from 0 to 1", ways[0], TIMES),
        film.Panel("Synchronous (I²SB)", "bridge state, τ = 0.5", ways[1], LATER),
    ]


def test_both_panels_stand_side_by_side_with_their_labels():
    frames = film.draw_film(two_panels(), WHOLE)
    assert len(frames) == 4 and len({frame.size for frame in frames}) == 1
    width, height = frames[0].size
    assert width % 2 == height % 2 == 0
    last = np.asarray(frames[-1]).astype(int)
    middle = height // 2
    assert np.abs(last[middle, width // 4] - RED).max() <= 2
    assert np.abs(last[middle, 3 * width // 4] - BLUE).max() <= 2
    ground = last[0, 0]
    # Letters over both panels and below them.
    for part in (last[:50, : width // 2], last[:50, width // 2 :], last[-26:, : width // 4]):
        assert (np.abs(part - ground).max(-1) > 100).sum() > 100
    # Each panel says its own time, which is another one in every frame; the bar grows.
    for left in (0, width // 2):
        heads = [np.asarray(frame)[:28, left : left + width // 2] for frame in frames]
        assert all((one != other).any() for one, other in zip(heads, heads[1:], strict=False))
    done = [(np.asarray(frame)[-34] == (45, 212, 191)).all(-1).sum() for frame in frames]
    assert done == sorted(done) and done[0] <= 1 and done[-1] > 0.9 * width


def test_labels_have_their_letters():
    """The font knows them: none is drawn as the box that stands for an unknown one."""
    font = film._font(13)
    unknown = bytes(font.getmask("\U0010ffff"))
    for letter in "τ²=":
        assert bytes(font.getmask(letter)) != unknown


@pytest.mark.parametrize(
    "box, expected",
    [
        ((30, 20, 50, 40), (25, 15, 55, 45)),  # small: 24 pixels at least, times 1.25
        ((0, 0, 40, 40), (0, 0, 50, 50)),  # in a corner
        ((10, 0, 90, 60), (0, 0, 100, 60)),  # too large for a square
    ],
)
def test_the_film_shows_the_hole_with_a_margin(box, expected):
    mask = np.zeros((60, 100), bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    found = np.array(film.crop_around(mask)) * (100, 60, 100, 60)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_crop_is_what_is_seen():
    picture = flat(RED, (100, 100))
    picture.paste(BLUE, (50, 50, 100, 100))
    (frame,) = film.draw_film([film.Panel("", "", [picture], [0.5])], (0.5, 0.5, 1.0, 1.0))
    seen = np.asarray(frame)[frame.height // 2, frame.width // 2]
    assert tuple(seen) == BLUE


def test_webp_keeps_every_frame(tmp_path):
    frames = film.draw_film(two_panels(), WHOLE)
    path = film.save_film(frames, tmp_path / "way.webp")
    with Image.open(path) as found:
        assert (found.format, found.n_frames, found.size) == ("WEBP", 4, frames[0].size)
        assert found.info["loop"] == 0
        found.seek(3)
        difference = np.asarray(found.convert("RGB"), int) - np.asarray(frames[3], int)
    assert np.abs(difference).mean() < 6


@pytest.mark.skipif(film.h264_encoder() is None, reason="needs imageio-ffmpeg, or ffmpeg")
def test_mp4_is_h264_and_shows_the_same(tmp_path):
    frames = film.draw_film(two_panels(), WHOLE)
    path = film.save_film(frames, tmp_path / "way.mp4")
    data = path.read_bytes()
    assert data[4:8] == b"ftyp" and b"avc1" in data
    assert data.index(b"moov") < data.index(b"mdat"), "a browser can begin before it has all"
    seconds = sum(viz.durations(len(frames))) / 1000
    found = cv2.VideoCapture(str(path))
    shown = []
    while True:
        more, pixels = found.read()
        if not more:
            break
        shown.append(pixels[..., ::-1])
    assert found.get(cv2.CAP_PROP_FPS) == film.FRAMES_PER_SECOND
    assert len(shown) == pytest.approx(seconds * film.FRAMES_PER_SECOND, abs=1)
    for one, expected in ((shown[0], frames[0]), (shown[-1], frames[-1])):
        assert one.shape == np.asarray(expected).shape
        assert np.abs(one.astype(int) - np.asarray(expected)).mean() < 4
    assert [file.name for file in tmp_path.iterdir()] == ["way.mp4"]


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """A machine without the package, and with an ffmpeg that does what a script says."""

    def install(script: str) -> str:
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program)

    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(film.shutil, "which", lambda name: _in(tmp_path / "bin", name))
    film.h264_encoder.cache_clear()
    yield install
    film.h264_encoder.cache_clear()


def _in(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).exists() else None


def test_without_an_encoder_the_way_to_one_is_told(programs, tmp_path):
    assert film.h264_encoder() is None
    with pytest.raises(ValueError, match="pip install imageio-ffmpeg"):
        film.save_film([flat(RED)], tmp_path / "way.mp4")


def test_an_ffmpeg_without_libx264_does_not_count(programs):
    programs('echo " V....D mpeg4  MPEG-4 part 2"')
    assert film.h264_encoder() is None


def test_an_encoder_that_fails_leaves_no_file(programs, tmp_path):
    program = programs(
        'case "$*" in *-encoders*) echo libx264;; *) echo no space left >&2; exit 1;; esac'
    )
    assert film.h264_encoder() == program
    with pytest.raises(ValueError, match="could not be encoded: no space left"):
        film.save_film([flat(RED, (900, 900))] * 40, tmp_path / "way.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["bin"]
