"""Heatmaps, the trajectory animation and the report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from asyncdsb.show import viz


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.fixture
def result() -> SimpleNamespace:
    ramp = np.linspace(0, 1, 48 * 32, dtype=np.float32).reshape(32, 48)
    frames = [
        SimpleNamespace(t=1 - step / 5, x_t=picture(step), x0_hat=picture(10 + step))
        for step in range(6)
    ]
    seen = SimpleNamespace(rgb=np.asarray(picture(99)))
    return SimpleNamespace(
        image=picture(99), photograph=seen, gradient=ramp, tau=ramp, trajectory=frames
    )


@pytest.mark.parametrize("name", [viz.TAU_COLOURS, viz.GRADIENT_COLOURS])
def test_colour_tables_grow_brighter_steadily(name):
    table = viz.colour_table(name)
    luma = table @ np.array([0.299, 0.587, 0.114])
    assert table.shape == (256, 3) and table.dtype == np.uint8
    # Brightness alone must order the values: that is what makes a map safe for colour blindness.
    assert (np.diff(luma) > -1.5).all() and luma[-1] - luma[0] > 150


def test_heatmap_scale_is_fixed():
    table = viz.colour_table("viridis")
    values = np.array([[0.0, 0.5, 1.0], [-1.0, 0.25, 2.0]])
    expected = table[[[0, 128, 255], [0, 64, 255]]]
    np.testing.assert_array_equal(np.asarray(viz.heatmap(values)), expected)
    # The colour of a value does not depend on the others of its map.
    np.testing.assert_array_equal(np.asarray(viz.heatmap(values[:, 1:2])), expected[:, 1:2])


def test_heatmap_companding_is_a_square_root():
    values = np.array([[0.0, 0.04, 0.25, 1.0]])
    companded = viz.heatmap(values, "magma", compand=True)
    np.testing.assert_array_equal(
        np.asarray(companded), np.asarray(viz.heatmap(np.sqrt(values), "magma"))
    )


def test_shrink_map_keeps_aspect_and_mean():
    values = np.random.default_rng(0).random((60, 120), np.float32)
    small = viz.shrink_map(values, 40)
    assert small.shape == (20, 40)
    assert small.mean() == pytest.approx(values.mean(), abs=1e-5)
    np.testing.assert_array_equal(viz.shrink_map(values, 500), values)


def test_paint_hole_touches_only_the_hole():
    image = picture(1)
    mask = np.zeros((32, 48), bool)
    mask[4:9, 5:20] = True
    painted = np.asarray(viz.paint_hole(image, mask))
    np.testing.assert_array_equal(painted[~mask], np.asarray(image)[~mask])
    assert (painted[mask] == viz.HOLE_COLOUR).all()


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".WEBP"])
def test_trajectory_loops_and_holds_its_ends(result, tmp_path, suffix):
    path = viz.save_animation([frame.x_t for frame in result.trajectory], tmp_path / f"way{suffix}")
    with Image.open(path) as animation:
        assert animation.n_frames == len(result.trajectory)
        assert animation.size == result.image.size
        assert animation.info["loop"] == 0
        durations = []
        for frame in ImageSequence.Iterator(animation):
            frame.load()
            durations.append(frame.info["duration"])
    assert min(durations[0], durations[-1]) > max(durations[1:-1])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_trajectory_shows_its_pictures(tmp_path):
    flat = [Image.new("RGB", (32, 32), (grey,) * 3) for grey in (40, 120, 200)]
    path = viz.save_animation(flat, tmp_path / "way.webp")
    with Image.open(path) as animation:
        frames = ImageSequence.Iterator(animation)
        greys = [np.asarray(frame.convert("L")).mean() for frame in frames]
    assert greys == pytest.approx([40, 120, 200], abs=4)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_trajectory_bytes_repeat(result, tmp_path, suffix):
    first = viz.save_animation(
        [frame.x_t for frame in result.trajectory], tmp_path / f"a{suffix}"
    ).read_bytes()
    second = viz.save_animation(
        [frame.x_t for frame in result.trajectory], tmp_path / f"b{suffix}"
    ).read_bytes()
    assert first == second


def test_report_bytes_repeat(result, tmp_path):
    mask = np.zeros((32, 48), bool)
    mask[8:20, 8:20] = True
    paths = [
        viz.report_figure(result, np.asarray(picture(5)), mask, tmp_path / f"{name}.png")
        for name in "ab"
    ]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    with Image.open(paths[0]) as page:
        assert page.width == 1560 and page.convert("L").getextrema() == (0, 255)
