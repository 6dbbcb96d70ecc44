from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import box_mask, save_mask, synthetic_photo
from PIL import Image

from asyncdsb import AsyncDSBPipeline, masks
from asyncdsb.cli.main import main
from asyncdsb.photo.record import load_map, save_map
from asyncdsb.photo.settings import Settings

pytestmark = pytest.mark.slow

FAST = ["--steps", "2", "--quiet", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, tiny_weights: Path) -> Path:
    """A working folder with a photo, its mask and, beside it, the weights."""
    synthetic_photo(300, 211).save(tmp_path / "photo.png")
    save_mask(box_mask(300, 211), tmp_path / "mask.png")
    return tmp_path


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


def run(*arguments: object) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def inpaint(folder: Path, weights: Path, *more: object, out: str = "out.png") -> int:
    paths = folder / "photo.png", folder / "mask.png", "-o", f"{folder}/{out}"
    return run("inpaint", *paths, "--weights", weights, *FAST, *more)


def assert_refused(folder: Path, capsys, before: dict[str, bytes], told: str, code: int) -> None:
    """One line on standard error, exit code 2, and the folder as it was."""
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("asyncdsb: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert told in captured.err
    assert listing(folder) == before


def test_known_pixels_stay_and_the_hole_changes(folder, tiny_weights, capsys):
    assert inpaint(folder, tiny_weights) == 0
    assert capsys.readouterr().err == ""
    photo, out = (np.asarray(Image.open(folder / name)) for name in ("photo.png", "out.png"))
    mask = box_mask(300, 211)
    np.testing.assert_array_equal(out[~mask], photo[~mask])
    assert (out[mask] != photo[mask]).any()


def test_the_same_command_gives_the_same_files(folder, tiny_weights):
    files = []
    for name in ("first", "second"):
        place = folder / name
        place.mkdir()
        more = "--trajectory", place / "way.webp", "--report", place / "page.png"
        assert inpaint(folder, tiny_weights, *more, out=f"{name}/out.webp") == 0
        files.append(listing(place))
    assert files[0] == files[1]
    assert set(files[0]) == {"out.webp", "way.webp", "page.png"}
    with Image.open(folder / "first" / "way.webp") as animation:
        assert animation.n_frames == 3
    inpaint(folder, tiny_weights, "--seed", 1, out="other.webp")
    assert (folder / "other.webp").read_bytes() != files[0]["out.webp"]


def test_lossless_formats_keep_every_pixel(folder, tiny_weights):
    assert inpaint(folder, tiny_weights) == 0
    expected = np.asarray(Image.open(folder / "out.png"))
    for suffix in (".webp", ".tif", ".bmp"):
        assert inpaint(folder, tiny_weights, out=f"other{suffix}") == 0
        got = np.asarray(Image.open(folder / f"other{suffix}"))
        np.testing.assert_array_equal(got, expected, suffix)


def test_a_name_without_suffix_becomes_png(folder, tiny_weights):
    assert inpaint(folder, tiny_weights, out="result") == 0
    assert Image.open(folder / "result.png").format == "PNG"


def test_jpeg_is_written_with_a_warning(folder, tiny_weights, capsys):
    assert inpaint(folder, tiny_weights, out="out.jpg") == 0
    err = capsys.readouterr().err
    assert err.startswith("asyncdsb: warning: JPEG is lossy") and err.count("\n") == 1
    assert Image.open(folder / "out.jpg").format == "JPEG"


def test_colour_profile_is_carried_over(folder, tiny_weights):
    profile = b"\0" * 16 + b"RGB " + b"\0" * 108
    synthetic_photo(300, 211).save(folder / "photo.png", icc_profile=profile)
    assert inpaint(folder, tiny_weights) == 0
    assert Image.open(folder / "out.png").info["icc_profile"] == profile


def test_options_reach_the_pipeline(folder, tiny_weights):
    Image.linear_gradient("L").resize((300, 211)).save(folder / "order.png")
    inpaint(folder, tiny_weights)
    seen = {(folder / "out.png").read_bytes()}
    for number, options in enumerate(
        (
            ["--strategy", "inward", "--tau-min", "0.1", "--tau-max", "0.9"],
            ["--strategy", "uniform", "--grid", "clock"],
            ["--sampler", "posterior", "--seed", "7"],
            ["--strategy", folder / "order.png"],
        ),
        2,
    ):
        assert inpaint(folder, tiny_weights, *options, out="other.png") == 0
        seen.add((folder / "other.png").read_bytes())
        assert len(seen) == number, options


def test_progress_is_shown_on_standard_error(folder, tiny_weights, capsys):
    paths = folder / "photo.png", folder / "mask.png", "-o", folder / "out.png"
    assert run("inpaint", *paths, "--weights", tiny_weights, "--steps", 2) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "photo.png" in captured.err and "2/2" in captured.err


def test_an_interruption_is_told_in_one_line(folder, tiny_weights, capsys, monkeypatch):
    def interrupted(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AsyncDSBPipeline, "__call__", interrupted)
    before = listing(folder)
    assert inpaint(folder, tiny_weights) == 130
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "asyncdsb: error: interrupted\n"
    assert listing(folder) == before


class ClosedTerminal(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("stderr", [None, ClosedTerminal()])
def test_messages_that_nobody_can_read_do_not_end_a_run(
    photos, tiny_weights, capsys, monkeypatch, stderr
):
    (photos / "photos" / "0.jpg").write_bytes(b"words")
    shutil.copy(photos / "masks" / "a.png", photos / "masks" / "0.png")
    monkeypatch.setattr(sys, "stderr", stderr)
    paths = photos / "photos", photos / "masks", "-o", photos / "out"
    options = "--weights", tiny_weights, "--steps", 2, "--device", "cpu"
    assert run("inpaint", *paths, *options) == 2
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]
    assert capsys.readouterr().out == ""


def test_a_second_sigterm_does_not_stop_what_the_first_one_ends():
    program = """if True:
        import os, signal
        from asyncdsb.cli.ending import end_on_sigterm
        end_on_sigterm()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            print("removed")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "removed\n", "")


def test_help_names_the_defaults(capsys):
    assert run("inpaint", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        # The usage has the option in square brackets.
        option = f" --{field.name.replace('_', '-')} "
        told = re.search(rf"{option}[^()]*\(([^()]+)\)", text)
        assert told, option
        if field.default is None:
            assert told[1] in ("the weights' choice", "looked for"), option
        else:
            assert type(field.default)(told[1]) == field.default, option


# One photo, one mask: everything that is refused.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--steps", "0"], "steps from 1 to 10000, got 0"),
        (["--steps", "many"], "invalid int value: 'many'"),
        (["--tau-min", "-0.1"], "tau_min=-0.1"),
        (["--tau-max", "1.5"], "1.5"),
        (["--tau-max", "nan"], "nan"),
        (["--tau-min", "0.6", "--tau-max", "0.3"], "tau_min"),
        # Above the default of the other end.
        (["--tau-min", "0.9"], "tau_min"),
        (["--eta", "2"], "expected eta in [0, 1], got 2.0"),
        (["--box", "1,2"], "expected LEFT,TOP,SIDE in pixels, got '1,2'"),
        (["--box", "a,2,50"], "expected LEFT,TOP,SIDE in pixels, got 'a,2,50'"),
        (["--box", "10,10,100"], "expected no box with weights that are not for portraits"),
        (["--seed", "-3"], "seed from 0 to 9223372036854775807, got -3"),
        (["--sampler", "euler"], "invalid choice: 'euler'"),
        (["--grid", "cubic"], "invalid choice: 'cubic'"),
        (
            ["--strategy", "outward"],
            "expected gradient, ranked, flat-first, uniform, inward or a picture file",
        ),
        (["--strategy", "nothing.png"], "there is no such file"),
        (["--weights", "no/such/folder"], "weights"),
        (["--device", "abacus"], "abacus"),
        (["--trajectory", "way.mp4"], "--trajectory: expected a file ending in .webp .gif"),
        (["--report", "page.txt"], "--report: expected a file ending in .png"),
        (["--report", "none/page.png"], "--report: there is no folder none"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_options(folder, tiny_weights, capsys, options, told):
    before = listing(folder)
    code = inpaint(folder, tiny_weights, *options)
    assert_refused(folder, capsys, before, told, code)


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("none/out.png", "there is no folder"),
        ("out.txt", "expected a file ending in .png .webp"),
        (".", "expected a file name, got a folder"),
        ("new/", "new/: expected a file name, got a folder"),
        ("photo.png", "is read and would be overwritten"),
        ("mask.png", "is read and would be overwritten"),
    ],
)
def test_bad_output(folder, tiny_weights, capsys, out, told):
    before = listing(folder)
    code = inpaint(folder, tiny_weights, out=out)
    assert_refused(folder, capsys, before, told, code)


def test_neither_the_map_of_the_order_nor_settings_are_overwritten(folder, tiny_weights, capsys):
    order = folder / "order.png"
    Image.new("L", (300, 211), 99).save(order)
    settings = folder / "settings.json"
    settings.write_text('{"strategy": "order.png"}')
    before = listing(folder)
    for given in (("--strategy", order), ("--settings", settings), ("--settings", order)):
        code = inpaint(folder, tiny_weights, *given, out="order.png")
        assert_refused(folder, capsys, before, "is read and would be overwritten", code)


def test_another_name_of_a_file_that_is_read_is_not_written(folder, tiny_weights, capsys):
    """A link stands for a folder that is mounted twice, and for systems where A.png is a.png."""
    os.link(folder / "photo.png", folder / "again.png")
    before = listing(folder)
    code = inpaint(folder, tiny_weights, out="again.png")
    assert_refused(folder, capsys, before, "again.png is read and would be overwritten", code)


def test_files_that_a_drive_does_not_number_are_told_apart(photos, tiny_weights, monkeypatch):
    """Some network drives on Windows give all files the number 0."""
    real = os.stat

    def unnumbered(*args, **kwargs):
        mode, _, *others = real(*args, **kwargs)
        return os.stat_result((mode, 0, *others))

    monkeypatch.setattr(os, "stat", unnumbered)
    (photos / "out").mkdir()
    (photos / "out" / "a.png").touch()
    assert inpaint_folder(photos, tiny_weights) == 0
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]


def test_masks_are_no_larger_than_can_be_read_back(tmp_path, capsys):
    assert run("mask", "wide", "100000x100000", "-o", tmp_path / "m.png") == 2
    assert "expected at most 64 megapixels, got 100000x100000" in capsys.readouterr().err


def test_two_outputs_of_one_name(folder, tiny_weights, capsys):
    before = listing(folder)
    code = inpaint(folder, tiny_weights, "--report", folder / "out.png")
    assert_refused(folder, capsys, before, "would be written twice", code)


@pytest.mark.parametrize("role", ["photo", "mask"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such"),
        (b"", "an empty file"),
        (b"words", "a text file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        ("cut", "damaged or truncated"),
        ("bomb", "at most 64 megapixels"),
    ],
)
def test_bad_files(folder, tiny_weights, capsys, role, content, told):
    path = folder / f"{role}.png"
    if content is None:
        path.unlink()
    elif content == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content == "bomb":
        Image.new("1", (10000, 10000)).save(path)
    else:
        path.write_bytes(content)
    before = listing(folder)
    code = inpaint(folder, tiny_weights)
    assert_refused(folder, capsys, before, told, code)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros((211, 300), bool), "the mask is empty"),
        (np.ones((211, 300), bool), "nothing known"),
        (box_mask(211, 300), "the photo is 300x211, the mask 211x300"),
    ],
)
def test_bad_masks(folder, tiny_weights, capsys, mask, told):
    save_mask(mask, folder / "mask.png")
    before = listing(folder)
    code = inpaint(folder, tiny_weights)
    assert_refused(folder, capsys, before, told, code)


def test_order_picture_of_another_size(folder, tiny_weights, capsys):
    Image.new("L", (10, 20)).save(folder / "order.png")
    before = listing(folder)
    code = inpaint(folder, tiny_weights, "--strategy", folder / "order.png")
    assert_refused(folder, capsys, before, "photo's size 300x211, got 10x20", code)


def test_settings_come_from_a_restored_picture_or_a_file(folder, tiny_weights):
    """A PNG that was restored says how; options beside it come first."""
    options = ["--tau-max", "0.9", "--seed", "4", "--sampler", "ode"]
    assert inpaint(folder, tiny_weights, *options) == 0
    again = ["--settings", folder / "out.png"]
    assert inpaint(folder, tiny_weights, *again, out="again.png") == 0
    assert (folder / "again.png").read_bytes() == (folder / "out.png").read_bytes()
    with Image.open(folder / "out.png") as picture:
        settings = json.loads(picture.text["asyncdsb"])
    assert settings["sampler"] == "ode" and settings["finish"] is not None
    (folder / "settings.json").write_text(json.dumps(settings))
    again = ["--settings", folder / "settings.json", "--seed", "5"]
    assert inpaint(folder, tiny_weights, *again, out="other.png") == 0
    with Image.open(folder / "other.png") as picture:
        assert json.loads(picture.text["asyncdsb"]) == settings | {"seed": 5}


def test_settings_name_the_weights(folder, tiny_weights, monkeypatch):
    shutil.copytree(tiny_weights, folder / "bundled" / "portraits")
    monkeypatch.setattr("asyncdsb.store.bundled.BUNDLED", folder / "bundled")
    assert inpaint(folder, "portraits") == 0
    paths = folder / "photo.png", folder / "mask.png", "-o", folder / "again.png"
    assert run("inpaint", *paths, "--settings", folder / "out.png", "--quiet") == 0
    assert (folder / "again.png").read_bytes() == (folder / "out.png").read_bytes()


def test_settings_name_the_map_of_a_painted_order(folder, tiny_weights):
    """A name in a settings file is a file beside it; 16 bits are read as 16 bits."""
    ramp = np.linspace(0.1, 0.7, 300 * 211).reshape(211, 300)
    (folder / "made").mkdir()
    save_map(folder / "made" / "tau.png", ramp)
    np.testing.assert_allclose(load_map(folder / "made" / "tau.png", (300, 211)), ramp, atol=1e-5)
    (folder / "made" / "settings.json").write_text('{"strategy": "tau.png"}')
    again = ["--settings", folder / "made" / "settings.json"]
    assert inpaint(folder, tiny_weights, *again) == 0
    direct = ["--strategy", folder / "made" / "tau.png"]
    assert inpaint(folder, tiny_weights, *direct, out="other.png") == 0
    assert (folder / "other.png").read_bytes() == (folder / "out.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("\ufeff[1]", "expected an object"),  # The mark of the encoding is none of its contents.
        ("{", "cannot read settings"),
        ("[1]", "expected an object"),
        ('{"speed": 1}', "got speed"),
        ('{"steps": "ten"}', "steps"),
        ('{"tau_min": "low"}', "tau_min"),
        ('{"eta": true}', "eta"),
        ('{"strategy": "painted"}', "give its map with --strategy"),
        ("[" * 50_000, "cannot read settings"),
        ('{"strategy": 3}', "give its map with --strategy"),
        ('{"box": [1, 2]}', "expected three whole numbers for box"),
        ('{"box": [0, 0, "wide"]}', "expected three whole numbers for box"),
        ('{"strategy": "gone.png"}', "there is no such file"),
        (None, "cannot read settings"),
    ],
)
def test_settings_files_are_checked(folder, tiny_weights, capsys, content, told):
    if content is not None:
        (folder / "settings.json").write_text(content)
    before = listing(folder)
    code = inpaint_with(folder, tiny_weights, "--settings", folder / "settings.json")
    assert_refused(folder, capsys, before, told, code)


def test_a_picture_without_settings_is_no_settings_file(folder, tiny_weights, capsys):
    before = listing(folder)
    code = inpaint(folder, tiny_weights, "--settings", folder / "mask.png")
    assert_refused(folder, capsys, before, "found no settings", code)


def inpaint_with(folder: Path, weights: Path, *options: object) -> int:
    """Restore with these options and no others."""
    paths = folder / "photo.png", folder / "mask.png", "-o", folder / "out.png"
    return run("inpaint", *paths, "--weights", weights, "--quiet", *options)


@pytest.mark.parametrize("name", ["bridge.safetensors", "bridge.json", "gradient.safetensors"])
def test_damaged_weights(folder, tiny_weights, capsys, tmp_path_factory, name):
    weights = tmp_path_factory.mktemp("damaged")
    shutil.copytree(tiny_weights, weights, dirs_exist_ok=True)
    content = (weights / name).read_bytes()
    (weights / name).write_bytes(content[: len(content) // 2])
    before = listing(folder)
    code = inpaint(folder, weights)
    assert_refused(folder, capsys, before, name.split(".")[0], code)


def test_weights_of_another_version(folder, tiny_weights, capsys, tmp_path_factory):
    weights = tmp_path_factory.mktemp("other version")
    shutil.copytree(tiny_weights, weights, dirs_exist_ok=True)
    text = (weights / "bridge.json").read_text().replace('"version": 3', '"version": 99')
    (weights / "bridge.json").write_text(text)
    before = listing(folder)
    code = inpaint(folder, weights)
    assert_refused(folder, capsys, before, "version 99", code)


def test_nothing_is_left_when_a_later_file_cannot_be_written(
    folder, tiny_weights, capsys, monkeypatch
):
    def full(*arguments: Any, **_: object) -> None:
        arguments[-1].write_bytes(b"half")
        raise OSError("no space left on device")

    (folder / "out.png").write_bytes(b"an older result")
    monkeypatch.setattr("asyncdsb.show.viz.report_figure", full)
    before = listing(folder)
    more = "--trajectory", folder / "way.webp", "--report", folder / "page.png"
    code = inpaint(folder, tiny_weights, *more)
    assert_refused(folder, capsys, before, "no space left", code)


# Folders.


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two good photographs of two sizes and their masks."""
    for name, size in (("a", (128, 96)), ("b", (96, 128))):
        for kind in ("photos", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        synthetic_photo(*size).save(tmp_path / "photos" / f"{name}.jpg", quality=95)
        save_mask(box_mask(*size), tmp_path / "masks" / f"{name}.png")
    return tmp_path


def inpaint_folder(place: Path, weights: Path, *more: object, mask: str = "masks") -> int:
    paths = place / "photos", place / mask, "-o", place / "out"
    return run("inpaint", *paths, "--weights", weights, *FAST, *more)


def test_folder(photos, tiny_weights, capsys):
    (photos / "photos" / "Thumbs.db").write_text("no picture")
    (photos / "photos" / ".hidden.png").write_text("no picture")
    more = "--trajectory", photos / "ways", "--report", photos / "deep" / "pages"
    assert inpaint_folder(photos, tiny_weights, *more) == 0
    assert capsys.readouterr().err == ""
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]
    assert sorted(os.listdir(photos / "ways")) == ["a.webp", "b.webp"]
    assert sorted(os.listdir(photos / "deep" / "pages")) == ["a.png", "b.png"]
    for name, size in (("a", (128, 96)), ("b", (96, 128))):
        got = np.asarray(Image.open(photos / "out" / f"{name}.png"))
        expected = np.asarray(Image.open(photos / "photos" / f"{name}.jpg"))
        mask = box_mask(*size)
        np.testing.assert_array_equal(got[~mask], expected[~mask])


def test_a_photo_alone_and_in_a_folder_are_restored_alike(photos, tiny_weights):
    assert inpaint_folder(photos, tiny_weights) == 0
    paths = photos / "photos" / "b.jpg", photos / "masks", "-o", photos / "single.png"
    assert run("inpaint", *paths, "--weights", tiny_weights, *FAST) == 0
    assert (photos / "single.png").read_bytes() == (photos / "out" / "b.png").read_bytes()


def test_one_mask_for_a_folder(photos, tiny_weights, capsys):
    synthetic_photo(128, 96, seed=1).save(photos / "photos" / "c.png")
    assert inpaint_folder(photos, tiny_weights, mask="masks/a.png") == 2
    assert sorted(os.listdir(photos / "out")) == ["a.png", "c.png"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "b.jpg" in err and "96x128" in err


def test_a_mask_among_the_photos_is_none_of_them(photos, tiny_weights, capsys):
    shutil.move(photos / "masks" / "a.png", photos / "photos" / "mask.png")
    (photos / "photos" / "b.jpg").unlink()
    assert inpaint_folder(photos, tiny_weights, mask="photos/mask.png") == 0
    assert os.listdir(photos / "out") == ["a.png"] and capsys.readouterr().err == ""


def test_bad_photos_do_not_stop_a_folder(photos, tiny_weights, capsys):
    good = (photos / "photos" / "b.jpg").read_bytes()
    (photos / "photos" / "0 cut.jpg").write_bytes(good[:500])
    shutil.copy(photos / "masks" / "b.png", photos / "masks" / "0 cut.png")
    (photos / "photos" / "lonely.jpg").write_bytes(good)
    assert inpaint_folder(photos, tiny_weights) == 2
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("asyncdsb: error: ") for line in lines)
    assert "lonely.jpg: expected one mask named lonely.*" in lines[0] and "got none" in lines[0]
    assert "0 cut.jpg: damaged or truncated" in lines[1]


def test_photos_of_one_name_do_not_stop_a_folder(photos, tiny_weights, capsys):
    """Which of them the mask belongs to, and whose result the file would be, nobody knows."""
    shutil.copy(photos / "photos" / "a.jpg", photos / "photos" / "a.jpeg")
    assert inpaint_folder(photos, tiny_weights, "--report", photos / "pages") == 2
    assert os.listdir(photos / "out") == os.listdir(photos / "pages") == ["b.png"]
    assert capsys.readouterr().err.splitlines() == [
        "asyncdsb: error: a.jpeg, a.jpg: left out: each would be written as a.png; "
        "give them different names"
    ]


def test_folder_in_which_nothing_can_be_restored(photos, tiny_weights, capsys):
    for path in (photos / "photos").iterdir():
        path.write_bytes(b"words")
    before = listing(photos)
    assert inpaint_folder(photos, tiny_weights) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert listing(photos) == before


def test_a_folder_without_weights_stops_at_once(photos, capsys):
    before = listing(photos)
    code = inpaint_folder(photos, photos / "nothing here")
    assert_refused(photos, capsys, before, "weights", code)


def test_folder_commands_that_are_refused(photos, tiny_weights, capsys):
    def refused(told: str, *more: object, **kwargs: str) -> None:
        before = listing(photos)
        code = inpaint_folder(photos, tiny_weights, *more, **kwargs)
        assert_refused(photos, capsys, before, told, code)

    refused("there is no such mask", mask="none")
    refused("must be one too; it is a file", "--report", photos / "masks" / "a.png", mask="masks")
    for path in (photos / "photos").iterdir():
        path.unlink()
    refused("there is no picture in the folder")


@pytest.mark.parametrize(
    "suffix", ".jpg .jpeg .jfif .jpe .png .tif .webp .bmp .dib .gif .avif .jp2 .j2k .pcx".split()
)
def test_every_suffix_that_pillow_reads_is_read(photos, tiny_weights, suffix):
    photo = photos / "photos" / f"a{suffix}"
    (photos / "photos" / "a.jpg").rename(photo)
    synthetic_photo(128, 96).save(photo)
    assert inpaint_folder(photos, tiny_weights, "--steps", 1) == 0
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]


def test_everything_that_is_left_out_is_named(photos, tiny_weights, capsys):
    (photos / "photos" / "notes.txt").write_text("no picture")
    (photos / "photos" / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (photos / "photos" / "more").mkdir()
    assert inpaint_folder(photos, tiny_weights) == 2
    assert sorted(os.listdir(photos / "out")) == ["a.png", "b.png"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and all("left out" in line for line in told)
    assert [line.split()[2] for line in told] == ["c.heic:", "more:", "notes.txt:"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names on Unix alone")
def test_links_that_lead_nowhere_and_pipes_are_named(photos, tiny_weights, capsys):
    (photos / "photos" / "link.jpg").symlink_to(photos / "gone.jpg")
    (photos / "photos" / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(photos / "photos" / "pipe.jpg")
    assert inpaint_folder(photos, tiny_weights) == 2
    first, second, third = capsys.readouterr().err.splitlines()
    assert "link.jpg: left out: a link that leads nowhere" in first
    assert "loop.jpg: left out: a link that leads nowhere" in second
    assert "pipe.jpg: left out: a device or pipe" in third


def test_folders_of_the_command_itself_are_not_left_out(photos, tiny_weights, capsys):
    (photos / "masks").rename(photos / "photos" / "masks")
    place = photos / "photos"
    paths = place, place / "masks", "-o", place / "out"
    for _ in range(2):
        assert run("inpaint", *paths, "--weights", tiny_weights, *FAST) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("photo", "mask"), [("cafe\u0301", "caf\u00e9"), ("IMG_1", "img_1"), ("Straße", "STRASSE")]
)
def test_names_that_look_alike_belong_together(photos, tiny_weights, photo, mask):
    (photos / "photos" / "a.jpg").rename(photos / "photos" / f"{photo}.JPG")
    (photos / "masks" / "a.png").rename(photos / "masks" / f"{mask}.png")
    assert inpaint_folder(photos, tiny_weights) == 0
    assert f"{photo}.png" in os.listdir(photos / "out")


def test_the_same_spelling_comes_before_one_that_looks_alike(photos, tiny_weights):
    save_mask(box_mask(96, 128), photos / "masks" / "A.png")
    assert inpaint_folder(photos, tiny_weights) == 0


def test_places_are_tested_before_the_work_starts(photos, tiny_weights, capsys, monkeypatch):
    def read_only(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", f"{dir}/.hidden")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    before = listing(photos)
    code = inpaint_folder(photos, tiny_weights)
    assert_refused(photos, capsys, before, f"cannot write {photos / 'out'}: Permission", code)


@pytest.mark.parametrize(("suffix", "most"), [("jpg", 65_500), ("webp", 16_383)])
def test_sizes_that_a_format_cannot_hold(tmp_path, capsys, suffix, most):
    Image.new("L", (most + 1, 8), 99).save(tmp_path / "photo.png")
    hole = np.zeros((8, most + 1), bool)
    hole[2:4, 5:9] = True
    save_mask(hole, tmp_path / "mask.png")
    before = listing(tmp_path)
    # Refused before weights are looked for.
    code = inpaint(tmp_path, tmp_path / "none", out=f"out.{suffix}")
    err = capsys.readouterr().err
    assert code == 2 and err.splitlines()[-1].startswith(f"asyncdsb: error: out.{suffix}: ")
    assert f"at most {most} pixels a side, the picture is {most + 1}x8" in err
    assert listing(tmp_path) == before


def test_long_names_are_taken(photos, tiny_weights):
    long = "ä" * 125
    (photos / "photos" / "a.jpg").rename(photos / "photos" / f"{long}.jpg")
    (photos / "masks" / "a.png").rename(photos / "masks" / f"{long}.png")
    assert inpaint_folder(photos, tiny_weights, "--trajectory", photos / "ways") == 0
    assert f"{long}.png" in os.listdir(photos / "out")
    assert f"{long}.webp" in os.listdir(photos / "ways")


def test_invert(folder, tiny_weights):
    assert inpaint(folder, tiny_weights) == 0
    save_mask(~box_mask(300, 211), folder / "mask.png")
    assert inpaint(folder, tiny_weights, "--invert", out="other.png") == 0
    assert (folder / "other.png").read_bytes() == (folder / "out.png").read_bytes()


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA"])
def test_reports_show_photographs_of_every_mode(folder, tiny_weights, mode):
    photo = synthetic_photo(300, 211)
    sixteen = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    (sixteen if mode == "I;16" else photo.convert(mode)).save(folder / "photo.png")
    assert inpaint(folder, tiny_weights, "--report", folder / "page.png") == 0
    page = np.asarray(Image.open(folder / "page.png").convert("RGB")).astype(int)
    # The result stands at the right in the first row, as the photograph does at the left.
    part = page[page.shape[0] // 10 : page.shape[0] // 4, -page.shape[1] // 6 : -60]
    assert (np.ptp(part, axis=2).max() > 40) == (mode == "RGBA")


def test_what_a_format_cannot_hold_is_told_in_one_line(folder, tiny_weights, capsys):
    layer = synthetic_photo(300, 211)
    layer.putalpha(99)
    layer.save(folder / "photo.png", dpi=(300, 300))
    assert inpaint(folder, tiny_weights, out="out.bmp") == 0
    told = "asyncdsb: warning: photo.png: not kept in out.bmp: transparency\n"
    assert capsys.readouterr().err == told
    assert Image.open(folder / "out.bmp").info["dpi"] == pytest.approx((300, 300), abs=0.1)


# The mask command, and the program as a process.


def test_mask_command(tmp_path, capsys):
    for name in ("first.png", "second.png"):
        assert run("mask", "wide", "300x211", "-o", tmp_path / name, "--seed", 5) == 0
    first, second = (tmp_path / name for name in ("first.png", "second.png"))
    assert first.read_bytes() == second.read_bytes()
    hole = np.asarray(Image.open(first))
    np.testing.assert_array_equal(hole, masks.make_mask("wide", (211, 300), 5) * np.uint8(255))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["round", "256", "-o", "{folder}/m.png"], "invalid choice: 'round'"),
        (["wide", "large", "-o", "{folder}/m.png"], "expected 256 or 640x480, got 'large'"),
        (["wide", "1x2x3", "-o", "{folder}/m.png"], "expected 256 or 640x480"),
        (["wide", "2", "-o", "{folder}/m.png"], "at least 8"),
        (["wide", "64", "-o", "{folder}/m.jpg"], "not JPEG"),
        (["wide", "16400x8", "-o", "{folder}/m.webp"], "at most 16383 pixels a side"),
        (["wide", "64", "-o", "{folder}/none/m.png"], "there is no folder"),
        (["wide", "64"], "required: -o"),
    ],
)
def test_bad_mask_commands(tmp_path, capsys, arguments, told):
    code = run("mask", *(argument.format(folder=tmp_path) for argument in arguments))
    assert_refused(tmp_path, capsys, {}, told, code)


def test_command_is_required(tmp_path, capsys):
    assert_refused(tmp_path, capsys, {}, "required: COMMAND", run())


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def test_help_and_mistakes_do_not_wait_for_torch():
    code = """
import sys
from asyncdsb.cli.main import main
for arguments in (["--help"], ["inpaint", "--help"], ["inpaint"], ["inpaint", "a", "b", "-o", "c"]):
    try:
        main(arguments)
    except SystemExit:
        pass
assert not {"torch", "numpy", "PIL", "cv2", "gradio", "matplotlib"} & set(sys.modules)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_as_a_process_without_gradio(folder, tiny_weights):
    code = """
import runpy, sys
sys.modules["gradio"] = None
sys.argv[0] = "asyncdsb"
runpy.run_module("asyncdsb", run_name="__main__")
"""
    paths = folder / "photo.png", folder / "mask.png", "-o", folder / "out.png"
    done = python(code, "inpaint", *paths, "--weights", tiny_weights, *FAST)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "out.png").is_file()
    (folder / "photo.png").write_bytes(b"words")
    done = python(code, "inpaint", *paths, "--weights", tiny_weights, *FAST)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("asyncdsb: error: photo.png: expected a PNG")
    assert done.stderr.count("\n") == 1


def test_the_precision_is_recorded(folder, tiny_weights):
    assert inpaint(folder, tiny_weights, "--precision", "bf16") == 0
    first = (folder / "out.png").read_bytes()
    with Image.open(folder / "out.png") as picture:
        assert json.loads(picture.text["asyncdsb"])["precision"] == "bf16"
    again = ["--settings", folder / "out.png"]
    assert inpaint(folder, tiny_weights, *again, out="again.png") == 0
    assert (folder / "again.png").read_bytes() == first
    assert inpaint(folder, tiny_weights, *again, "--precision", "fp32", out="fp32.png") == 0
    with Image.open(folder / "fp32.png") as picture:
        assert json.loads(picture.text["asyncdsb"])["precision"] == "fp32"


def test_another_precision_is_refused_at_once(folder, tiny_weights, capsys):
    assert inpaint(folder, tiny_weights, "--precision", "fp64") == 2
    assert "expected a precision out of auto, fp32, bf16, got 'fp64'" in capsys.readouterr().err


def test_compile_is_handed_to_the_pipeline(folder, tiny_weights, monkeypatch, capsys):
    monkeypatch.setattr("asyncdsb.networks.device.compiles", lambda device: False)
    assert inpaint(folder, tiny_weights, "--compile") == 2
    assert "expected a compiler that torch can use" in capsys.readouterr().err


def test_a_lack_of_memory_is_told_in_one_line(folder, tiny_weights, capsys, monkeypatch):
    def fails(*given, **settings):
        raise RuntimeError("DefaultCPUAllocator:\n can't allocate memory")

    monkeypatch.setattr(AsyncDSBPipeline, "__call__", fails)
    before = listing(folder)
    code = inpaint(folder, tiny_weights)
    assert_refused(folder, capsys, before, "can't allocate memory", code)


def test_a_photo_is_no_map_of_the_order(folder, tiny_weights, capsys):
    before = listing(folder)
    code = inpaint(folder, tiny_weights, "--strategy", folder / "photo.png")
    assert_refused(folder, capsys, before, "photo.png: expected a grey picture", code)


def test_a_negative_seed_of_a_mask(folder, capsys):
    before = listing(folder)
    code = run("mask", "wide", "64", "-o", folder / "new.png", "--seed", "-1")
    assert_refused(folder, capsys, before, "expected a seed of at least 0, got -1", code)


def test_settings_in_a_picture_too_large_to_open(folder, tiny_weights, capsys):
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + size
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    (folder / "huge.png").write_bytes(head + struct.pack(">I", zlib.crc32(chunk)))
    before = listing(folder)
    code = inpaint(folder, tiny_weights, "--settings", folder / "huge.png")
    assert_refused(folder, capsys, before, "huge.png: cannot read settings", code)
