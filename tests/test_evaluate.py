import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import train.evaluate
import train.mismatch
import train.sheets
import train.tau_grid
from asyncdsb.perceptual import EfficientNetFeatures, SetNames
from asyncdsb.pipeline import AsyncDSBPipeline
from train.evaluate import evaluate, main, summarise
from train.intervals import clustered_mean, frechet_difference
from train.methods import Method, bridge_method, classical_method, load_methods
from train.mismatch import CurveSet
from train.protocol import AREA_KINDS, derived_seed, iter_crops, parse_kinds
from train.report import contact_sheet, difference_table, markdown_table, wide_table
from train.scores import Judges


def photo(seed: int, size: tuple[int, int] = (110, 80)) -> Image.Image:
    """Smooth colours, so that crops of different places and scales differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


PHOTOS = [(f"photo-{index}", photo(index)) for index in range(3)]


# --- crops and seeds ---


def test_crop_zero_is_the_centre_with_the_short_side_resized():
    (crop,) = iter_crops([("a", photo(0, (120, 80)))], 1, 40)
    expected = photo(0, (120, 80)).crop((20, 0, 100, 80)).resize((40, 40), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(crop.pixels.astype(int), np.array(expected), atol=1)


def test_crops_depend_on_the_key_alone():
    forward = {c.name: c.pixels for c in iter_crops(PHOTOS, 3, 48)}
    backward = {c.name: c.pixels for c in iter_crops(PHOTOS[::-1], 4, 48)}
    assert set(forward) < set(backward)
    for name, pixels in forward.items():
        np.testing.assert_array_equal(pixels, backward[name])
    renamed = next(c for c in iter_crops([("other", PHOTOS[0][1])], 2, 48) if c.index == 1)
    assert (renamed.pixels != forward["photo-0-1"]).any()


def test_later_crops_lie_between_the_whole_short_side_and_full_resolution():
    # Along a ramp the difference between neighbours tells the scale.
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8), (200, 240))
    source = Image.fromarray(np.stack([ramp] * 3, 2))
    crops = list(iter_crops([("ramp", source)], 40, 50))
    slopes = [np.polyfit(range(50), crop.pixels[25, :, 0].astype(float), 1)[0] for crop in crops]
    assert slopes[0] == pytest.approx(4, abs=0.05)
    assert min(slopes) > 0.97 and max(slopes) < 4.05
    assert min(slopes) < 1.6 and np.ptp(slopes[1:]) > 1
    starts = [crop.pixels[25, 0, 0] for crop in crops[1:]]
    assert np.ptp(starts) > 60


def test_a_photo_smaller_than_a_crop_is_enlarged():
    crops = list(iter_crops([("small", photo(1, (30, 40)))], 3, 48))
    assert all(crop.pixels.shape == (48, 48, 3) for crop in crops)


def test_masks_and_noise_differ_between_crops_and_kinds():
    crops = list(iter_crops(PHOTOS, 2, 48))
    seeds = {crop.noise_seed(kind) for crop in crops for kind in ("wide", "narrow")}
    assert len(seeds) == 2 * len(crops)
    wide = [crop.mask("wide") for crop in crops]
    assert (wide[0] != wide[1]).any() and (wide[0] != crops[0].mask("narrow")).any()
    np.testing.assert_array_equal(wide[0], next(iter_crops(PHOTOS, 1, 48)).mask("wide"))


def test_derived_seed_separates_its_parts():
    assert derived_seed("a", 1) == derived_seed("a", 1)
    assert len({derived_seed("a", 11), derived_seed("a1", 1), derived_seed("a", 1, 1)}) == 3
    assert 0 <= derived_seed("a") < 2**63


def test_bad_protocols_are_refused():
    with pytest.raises(ValueError, match="photo-0 twice"):
        list(iter_crops([PHOTOS[0], PHOTOS[0]], 1, 48))
    with pytest.raises(ValueError, match="at least 1 crop.*got 0"):
        list(iter_crops(PHOTOS, 0, 48))
    with pytest.raises(ValueError, match="at least 32.*got 31"):
        list(iter_crops(PHOTOS, 1, 31))
    with pytest.raises(ValueError, match="center.*1-10%.*got 'blob'"):
        parse_kinds("center,blob")
    with pytest.raises(ValueError, match="got none"):
        parse_kinds(" ,")


@pytest.mark.parametrize("kind", AREA_KINDS)
def test_kinds_by_area_have_that_area(kind):
    crop = next(iter_crops(PHOTOS, 1, 48))
    low, high = (int(part) / 100 for part in kind.rstrip("%").split("-"))
    assert low <= crop.mask(kind).mean() <= high


def mask_folder(folder, names, size=48):
    """Masks whose hole is as many rows high as the place of the name says, plus one."""
    folder.mkdir()
    for index, name in enumerate(names):
        hole = np.zeros((size, size), np.uint8)
        hole[: index + 1] = 255
        Image.fromarray(hole).save(folder / f"{name}.png")
    return folder


def rows(crop, kind):
    mask = crop.mask(kind)
    assert (mask == mask[:, :1]).all()
    return int(mask[:, 0].sum())


def test_masks_come_from_a_folder_by_name_or_in_turn(tmp_path):
    named = mask_folder(tmp_path / "a", ["photo-1", "photo-0-1", "other"])
    turns = mask_folder(tmp_path / "b", ["000", "001", "002", "003"])
    kinds, folders = parse_kinds(f"named={named},center,turns={turns}")
    assert kinds == ("named", "center", "turns")
    crops = list(iter_crops(PHOTOS, 2, 48, folders))
    # By photo, by crop, and where there is no such name by place.
    assert [rows(crop, "named") for crop in crops] == [3, 2, 1, 1, 2, 1]
    assert [rows(crop, "turns") for crop in crops] == [1, 2, 3, 4, 1, 2]
    assert rows(crops[0], "turns") == 1 and crops[0].mask("center").mean() == 0.25


def test_masks_of_a_folder_may_be_inverted_and_of_another_size(tmp_path):
    folder = mask_folder(tmp_path / "a", ["000", "001"], size=96)
    crop = next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={folder}", inverted=True)[1]))
    kept = next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={folder}")[1]))
    assert rows(kept, "x") == 1
    np.testing.assert_array_equal(kept.mask("x"), ~crop.mask("x"))


def test_bad_folders_of_masks_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    full = mask_folder(tmp_path / "full", ["000"])
    Image.new("L", (48, 48), 0).save(full / "000.png")
    with pytest.raises(ValueError, match="found none at .*empty"):
        parse_kinds(f"x={tmp_path / 'empty'}")
    with pytest.raises(ValueError, match="another name.*'center'"):
        parse_kinds(f"center={full}")
    with pytest.raises(ValueError, match="000.png has no hole"):
        next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={full}")[1])).mask("x")


# --- statistics and tables ---


def test_interval_covers_the_mean_and_grows_with_the_groups_not_the_values():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=40)
    values = (centres[:, None] + 0.01 * rng.normal(size=(40, 5))).ravel().tolist()
    photos = [str(i) for i in range(40) for _ in range(5)]
    by_photo = clustered_mean(values, photos)
    assert by_photo["mean"] == pytest.approx(np.mean(values))
    assert by_photo["low"] < by_photo["mean"] < by_photo["high"]
    assert (by_photo["n"], by_photo["groups"]) == (200, 40)
    # Half the width is about 1.96 standard errors of 40 photos, not of 200 independent crops.
    half = (by_photo["high"] - by_photo["low"]) / 2
    assert half == pytest.approx(1.96 * centres.std() / np.sqrt(40), rel=0.15)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        values = rng.normal(size=30).tolist()
        found = clustered_mean(values, [str(i) for i in range(30)], seed)
        hits += found["low"] < 0 < found["high"]
    # Binomial(100, 0.95) lies in here with probability 0.998; the bootstrap is a little narrow.
    assert 86 <= hits <= 100


def test_one_photo_has_no_interval():
    found = clustered_mean([1.0, 3.0], ["a", "a"])
    assert found["mean"] == 2 and found["low"] is found["high"] is None


def test_clustered_mean_refuses_unmatched_values():
    with pytest.raises(ValueError, match="2 values and 1 groups"):
        clustered_mean([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="0 values"):
        clustered_mean([], [])


def test_contact_sheet_puts_pictures_in_their_places():
    red, blue = (np.full((40, 40, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    sheet = np.array(contact_sheet([[red, blue], [blue, red]], ["a", "b"]))
    assert tuple(sheet[24 + 20, 6 + 20]) == (255, 0, 0)
    assert tuple(sheet[24 + 20, 52 + 20]) == (0, 0, 255)
    assert tuple(sheet[70 + 20, 52 + 20]) == (255, 0, 0)
    with pytest.raises(ValueError, match="rows of 2 pictures.*1"):
        contact_sheet([[red]], ["a", "b"])


# --- evaluation ---


class FakePipeline:
    """Paints the hole in a colour that depends on the seed."""

    def __init__(self):
        self.batches = []

    def restore_batch(self, images, masks, seeds, **settings):
        self.batches.append((images.clone(), masks.clone(), list(seeds), settings))
        colour = torch.tensor([seed % 7 for seed in seeds]).float() / 7 - 0.5
        return torch.where(masks > 0.5, colour[:, None, None, None], images)


def fake_lpips(images, truths):
    return (images - truths).abs().mean((1, 2, 3))


class FakeFeatures:
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
    found = evaluate(lambda: iter_crops(photos, crops, 48), methods, kinds, folder, batch, JUDGES)
    return summarise(found, JUDGES)


def truth_method() -> Method:
    """Return the true pixels, which a method cannot see: known only to the test."""
    truths = {c.name: c.pixels for c in iter_crops(PHOTOS, 2, 48)}

    def restore(crops, masks, seeds):
        return [
            next(t for t in truths.values() if (t[~mask] == crop[~mask]).all())
            for crop, mask in zip(crops, masks, strict=True)
        ]

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


def test_every_method_meets_the_same_holes_and_sees_nothing_in_them(tmp_path):
    seen = []

    def restore(crops, masks, seeds):
        triples = zip(crops, masks, seeds, strict=True)
        seen.append([(crop.tobytes(), mask.tobytes(), seed) for crop, mask, seed in triples])
        assert all((crop[mask] == 0).all() for crop, mask in zip(crops, masks, strict=True))
        return crops

    run([Method("one", "one", restore), Method("two", "two", restore)], tmp_path)
    assert seen[0::2] == seen[1::2]


def test_results_do_not_depend_on_the_batch_or_on_other_photos(tmp_path):
    method = bridge_method("asyncdsb", FakePipeline(), "w", {})
    small = run([method], tmp_path / "a", batch=1)
    large = run([method], tmp_path / "b", batch=5)
    for kind in small:
        for score in ("psnr", "ssim", "lpips"):
            first, second = small[kind]["asyncdsb"][score], large[kind]["asyncdsb"][score]
            assert first["mean"] == pytest.approx(second["mean"], rel=1e-6)
    run([method], tmp_path / "c", photos=PHOTOS[1:2])
    names = {path.relative_to(tmp_path / "c") for path in (tmp_path / "c").rglob("*.png")}
    assert len(names) == 4
    for name in names:
        alone, among = (tmp_path / f / name for f in "ca")
        assert alone.read_bytes() == among.read_bytes()


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


def test_bridge_method_keeps_known_pixels_whatever_the_pipeline_returns():
    class Careless:
        def restore_batch(self, images, masks, seeds):
            return images * 0 + 3.0

    crop = next(iter_crops(PHOTOS, 1, 48))
    mask = crop.mask("wide")
    (result,) = bridge_method("x", Careless(), "w", {}).restore([crop.pixels], [mask], [0])
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


def test_the_wide_table_marks_the_best_and_the_second_of_each_column():
    def scores(value):
        return {"psnr": {"mean": value}, "FID": value}

    summary = {"center": {"a": scores(20.0), "b": scores(30.0), "c": scores(25.0)}}
    lines = wide_table(summary, ["psnr", "FID"]).splitlines()
    assert lines[0] == "| method | PSNR center | FID center |"
    assert lines[2:] == [
        "| a | 20 | **20** |",
        "| b | **30** | 30 |",
        "| c | <u>25</u> | <u>25</u> |",
    ]


def test_one_crop_has_no_distance_between_sets(tmp_path):
    methods = [classical_method("telea"), classical_method("navier-stokes")]
    summary = run(methods, tmp_path, PHOTOS[:1], kinds=["center"], crops=1)
    scores = summary["center"]["telea"]
    assert scores[FRECHET_NAME] is None and scores[KERNEL_NAME] is None
    assert markdown_table({"center": {"telea": scores}}, (FRECHET_NAME,)).endswith("| - |\n")
    assert wide_table(summary, [FRECHET_NAME]).endswith("| navier-stokes | - |\n")
    assert FRECHET_NAME not in difference_table(summary, "telea", ["lpips", FRECHET_NAME])


def test_the_difference_of_distances_has_an_interval_that_finds_a_real_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 6))
    groups = [str(i // 2) for i in range(80)]
    near, far = truth + 0.1 * rng.normal(size=(2, 80, 6)) + [[[0.0]], [[0.8]]]
    found = frechet_difference(far, near, truth, groups)
    assert found["mean"] == pytest.approx(6 * 0.8**2, rel=0.2)
    assert 0 < found["low"] < found["mean"] < found["high"]
    # The measured difference lies well inside.
    share = (found["mean"] - found["low"]) / (found["high"] - found["low"])
    assert 0.25 < share < 0.75
    # Two methods that are equally good: the interval holds zero.
    same = frechet_difference(*(truth + 0.1 * rng.normal(size=(2, 80, 6))), truth, groups)
    assert same["low"] < 0 < same["high"]


# --- command line ---


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for key, picture in PHOTOS:
            picture.save(folder / f"{key}.jpg", quality=95)
            tar.add(folder / f"{key}.jpg", f"{key}.jpg")
    return folder / "photos.tar"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    AsyncDSBPipeline.random().save_pretrained(folder)
    return folder


def test_command_line_writes_numbers_table_and_sheet(shard, weights, tmp_path, capsys):
    command = f"--data {shard} --weights {weights} --methods asyncdsb,synchronous,telea"
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
    assert set(results["results"]["center"]) == {"asyncdsb", "synchronous", "telea"}
    assert results["results"]["center"]["telea"]["lpips"]["n"] == 4
    table = (tmp_path / "out/results.md").read_text()
    assert "FID" not in table and "KID" not in table and table in capsys.readouterr().out
    # Rows: one photo, two masks; columns: input, gradient, two of ours, classical, truth.
    assert Image.open(tmp_path / "out/sheet.png").size == (6 * 70 + 6, 24 + 2 * 70)
    assert len(list((tmp_path / "out/restored").rglob("*.png"))) == 2 * 2 * 2 * 3
    assert Image.open(tmp_path / "out/results.png").width > 500
    assert results["settings"]["steps"] == 2
    same = results["results"]["center"]["synchronous"]
    assert {"mean", "low", "high"} == set(same[EfficientNetFeatures.names.frechet + " difference"])


def options(weights, methods):
    return train.evaluate.parser().parse_args(
        ["--data", "x", "-o", "y", "--weights", str(weights), "--methods", methods, "--steps", "7"]
    )


def test_bridges_have_settings_and_weights_of_their_own(weights, tmp_path):
    other = tmp_path / "other"
    AsyncDSBPipeline.random(1).save_pretrained(other)
    (other / "gradient.json").unlink()
    text = f"asyncdsb,synchronous,quick=?steps=5&sampler=ode,o={other}?tau_min=0.1,again={weights}"
    first, synchronous, quick, o, again = load_methods(options(weights, text))
    assert first.settings["steps"] == synchronous.settings["steps"] == 7
    changed = {k for k, v in first.settings.items() if synchronous.settings[k] != v}
    assert changed == {"strategy", "tau_min"}  # 0.5 is the default of tau_max
    assert synchronous.settings["tau_min"] == synchronous.settings["tau_max"] == 0.5
    assert (quick.settings["steps"], quick.settings["sampler"]) == (5, "ode")
    assert o.settings["tau_min"] == 0.1
    # The other denoiser, with the completion network of the first.
    assert o.pipe is not first.pipe and o.pipe.completion is first.pipe.completion
    assert first.identity != again.identity and len({m.name for m in (first, o, again)}) == 3


@pytest.mark.parametrize(
    "methods, message",
    [
        ("x=?stepz=5", "expected a setting out of steps, .*'stepz'"),
        ("x=?steps=0", "steps >= 1, got 0"),
        ("x=?sampler=foo", "sampler that the weights were trained for"),
        ("x=?steps=many", "expected a number for steps, got 'many'"),
        ("x=?steps=5,x=?steps=6", "another name than 'x'"),
        ("x=/nowhere/at/all", "weights or restorations of x, found none at /nowhere"),
        ("", "asyncdsb, synchronous, telea.*got none"),
    ],
)
def test_bad_methods_are_refused(weights, methods, message):
    with pytest.raises(ValueError, match=message):
        load_methods(options(weights, methods))


@pytest.mark.parametrize(
    "extra, message",
    [
        ("--methods magic", "asyncdsb, synchronous, telea.*'magic'"),
        ("--methods telea --masks blob", "center.*'blob'"),
        ("--methods telea --limit 0", "--limit of at least 1, got 0"),
        ("--methods telea --batch 0", "--batch of at least 1, got 0"),
        ("--methods telea --sheet -1", "--sheet of at least 0, got -1"),
        ("--methods asyncdsb --weights /nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_command_line_refuses_with_one_line(shard, tmp_path, capsys, extra, message):
    assert main(["--data", str(shard), "-o", str(tmp_path), *extra.split()]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_sheets_of_three_seeds(shard, weights, tmp_path):
    command = f"--data {shard} --weights {weights} --size 64 --steps 1"
    assert train.sheets.main([*command.split(), "-o", str(tmp_path)]) == 0
    # Three photos: one row on each of the first three sheets.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["center.webp", "half.webp", "wide.webp"]
    assert Image.open(tmp_path / "wide.webp").size == (6 * 70 + 6, 24 + 70)


def test_tau_grid_covers_the_valid_half_and_resumes(shard, weights, tmp_path, monkeypatch):
    command = f"--data {shard} --weights {weights} --size 64 --steps 2 --masks wide --device cpu"
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


def test_the_presets_set_defaults_that_options_override(shard, weights, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train.evaluate, "run", seen.append)
    for extra in ("", "--preset quick", "--preset quick --crops 3"):
        main(["--data", str(shard), "-o", str(tmp_path), *extra.split()])
    assert [(a.crops, a.steps) for a in seen] == [(4, 10), (1, 10), (3, 10)]


def test_mismatch_follows_both_schedules(shard, weights, tmp_path, capsys, monkeypatch):
    command = f"--data {shard} --weights {weights} --size 64 --steps 4 --masks center --runs 2"
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
                    stored[f"{name}/beta"] = np.array([0, 0.25, 0.5, 0.25])
        collected.add("x", photo, stored)
    row = collected.summary("x", [])["curves"]["x/x_t/projection"]["all"]
    # The mean curve gains -0.1, 0.7 and -0.0995 in its three steps, 0.5005 in all.
    shares = np.array([-0.1, 0.7, -0.0995]) / 0.5005
    np.testing.assert_allclose(row["speed"]["run"], shares, atol=1e-5)
    # Where only the wild photo is drawn there is no speed, so no interval either.
    assert row["delay"] is None
    assert row["correlation_beta"] == pytest.approx(np.corrcoef(shares, [1, 2, 1])[0, 1])


def test_restorations_of_other_programs_are_scored_beside_ours(shard, weights, tmp_path):
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


def small(shard, weights, out):
    command = f"--data {shard} --weights {weights} --methods asyncdsb,telea --masks center,narrow"
    return [*command.split(), *"--crops 2 --size 64 --steps 2 --batch 4 -o".split(), str(out)]


def test_an_evaluation_that_was_killed_ends_with_the_same_numbers(shard, weights, tmp_path):
    assert main(small(shard, weights, tmp_path / "whole")) == 0
    wanted = (tmp_path / "whole/results.json").read_text()
    count = len(list((tmp_path / "whole").rglob("*.*")))
    # Once while the first pictures appear, once in the middle of the work.
    for share in (0.05, 0.5):
        process = launched(small(shard, weights, tmp_path / "killed"))
        while process.poll() is None:
            if len(list((tmp_path / "killed").rglob("*.*"))) > share * count:
                process.kill()
                break
            time.sleep(0.002)
        process.communicate()
        assert not (tmp_path / "killed/results.json").exists()
    assert main(small(shard, weights, tmp_path / "killed")) == 0
    assert (tmp_path / "killed/results.json").read_text() == wanted


def test_two_processes_find_what_one_finds(shard, weights, tmp_path):
    assert main(small(shard, weights, tmp_path / "one")) == 0
    launcher = "-m accelerate.commands.launch --cpu --num_processes 2 --main_process_port 29611"
    process = launched(small(shard, weights, tmp_path / "two"), *launcher.split())
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()
    one, two = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("program", [train.tau_grid, train.sheets])
def test_programs_for_one_bridge_say_so(shard, weights, tmp_path, capsys, program):
    command = ["--data", str(shard), "--weights", str(weights), "-o", str(tmp_path), "--methods"]
    assert program.main([*command, "asyncdsb,synchronous"]) == 2
    assert program.main([*command, "telea"]) == 2
    error = capsys.readouterr().err
    assert "at most 1 bridge, got 2" in error and "expected bridges, got telea" in error


def test_sheets_of_crops_with_masks_in_turn(shard, weights, tmp_path):
    folder = mask_folder(tmp_path / "masks", ["0", "1", "2"], size=64)
    command = f"--data {shard} --masks turn={folder} --methods telea --crops 2 --size 64 --sheet 3"
    assert main([*command.split(), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/sheet.png").exists() and (tmp_path / "out/worst.png").exists()


def test_a_missing_restoration_is_named(shard, tmp_path, capsys):
    command = ["--data", str(shard), "-o", str(tmp_path), "--methods", f"other={tmp_path}"]
    assert main([*command, "--size", "64", "--crops", "1"]) == 2
    assert "center/photo-0-0.png" in capsys.readouterr().err
