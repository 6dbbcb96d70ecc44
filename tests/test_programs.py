"""The programs beside the evaluation: sheets, levels, the mismatch."""

import json

import numpy as np
import pytest
from conftest import save_photos
from PIL import Image

import train.levels
import train.mismatch
import train.sheets
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.networks import UNetConfig
from asyncdsb.pipeline import AsyncDSBPipeline
from train.data.sources import iter_photos
from train.judge.protocol import iter_crops
from train.mismatch import summary

pytestmark = pytest.mark.slow


def test_sheets_of_three_seeds(shard, tiny_weights, tmp_path):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --steps 1"
    assert train.sheets.main([*command.split(), "-o", str(tmp_path)]) == 0
    # Three photos: one row on each of the first three sheets.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["center.webp", "half.webp", "wide.webp"]
    assert Image.open(tmp_path / "wide.webp").size == (5 * 70 + 6, 24 + 70)


def sheet_command(photos, weights, out, extra=""):
    command = f"--data {photos} --weights {weights} --size 32 --steps 2 --masks center"
    return [*command.split(), *extra.split(), "-o", str(out)]


def test_portraits_stand_side_by_side_on_a_sheet(tiny_weights, tmp_path, monkeypatch):
    photos = save_photos(tmp_path / "photos", [f"{k}.png" for k in range(5)])
    # Room for two photos of five pictures with their gaps of six pixels, not for three.
    monkeypatch.setattr(train.sheets, "WIDTH", 14 * 38)
    assert train.sheets.main(sheet_command(photos, tiny_weights, tmp_path / "out")) == 0
    (path,) = (tmp_path / "out").iterdir()
    sheet = np.array(Image.open(path)).astype(int)
    assert path.name == "center.webp" and sheet.shape == (24 + 3 * 38, 6 + 10 * 38, 3)

    def picture(line, column):
        top, left = 24 + 38 * line, 6 + 38 * column
        return sheet[top : top + 32, left : left + 32]

    crops = list(iter_crops(iter_photos([photos]), 1, 32))
    mask = crops[2].mask("center")
    # The third photo begins the second line: input, three seeds, truth.
    assert np.abs(picture(1, 0)[mask] - 128).mean() < 12
    assert np.abs(picture(1, 4) - crops[2].pixels).mean() < 12
    seeds = [picture(1, column)[mask] for column in (1, 2, 3)]
    assert all(np.abs(seeds[i] - seeds[j]).mean() > 3 for i, j in ((0, 1), (0, 2), (1, 2)))
    # Nothing stands beside the last photo.
    assert (picture(2, 5) > 245).all() and (picture(2, 0) < 245).any()


def test_a_sheet_of_one_source(tiny_weights, tmp_path, capsys):
    photos = save_photos(tmp_path / "photos", ["a.png", "b.png"])
    manifest = tmp_path / "manifest.csv"
    # With the mark that spreadsheets write.
    manifest.write_text("key,source\na,one/place\nb,another\nc,third\n", "utf-8-sig")
    extra = f"--manifest {manifest} --source another"
    assert train.sheets.main(sheet_command(photos, tiny_weights, tmp_path / "out", extra)) == 0
    sheet = np.array(Image.open(tmp_path / "out/center.webp")).astype(int)
    crops = list(iter_crops(iter_photos([photos]), 1, 32))
    assert crops[1].key == "b"
    assert np.abs(sheet[24:56, 6 + 4 * 38 : 38 + 4 * 38] - crops[1].pixels).mean() < 12
    for extra, message in (
        (f"--manifest {manifest} --source nowhere", "another, one/place, third, got 'nowhere'"),
        (f"--manifest {manifest} --source third", "photos of third in the data, found none"),
        (f"--manifest {manifest}", "--manifest and --source together"),
    ):
        assert train.sheets.main(sheet_command(photos, tiny_weights, tmp_path / "out", extra)) == 2
        assert message in capsys.readouterr().err


def test_levels_of_a_network_that_says_nothing(shard, tiny_pipe, tmp_path):
    """Its error is the membrane's where nothing is known, nearly the noise where that is weak."""
    config = BridgeConfig(unet=UNetConfig(32, (1, 1), 1, (False, False)), fill="harmonic")
    AsyncDSBPipeline(BridgeDenoiser(config), tiny_pipe.completion).save_pretrained(tmp_path / "w")
    command = f"--data {shard} --weights {tmp_path / 'w'} --size 64 --crops 1 --masks wide"
    assert train.levels.main([*command.split(), "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "levels.json").read_text())
    errors, completion = found["errors"]["wide"], found["completion"]["wide"]
    assert errors["inf"] == pytest.approx(errors["membrane"], rel=1e-4)
    prior = config.sigma_data**2
    silent = (0.05**2 * prior / (0.05**2 + prior)) ** 0.5
    # Unknowns that are smaller than sigma_data leave a little less.
    assert errors["0.05"] == pytest.approx([silent] * 3, rel=0.05)
    assert -1 <= completion["correlation"] <= 1 and 0 <= completion["spread"] <= 1


def test_mismatch_follows_both_schedules(shard, tiny_weights, tmp_path, capsys):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --crops 1 --steps 4"
    command = [*command.split(), *"--masks center --limit 2 --device cpu -o".split(), str(tmp_path)]
    assert train.mismatch.main(command) == 0
    results = json.loads((tmp_path / "mismatch.json").read_text())
    assert results["t"] == [1.0, 0.75, 0.5, 0.25, 0.0] and results["photos"] == 2
    row = results["curves"]["asyncdsb/x_t"]["high"]
    assert row["delay"]["low"] <= row["delay"]["mean"] <= row["delay"]["high"]
    assert sum(row["run"]) == pytest.approx(1, abs=1e-5)
    assert "change" in row and "change" not in results["curves"]["synchronous/x_t"]["high"]
    assert Image.open(tmp_path / "mismatch.png").width > 500
    assert "| asyncdsb | x_t | high |" in capsys.readouterr().out
    assert train.mismatch.main([*command, "--methods", "a=?steps=2,b=?steps=3"]) == 2
    assert "same steps" in capsys.readouterr().err


def test_a_photo_that_hardly_changes_does_not_rule_the_mean_speed():
    """Curves of two photos: one rises by 1 at the second step, one by 0.001 with a wild dip."""
    steady, wild = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.3, 0.1, 0.5, 0.301])
    beta = np.array([0, 0.25, 0.75, 1.0])
    t = np.array([1, 2 / 3, 1 / 3, 0])
    found = summary(t, np.array([[steady, beta], [wild, beta]]), ["a", "b"])
    # The mean curve gains -0.1, 0.7 and -0.0995 in its three steps, 0.5005 in all.
    shares = np.array([-0.1, 0.7, -0.0995]) / 0.5005
    np.testing.assert_allclose(found["run"], shares)
    middle = np.array([5, 3, 1]) / 6
    assert found["delay"][0] == pytest.approx(middle @ [0.25, 0.5, 0.25] - middle @ shares)
    # Where only the wild photo is drawn there is no speed, so no interval either.
    assert train.mismatch._interval(found["delay"]) is None


@pytest.mark.parametrize("program", [train.levels, train.sheets])
def test_programs_for_one_bridge_say_so(shard, tiny_weights, tmp_path, capsys, program):
    command = ["--data", str(shard), "--weights", str(tiny_weights), "-o", str(tmp_path)]
    assert program.main([*command, "--methods", "asyncdsb,synchronous"]) == 2
    assert program.main([*command, "--methods", "telea"]) == 2
    error = capsys.readouterr().err
    assert "at most 1 bridge, got 2" in error and "expected bridges, got telea" in error
