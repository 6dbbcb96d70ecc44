"""The programs behind the report: figures, splits, and the report itself."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import train.bridge
import train.claims
import train.evaluate
import train.figures
import train.sheets
import train.splits
from asyncdsb.pipeline import AsyncDSBPipeline
from train.claims import claims_table, in_short, verdict
from train.data.sources import iter_photos
from train.judge.protocol import iter_crops

pytestmark = pytest.mark.slow


def save_photos(folder, names, size=(80, 72)):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return save_photos(tmp_path_factory.mktemp("photos"), ["a.png", "b.png"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tiny untrained models in the places of the matched ones."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("asyncdsb", "i2sb-gradient", "i2sb", "bbdm", "bundled")):
        pipe = AsyncDSBPipeline.random(seed)
        pipe.training = {
            "bridge": {"steps": 7, "samples": 14, "crop_size": 64, "minutes": 1.0, "device": "cpu"},
            "gradient": {},
        }
        pipe.save_pretrained(folder / name)
        if name != "bundled":
            (folder / name / "gradient.json").unlink()
    return folder


# --- figures ---


def test_figures_are_drawn(photos, models, tmp_path):
    command = f"--data {photos} --weights {models}/bundled --size 64 --steps 3 --photos 1"
    assert train.figures.main([*command.split(), "-o", str(tmp_path)]) == 0
    for name in ("process.png", "schedule.png"):
        picture = np.array(Image.open(tmp_path / name).convert("L"))
        assert picture.shape[1] > 800 and (picture < 200).mean() > 0.05


def test_the_states_shown_are_the_nearest_ones(photos, models):
    args = train.figures.parser().parse_args(
        ["--data", str(photos), "--weights", f"{models}/bundled", "-o", "x"]
        + "--size 64 --steps 12".split()
    )
    method, _ = methods = train.figures.load_bridges(args)
    (crop,) = train.figures.held_out_of(args, methods).first(1)
    *_, states = train.figures.trace(method, crop, "center")
    found = [float(state.t[0]) for state in train.figures.at_times(states)]
    np.testing.assert_allclose(found, train.figures.TIMES, atol=1 / 24 + 1e-9)
    assert len(states) == 13


# --- sheets ---


def sheet_command(photos, models, out, extra=""):
    command = f"--data {photos} --weights {models}/bundled --size 32 --steps 2 --masks center"
    return [*command.split(), *extra.split(), "-o", str(out)]


def test_portraits_stand_side_by_side_on_a_sheet(models, tmp_path, monkeypatch):
    photos = save_photos(tmp_path / "photos", [f"{k}.png" for k in range(5)])
    # Room for two photos of five pictures with their gaps of six pixels, not for three.
    monkeypatch.setattr(train.sheets, "WIDTH", 14 * 38)
    assert train.sheets.main(sheet_command(photos, models, tmp_path / "out")) == 0
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


def test_a_sheet_of_one_source(photos, models, tmp_path, capsys):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("key,source\na,one/place\nb,another\nc,third\n")
    extra = f"--manifest {manifest} --source another"
    assert train.sheets.main(sheet_command(photos, models, tmp_path / "out", extra)) == 0
    sheet = np.array(Image.open(tmp_path / "out/center.webp")).astype(int)
    crops = list(iter_crops(iter_photos([photos]), 1, 32))
    assert crops[1].key == "b"
    assert np.abs(sheet[24:56, 6 + 4 * 38 : 38 + 4 * 38] - crops[1].pixels).mean() < 12
    for extra, message in (
        (f"--manifest {manifest} --source nowhere", "another, one/place, third, got 'nowhere'"),
        (f"--manifest {manifest} --source third", "photos of third in the data, found none"),
        (f"--manifest {manifest}", "--manifest and --source together"),
    ):
        assert train.sheets.main(sheet_command(photos, models, tmp_path / "out", extra)) == 2
        assert message in capsys.readouterr().err


# --- splits ---


def celeba(folder):
    """Five faces in the layout of the dataset; face k is CelebA's photo 10 + k."""
    save_photos(folder / "CelebA-HQ-img", [f"{k}.jpg" for k in (0, 1, 2, 3, 10)])
    rows = [f"{k:<8}{10 + k:<12}{10 + k:06d}.jpg" for k in (0, 1, 2, 3, 10)]
    mapping = folder / "CelebA-HQ-to-CelebA-mapping.txt"
    mapping.write_text("\n".join(["idx     orig_idx    orig_file", *rows, ""]))
    parts = {10: 0, 11: 2, 12: 0, 13: 1, 20: 2}
    partition = folder / "list_eval_partition.txt"
    partition.write_text("".join(f"{k:06d}.jpg {part}\n" for k, part in parts.items()))
    return [
        "celeba-hq",
        *("--images", str(folder / "CelebA-HQ-img")),
        *("--mapping", str(mapping)),
        *("--partition", str(partition)),
        *("-o", str(folder / "splits")),
    ]


def stems(path):
    return [key for key, _ in iter_photos([path])]


def test_faces_follow_celebas_partition(tmp_path, capsys):
    assert train.splits.main(celeba(tmp_path)) == 0
    assert capsys.readouterr().out == "train: 2, val: 1, test: 2\n"
    found = {part: stems(tmp_path / f"splits/{part}.txt") for part in train.splits.PARTS}
    assert found == {"train": ["0", "2"], "val": ["3"], "test": ["1", "10"]}


def test_a_face_that_no_list_knows_is_named(tmp_path, capsys):
    command = celeba(tmp_path)
    save_photos(tmp_path / "CelebA-HQ-img", ["77.jpg"])
    assert train.splits.main(command) == 2
    assert re.search("expected 77.jpg in .*mapping", capsys.readouterr().err)


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("list_eval_partition.txt", "000010.jpg 3\n", "part 0, 1 or 2 in line 1"),
        ("list_eval_partition.txt", "000010.jpg\n", "lines of 2 columns"),
        ("CelebA-HQ-to-CelebA-mapping.txt", "", "lines of 3 columns"),
    ],
)
def test_malformed_lists_are_refused(tmp_path, capsys, file, text, message):
    command = celeba(tmp_path)
    (tmp_path / file).write_text(text)
    assert train.splits.main(command) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_places2_draws_its_test_set_from_the_validation_photos(tmp_path, capsys):
    save_photos(tmp_path / "data_256", ["a/abbey/00000001.jpg", "b/bay/00000001.jpg"])
    save_photos(tmp_path / "val_256", [f"Places365_val_{k:08d}.jpg" for k in range(1, 9)])
    common = ["places2", "--train", f"{tmp_path}/data_256", "--val", f"{tmp_path}/val_256"]
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        extra = ["--test-photos", "3", "--seed", str(seed), "-o", f"{tmp_path}/{name}"]
        assert train.splits.main([*common, *extra]) == 0
    one, two, three = (stems(tmp_path / name / "test.txt") for name in ("one", "two", "three"))
    assert one == two != three and len(one) == 3
    rest = stems(tmp_path / "one/val.txt")
    assert not set(one) & set(rest) and len(rest) == 5
    assert len(stems(tmp_path / "one/train.txt")) == 2
    assert train.splits.main([*common, "-o", f"{tmp_path}/four"]) == 2
    assert "expected 6000 photos or more" in capsys.readouterr().err


def test_the_papers_protocol_runs_from_lists_to_scores(tmp_path, models):
    """Splits, a training on one list, an evaluation on the other with masks from a folder."""
    assert train.splits.main(celeba(tmp_path)) == 0
    lists = {part: str(tmp_path / f"splits/{part}.txt") for part in ("train", "test")}
    run = ["--preset", "debug", "--device", "cpu", "--steps", "2", "--data", lists["train"]]
    gradient = str(models / "bundled")
    assert train.bridge.main([*run, "--gradient", gradient, "--out", f"{tmp_path}/run"]) == 0
    mask = np.full((64, 64), 255, np.uint8)
    mask[20:40, 10:50] = 0  # known is white, as in RePaint's masks
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks/000000.png")
    command = f"--masks center,thick={tmp_path}/masks --invert-masks --crops 1 --size 64 --steps 3"
    methods = f"ours={tmp_path}/run/weights,telea"
    code = train.evaluate.main(
        ["--data", lists["test"], "--weights", gradient, "--methods", methods, "--sheet", "0"]
        + [*command.split(), "-o", f"{tmp_path}/out"]
    )
    assert code == 0
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert set(results) == {"center", "thick"} and results["thick"]["ours"]["psnr"]["n"] == 2
    crop = next(iter_crops(iter_photos([lists["test"]]), 1, 64))
    (path,) = (tmp_path / "out/restored/ours/thick").glob(f"{crop.name}-*.png")
    restored = np.array(Image.open(path))
    changed = (restored != crop.pixels).any(2)
    assert changed[21:39, 11:49].mean() > 0.9 and not changed[mask == 255].any()


# --- the report ---


def test_the_report_holds_every_part_and_comes_out_the_same_again(photos, models, tmp_path):
    command = f"--data {photos} --models {models} --weights {models}/bundled --quick"
    command = [*command.split(), "--work", f"{tmp_path}/work", "-o", f"{tmp_path}/report"]
    assert train.claims.main(command) == 0
    text = (tmp_path / "report/REPORT.md").read_text()
    for head in ("Table 1", "Table 3", "One network", "Figure 6 and Table 2", "Figures 2, 3"):
        assert f"## {head}" in text
    for figure in re.findall(r"\]\(([^)]+)\)", text):
        assert Image.open(tmp_path / "report" / figure).width > 300
    matched = json.loads((tmp_path / "work/matched/results.json").read_text())
    assert matched["protocol"]["size"] == 64
    methods = {
        name: json.loads(text)[2] for name, text in matched["methods"].items() if "[" in text
    }
    assert (methods["AsyncDSB"]["tau_min"], methods["AsyncDSB"]["tau_max"]) == (0.2, 0.5)
    assert methods["I2SB"]["tau_min"] == methods["I2SB"]["tau_max"] == 0.5
    lpips = matched["results"]["center"]["I2SB+gradient"]["lpips_difference"]["mean"]
    assert f"| I2SB+gradient | center | {lpips:+.4f}" in text.replace("**", "")
    assert train.claims.main(command) == 0
    assert (tmp_path / "report/REPORT.md").read_text() == text


def test_verdicts_follow_the_intervals():
    assert verdict({"low": -2, "high": -1}) == "the opposite"
    assert verdict({"low": 1, "high": 2}) == "yes"
    for unknown in ({"low": -1, "high": 2}, {"low": None, "high": None}, None):
        assert verdict(unknown) == "no difference shown"
    assert in_short([("x", "y", ["a: yes", "b: the opposite", "c: yes"])]).startswith(
        "- x (y): supported by 2 of 3 comparisons, contradicted by 1, no difference shown in 0."
    )
    assert claims_table([("x", "y", ["a", "b"])]).endswith("| x | y | a; b |\n")
