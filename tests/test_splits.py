"""The paper's splits, and its protocol from lists to scores."""

import json
import re

import numpy as np
import pytest
from conftest import save_photos
from PIL import Image

import train.bridge
import train.evaluate
import train.splits
from train.data.sources import iter_photos
from train.judge.protocol import iter_crops

pytestmark = pytest.mark.slow


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


def test_the_papers_protocol_runs_from_lists_to_scores(tmp_path, tiny_weights):
    """Splits, a training on one list, an evaluation on the other with masks from a folder."""
    assert train.splits.main(celeba(tmp_path)) == 0
    lists = {part: str(tmp_path / f"splits/{part}.txt") for part in ("train", "test")}
    run = ["--preset", "debug", "--device", "cpu", "--steps", "2", "--data", lists["train"]]
    gradient = str(tiny_weights)
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
