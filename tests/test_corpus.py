import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from conftest import smooth_photo
from PIL import Image

import train.corpus
from train.corpus import main
from train.data.sources import find_photos, iter_photos

pytestmark = pytest.mark.slow

EACH = "3"
"""Photographs a shard."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photographs of several kinds, the same stem twice, and two broken files."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for number in range(9):
        smooth_photo(number).save(folder / f"{number}.png")
    smooth_photo(9).save(folder / "deep" / "3.jpg")
    smooth_photo(10).convert("RGBA").save(folder / "a.b c.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    smooth_photo(11, (100, 60)).save(folder / "turned.jpg", quality=95, exif=turned)
    (folder / "deep" / "3.png").write_bytes(b"no picture")
    whole = (folder / "deep" / "3.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def pack(photos, out, *options):
    command = [
        "pack",
        str(photos),
        str(out),
        "--size",
        "48",
        "--shard-photos",
        EACH,
        "--workers",
        "1",
    ]
    return main([*command, *options])


@pytest.fixture(scope="module")
def corpus(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert pack(photos, out) == 0
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_a_corpus_holds(photos, corpus):
    index = json.loads((corpus / "index.json").read_text())
    assert (index["format"], index["version"]) == ("asyncdsb-corpus", 1)
    assert (index["size"], index["quality"], index["records"]) == (48, 92, 12)
    names = [shard["name"] for shard in index["shards"]]
    assert len(names) >= 4 and names == [f"shard-{i:06d}.tar" for i in range(len(names))]
    assert {*names, "index.json"} == set(contents(corpus))
    assert [entry["photo"] for entry in index["broken"]] == [
        str(photos / "cut.jpg"),
        str(photos / "deep" / "3.png"),
    ]
    first, second = (entry["reason"] for entry in index["broken"])
    assert "truncated" in first and "expected a PNG" in second
    # One file a photograph, whose key is its own.
    keys = [n for name in names for n in tarfile.open(corpus / name).getnames()]
    assert all(key.endswith(".jpg") for key in keys)
    assert sorted(key.removesuffix(".jpg") for key in keys) == sorted(
        [*"012345678", "3-2", "a_b_c", "turned"]
    )


def test_photographs_are_scaled_down_turned_and_otherwise_kept(photos, corpus, tmp_path):
    packed = dict(iter_photos([corpus]))
    # 100 x 60, shown upright: 60 wide and 100 high.
    assert packed["turned"].size == (48, 80)
    assert packed["0"].size == (66, 48)
    expected = smooth_photo(0).resize((66, 48), Image.Resampling.LANCZOS)
    difference = np.asarray(packed["0"], float) - np.asarray(expected, float)
    assert np.abs(difference).mean() < 2
    assert main(["pack", str(photos / "0.png"), str(tmp_path), "--size", "500"]) == 0
    assert dict(iter_photos([tmp_path]))["0"].size == (110, 80)


def test_a_higher_quality_is_closer(photos, tmp_path):
    original = np.asarray(smooth_photo(0), float)
    errors = []
    for quality in ("30", "98"):
        out = tmp_path / quality
        command = ["pack", str(photos / "0.png"), str(out), "--quality", quality]
        assert main([*command, "--workers", "1"]) == 0
        errors.append(np.abs(np.asarray(dict(iter_photos([out]))["0"], float) - original).mean())
    assert errors[1] < errors[0] / 2


def test_the_order_is_mixed_and_a_tar_gives_the_same_shards(photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(8):
        (flat / f"{number}.png").write_bytes((photos / f"{number}.png").read_bytes())
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:
        for path in sorted(flat.iterdir(), reverse=True):
            tar.add(path, path.name)
    assert pack(flat, tmp_path / "a") == pack(tmp_path / "flat.tar", tmp_path / "b") == 0
    shards = [
        {name: data for name, data in contents(tmp_path / out).items() if name.endswith(".tar")}
        for out in "ab"
    ]
    assert shards[0] == shards[1]
    order = [
        member.name
        for name in sorted(shards[0])
        for member in tarfile.open(fileobj=io.BytesIO(shards[0][name]))
    ]
    assert sorted(order) == [f"{n}.jpg" for n in range(8)] != order


@pytest.mark.parametrize("photos_done", [0, 1, 5, 8, 13])
def test_an_interrupted_run_ends_with_the_same_files(
    photos, corpus, tmp_path, monkeypatch, photos_done
):
    encoded, calls = train.corpus._encoded, []

    def interrupted(photo, *settings):
        if len(calls) == photos_done:
            raise KeyboardInterrupt
        calls.append(photo)
        return encoded(photo, *settings)

    monkeypatch.setattr(train.corpus, "_encoded", interrupted)
    assert pack(photos, tmp_path) == 130
    assert main(["check", str(tmp_path)]) == 2
    # What a kill may leave besides: half a shard, half a list.
    (tmp_path / ".shard-000004-0123abcd.tar").write_bytes(b"half")
    (tmp_path / ".progress-0123abcd.json").write_text('{"shards": [')
    monkeypatch.setattr(train.corpus, "_encoded", encoded)
    assert pack(photos, tmp_path) == 0
    assert contents(tmp_path) == contents(corpus)
    # There is nothing left to do.
    monkeypatch.setattr(train.corpus, "_encoded", None)
    assert pack(photos, tmp_path) == 0


def test_a_killed_run_with_workers_ends_with_the_same_files(photos, corpus, tmp_path):
    command = ["pack", str(photos), str(tmp_path), "--size", "48", "--shard-photos", EACH]
    # Encoding is made slow enough to be killed in the middle.
    program = (
        "import sys, time, train.corpus as c; encoded = c._encoded\n"
        "def slow(*photo): time.sleep(0.1); return encoded(*photo)\n"
        "c._encoded = slow; sys.exit(c.main(sys.argv[1:]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *command, "--workers", "1"])
    deadline = time.monotonic() + 60
    while not (tmp_path / "shard-000001.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "index.json").exists()
    assert pack(photos, tmp_path, "--workers", "2") == 0
    assert contents(tmp_path) == contents(corpus)


def damaged(corpus, folder, how):
    """A copy of the corpus with damage to its second shard."""
    folder.mkdir()
    for name, data in contents(corpus).items():
        (folder / name).write_bytes(data)
    path = folder / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        data[1000] ^= 1
        path.write_bytes(data)
    elif how == "truncated":
        path.write_bytes(data[:1000])
    elif how == "stranger":
        (folder / "shard-000099.tar").write_bytes(data)
    return folder


@pytest.mark.parametrize(
    "how, lines",
    [
        ("flipped", ["shard-000001.tar: expected another SHA-256"]),
        ("missing", ["shard-000001.tar: missing"]),
        ("truncated", ["shard-000001.tar: expected another SHA-256"]),
        ("stranger", ["shard-000099.tar: not in index.json"]),
    ],
)
def test_check_finds(corpus, tmp_path, capsys, how, lines):
    folder = damaged(corpus, tmp_path / "copy", how)
    assert main(["check", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(lines)
    assert all(line in text for line, text in zip(lines, printed.splitlines(), strict=True))


def test_check_of_a_good_corpus(corpus, capsys):
    assert main(["check", str(corpus)]) == 0
    assert capsys.readouterr().out == f"{corpus}: all is well\n"


@pytest.mark.parametrize(
    "command, message",
    [
        ("check {tmp}/nothing", "found no"),
        ("pack {photos} {corpus} --workers 0", "--workers"),
        ("pack {tmp}/nothing {tmp}/out", "found nothing at"),
        ("pack {photos} {photos}", "to be empty"),
        ("pack {photos} {corpus} --size 32", "other photos or settings"),
        ("pack {photos}/0.png {corpus} --size 48 --shard-photos 3", "other photos or settings"),
        ("pack {photos} {tmp}/out --quality 0", "quality from 1 to 100"),
        ("pack {photos}/cut.jpg {tmp}/out --workers 1", "none of which can be read"),
    ],
)
def test_mistakes_are_told_in_one_line(photos, corpus, tmp_path, capsys, command, message):
    assert main(command.format(photos=photos, corpus=corpus, tmp=tmp_path).split()) == 2
    error = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert error.startswith("train.corpus: error: ") and message in error


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "other"}', '{"format": "asyncdsb-corpus", "version": 2}']
)
def test_another_index_is_refused(tmp_path, capsys, text):
    (tmp_path / "index.json").write_text(text)
    assert main(["check", str(tmp_path)]) == 2
    assert "expected the index of a corpus, version 1, in " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]"])
def test_a_damaged_record_of_what_is_done_is_told(photos, tmp_path, capsys, text):
    (tmp_path / "progress.json").write_text(text)
    assert main(["pack", str(photos), str(tmp_path), "--workers", "1"]) == 2
    told = f"expected {tmp_path / 'progress.json'} to say what is done, got a damaged file"
    assert told in capsys.readouterr().err


def test_a_folder_of_tars_counts_as_its_photographs(corpus):
    assert len(find_photos([corpus])) == 12
    tars = sorted(corpus.glob("*.tar"))
    assert [p.source for p in find_photos(tars)] == [p.source for p in find_photos([corpus])]


def test_names_in_an_index_stay_in_its_folder(corpus, tmp_path, capsys):
    folder = damaged(corpus, tmp_path / "copy", "none")
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace("shard-000001", "../shard-000001"))
    assert main(["check", str(folder)]) == 2
    assert "other names of shards" in capsys.readouterr().err
