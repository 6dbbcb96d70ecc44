"""Trainers on several processes: the same training as on one, also after one of them was killed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import photo_folder
from safetensors.torch import load_file

import train.bridge
import train.corpus
import train.gradient
from train.data.batches import Batches
from train.data.draws import Draws
from train.loop.processes import Processes
from train.loop.run import chosen_preset
from train.presets import GRADIENT_PRESETS

pytestmark = pytest.mark.slow

STEPS = 20


def arguments(program: str, photos: Path, weights: Path, out: Path, *more: str) -> list[str]:
    common = ["--preset", "debug", "--device", "cpu", "--data", str(photos), "--batch", "8"]
    common += ["--steps", str(STEPS), "--out", str(out), *more]
    return common + (["--gradient", str(weights)] if program == "bridge" else [])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, photos) -> Path:
    """Both trainings on one process."""
    root = tmp_path_factory.mktemp("alone")
    weights = root / "gradient" / "weights"
    assert train.gradient.main(arguments("gradient", photos, weights, root / "gradient")) == 0
    assert train.bridge.main(arguments("bridge", photos, weights, root / "bridge")) == 0
    return root


def launched(program: str, *options: str) -> subprocess.Popen:
    """Two processes that train together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "-m", f"train.{program}", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def workers(launcher: subprocess.Popen) -> list[int]:
    """The processes that a launcher started."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True
    )
    return [int(pid) for pid in found.stdout.split()]


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_weights(first: Path, second: Path) -> None:
    states = [load_file(folder / "state.safetensors") for folder in (first, second)]
    assert states[0].keys() == states[1].keys() and int(states[0]["step"]) == STEPS
    for key in states[0].keys() - {"seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key


@pytest.fixture(scope="module")
def together(tmp_path_factory, photos, alone) -> Path:
    """Both trainings on two processes."""
    root = tmp_path_factory.mktemp("together")
    weights = alone / "gradient" / "weights"
    for program in ("gradient", "bridge"):
        process = launched(program, *arguments(program, photos, weights, root / program))
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    return root


@pytest.mark.parametrize("program", ["gradient", "bridge"])
def test_two_processes_train_like_one(program, alone, together):
    ours, theirs = records(alone / program), records(together / program)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(2, 21, 2))
    for one, other in zip(ours, theirs, strict=True):
        terms = one.keys() - {"samples_per_s", "seconds", "norm"}
        assert terms == other.keys() - {"samples_per_s", "seconds", "norm"}
        for name in terms:
            # Sums in another order differ by up to 1.4e-5, depending on the processor.
            assert one[name] == pytest.approx(other[name], abs=5e-5), name
    assert (together / program / "weights" / f"{program}.safetensors").exists()


def test_killed_processes_cost_nothing(tmp_path, photos, alone, together):
    """kill -9 of one process, then of the other: the same command again goes on."""
    weights = alone / "gradient" / "weights"
    options = arguments("bridge", photos, weights, tmp_path)
    log, state = tmp_path / "log.jsonl", tmp_path / "state.safetensors"

    def told() -> int:
        return records(tmp_path)[-1]["step"] if log.exists() else 0

    for worker, kill_at in ((1, 3), (0, 12)):
        before = told()
        process = launched("bridge", *options)
        deadline = time.monotonic() + 200
        # The log tells of a step before its checkpoint is written.
        while not state.exists() or told() < max(kill_at, before + 1):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.01)
        os.kill(workers(process)[worker], signal.SIGKILL)
        process.communicate(timeout=200)
        assert process.returncode != 0
        assert int(load_file(state)["step"]) < STEPS
    again = launched("bridge", *options)
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    steps = [record["step"] for record in records(tmp_path)]
    assert steps == sorted(set(steps))
    assert_same_weights(tmp_path, together / "bridge")


@pytest.mark.parametrize("program", ["gradient", "bridge"])
def test_a_batch_in_parts_trains_like_a_whole_one(program, tmp_path, photos, alone):
    weights = alone / "gradient" / "weights"
    main = {"gradient": train.gradient, "bridge": train.bridge}[program].main
    assert main(arguments(program, photos, weights, tmp_path, "--accumulate", "2")) == 0
    # The discriminator's spectral norm takes a step for every part, and so differs a little.
    name, tolerance = {"gradient": ("l1", 0.05), "bridge": ("loss", 1e-5)}[program]
    for one, other in zip(records(alone / program), records(tmp_path), strict=True):
        assert one[name] == pytest.approx(other[name], abs=tolerance)


def test_shares_of_a_batch_are_its_rows():
    whole = Draws(torch.Generator().manual_seed(3), 8, torch.arange(8))
    everything = [whole.rand(2), whole.spread(), whole.randint(99), whole.each(2).rand()]
    seen = []
    for index in range(2):
        for part in range(2):
            rows = Processes(index, 2).rows(8, part, 2)
            mine = Draws(torch.Generator().manual_seed(3), 8, rows)
            found = [mine.rand(2), mine.spread(), mine.randint(99)]
            for values, wanted in zip(found, everything, strict=False):
                assert torch.equal(values, wanted[rows])
            twice = mine.each(2)
            assert torch.equal(twice.rand(), everything[3].view(8, 2)[rows].flatten())
            seen += rows.tolist()
    assert sorted(seen) == list(range(8))
    with pytest.raises(ValueError, match="2 processes x 2 parts x 1 samples a photo, got one of 6"):
        Processes(0, 2).rows(6, 0, 2)
    with pytest.raises(ValueError, match="2 parts x 2 samples a photo, got one of 12"):
        Processes(0, 2).rows(12, 0, 2, each=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    photos = photo_folder(root / "photos", 12)
    command = ["pack", str(photos), str(root / "corpus"), "--shard-photos", "4"]
    assert train.corpus.main([*command, "--workers", "1"]) == 0
    return root / "corpus"


def streamed(corpus: Path, out: Path, *more: str) -> list[str]:
    options = ["--preset", "debug", "--device", "cpu", "--data", str(corpus), "--stream"]
    return [*options, "--batch", "8", "--steps", "6", "--out", str(out), *more]


def test_a_stream_of_shards_is_shared_and_resumed(tmp_path, corpus):
    """In parts, or taken up again after a step, the same samples come."""
    assert train.gradient.main(streamed(corpus, tmp_path / "whole")) == 0
    assert train.gradient.main(streamed(corpus, tmp_path / "again", "--max-minutes", "0")) == 0
    assert train.gradient.main(streamed(corpus, tmp_path / "again")) == 0
    states = [load_file(tmp_path / n / "state.safetensors") for n in ("whole", "again")]
    for key in states[0].keys() - {"seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key
    order = json.loads((tmp_path / "whole" / "config.json").read_text())["order"]
    assert order["photos"] == 12 and len(order["shards"]) > 1
    args = train.gradient.parser("x", GRADIENT_PRESETS, "").parse_args(
        streamed(corpus, tmp_path, "--accumulate", "2", "--batch", "16")
    )
    preset = chosen_preset(GRADIENT_PRESETS, args)
    whole = Batches(preset, argparse.Namespace(**vars(args) | {"accumulate": 1}), Processes())
    shares = [Batches(preset, args, Processes(index, 2)) for index in range(2)]
    for step in range(3):
        _, images, masks = whole.draw(step, 0)
        for share in shares:
            for part in range(2):
                draws, mine, holes = share.draw(step, part)
                assert torch.equal(mine, images[draws.rows])
                assert torch.equal(holes, masks[draws.rows])
    assert torch.equal(whole.sample()[0], shares[0].sample()[0])
