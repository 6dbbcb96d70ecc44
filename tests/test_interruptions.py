"""How a training ends before its end, what it leaves, and what cannot begin."""

import dataclasses
import multiprocessing
import os
import resource
import signal
import threading
import time

import pytest
import torch
from conftest import photo_folder, refusal
from safetensors.torch import load_file
from torch.nn.utils import parametrize

import train.bridge
import train.corpus
import train.data.photos
import train.gradient
from asyncdsb.gradient import GradientCompletion, image_gradient
from asyncdsb.store.checkpoint import load_weights, save_weights, write_tensors
from train.data.batches import OTHERS
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

pytestmark = pytest.mark.slow


def command(photos, out, *more: str) -> list[str]:
    return [
        "--preset", "debug", "--device", "cpu", "--data", str(photos), "--out", str(out), *more
    ]  # fmt: skip


def interrupting(monkeypatch, *numbers: int) -> None:
    """Send this process signals in the first step of the next training."""
    step = train.gradient.GradientTrainer.step

    def interrupted(self, number):
        monkeypatch.undo()
        found = step(self, number)
        for one in numbers:
            os.kill(os.getpid(), one)
        return found

    monkeypatch.setattr(train.gradient.GradientTrainer, "step", interrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_with_a_checkpoint(photos, tmp_path, monkeypatch, capsys, number):
    handler = signal.getsignal(number)
    interrupting(monkeypatch, number)
    assert train.gradient.main(command(photos, tmp_path / "run")) == 128 + number
    assert "stopped after step 1 of 4" in capsys.readouterr().out
    assert signal.getsignal(number) is handler
    assert int(load_file(tmp_path / "run" / "state.safetensors")["step"]) == 1
    assert load_weights(tmp_path / "run" / "weights", "gradient")[1]["steps"] == 1
    for name in ("run", "whole"):
        assert train.gradient.main(command(photos, tmp_path / name)) == 0
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("run", "whole")]
    for key in states[0].keys() - {"seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key


def test_a_second_interruption_ends_it_at_once(photos, tmp_path, monkeypatch, capsys):
    interrupting(monkeypatch, signal.SIGINT, signal.SIGINT)
    assert train.gradient.main(command(photos, tmp_path)) == 130
    assert capsys.readouterr().err.endswith("train.gradient: error: interrupted\n")
    assert not (tmp_path / "state.safetensors").exists()


def test_what_a_killed_process_was_writing_is_removed(photos, tmp_path):
    left = tmp_path / ".state-0123abcd.safetensors", tmp_path / "best" / ".bridge-0.safetensors"
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    assert train.gradient.main(command(photos, tmp_path, "--steps", "1")) == 0
    assert not any(path.exists() for path in left)


def test_a_disk_that_is_full_keeps_the_earlier_file(tmp_path):
    write_tensors(tmp_path / "state.safetensors", {"a": torch.zeros(1)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(ValueError, match="cannot write .*state.safetensors"):
            write_tensors(tmp_path / "state.safetensors", {"a": torch.zeros(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_file(tmp_path / "state.safetensors")["a"].shape == (1,)


def test_a_damaged_checkpoint_is_told(photos, tmp_path, capsys):
    (tmp_path / "state.safetensors").write_bytes(b"not one")
    said = refusal(train.gradient.main, command(photos, tmp_path), capsys)
    assert said.splitlines()[-1].startswith("train.gradient: error: expected readable tensors in")


def test_restorations_of_held_out_photos_need_a_completion(photos, tmp_path, capsys):
    said = refusal(train.bridge.main, command(photos, tmp_path, "--val", str(photos)), capsys)
    assert "expected --gradient beside --val" in said


def prepared(photos, *more: str):
    """The batch of a step of a bridge without a completion, its parts joined, and its trainer."""
    args = train.bridge.bridge_parser().parse_args(command(photos, "none", *more))
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], large_every=0, batch=8)
    trainer = train.bridge.BridgeTrainer(preset, args)
    parts = [trainer.prepare(0, part) for part in range(args.accumulate)]
    rows = range(len(parts[0].image))
    joined = [
        torch.stack([of(part)[row] for row in rows for part in parts])
        for of in (lambda one: one.image, lambda one: one.context.gradient, lambda one: one.s)
    ]
    return joined, trainer


def test_without_a_completion_tau_never_follows_the_hidden_photo(tmp_path):
    photos = photo_folder(tmp_path / "photos", 30)
    (image, gradient, clock), trainer = prepared(photos)
    for own, shown in zip(image_gradient(image), gradient, strict=True):
        assert not torch.equal(own, shown)
    # Whoever shares the batch.
    for name, parts in (("image", 0), ("gradient", 1), ("clock", 2)):
        alone = (image, gradient, clock)[parts]
        assert torch.equal(prepared(photos, "--accumulate", "4")[0][parts], alone), name
    first, others = (trainer.batches.draw(0, 0, what)[1] for what in (0, OTHERS))
    assert not torch.equal(first, others)


def test_a_stream_gives_other_photos_too(tmp_path):
    photos = photo_folder(tmp_path / "photos", 30)
    assert train.corpus.main(["pack", str(photos), str(tmp_path / "c"), "--workers", "1"]) == 0
    (image, gradient, _), trainer = prepared(tmp_path / "c", "--stream")
    assert not any(map(torch.equal, image_gradient(image), gradient))
    in_parts = prepared(tmp_path / "c", "--stream", "--accumulate", "2")[0]
    assert torch.equal(in_parts[0], image) and torch.equal(in_parts[1], gradient)


def test_a_completion_that_learns_on_keeps_its_spectral_normalisation(photos, tmp_path):
    config = GRADIENT_PRESETS["debug"].model
    torch.manual_seed(1)
    trained = GradientCompletion(config)
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    for _ in range(20):
        trained(image, mask)  # lets the power iteration settle
    save_weights(tmp_path / "start", trained.eval(), {}, torch.float32)
    options = command(photos, tmp_path / "run", "--init", str(tmp_path / "start"))
    args = train.gradient.gradient_parser().parse_args(options)
    learning = train.gradient.GradientTrainer(GRADIENT_PRESETS["debug"], args).model
    counts = [sum(map(parametrize.is_parametrized, one.modules())) for one in (trained, learning)]
    assert counts[0] == counts[1] > 0
    with torch.no_grad():
        wanted = trained(image, mask)
        torch.testing.assert_close(learning.eval()(image, mask), wanted, atol=1e-3, rtol=1e-2)


def test_a_killed_worker_of_a_corpus_is_told(photos, tmp_path, capsys):
    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(multiprocessing.active_children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Both are programs of their own by then, and still import what they need: one that has just
        # been forked has this process's handlers, with which it survives the end of the others.
        time.sleep(0.5)
        for child in multiprocessing.active_children()[:1]:
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    options = ["pack", str(photos), str(tmp_path), "--shard-photos", "1", "--workers", "2"]
    said = refusal(train.corpus.main, options, capsys)
    killer.join()
    assert "a worker was killed" in said


def test_photos_beyond_the_memory_are_told_before_all_are_read(tmp_path, monkeypatch):
    photos = photo_folder(tmp_path / "photos", 6)
    monkeypatch.setattr(train.data.photos, "ESTIMATED_AFTER", 2)
    monkeypatch.setattr(os, "sysconf", lambda name: 200)
    with pytest.raises(ValueError, match="fit into memory, got about .* --stream"):
        train.data.photos.PhotoBank([str(photos)], [64])
    monkeypatch.undo()
    assert len(train.data.photos.PhotoBank([str(photos)], [64]).sizes) == 6
