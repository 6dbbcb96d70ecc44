"""The programs beside the evaluation: sheets, the grid of tau, the mismatch."""

import json

import numpy as np
import pytest
from PIL import Image

import train.levels
import train.mismatch
import train.sheets
import train.step_curve
import train.tau_grid
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.networks import UNetConfig
from asyncdsb.pipeline import AsyncDSBPipeline
from train.mismatch import CurveSet

pytestmark = pytest.mark.slow


def test_sheets_of_three_seeds(shard, tiny_weights, tmp_path):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --steps 1"
    assert train.sheets.main([*command.split(), "-o", str(tmp_path)]) == 0
    # Three photos: one row on each of the first three sheets.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["center.webp", "half.webp", "wide.webp"]
    assert Image.open(tmp_path / "wide.webp").size == (5 * 70 + 6, 24 + 70)


def test_tau_grid_covers_the_valid_half_and_resumes(shard, tiny_weights, tmp_path, monkeypatch):
    command = (
        f"--data {shard} --weights {tiny_weights} --size 64 --steps 2 --masks wide --device cpu"
    )
    command = [*command.split(), "--points", "3", "--limit", "2", "-o", str(tmp_path)]
    assert train.tau_grid.main(command) == 0
    first = json.loads((tmp_path / "tau_grid.json").read_text())
    found = first["masks"]["wide"]
    for score in ("lpips", "frechet"):
        filled = [[value is not None for value in row] for row in found[score]]
        assert filled == [[True] * 3, [False, True, True], [False, False, True]]
    assert found["spread"] > 0
    best = found["best"]
    assert best["lpips"] == min(v for row in found["lpips"] for v in row if v is not None)
    assert best["lpips_synchronous"] == found["lpips"][1][1]
    assert best["cross_fit"]["n"] == 2
    diagonal = [found["lpips"][i][i] for i in range(3)]
    assert best["lpips_diagonal"] == min(diagonal)
    assert best["diagonal"] == first["tau"][int(np.argmin(diagonal))]
    assert "| wide | (" in (tmp_path / "tau_grid.md").read_text()
    assert Image.open(tmp_path / "tau_grid.png").width > 100
    monkeypatch.setattr(AsyncDSBPipeline, "restore_batch", None)
    assert train.tau_grid.main(command) == 0
    assert json.loads((tmp_path / "tau_grid.json").read_text()) == first


def test_step_curve_compares_samplers_with_the_reference(shard, tiny_weights, tmp_path, capsys):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --masks wide --device cpu"
    command = [*command.split(), "--limit", "2", "--steps-list", "1,2", "--reference", "3"]
    command += ["--samplers", "posterior,ode", "-o", str(tmp_path)]
    assert train.step_curve.main(command) == 0
    found = json.loads((tmp_path / "step_curve.json").read_text())
    runs = {(row["sampler"], row["steps"]): row["lpips"] for row in found["rows"]}
    assert set(runs) == {(s, n) for s in ("posterior", "ode") for n in (1, 2, 3)}
    # With one step every sampler gives the first estimate.
    assert runs["posterior", 1] == runs["ode", 1]
    text = (tmp_path / "step_curve.md").read_text()
    assert "| posterior | 3 |" in text and "(+0.0%)" in text
    assert Image.open(tmp_path / "step_curve.png").width > 200
    capsys.readouterr()


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
    assert Image.open(tmp_path / "levels.png").width > 200


def test_mismatch_follows_both_schedules(shard, tiny_weights, tmp_path, capsys, monkeypatch):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --steps 4 --masks center --runs 2"
    command = [*command.split(), "--limit", "2", "--device", "cpu", "-o", str(tmp_path)]
    assert train.mismatch.main(command) == 0
    results = json.loads((tmp_path / "mismatch.json").read_text())
    assert results["t"] == [1.0, 0.75, 0.5, 0.25, 0.0] and results["photos"] == 2
    row = results["curves"]["asyncdsb/x_t/projection"]["high"]
    assert row["delay"]["low"] <= row["delay"]["mean"] <= row["delay"]["high"]
    assert sum(row["speed"]["run"]) == pytest.approx(1, abs=1e-5)
    assert "delay" not in results["curves"]["synchronous/x0_hat/ssim"]["all"]
    assert set(results["changes"]) == {
        f"asyncdsb/{signal}" for signal in ("x_t/ssim", "x_t/projection", "x0_hat/ssim")
    }
    assert Image.open(tmp_path / "mismatch.png").width > 500
    assert "| asyncdsb, x_t, projection | high |" in capsys.readouterr().out
    # Again from what is kept.
    monkeypatch.setattr(train.mismatch, "follow", None)
    assert train.mismatch.main(command) == 0
    assert json.loads((tmp_path / "mismatch.json").read_text()) == results
    assert train.mismatch.main([*command, "--methods", "a=?steps=2,b=?steps=3"]) == 2
    assert "same steps" in capsys.readouterr().err


def test_a_photo_that_hardly_changes_does_not_rule_the_mean_speed():
    """Curves of two photos: one rises by 1 at the second step, one by 0.001 with a wild dip."""
    collected = CurveSet()
    steady, wild = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.3, 0.1, 0.5, 0.301])
    for photo, run in (("a", steady), ("b", wild)):
        stored = {"t": np.array([1, 2 / 3, 1 / 3, 0])}
        for signal, measures in train.mismatch.SIGNALS.items():
            for measure in measures:
                for part in train.mismatch.PARTS:
                    name = f"{signal}/{measure}/{part}"
                    stored |= {f"{name}/run": run, f"{name}/oracle": steady}
                    stored[f"{name}/beta"] = np.array([0, 0.25, 0.75, 1.0])
        collected.add("x", photo, stored)
    row = collected.summary("x", [])["curves"]["x/x_t/projection"]["all"]
    # The mean curve gains -0.1, 0.7 and -0.0995 in its three steps, 0.5005 in all.
    shares = np.array([-0.1, 0.7, -0.0995]) / 0.5005
    np.testing.assert_allclose(row["speed"]["run"], shares, atol=1e-5)
    # Where only the wild photo is drawn there is no speed, so no interval either.
    assert row["delay"] is None
    assert row["correlation_beta"] == pytest.approx(np.corrcoef(shares, [1, 2, 1])[0, 1])


@pytest.mark.parametrize("program", [train.tau_grid, train.sheets])
def test_programs_for_one_bridge_say_so(shard, tiny_weights, tmp_path, capsys, program):
    command = [
        "--data",
        str(shard),
        "--weights",
        str(tiny_weights),
        "-o",
        str(tmp_path),
        "--methods",
    ]
    assert program.main([*command, "asyncdsb,synchronous"]) == 2
    assert program.main([*command, "telea"]) == 2
    error = capsys.readouterr().err
    assert "at most 1 bridge, got 2" in error and "expected bridges, got telea" in error
