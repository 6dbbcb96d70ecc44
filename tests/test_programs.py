"""The programs beside the evaluation: sheets, blind pairs, levels, the mismatch."""

import json

import numpy as np
import pytest
from conftest import save_photos
from PIL import Image

import train.blind
import train.levels
import train.mismatch
import train.sheets
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.measure import baselines
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


def blind_command(photos, out, methods="telea,navier-stokes,patch-fill", extra=""):
    command = f"--data {photos} --size 32 --crops 1 --masks center,wide --methods {methods} {extra}"
    return [*command.split(), "-o", str(out)]


def test_the_key_says_which_of_two_methods_is_left(tmp_path, monkeypatch):
    photos = save_photos(tmp_path / "photos", [f"{k}.png" for k in range(5)])
    monkeypatch.setattr(train.blind, "SIDE", 32)
    out = tmp_path / "out"
    assert train.blind.main(blind_command(photos, out, extra="--batch 2")) == 0
    pairs = json.loads((out / "key.json").read_text())
    assert len(pairs) == 5 * 2 * 3 and len(list(out.glob("pairs-*.png"))) == 4
    every = {(p["photo"], p["mask"], p["first"], p["second"]) for p in pairs}
    names = ["telea", "navier-stokes", "patch-fill"]
    two = [(names[0], names[1]), (names[0], names[2]), (names[1], names[2])]
    assert every == {
        (f"{k}", kind, *t) for k in range(5) for kind in ("center", "wide") for t in two
    }
    crops = {crop.key: crop for crop in iter_crops(iter_photos([photos]), 1, 32)}
    for number, pair in enumerate(pairs):
        sheet = np.array(Image.open(out / f"pairs-{number // 8:02}.png"))
        top, first = (24 + 38) * (number % 8 // 2) + 24, 6 + 76 * (number % 2)
        right = {pair["first"], pair["second"]} - {pair["left"]}
        crop, kind = crops[pair["photo"]], pair["mask"]
        for name, left in ((pair["left"], first), (*right, first + 38)):
            shown = sheet[top : top + 32, left : left + 32]
            wanted = baselines.restore(name, crop.corrupted(kind), crop.mask(kind))
            np.testing.assert_array_equal(shown, wanted)
    turned = sum(pair["left"] == pair["second"] for pair in pairs)
    assert 5 < turned < 25 and pairs != sorted(pairs, key=lambda p: p["photo"])


def test_choices_of_two_judges(tmp_path, capsys):
    sides = [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]
    pairs = [
        {"photo": photo, "mask": "center", "first": "one", "second": "two", "left": left}
        for photo, left in sides
    ]
    (tmp_path / "key.json").write_text(json.dumps(pairs))
    # Of "two" twice and "one" once; the second judge, in a spreadsheet's hand, has not finished.
    (tmp_path / "a.csv").write_text("pair,eyes,face\n0,R,=\n1,L,\n2,L,\n", "utf-8-sig")
    (tmp_path / "b.csv").write_text("pair,eyes\n3, l \n2,=\n1,\n")
    given = f"--choices {tmp_path / 'a.csv'} {tmp_path / 'b.csv'}"
    assert train.blind.main(blind_command("nowhere", tmp_path, extra=given)) == 0
    found = json.loads((tmp_path / "choices.json").read_text())["preferences"]
    eyes, face = (row["chosen"] for row in found)
    assert [row["question"] for row in found] == ["eyes", "face"]
    # Photo a has 2 of 2, photo b 1.5 of 3.
    assert eyes["mean"] == pytest.approx(3.5 / 5) and (eyes["n"], eyes["groups"]) == (5, 2)
    assert (eyes["low"], eyes["high"]) == (0.5, 1.0)
    assert face["mean"] == 0.5 and face["low"] is None
    assert "| center | eyes | one | two | 5 | 0.70 (0.50 to 1.00) |" in capsys.readouterr().out
    for text, said in (
        ("pair,eyes\n4,L\n", "expected pairs from 0 to 3"),
        ("pair,eyes\n-1,L\n", "expected pairs from 0 to 3"),
        ("pair,eyes\n0,left\n", "expected L, R or = for pair 0"),
        ("number,eyes\n0,L\n", "expected the columns pair"),
    ):
        (tmp_path / "a.csv").write_text(text)
        assert train.blind.main(blind_command("nowhere", tmp_path, extra=given)) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "key.json").unlink()
    assert train.blind.main(blind_command("nowhere", tmp_path, extra=given)) == 2
    assert "which the command without --choices writes" in capsys.readouterr().err


def test_one_method_makes_no_pair(tmp_path, capsys):
    assert train.blind.main(blind_command("nowhere", tmp_path, "telea")) == 2
    assert "at least two methods" in capsys.readouterr().err


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
