import json

import pytest
import torch
from safetensors.torch import load_file

from asyncdsb.gradient import GradientCompletion, GradientConfig
from asyncdsb.networks import CompletionConfig
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.checkpoint import load_weights, save_weights


@pytest.fixture
def folder(tmp_path):
    AsyncDSBPipeline.random().save_pretrained(tmp_path / "weights")
    return tmp_path / "weights"


def test_round_trip_is_exact_up_to_half_precision(folder):
    original, loaded = AsyncDSBPipeline.random(), AsyncDSBPipeline.from_pretrained(folder)
    assert loaded.config == original.config
    for a, b in zip(
        original.denoiser.state_dict().values(), loaded.denoiser.state_dict().values(), strict=True
    ):
        assert torch.equal(a.half().float(), b)


def test_files_are_half_precision_and_described(folder):
    assert {t.dtype for t in load_file(folder / "bridge.safetensors").values()} == {torch.float16}
    description = json.loads((folder / "bridge.json").read_text())
    assert description["format"] == "asyncdsb-bridge" and description["version"] == 3


def large(spectral=True):
    """A network with kernels large enough for 8 bits."""
    torch.manual_seed(0)
    config = CompletionConfig(width=16, blocks=1, spectral=spectral)
    return GradientCompletion(GradientConfig(config)).eval()


def test_eight_bits_round_each_channel_of_large_kernels_alone(tmp_path):
    net = large()
    save_weights(tmp_path / "half", net, {})
    save_weights(tmp_path / "whole", net, {}, torch.float32)
    save_weights(tmp_path / "eight", net, {}, torch.int8)
    whole = load_weights(tmp_path / "whole", "gradient")[0].state_dict()
    loaded, rounded = load_weights(tmp_path / "eight", "gradient")[0].state_dict(), 0
    for name, value in whole.items():
        if value.ndim > 1 and value.numel() >= 20_000:
            step = value.abs().amax((1, 2, 3), keepdim=True) / 127
            assert ((loaded[name] - value).abs() <= 0.501 * step).all()
            rounded += value.numel()
        else:
            assert torch.equal(loaded[name], value.half().float()), name
    total = sum(value.numel() for value in whole.values())
    assert rounded > 0.8 * total
    sizes = [
        (tmp_path / name / "gradient.safetensors").stat().st_size for name in ("half", "eight")
    ]
    assert sizes[1] < 0.6 * sizes[0]
    described = json.loads((tmp_path / "eight" / "gradient.json").read_text())
    assert described["parameters"] == total


def test_eight_bits_stay_the_same_when_saved_again(tmp_path):
    save_weights(tmp_path / "first", large(), {}, torch.int8)
    first = load_weights(tmp_path / "first", "gradient")[0]
    save_weights(tmp_path / "second", first, {}, torch.int8)
    second = load_weights(tmp_path / "second", "gradient")[0].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.state_dict().items())


def test_a_kernel_of_zeros_in_eight_bits_is_zero(tmp_path):
    net = large(spectral=False)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    save_weights(tmp_path, net, {}, torch.int8)
    loaded = load_weights(tmp_path, "gradient")[0]
    assert all((value == 0).all() for value in loaded.state_dict().values())


def test_weights_of_version_2_are_read(folder):
    edit(folder, version=2)
    assert AsyncDSBPipeline.from_pretrained(folder).config == AsyncDSBPipeline.random().config


def test_both_files_are_as_readable_as_any(folder):
    modes = {path.stat().st_mode for path in folder.glob("bridge.*")}
    (folder / "any").write_text("")
    assert modes == {(folder / "any").stat().st_mode}


def test_spectral_normalisation_is_folded_in(tmp_path):
    torch.manual_seed(0)
    net = GradientCompletion(GradientConfig(CompletionConfig(width=4, blocks=1)))
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    for _ in range(20):
        net(image, mask)  # lets the power iteration settle
    net.eval()
    save_weights(tmp_path, net, {"steps": 20}, torch.float32)
    loaded, training = load_weights(tmp_path, "gradient")
    assert training == {"steps": 20}
    with torch.no_grad():
        torch.testing.assert_close(loaded(image, mask), net(image, mask), atol=1e-6, rtol=1e-5)


def edit(folder, **changes):
    path = folder / "bridge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder):
    path = folder / "bridge.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def swap_byte(folder):
    path = folder / "bridge.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def other_shape(folder):
    config = json.loads((folder / "bridge.json").read_text())["config"]
    config["unet"]["width"] = 32
    edit(folder, config=config)


DAMAGE = {
    "missing": (lambda f: (f / "bridge.safetensors").unlink(), "weights not found"),
    "truncated": (truncate, "damaged"),
    "one bit": (swap_byte, "damaged"),
    "no JSON": (lambda f: (f / "bridge.json").write_text("{"), "as JSON"),
    "other kind of JSON": (lambda f: (f / "bridge.json").write_text("[1]"), "as JSON"),
    "later version": (lambda f: edit(f, version=4), "version 3, got asyncdsb-bridge version 4"),
    "foreign": (lambda f: edit(f, format="i2sb"), "got i2sb"),
    "other shape": (other_shape, "do not fit the network"),
    "unknown key": (lambda f: edit(f, config={"depth": 3}), "unknown keys"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_weights_are_refused_in_one_sentence(folder, damage):
    apply, message = DAMAGE[damage]
    apply(folder)
    with pytest.raises(ValueError, match=message):
        AsyncDSBPipeline.from_pretrained(folder)


def test_absent_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="weights not found"):
        AsyncDSBPipeline.from_pretrained("somebody/nothing-here")
    with pytest.raises(ValueError, match="weights not found"):
        AsyncDSBPipeline.from_pretrained(tmp_path / "no" / "such" / "folder")


@pytest.mark.parametrize(
    "config",
    [[], {"unet": {"width": -16}}, {"resolution": 0}, {"resolution": 1.5}, {"blur_sigma": -1}],
)
def test_a_configuration_that_cannot_be_is_refused(folder, config):
    described = json.loads((folder / "bridge.json").read_text())
    if isinstance(config, dict):
        unet = described["config"]["unet"] | config.pop("unet", {})
        config = described["config"] | config | {"unet": unet}
    edit(folder, config=config)
    with pytest.raises(ValueError, match="expected readable weights in"):
        AsyncDSBPipeline.from_pretrained(folder)


def test_a_description_nested_without_end_is_refused(folder):
    (folder / "bridge.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="to describe weights as JSON"):
        AsyncDSBPipeline.from_pretrained(folder)
