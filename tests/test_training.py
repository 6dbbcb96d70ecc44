import argparse
import dataclasses
import json
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import photo_folder, refusal
from PIL import Image
from safetensors.torch import load_file

import train.bridge
import train.gradient
import train.judge.validation
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from asyncdsb.networks import UNetConfig
from asyncdsb.networks.layers import Doubled
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.checkpoint import file_sha256, save_weights
from train.data.batches import FOCUS_STD, MaskBank, augmented, draw_tau, draw_times
from train.data.draws import Draws
from train.judge.validation import read_lines
from train.loop.run import chosen_preset, show
from train.loop.trainer import Average
from train.presets import BRIDGE_PRESETS, GRADIENT_PRESETS

pytestmark = pytest.mark.slow
FORWARD = Doubled.forward


@pytest.fixture(scope="module")
def runs(tmp_path_factory, photos):
    """Both trainers at their debug preset: four steps at once, and two plus two."""
    root = tmp_path_factory.mktemp("runs")
    common = ["--preset", "debug", "--device", "cpu", "--data", str(photos)]
    common += ["--val", str(photos), "--out"]
    weights = ["--gradient", str(root / "at_once" / "gradient" / "weights")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.judge.validation, "KINDS", ("center",))
        patch.setattr(train.judge.validation, "STEPS", 2)
        for name, stops in {"at_once": ["4"], "in_two": ["0", "4"]}.items():
            for stop in stops:
                # A time limit of zero stops after one step; the second call takes it up again.
                limit = ["--max-minutes", stop] if stop == "0" else []
                assert train.gradient.main([*common, str(root / name / "gradient"), *limit]) == 0
            for stop in stops:
                limit = ["--max-minutes", stop] if stop == "0" else []
                command = [*common, str(root / name / "bridge"), *weights, *limit]
                assert train.bridge.main(command) == 0
    return root


@pytest.mark.parametrize("program", ["gradient", "bridge"])
def test_an_interrupted_run_ends_with_the_same_bits(runs, program):
    states = [load_file(runs / n / program / "state.safetensors") for n in ("at_once", "in_two")]
    assert states[0].keys() == states[1].keys()
    for key in states[0].keys() - {"seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key
    assert int(states[0]["step"]) == 4


@pytest.mark.parametrize("program", ["gradient", "bridge"])
def test_a_run_leaves_log_samples_and_weights(runs, program):
    folder = runs / "at_once" / program
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [2, 4]
    assert all(np.isfinite(v) for r in records for v in r.values())
    pictures = {"gradient": 2, "bridge": 1}[program]
    assert len(list((folder / "samples").glob("*.png"))) == pictures
    description = json.loads((folder / "weights" / f"{program}.json").read_text())
    assert description["training"]["steps"] == 4


@pytest.mark.parametrize(
    "program, names",
    [
        ("gradient", {"l1", "correlation"}),
        (
            "bridge",
            {"lpips", "psnr", "ssim", "seam_step", "frechet", "first_error", "power"},
        ),
    ],
)
def test_a_run_scores_held_out_photos_and_keeps_the_best_weights(runs, program, names):
    folder = runs / "in_two" / program
    records = json.loads((folder / "validation.json").read_text())
    # After one step the first call ended, after two and four the second looked.
    assert [r["step"] for r in records] == [1, 2, 4]
    assert all(np.isfinite(value) for record in records for value in record.values())
    found = {key.split("/")[1] for key in records[0] if "/" in key}
    assert found == names
    best = min(records, key=lambda r: (r["score"], -r["step"]))["step"]
    description = json.loads((folder / "best" / f"{program}.json").read_text())
    assert description["training"]["steps"] == best
    assert Image.open(folder / "curves.png").width > 500


def test_validation_does_not_change_the_training(runs, photos, tmp_path):
    command = ["--preset", "debug", "--data", str(photos), "--device", "cpu"]
    command += ["--gradient", str(runs / "at_once" / "gradient" / "weights")]
    assert train.bridge.main([*command, "--out", str(tmp_path)]) == 0
    states = [load_file(f / "state.safetensors") for f in (tmp_path, runs / "at_once" / "bridge")]
    for key in states[0].keys() - {"seconds"}:
        assert torch.equal(states[0][key], states[1][key]), key
    assert not (tmp_path / "validation.json").exists()


def test_a_validation_rounds_what_the_networks_multiply_and_nothing_else(runs, photos, monkeypatch):
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], precision="bf16")
    monkeypatch.setattr(train.judge.validation, "KINDS", ("center",))
    monkeypatch.setattr(train.judge.validation, "STEPS", 1)
    trainer = train.bridge.BridgeTrainer(preset, bridge_args(runs, photos, "--val", str(photos)))
    inside, outside = set(), set()
    for network in (trainer.averaged.unet, trainer.completion.generator):
        convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda *call: inside.add(call[-1].dtype))
    context = BridgeDenoiser.context

    def watched(*args):
        outside.add(torch.is_autocast_enabled("cpu"))
        return context(*args)

    monkeypatch.setattr(BridgeDenoiser, "context", watched)
    trainer.validator()
    assert inside == {torch.bfloat16} and outside == {False}


def test_a_validation_judges_the_bridge_without_copied_patches(runs, photos, monkeypatch):
    monkeypatch.setattr(train.judge.validation, "KINDS", ("center",))
    monkeypatch.setattr(train.judge.validation, "STEPS", 1)
    preset = BRIDGE_PRESETS["debug"]
    preset = dataclasses.replace(preset, model=dataclasses.replace(preset.model, finish="patches"))
    trainer = train.bridge.BridgeTrainer(preset, bridge_args(runs, photos, "--val", str(photos)))
    trace, finishes = AsyncDSBPipeline.trace, set()

    def watched(self, *args, **settings):
        finishes.add(settings["finish"])
        return trace(self, *args, **settings)

    monkeypatch.setattr(AsyncDSBPipeline, "trace", watched)
    trainer.validator()
    assert finishes == {"none"}


def test_what_a_killed_run_logged_after_its_checkpoint_is_logged_once(photos, tmp_path):
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos)]
    command += ["--val", str(photos), "--out", str(tmp_path)]
    assert train.gradient.main([*command, "--max-minutes", "0"]) == 0
    log = tmp_path / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + whole.replace('"step": 1', '"step": 2') + '{"step": 3, "samples_per')
    assert train.gradient.main(command) == 0
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 4]


@pytest.mark.parametrize("stopped", ["export", "validate"])
def test_a_run_stopped_after_its_last_checkpoint_catches_up(
    photos, tmp_path, monkeypatch, capsys, stopped
):
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos)]
    command += ["--val", str(photos), "--out", str(tmp_path)]
    owner, name = train.gradient.GradientTrainer, stopped
    if stopped == "validate":
        owner, name = train.gradient.GradientValidator, "__call__"
    work = getattr(owner, name)

    def stop_at_the_end(self, *args):
        steps = [record["step"] for record in read_lines(tmp_path / "log.jsonl")]
        if steps[-1] == 4:
            raise OSError("No space left on device")
        return work(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop_at_the_end)
        assert "No space left" in refusal(train.gradient.main, command, capsys)
    for _ in range(2):
        assert train.gradient.main(command) == 0
        description = json.loads((tmp_path / "weights" / "gradient.json").read_text())
        assert description["training"]["steps"] == 4
        records = json.loads((tmp_path / "validation.json").read_text())
        assert [record["step"] for record in records] == [2, 4]
        if stopped == "validate":  # Scores are there the second time.
            monkeypatch.setattr(owner, name, stop_at_the_end)


def test_the_rate_in_the_log_counts_the_wait_for_a_gpu(photos, tmp_path, monkeypatch):
    class Late:
        """A value of a step, for which a GPU still works a fifth of a second."""

        def detach(self):
            return self

        def __radd__(self, other):
            return self

        def __float__(self):
            time.sleep(0.2)
            return 1.0

    monkeypatch.setattr(train.gradient.GradientTrainer, "step", lambda self, n: {"l1": Late()})
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos)]
    assert train.gradient.main([*command, "--steps", "1", "--out", str(tmp_path)]) == 0
    (record,) = read_lines(tmp_path / "log.jsonl")
    assert record["samples_per_s"] <= 4 / 0.2


@pytest.mark.parametrize("device, told", [("cpu", "cpu"), ("mps", "mps"), ("cuda:1", "GPU cuda:1")])
def test_the_hardware_that_is_told_is_the_one_that_trained(tmp_path, monkeypatch, device, told):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=None: f"GPU {name}")
    args = train.bridge.bridge_parser().parse_args(
        ["--data", "photos", "--out", str(tmp_path), "--device", device]
    )
    facts = {}
    trainer = SimpleNamespace(
        preset=BRIDGE_PRESETS["debug"], export=lambda folder, trained: facts.update(trained)
    )
    show(trainer, args, 2, 60.0, False)
    assert facts["device"] == told


def test_a_run_goes_on_without_a_compiler_and_says_so(runs, photos, monkeypatch, capsys):
    monkeypatch.setattr("train.loop.trainer.compiles", lambda device: False)
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], compile=True)
    args = bridge_args(runs, photos)
    trainer = train.bridge.BridgeTrainer(chosen_preset({"debug": preset}, args), args)
    assert trainer.model.unet._compiled_call_impl is None
    line = "torch cannot compile here, which needs g++ and Python's headers (python3-dev), with"
    assert line in capsys.readouterr().out
    args = bridge_args(runs, photos, "--no-compile")
    assert not chosen_preset({"debug": preset}, args).compile
    train.bridge.BridgeTrainer(chosen_preset({"debug": preset}, args), args)
    assert "compile" not in capsys.readouterr().out


def test_a_training_that_diverges_keeps_its_last_checkpoint(runs, photos, tmp_path, capsys):
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos), "--lr", "1e30"]
    command += ["--gradient", str(runs / "at_once" / "gradient" / "weights")]
    command += ["--out", str(tmp_path)]
    said = refusal(train.bridge.main, command, capsys)
    assert re.search("diverged at step 2 .*nan.*; there is no checkpoint yet", said)
    assert not (tmp_path / "state.safetensors").exists()
    assert train.bridge.main([*command, "--max-minutes", "0"]) == 0
    said = refusal(train.bridge.main, command, capsys)
    assert re.search("diverged at step 2 .*; the checkpoint of step 1 is kept", said)
    assert int(load_file(tmp_path / "state.safetensors")["step"]) == 1
    assert [record["step"] for record in read_lines(tmp_path / "log.jsonl")] == [1]


def test_a_training_stops_where_a_part_of_the_weights_does_not_learn(
    photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("train.loop.run.LOG_EVERY", 4)
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos), "--out"]
    assert train.bridge.main([*command, str(tmp_path / "whole")]) == 0
    # As a compiled backward pass once did it: the forward pass is right, gradients end here.
    monkeypatch.setattr(Doubled, "forward", lambda self, x: FORWARD(self, x).detach())
    said = refusal(train.bridge.main, [*command, str(tmp_path / "part")], capsys)
    assert re.search(r"got a gradient of zero for \d+ of them \(model.unet.*try --no-compile", said)


def test_the_average_starts_with_the_first_weights_and_forgets_ever_more_slowly():
    module = torch.nn.Linear(3, 2)
    ema = Average(module, decay=0.2)
    wanted = module.weight.detach().clone()
    for n in range(4):
        torch.nn.init.normal_(module.weight)
        ema.update_parameters(module)
        decay = min(0.2, (1 + n) / (10 + n)) if n else 0
        wanted = decay * wanted + (1 - decay) * module.weight.detach()
        torch.testing.assert_close(ema.module.weight.detach(), wanted)
    assert int(ema.n_averaged) == 4


def test_the_average_reads_nothing_back_from_its_device():
    """The meta device has nothing to be read."""
    module = torch.nn.Linear(3, 2, device="meta")
    ema = Average(module, decay=0.2)
    for _ in range(2):
        ema.update_parameters(module)
    assert int(ema.n_averaged) == 2


def test_every_second_batch_is_larger_and_counted_so():
    preset = BRIDGE_PRESETS["debug"]
    assert [preset.shape(step) for step in range(4)] == [(4, 32), (1, 64), (4, 32), (1, 64)]
    assert [preset.samples(steps) for steps in range(5)] == [0, 4, 5, 9, 10]


def test_draws_share_photo_mask_and_fill_but_not_time_or_noise(runs, photos, monkeypatch):
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], draws=2, large_every=0)
    trainer = train.bridge.BridgeTrainer(preset, bridge_args(runs, photos))
    batch = trainer.prepare(0)
    for values in (batch.image, batch.context.mask, batch.context.fill, batch.context.gradient):
        assert torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])
    assert not torch.equal(batch.z[0], batch.z[1])
    assert len(set(batch.t.flatten().tolist())) > 2


def test_an_added_condition_changes_nothing_at_first():
    torch.manual_seed(0)
    config = dataclasses.replace(BRIDGE_PRESETS["debug"].model, conditions=("mask", "fill"))
    model = BridgeDenoiser(config).eval()
    torch.nn.init.normal_(model.unet.head.weight, std=0.1)
    torch.nn.init.normal_(model.unet.gain.weight, std=0.1)
    more = dataclasses.replace(config, conditions=("mask", "fill", "clock", "position"))
    wider = train.bridge.adapted(model, more)
    assert wider.config == more and not wider.training
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    t, s = torch.full((2, 1, 1, 1), 0.6), torch.full((2, 1, 32, 32), 0.4)
    found = []
    with torch.no_grad():
        for one in (model, wider):
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
            context = one.context(image, mask, mask * 0.1, torch.ones(2).bool(), noise)
            found.append(one.x0_hat(context.x1, t, s, context))
    torch.testing.assert_close(found[0], found[1])


def test_a_denoiser_is_adapted_to_another_configuration():
    """Channels keep their weights by name; what is new is not seen before it is trained."""
    unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
    before = BridgeConfig(unet=unet, conditions=("position", "mask"))
    model = BridgeDenoiser(before).eval()
    torch.nn.init.normal_(model.unet.head.weight, std=0.1)
    torch.nn.init.normal_(model.unet.gain.weight, std=0.1)
    with torch.no_grad():  # What it says then does not depend on where a pixel lies.
        for name in ("stem", "head"):
            weight = getattr(model.unet, name).weight
            weight[:, weight.shape[1] - 28 + 16 : weight.shape[1] - 28 + 24] = 0
    after = dataclasses.replace(before, conditions=("mask", "fill"), resolution=64)
    adapted = train.bridge.adapted(model, after)
    assert adapted.config == after and not adapted.training
    assert train.bridge.adapted(model, before) is model
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    t, s = torch.full((2, 1, 1, 1), 0.6), torch.full((2, 1, 32, 32), 0.4)
    found = []
    with torch.no_grad():
        for one in (model, adapted):
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
            context = one.context(image, mask, mask * 0.1, torch.ones(2).bool(), noise)
            found.append(one.x0_hat(context.x1, t, s, context))
    torch.testing.assert_close(found[0], found[1])


def test_augmentation_keeps_the_range_and_changes_each_crop_alone():
    ramp = (
        torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)
        * torch.tensor([1, 0.5, 0.1])[None, :, None, None]
    )
    assert augmented(ramp, 0.0, draws(64)) is ramp
    changed = augmented(ramp, 1.0, draws(64))
    assert changed.shape == ramp.shape and changed.min() >= -1 and changed.max() <= 1
    assert (changed.diff(dim=2).abs() < 1e-5).all()
    assert len({round(float(one.mean()), 4) for one in changed}) > 50
    again = augmented(ramp, 1.0, draws(64))
    assert torch.equal(changed, again)


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, torch.arange(count))


def bridge_args(runs, photos, *more: str) -> argparse.Namespace:
    weights = str(runs / "at_once" / "gradient" / "weights")
    options = ["--preset", "debug", "--device", "cpu", "--data", str(photos), "--out", "none"]
    return train.bridge.bridge_parser().parse_args([*options, "--gradient", weights, *more])


def test_trained_weights_load_into_the_pipeline(runs, tmp_path):
    for program in ("gradient", "bridge"):
        for file in (runs / "at_once" / program / "weights").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    pipe = AsyncDSBPipeline.from_pretrained(tmp_path)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    assert pipe(np.zeros((64, 64, 3), np.uint8), mask, steps=2).image.size == (64, 64)


def test_another_configuration_does_not_resume(runs, photos, capsys):
    command = ["--preset", "debug", "--data", str(photos), "--batch", "8", "--device", "cpu"]
    command += ["--out", str(runs / "at_once" / "gradient")]
    said = refusal(train.gradient.main, command, capsys)
    assert "same configuration, got other preset.batch 4, now 8" in said
    assert "preset.lr" not in said


def test_a_run_of_an_earlier_version_resumes(tmp_path):
    """It lacks an option that came later, and has one that is gone."""
    folder = photo_folder(tmp_path / "photos", 2)
    command = ["--preset", "debug", "--data", str(folder), "--device", "cpu", "--max-minutes", "0"]
    command += ["--out", str(tmp_path / "run")]
    assert train.gradient.main(command) == 0
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["preset"]["muon"]
    config["preset"]["upright"] = False
    path.write_text(json.dumps(config), "utf-8")
    assert train.gradient.main(command) == 0


def test_a_completion_starts_from_weights(runs, photos, tmp_path, capsys):
    weights = runs / "at_once" / "gradient" / "weights"
    command = ["--preset", "debug", "--data", str(photos), "--device", "cpu", "--lr", "0"]
    command += ["--init", str(weights), "--max-minutes", "0"]
    assert train.gradient.main([*command, "--out", str(tmp_path / "run")]) == 0
    files = (f / "gradient.safetensors" for f in (weights, tmp_path / "run" / "weights"))
    before, after = map(load_file, files)
    # Spectral normalisation finds the scale of the weights anew.
    for key, value in before.items():
        pair = value.float().flatten(), after[key].float().flatten()
        assert torch.equal(*pair) or torch.cosine_similarity(*pair, dim=0) > 0.99999, key
    other = [*command, "--out", str(tmp_path / "other"), "--preset", "claims", "--size", "32"]
    assert "expected weights of the preset's network" in refusal(train.gradient.main, other, capsys)


def test_starting_from_weights_keeps_them(runs, photos, tmp_path):
    weights = runs / "at_once" / "bridge" / "weights"
    command = ["--preset", "debug", "--data", str(photos), "--device", "cpu", "--lr", "0"]
    command += ["--out", str(tmp_path), "--init", str(weights), "--max-minutes", "0"]
    command += ["--gradient", str(runs / "at_once" / "gradient" / "weights")]
    assert train.bridge.main(command) == 0
    before, after = (load_file(f / "bridge.safetensors") for f in (weights, tmp_path / "weights"))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_network_that_a_run_starts_from_is_told_recorded_and_taken_up(
    runs, photos, tmp_path, capsys
):
    wider = dataclasses.replace(
        BRIDGE_PRESETS["debug"].model,
        unet=UNetConfig(24, (1, 2), 1, (False, True), 24),
    )
    save_weights(tmp_path / "start", BridgeDenoiser(wider), {})
    command = ["--preset", "debug", "--data", str(photos), "--device", "cpu"]
    command += ["--out", str(tmp_path / "run")]
    gradient = ["--gradient", str(runs / "at_once" / "gradient" / "weights")]
    init = ["--init", str(tmp_path / "start")]
    assert train.bridge.main([*command, *gradient, *init, "--max-minutes", "0"]) == 0
    said = r"UNetConfig\(width=24, .* instead of the preset's, UNetConfig\(width=16"
    assert re.search(said, capsys.readouterr().out)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["preset"]["model"]["unet"]["width"] == 24
    other = ["--init", str(runs / "at_once" / "bridge" / "weights")]
    said = refusal(train.bridge.main, [*command, *gradient, *other], capsys)
    assert re.search("same configuration, got other .*weights.init .*, now", said)
    save_weights(tmp_path / "other", GradientCompletion(GRADIENT_PRESETS["debug"].model), {})
    other = ["--gradient", str(tmp_path / "other")]
    said = refusal(train.bridge.main, [*command, *other, *init], capsys)
    assert re.search("same configuration, got other weights.gradient .*, now", said)
    assert "weights.init" in refusal(train.bridge.main, [*command, *gradient], capsys)
    assert train.bridge.main([*command, *gradient, *init]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    description = json.loads((tmp_path / "run" / "weights" / "bridge.json").read_text())
    assert description["training"]["steps"] == 4 and description["config"]["unet"]["width"] == 24
    digest = file_sha256(tmp_path / "start" / "bridge.safetensors")
    assert description["training"]["started_from"] == f"start, SHA-256 {digest[:12]}"


def test_a_run_that_started_from_nothing_takes_no_other_start(runs, photos, capsys):
    weights = [str(runs / "at_once" / kind / "weights") for kind in ("gradient", "bridge")]
    command = ["--preset", "debug", "--data", str(photos), "--device", "cpu"]
    command += ["--gradient", weights[0], "--init", weights[1]]
    command += ["--out", str(runs / "at_once" / "bridge")]
    said = refusal(train.bridge.main, command, capsys)
    assert re.search("same configuration, got other weights.init None, now", said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "nowhere"], "found nothing at nowhere"),
        (["--accumulate", "0"], "--accumulate of at least 1, got 0"),
        (["--accumulate", "3"], "1 processes x 3 parts x 1 samples a photo, got one of 4"),
        (["--batch", "0"], "batch of at least one sample, got 0"),
        (
            ["--size", "64"],
            "at most 96 pixels, the largest short side at which photos are kept, got"
            " 128, twice --size",
        ),
    ],
)
def test_a_command_that_cannot_be_is_refused_in_one_line(photos, tmp_path, capsys, options, said):
    command = ["--preset", "debug", "--device", "cpu", "--data", str(photos)]
    text = refusal(train.gradient.main, [*command, "--out", str(tmp_path), *options], capsys)
    assert text.splitlines()[-1].startswith("train.gradient: error: ") and said in text
    assert not list(tmp_path.iterdir())


def test_photos_too_small_for_the_crops_are_told_before_the_training(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "photos" / "a.png")
    command = ["--preset", "debug", "--device", "cpu", "--data", str(tmp_path / "photos")]
    command += ["--size", "48", "--out", str(tmp_path / "run")]
    said = refusal(train.gradient.main, command, capsys)
    assert "holds crops of 96 x 96 pixels, got copies of at most 64 on the short side" in said
    assert not (tmp_path / "run").exists()


def test_mask_bank_draws_its_masks_only():
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], mask_canvases=(32, 64), masks=6)
    bank = MaskBank(preset, 32, seed=0)
    masks = bank.draw(draws(64))
    assert masks.shape == (64, 1, 32, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    drawn = {m.sum().item() for m in masks}
    assert len(drawn) <= 6
    again = MaskBank(preset, 32, seed=0)
    assert torch.equal(masks, again.draw(draws(64)))
    # 900 pixels fill no whole number of bytes.
    assert MaskBank(preset, 30, seed=0).draw(draws(64)).shape == (64, 1, 30, 30)


def test_what_a_training_cannot_use_is_refused_and_leaves_the_folder_free(photos, tmp_path, capsys):
    command = ["--preset", "debug", "--data", str(photos), "--out", str(tmp_path / "run")]
    for wrong, told in (
        (("--device", "nowhere"), "expected a device that torch can use here"),
        (("--device", "cpu", "--steps", "0"), "expected at least one step"),
        (("--device", "cpu", "--size", "30"), "expected"),
    ):
        assert told in refusal(train.bridge.main, [*command, *wrong], capsys)
    assert train.bridge.main([*command, "--device", "cpu", "--steps", "1"]) == 0


def times(preset, seed, tau, stochastic):
    """Times of 64 samples with a hole of half the picture, (64, 1, 1, 1)."""
    mask = torch.zeros(64, 1, 8, 8)
    mask[..., :4] = 1
    tau = torch.where(mask > 0, torch.full_like(mask, tau), torch.rand(mask.shape))
    return draw_times(preset, tau, mask, torch.full((64,), stochastic), draws(64, seed))


def test_times_without_levels_cover_the_bridge_evenly_with_some_at_the_start():
    preset = dataclasses.replace(BRIDGE_PRESETS["shipped"], levels=None)
    t = torch.cat([times(preset, i, 0.3, True) for i in range(50)])
    assert t.min() >= 1e-3 and t.max() == 1
    share = (t == 1).float().mean()
    assert abs(share - preset.from_start) < 0.015  # 3200 draws: standard deviation 0.004
    rest = t[t < 1].sort().values
    assert (rest - torch.linspace(0, 1, len(rest)).view_as(rest)).abs().max() < 0.03


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("name", ["shipped", "portraits"])
def test_levels_of_training_times_follow_the_preset(name, tau, stochastic):
    """Even in their logarithm, but for a share that is log-normal around sigma_data."""
    preset = BRIDGE_PRESETS[name]
    t = torch.cat([times(preset, i, tau, stochastic) for i in range(50)]).flatten().double()
    share = (t == 1).double().mean()
    assert abs(share - preset.from_start) < 0.015
    schedule = preset.model.schedule
    s = schedule.clock(t[t < 1], torch.tensor(tau, dtype=torch.float64))
    total_var = schedule.total_var * stochastic
    sigma = (total_var * s * (1 - s) + (s * preset.model.hole_noise) ** 2).sqrt() / (1 - s)
    low, high = (np.log(level) for level in preset.levels)
    log = sigma.log().sort().values
    centre = np.log(np.sqrt(np.mean(np.square(preset.model.sigma_data))))
    normal = torch.special.ndtr((log - centre) / FOCUS_STD)
    share = (1 - preset.focus) * (log - low) / (high - low) + preset.focus * normal
    # The normal share is cut at both ends, where less than 0.01 of it lies.
    assert (share - torch.linspace(0, 1, len(log)).double()).abs().max() < 0.04


def test_every_batch_has_all_levels():
    """One level out of each of 64 equal ranges, in any order."""
    preset = dataclasses.replace(BRIDGE_PRESETS["shipped"], from_start=0.0)
    t = times(preset, 0, 0.5, True).flatten().double()
    s = preset.model.schedule.clock(t, torch.tensor(0.5, dtype=torch.float64))
    sigma = (preset.model.schedule.total_var * s * (1 - s) + s**2).sqrt() / (1 - s)
    low, high = preset.levels
    places = (64 * (sigma / low).log() / np.log(high / low)).sort().values
    # Single precision moves the largest levels, whose clocks are nearly 1.
    assert bool(
        (places - torch.arange(64) > -0.05).all() and (places - torch.arange(64) < 1.05).all()
    )
    assert not torch.equal(t, t.sort().values)


def striped(count, seed):
    """Pictures that the surroundings of a hole determine and no smooth fill knows: stripes.

    Returns:
        Pictures (count, 3, 32, 32) and masks of a hole of 16 x 16 pixels in their middle.
    """
    g = torch.Generator().manual_seed(seed)
    phase, upright = torch.rand(count, 1, 1, generator=g), torch.rand(count, 1, 1, generator=g)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    along = torch.where(upright < 0.5, x, y)
    waves = (2 * torch.pi * (along / 8 + phase)).sin()
    colours = torch.tensor([0.8, 0.5, -0.6]).view(1, 3, 1, 1)
    mask = torch.zeros(count, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return colours * waves[:, None], mask


def test_sixty_steps_beat_the_smooth_fill_at_the_start():
    """Squared error of the first estimate, at t = 1, over that of the fill, on unseen pictures."""
    torch.manual_seed(0)
    config = BridgeConfig(
        unet=UNetConfig(16, (1, 2, 2), 1, (False, False, True), 16, patch=2),
        fill="harmonic",
        conditions=("mask", "fill"),
        resolution=32,
    )
    preset = dataclasses.replace(BRIDGE_PRESETS["debug"], model=config, from_start=0.25)
    model, schedule = BridgeDenoiser(config), config.schedule
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(60):
        image, mask = striped(8, step + 1)
        random = draws(8, step)
        stochastic = random.rand() < 0.5
        tau = draw_tau(preset, image.abs().mean(1, keepdim=True), mask, random)
        t = draw_times(preset, tau, mask, stochastic, random)
        noise, z = torch.randn(2, *image.shape)
        context = model.context(image, mask, mask, stochastic, noise)
        loss = model.loss(image, t, schedule.clock(t, tau), z, context).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, mask = striped(32, 0)
    context = model.eval().context(
        image, mask, mask, torch.ones(32).bool(), torch.randn(image.shape)
    )
    one = torch.ones(32, 1, 1, 1)
    with torch.no_grad():
        found = model.x0_hat(context.x1, one, one.expand_as(mask), context)
    ours, smooth = (((x - image) * mask).square().sum() for x in (found, context.fill))
    assert ours / smooth < 0.1


def test_tau_ranges_cover_the_triangle_and_i2sb():
    preset = BRIDGE_PRESETS["cpu"]
    g = torch.Generator().manual_seed(0)
    gradient, mask = torch.rand(400, 1, 16, 16, generator=g), torch.ones(400, 1, 16, 16)
    tau = draw_tau(preset, gradient, mask, draws(len(mask), 1))
    assert tau.shape == mask.shape and 0 <= tau.min() and tau.max() <= 1
    flat = (tau == 0.5).flatten(1).all(1).float().mean()
    assert abs(flat - preset.synchronous) < 0.06  # 400 draws: standard deviation 0.018
    assert tau.amin((1, 2, 3)).min() < 0.05 and tau.amax((1, 2, 3)).max() > 0.95


@pytest.mark.parametrize(
    "name, least, most", [("synchronous", 0.5, 0.5), ("gradient", 0.2, 0.5), ("free-tau", 0, 1)]
)
def test_networks_that_are_compared_differ_in_one_thing(name, least, most):
    preset, plain = BRIDGE_PRESETS[f"claims-{name}"], BRIDGE_PRESETS["claims-any"]
    g = torch.Generator().manual_seed(0)
    gradient, mask = torch.rand(20, 1, 32, 32, generator=g), torch.ones(20, 1, 32, 32)
    tau = draw_tau(preset, gradient, mask, draws(len(mask), 1))
    assert tau.amin() == pytest.approx(least, abs=0.01)
    assert tau.amax() == pytest.approx(most, abs=0.01)
    names = ("synchronous", "smooth_tau", "tau_range", "free_tau")
    drawn = {name: getattr(plain, name) for name in names}
    assert dataclasses.replace(preset, **drawn) == plain


def test_contrast_of_beta_leaves_the_noise_of_the_bridge():
    low, high = (BRIDGE_PRESETS[f"claims-{name}"].model for name in ("low-contrast", "any"))
    assert low.schedule.total_var == pytest.approx(high.schedule.total_var, rel=2e-3)
    assert low.beta_max / low.beta_min < 5 and high.beta_max / high.beta_min == pytest.approx(30)


@pytest.mark.parametrize(
    ("batch", "draws", "large_every"), [(0, 1, 0), (6, 4, 0), (4, 2, 3), (20, 2, 3)]
)
def test_batches_that_do_not_divide_are_refused(batch, draws, large_every):
    with pytest.raises(ValueError, match=f"batch .*, got {batch}"):
        dataclasses.replace(
            BRIDGE_PRESETS["debug"], batch=batch, draws=draws, large_every=large_every
        )


def test_checkpointing_is_not_dropped_without_a_word(tmp_path, photos, runs, capsys):
    weights = [str(runs / "at_once" / kind / "weights") for kind in ("gradient", "bridge")]
    options = ["--preset", "paper", "--size", "64", "--batch", "1", "--device", "cpu"]
    options += ["--gradient", weights[0], "--init", weights[1], "--data", str(photos)]
    said = refusal(train.bridge.main, [*options, "--out", str(tmp_path)], capsys)
    assert "expected an ADM network for checkpointing, got unet" in said
