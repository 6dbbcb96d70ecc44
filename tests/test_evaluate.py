import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import weakref
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch
from conftest import PHOTOS, mask_folder, photo_folder
from PIL import Image

import train.evaluate
import train.judge.validation
from asyncdsb.measure.perceptual import EfficientNetFeatures, FeatureExtractor, SetNames
from asyncdsb.photo.fill import fill_hole
from asyncdsb.pipeline import AsyncDSBPipeline
from train.evaluate import main
from train.judge.methods import (
    HeldOut,
    Method,
    bridge_method,
    classical_method,
    load_methods,
    to_batch,
)
from train.judge.protocol import iter_crops
from train.judge.report import (
    difference_table,
    gauge_table,
    legend,
    markdown_table,
    ratio_table,
)
from train.judge.results import restore_and_score, summarise
from train.judge.scores import Judges
from train.judge.validation import KINDS, RestorationValidator, keep_scores

pytestmark = pytest.mark.slow


class FakePipeline:
    """Paints the hole in a colour that depends on the seed, after a first look at a smooth fill."""

    def __init__(self):
        self.batches = []

    def trace(self, images, masks, seeds, **settings):
        self.batches.append((images.clone(), masks.clone(), list(seeds), settings))
        colour = torch.tensor([seed % 7 for seed in seeds]).float() / 7 - 0.5
        last = torch.where(masks > 0.5, colour[:, None, None, None], images)
        # Another value in the hole, so that only the mask can say where it is.
        first = fill_hole(torch.where(masks > 0.5, 0.3, images), masks, "harmonic")
        return None, iter([SimpleNamespace(x_t=images, x0_hat=first), SimpleNamespace(x_t=last)])


def fake_lpips(images, truths):
    return (images - truths).abs().mean((1, 2, 3))


class FakeFeatures(FeatureExtractor):
    """Mean colours, which are class scores too."""

    slug = "fake"
    names = SetNames("FD (fake)", "KD (fake)", "IS (fake)")

    def __call__(self, images):
        return images.mean((2, 3)).double().numpy()

    def logits(self, features):
        return features


JUDGES = Judges(fake_lpips, (FakeFeatures(),))
FRECHET_NAME, KERNEL_NAME, SCORE_NAME = FakeFeatures.names


def run(methods, folder, photos=PHOTOS, batch=4, kinds=("center", "narrow"), crops=2):
    cut = list(iter_crops(photos, crops, 48))
    restore_and_score(cut, methods, kinds, folder, batch, JUDGES)
    return summarise(cut, methods, kinds, folder, JUDGES)


def truth_method() -> Method:
    """Return the true pixels, which a method cannot see: known only to the test."""
    truths = {c.name: c.pixels for c in iter_crops(PHOTOS, 2, 48)}

    def restore(crops, masks, seeds):
        return [
            next(t for t in truths.values() if (t[~mask] == crop[~mask]).all())
            for crop, mask in zip(crops, masks, strict=True)
        ], None

    return Method("truth", "truth", restore)


def test_a_perfect_method_gets_perfect_scores(tmp_path):
    summary = run([truth_method(), classical_method("telea")], tmp_path)
    for scores in summary.values():
        perfect, telea = scores["truth"], scores["telea"]
        assert perfect["psnr"]["mean"] == perfect["psnr_hole"]["mean"] == 100
        assert perfect["ssim"]["mean"] == pytest.approx(1)
        assert perfect["lpips"]["mean"] == 0
        assert perfect[FRECHET_NAME] == pytest.approx(0, abs=1e-9)
        assert telea["psnr_hole"]["mean"] < telea["psnr"]["mean"] < 100
        assert telea["lpips_difference"]["mean"] == pytest.approx(telea["lpips"]["mean"])
        assert telea["psnr"]["n"] == 6 and telea["psnr"]["groups"] == 3


def test_the_gauges_of_a_perfect_method_are_one_in_every_band(tmp_path):
    summary = run([truth_method(), classical_method("telea")], tmp_path)
    for scores in summary.values():
        assert list(scores["truth"]["power"]) == ["0-1", "1-2", "2-4", "4-8", "8-16", "16-24"]
        assert set(scores["truth"]["power"].values()) == {1.0}
        assert all(ratio > 0 and ratio != 1 for ratio in scores["telea"]["power"].values())
        assert scores["truth"]["first_error"] is scores["telea"]["first_error"] is None


def test_the_first_error_of_a_smooth_fill_is_one_whatever_is_painted_later(tmp_path):
    summary = run([bridge_method("bridge", FakePipeline(), "w", {})], tmp_path)
    assert [scores["bridge"]["first_error"] for scores in summary.values()] == [1.0, 1.0]


def test_the_gauges_are_ratios_of_sums_over_crops(tmp_path, tiny_pipe):
    settings = {"steps": 2, "finish": "none"}
    method = bridge_method("bridge", tiny_pipe, "w", settings)
    summary = run([method], tmp_path, kinds=["wide"], batch=4)
    errors, fills, found, wanted = [], [], 0.0, 0.0
    for crop in iter_crops(PHOTOS, 2, 48):
        x0 = to_batch([crop.pixels])
        mask = torch.from_numpy(crop.mask("wide"))[None, None].float()
        seeds, known = [crop.noise_seed("wide")], x0.masked_fill(mask > 0.5, 0)
        with torch.no_grad():
            states = list(tiny_pipe.trace(known, mask, seeds, **settings)[1])
        fill = fill_hole(x0, mask, "harmonic")
        errors.append(float(((states[0].x0_hat - x0) ** 2 * mask).sum()))
        fills.append(float(((fill - x0) ** 2 * mask).sum()))
        (path,) = (tmp_path / "restored/bridge/wide").glob(f"{crop.name}-*.png")
        restored = to_batch([np.array(Image.open(path))])
        for power, picture in (("found", restored), ("wanted", x0)):
            residual = ((picture - fill) * mask)[0].double().numpy()
            modes = scipy.fft.dctn(residual, axes=(1, 2), norm="ortho")
            i, j = np.mgrid[:48, :48]
            # Modes from 2 to 4 cycles per picture, half a cycle being one step of the index.
            inside = (i**2 + j**2 >= 4**2) & (i**2 + j**2 < 8**2)
            total = float((modes[:, inside] ** 2).sum())
            found, wanted = (found + total, wanted) if power == "found" else (found, wanted + total)
    scores = summary["wide"]["bridge"]
    assert scores["first_error"] == pytest.approx(sum(errors) / sum(fills), rel=1e-4)
    assert scores["first_error"] != pytest.approx(np.mean(np.divide(errors, fills)), rel=1e-3)
    assert scores["power"]["2-4"] == pytest.approx(found / wanted, rel=1e-4)


def test_every_method_meets_the_same_holes_and_sees_nothing_in_them(tmp_path):
    seen = []

    def restore(crops, masks, seeds):
        triples = zip(crops, masks, seeds, strict=True)
        seen.append([(crop.tobytes(), mask.tobytes(), seed) for crop, mask, seed in triples])
        assert all((crop[mask] == 0).all() for crop, mask in zip(crops, masks, strict=True))
        return crops, None

    run([Method("one", "one", restore), Method("two", "two", restore)], tmp_path)
    assert seen[0::2] == seen[1::2]


def test_results_do_not_depend_on_the_batch_or_on_other_photos(tmp_path):
    method = bridge_method("asyncdsb", FakePipeline(), "w", {})
    small = run([method], tmp_path / "a", batch=1)
    large = run([method], tmp_path / "b", batch=5)
    for kind in small:
        first, second = small[kind]["asyncdsb"], large[kind]["asyncdsb"]
        for score in ("psnr", "ssim", "lpips"):
            assert first[score]["mean"] == pytest.approx(second[score]["mean"], rel=1e-6)
        assert first["first_error"] == pytest.approx(second["first_error"], rel=1e-6)
        assert first["power"] == pytest.approx(second["power"], rel=1e-6)
    run([method], tmp_path / "c", photos=PHOTOS[1:2])
    names = {path.relative_to(tmp_path / "c") for path in (tmp_path / "c").rglob("*.png")}
    assert len(names) == 4
    for name in names:
        alone, among = (tmp_path / f / name for f in "ca")
        assert alone.read_bytes() == among.read_bytes()


def test_a_long_restoration_keeps_only_its_first_and_last_state():
    made, most = weakref.WeakSet(), []

    def states(images):
        for _ in range(9):
            state = SimpleNamespace(x_t=images.clone(), x0_hat=images.clone())
            made.add(state.x_t)
            most.append(len(made))
            yield state

    pipe = SimpleNamespace(trace=lambda images, *_, **settings: (None, states(images)))
    crop = next(iter_crops(PHOTOS, 1, 48))
    restored, _ = bridge_method("bridge", pipe, "w", {}).restore(
        [crop.pixels], [crop.mask("center")], [0]
    )
    assert (restored[0] == crop.pixels).all()
    assert max(most) <= 3


def test_a_second_run_restores_only_what_is_missing(tmp_path):
    pipe = FakePipeline()
    first = run([bridge_method("asyncdsb", pipe, "w", {"steps": 3})], tmp_path)
    assert sum(len(seeds) for _, _, seeds, _ in pipe.batches) == 12
    assert all(settings == {"steps": 3} for *_, settings in pipe.batches)
    pipe.batches.clear()
    assert run([bridge_method("asyncdsb", pipe, "w", {"steps": 3})], tmp_path) == first
    assert not pipe.batches
    next(tmp_path.rglob("*.npz")).unlink()
    assert run([bridge_method("asyncdsb", pipe, "w", {"steps": 3})], tmp_path) == first
    assert not pipe.batches
    next((tmp_path / "restored").rglob("*.png")).unlink()
    assert run([bridge_method("asyncdsb", pipe, "w", {"steps": 3})], tmp_path) == first
    # Its whole batch, so that the result does not depend on the interruption.
    assert len(pipe.batches) == 1


@pytest.mark.parametrize("checksum, settings", [("other", {"steps": 3}), ("w", {"steps": 4})])
def test_other_weights_or_settings_are_not_taken_from_the_cache(tmp_path, checksum, settings):
    pipe = FakePipeline()
    run([bridge_method("asyncdsb", pipe, "w", {"steps": 3})], tmp_path)
    before = len(pipe.batches)
    run([bridge_method("asyncdsb", pipe, checksum, settings)], tmp_path)
    assert len(pipe.batches) == 2 * before


@pytest.mark.parametrize("name, other", [("__version__", "99.0"), ("RESTORE_VERSION", 99)])
def test_restorations_by_other_code_are_not_taken_from_the_cache(
    tmp_path, monkeypatch, name, other
):
    pipe = FakePipeline()
    run([bridge_method("asyncdsb", pipe, "w", {}), classical_method("telea")], tmp_path)
    before = len(pipe.batches), len(list((tmp_path / "restored" / "telea").rglob("*.png")))
    monkeypatch.setattr(f"train.judge.methods.{name}", other)
    run([bridge_method("asyncdsb", pipe, "w", {}), classical_method("telea")], tmp_path)
    after = len(pipe.batches), len(list((tmp_path / "restored" / "telea").rglob("*.png")))
    assert after == (2 * before[0], 2 * before[1])


def test_bridge_method_keeps_known_pixels_whatever_the_pipeline_returns():
    class Careless:
        def trace(self, images, masks, seeds):
            x = images * 0 + 3.0
            return None, iter([SimpleNamespace(x_t=x, x0_hat=x), SimpleNamespace(x_t=x, x0_hat=x)])

    crop = next(iter_crops(PHOTOS, 1, 48))
    mask = crop.mask("wide")
    (result,), _ = bridge_method("x", Careless(), "w", {}).restore([crop.pixels], [mask], [0])
    np.testing.assert_array_equal(result[~mask], crop.pixels[~mask])
    assert (result[mask] == 255).all()


def test_tables_hold_a_row_for_each_mask_and_method(tmp_path):
    methods = [classical_method("telea"), classical_method("navier-stokes")]
    summary = run(methods, tmp_path)
    table = markdown_table(summary, (FRECHET_NAME, KERNEL_NAME))
    rows = [line.split(" | ") for line in table.strip().splitlines()]
    assert len({line.count("|") for line in table.strip().splitlines()}) == 1
    assert FRECHET_NAME in table.splitlines()[0]
    assert Counter(row[1] for row in rows[2:]) == {"telea": 2, "navier-stokes": 2}
    mean = summary["center"]["telea"]["psnr"]["mean"]
    assert rows[2][3].startswith(f"{mean:.2f} (")
    differences = difference_table(summary, "telea", ["lpips", FRECHET_NAME]).splitlines()
    assert differences[0] == "| minus telea | mask | navier-stokes |"
    assert [line.split(" | ")[:2] for line in differences[2:]] == [
        ["| LPIPS", "center"],
        ["| LPIPS", "narrow"],
        [f"| {FRECHET_NAME}", "center"],
        [f"| {FRECHET_NAME}", "narrow"],
    ]


def scores(lpips, first=None, **power):
    power = {"1-2": 1.0, "2-4": None} | power
    return {"lpips": {"mean": lpips, "low": None}, "first_error": first, "power": power}


THREE_COLUMNS = {
    "center": {
        "bridge": scores(0.3, 0.75),
        "bridge+patches": scores(0.2, 0.75),
        "patch-fill": scores(0.25),
        "telea": scores(0.4),
    }
}


def test_tables_say_which_column_is_the_bridge_alone():
    lines = ratio_table(THREE_COLUMNS, "bridge", ["lpips"]).splitlines()
    assert lines[0] == (
        "| mask | LPIPS, bridge alone | bridge, then patches | patches alone | best classical"
        " | share of bridge |"
    )
    # Patches without a network are a classical method, here the best of them.
    assert lines[2] == "| center | 0.300 | 0.2 | 0.25 | 0.25 (patch-fill) | 1.20 |"
    said = legend(THREE_COLUMNS)
    assert "`bridge`: bridge alone; `bridge+patches`: bridge, then patches" in said
    assert legend({"center": {"telea": {}}}) == ""


def test_the_gauges_have_a_table_of_their_own():
    lines = gauge_table(THREE_COLUMNS).splitlines()
    assert "good from 0.6 to 1.4" in lines[0]
    assert lines[2] == "| mask | method | first error | 1-2 | 2-4 |"
    assert lines[4] == "| center | bridge | 0.75 | 1.00 | - |"
    assert lines[6] == "| center | patch-fill | - | 1.00 | - |"
    assert len(lines) == 8


def test_one_crop_has_no_distance_between_sets(tmp_path):
    methods = [classical_method("telea"), classical_method("navier-stokes")]
    summary = run(methods, tmp_path, PHOTOS[:1], kinds=["center"], crops=1)
    scores = summary["center"]["telea"]
    assert scores[FRECHET_NAME] is None and scores[KERNEL_NAME] is None
    assert markdown_table({"center": {"telea": scores}}, (FRECHET_NAME,)).endswith("| - |\n")
    assert FRECHET_NAME not in difference_table(summary, "telea", ["lpips", FRECHET_NAME])


# --- command line ---


def test_command_line_writes_numbers_table_and_sheet(shard, tiny_weights, tmp_path, capsys):
    command = f"--data {shard} --weights {tiny_weights} --methods bridge,synchronous,telea"
    command += " --masks center,narrow --crops 2 --size 64 --limit 2 --steps 2 --sheet 1"
    assert main([*command.split(), "-o", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["protocol"] == {
        "data": [shard.name],
        "size": 64,
        "crops_per_photo": 2,
        "photos": 2,
    }
    assert set(results["results"]) == {"center", "narrow"}
    assert set(results["results"]["center"]) == {"bridge", "synchronous", "telea"}
    assert results["results"]["center"]["telea"]["lpips"]["n"] == 4
    table = (tmp_path / "out/results.md").read_text()
    assert "FID" not in table and "KID" not in table and table in capsys.readouterr().out
    # Rows: one photo, two masks; columns: input, two of ours, classical, truth.
    assert Image.open(tmp_path / "out/sheet.png").size == (5 * 70 + 6, 24 + 2 * 70)
    assert len(list((tmp_path / "out/restored").rglob("*.png"))) == 2 * 2 * 2 * 3
    assert results["settings"]["steps"] == 2
    for scores in results["results"].values():
        assert scores["bridge"]["first_error"] > 0 and scores["telea"]["first_error"] is None
        assert list(scores["telea"]["power"]) == ["0-1", "1-2", "2-4", "4-8", "8-16", "16-32"]
    assert "| mask | method | first error | 0-1 |" in table and "bridge alone" in table
    same = results["results"]["center"]["synchronous"]
    assert {"mean", "low", "high"} == set(same[EfficientNetFeatures.names.frechet + " difference"])


def options(tiny_weights, methods):
    return train.evaluate.parser().parse_args(
        [
            "--data",
            "x",
            "-o",
            "y",
            "--weights",
            str(tiny_weights),
            "--methods",
            methods,
            "--steps",
            "7",
        ]
    )


def test_bridges_have_settings_and_weights_of_their_own(tiny_weights, tmp_path):
    other = tmp_path / "other"
    AsyncDSBPipeline.random(1).save_pretrained(other)
    (other / "gradient.json").unlink()
    text = "asyncdsb,synchronous,quick=?steps=5&sampler=ode&solver_order=1&guidance=0"
    text += f",o={other}?tau_min=0.1,again={tiny_weights}"
    first, synchronous, quick, o, again = load_methods(options(tiny_weights, text))
    assert first.settings["steps"] == synchronous.settings["steps"] == 7
    changed = {k for k, v in first.settings.items() if synchronous.settings[k] != v}
    assert changed == {"strategy", "tau_min"}  # 0.5 is the default of tau_max
    assert synchronous.settings["tau_min"] == synchronous.settings["tau_max"] == 0.5
    assert (quick.settings["steps"], quick.settings["sampler"]) == (5, "ode")
    assert quick.settings["solver_order"] == 1 and first.settings["solver_order"] is None
    assert type(quick.settings["guidance"]) is float
    assert o.settings["tau_min"] == 0.1
    # The other denoiser, with the completion network of the first.
    assert o.pipe is not first.pipe and o.pipe.completion is first.pipe.completion
    assert first.identity != again.identity and len({m.name for m in (first, o, again)}) == 3


def test_three_columns_are_the_bridge_its_patches_and_patches_alone(tiny_weights):
    args = options(tiny_weights, train.evaluate.METHODS)
    args.finish = "patches"
    columns = load_methods(args)
    assert [m.name for m in columns[:3]] == ["bridge", "bridge+patches", "patch-fill"]
    # The columns are what they are called, whatever the command line or the weights prefer.
    assert [m.settings["finish"] for m in columns[:2]] == ["none", "patches"]
    assert columns[2].pipe is None and columns[0].pipe is columns[1].pipe
    crop = next(iter_crops(PHOTOS, 1, 64))
    batch = [crop.corrupted("wide")], [crop.mask("wide")], [3]
    alone, patched = (m.restore(*batch) for m in columns[:2])
    assert (alone[0][0] != patched[0][0]).any()
    assert torch.equal(alone[1], patched[1])


@pytest.mark.parametrize(
    "window, extra, expected",
    [
        ("hole", "", (4, 96)),
        ("head", "", (1, 96)),
        ("head", "--crops 2 --size 64", (2, 64)),
        ("hole", "--size 64", (4, 64)),
    ],
)
@pytest.mark.parametrize("methods", ["bridge", "telea"])
def test_crops_suit_the_weights(shard, tmp_path, window, extra, expected, methods):
    pipe = AsyncDSBPipeline.random()
    pipe.denoiser.config = dataclasses.replace(pipe.config, window=window, resolution=96)
    pipe.save_pretrained(tmp_path)
    command = ["--data", str(shard), "-o", "y", "--weights", str(tmp_path), *extra.split()]
    args = train.evaluate.parser().parse_args([*command, "--methods", methods])
    found = list(HeldOut(args, load_methods(args), train.evaluate.CROPS).crops())
    crops, size = expected
    assert (args.crops, args.size) == expected and len(found) == 3 * crops
    assert found[0].pixels.shape == (size, size, 3)


@pytest.mark.parametrize(
    "methods, message",
    [
        ("x=?stepz=5", "expected a setting out of steps, .*'stepz'"),
        ("x=?steps=0", "steps from 1 to 10000, got 0"),
        ("x=?sampler=foo", "sampler that the weights were trained for"),
        ("x=?solver_order=3", "expected a solver order out of 1, 2, got 3"),
        ("x=?steps=many", "expected a number for steps, got 'many'"),
        ("x=?steps=5,x=?steps=6", "another name than 'x'"),
        ("x=/nowhere/at/all", "weights or restorations of x, found none at /nowhere"),
        ("", "bridge, bridge.patches, .*telea.*got ''"),
    ],
)
def test_bad_methods_are_refused(tiny_weights, methods, message):
    with pytest.raises(ValueError, match=message):
        load_methods(options(tiny_weights, methods))


@pytest.mark.parametrize(
    "extra, message",
    [
        ("--methods magic", "bridge, bridge.patches, .*telea.*'magic'"),
        ("--methods telea --masks blob", "center.*'blob'"),
        ("--methods telea --limit 0", "--limit of at least 1, got 0"),
        ("--methods telea --batch 0", "--batch of at least 1, got 0"),
        ("--methods telea --sheet -1", "--sheet of at least 0, got -1"),
        ("--methods asyncdsb --weights /nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_command_line_refuses_with_one_line(shard, tmp_path, capsys, extra, message):
    command = ["--data", str(shard), "-o", str(tmp_path), "--size", "64", "--crops", "1"]
    assert main([*command, *extra.split()]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_settings_are_varied_in_every_combination(shard, tiny_weights, tmp_path):
    command = f"--data {shard} --weights {tiny_weights} --size 64 --limit 2 --crops 1 --masks wide"
    command += f" --methods bridge,telea --steps 3 --sheet 0 --device cpu -o {tmp_path}"
    vary = ["--vary", "tau_min=0.2,0.6", "--vary", "tau_max=0.5,0.8"]
    assert train.evaluate.main([*command.split(), *vary]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    names = [f"bridge?tau_min={low}&tau_max={high}" for low, high in RANGES]
    assert list(results["results"]["wide"]) == [*names, "telea"]
    settings = json.loads(results["methods"][names[2]])[2]
    assert (settings["steps"], settings["tau_min"], settings["tau_max"]) == (3, 0.6, 0.8)


RANGES = ((0.2, 0.5), (0.2, 0.8), (0.6, 0.8))


def test_restorations_of_other_programs_are_scored_beside_ours(
    shard, tiny_weights, tmp_path, capsys
):
    common = f"--data {shard} --masks center,narrow --crops 2 --size 64 --limit 2".split()
    assert main([*common, "--write-inputs", "-o", str(tmp_path / "inputs")]) == 0
    assert len(list((tmp_path / "inputs").rglob("*.png"))) == 2 * 2 * 2 * 2
    for path in (tmp_path / "inputs/narrow").iterdir():
        picture = np.array(Image.open(path))
        mask = np.array(Image.open(tmp_path / "inputs/masks/narrow" / path.name)) > 127
        assert (picture[mask] == 0).all() and (picture[~mask] > 0).any()
    # The other program paints everything in one grey, known pixels too.
    for kind in ("center", "narrow"):
        (tmp_path / "grey" / kind).mkdir(parents=True)
        for path in (tmp_path / "inputs" / kind).iterdir():
            Image.new("RGB", (64, 64), (90, 90, 90)).save(tmp_path / "grey" / kind / path.name)
    methods = ["--methods", f"telea,grey={tmp_path / 'grey'}", "--sheet", "0"]
    assert main([*common, *methods, "-o", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    grey = results["center"]["grey"]
    assert grey["psnr"]["mean"] > grey["psnr_hole"]["mean"]
    # Another result under the same name is another restoration.
    for path in (tmp_path / "grey").rglob("*.png"):
        Image.new("RGB", (64, 64), (200, 200, 200)).save(path)
    assert main([*common, *methods, "-o", str(tmp_path / "out")]) == 0
    again = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert again["center"]["grey"] != grey
    assert again["center"]["telea"] == results["center"]["telea"]
    # JPEG files serve as well; one that is missing is told before any work.
    first, *_, last = sorted((tmp_path / "grey" / "narrow").iterdir())
    for path, suffix in ((first, ".JPG"), (last, ".jpg")):
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    assert main([*common, *methods, "-o", str(tmp_path / "jpeg")]) == 0
    last.with_suffix(".jpg").unlink()
    capsys.readouterr()
    assert main([*common, *methods, "-o", str(tmp_path / "missing")]) == 2
    assert f"found nothing at {last}" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", ["telea", "asyncdsb", "other"])
def test_other_restorations_need_a_folder_and_a_name_of_their_own(shard, tmp_path, capsys, name):
    folder = tmp_path if name != "other" else tmp_path / "none"
    command = ["--data", str(shard), "-o", str(tmp_path), "--methods", f"{name}={folder}"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("taken" in error) == (name != "other")


def launched(command, *launcher):
    """Start an evaluation in a process of its own."""
    program = [sys.executable, *launcher, "-m", "train.evaluate", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def small(shard, tiny_weights, out):
    command = (
        f"--data {shard} --weights {tiny_weights} --methods bridge,telea --masks center,narrow"
    )
    # The precision of every process, also on processors where the faster one is another.
    command += " --crops 2 --size 64 --steps 2 --batch 4 --precision fp32 -o"
    return [*command.split(), str(out)]


@pytest.fixture(scope="module")
def whole(shard, tiny_weights, tmp_path_factory):
    """The folder of an evaluation that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(small(shard, tiny_weights, folder)) == 0
    return folder


def test_an_evaluation_that_was_killed_ends_with_the_same_numbers(
    shard, tiny_weights, tmp_path, whole
):
    wanted = (whole / "results.json").read_text()
    count = len(list(whole.rglob("*.*")))
    # Once while the first pictures appear, once in the middle of the work.
    for share in (0.05, 0.5):
        process = launched(small(shard, tiny_weights, tmp_path / "killed"))
        while process.poll() is None:
            if len(list((tmp_path / "killed").rglob("*.*"))) > share * count:
                process.kill()
                break
            time.sleep(0.002)
        process.communicate()
        assert not (tmp_path / "killed/results.json").exists()
    assert main(small(shard, tiny_weights, tmp_path / "killed")) == 0
    assert (tmp_path / "killed/results.json").read_text() == wanted


def test_two_processes_find_what_one_finds(shard, tiny_weights, tmp_path, whole):
    together = "-m torch.distributed.run --standalone --nproc_per_node 2"
    # One thread in each, as here: sums in another order differ in their last bit.
    process = launched(small(shard, tiny_weights, tmp_path), *together.split())
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (whole, tmp_path))
    assert one == two


def test_sheets_of_crops_with_masks_in_turn(shard, tiny_weights, tmp_path):
    folder = mask_folder(tmp_path / "masks", ["0", "1", "2"], size=64)
    command = f"--data {shard} --masks turn={folder} --methods telea --crops 2 --size 64 --sheet 3"
    assert main([*command.split(), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/sheet.png").exists() and (tmp_path / "out/worst.png").exists()


def test_a_missing_restoration_is_named(shard, tmp_path, capsys):
    command = ["--data", str(shard), "-o", str(tmp_path), "--methods", f"other={tmp_path}"]
    assert main([*command, "--size", "64", "--crops", "1"]) == 2
    assert "center/photo-0-0.png" in capsys.readouterr().err


# --- validation during training ---


@pytest.fixture
def validated(shard, monkeypatch):
    """A pipeline for crops of 64 pixels, and what a validation with three steps says of it."""
    monkeypatch.setattr(train.judge.validation, "STEPS", 3)
    pipe = AsyncDSBPipeline.random()
    pipe.denoiser.config = dataclasses.replace(pipe.config, resolution=64)
    return pipe, RestorationValidator(pipe, [str(shard)])()


def test_a_validation_finds_what_an_evaluation_of_the_bridge_alone_finds(
    shard, tmp_path, validated
):
    pipe, record = validated
    pipe.save_pretrained(tmp_path)
    command = f"--data {shard} --weights {tmp_path} --methods bridge --crops 1 --steps 3 --sheet 0"
    assert main([*command.split(), "--masks", ",".join(KINDS), "-o", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())["results"]
    for kind in KINDS:
        scores = found[kind]["bridge"]
        assert record[f"{kind}/lpips"] == pytest.approx(scores["lpips"]["mean"], rel=0.02)
        # Saved weights are rounded to half precision.
        assert record[f"{kind}/first_error"] == pytest.approx(scores["first_error"], rel=0.02)
        for band, ratio in scores["power"].items():
            assert record[f"{kind}/power/{band}"] == pytest.approx(ratio, rel=0.05)


def test_the_curves_of_a_run_show_the_gauges(tmp_path, validated):
    _, record = validated
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    for step in (1, 2):
        keep_scores(tmp_path, step, record)
    kept = json.loads((tmp_path / "validation.json").read_text())[-1]
    assert kept["center/power/2-4"] == pytest.approx(record["center/power/2-4"], abs=1e-5)
    # Panels: loss, five mean scores, first error, power.
    assert Image.open(tmp_path / "curves.png").width == 8 * 4 * 90


@pytest.mark.parametrize("most, chosen", [(48, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (1, [0])])
def test_a_validation_takes_photos_at_even_distances(tmp_path, monkeypatch, most, chosen):
    monkeypatch.setattr(train.judge.validation, "PHOTOS", most)
    folder = photo_folder(tmp_path / "photos", 7)
    crops = train.judge.validation._crops([str(folder)], 64)
    assert [crop.name for crop in crops] == [f"{number}-0" for number in chosen]
