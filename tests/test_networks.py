import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.networks import PatchDiscriminator, UNet, UNetConfig
from asyncdsb.networks.adm import ADMAttention
from asyncdsb.networks.layers import Doubled, SelfAttention, group_norm
from train.presets import BRIDGE_PRESETS


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 2)])
def test_unet_keeps_the_size_and_starts_at_zero(patch, multipliers):
    attention = (False,) * (len(multipliers) - 1) + (True,)
    net = UNet(UNetConfig(16, multipliers, 2, attention, 16, patch), 5, 3, scalars=1)
    size = net.config.stride
    out = net(torch.randn(2, 5, 2 * size, 3 * size), torch.rand(2, 1))
    assert out.shape == (2, 3, 2 * size, 3 * size)
    assert out.abs().max() == 0


def test_unet_refuses_sizes_that_do_not_divide():
    net = UNet(UNetConfig(16, (1, 2), 1, (False, False), 16), 3, 3, scalars=1)
    with pytest.raises(ValueError, match="multiples of 4"):
        net(torch.randn(1, 3, 16, 18), torch.rand(1, 1))


def test_every_parameter_of_the_unet_is_used():
    net = UNet(UNetConfig(16, (1, 2), 1, (True, True), 16), 4, 3, scalars=2)
    for parameter in net.parameters():  # zero-initialised branches would hide the others
        torch.nn.init.normal_(parameter, std=0.1)
    net(torch.randn(1, 4, 16, 16), torch.rand(1, 2)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("preset", ["shipped", "cpu"])
def test_presets_stay_within_what_two_cores_can_run(preset):
    with torch.device("meta"):
        net = BridgeDenoiser(BRIDGE_PRESETS[preset].model).unet
        with FlopCounterMode(display=False) as flops:
            net(torch.empty(1, net.in_channels, 256, 256), torch.empty(1, 2))
    assert sum(p.numel() for p in net.parameters()) <= 10e6
    assert flops.get_total_flops() <= 36e9


def test_discriminator_sees_patches_and_returns_four_features():
    logits, features = PatchDiscriminator(4, 8)(torch.randn(2, 4, 128, 64))
    assert logits.shape == (2, 1, 14, 6)
    assert [f.shape[1] for f in features] == [8, 16, 32, 64]


@pytest.mark.parametrize("channels", [12, 64])
def test_the_norm_that_is_compiled_is_that_of_torch(monkeypatch, channels):
    norm = group_norm(channels)
    x = (3 + torch.randn(2, channels, 8, 6)).to(memory_format=torch.channels_last)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    direction, found = torch.randn_like(x), []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda now=compiling: now)
        given = x.clone().requires_grad_()
        out = norm(given)
        assert out.is_contiguous(memory_format=torch.channels_last)
        gradients = torch.autograd.grad((out * direction).sum(), [given, *norm.parameters()])
        found.append([out, *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert norm(torch.full_like(x, 1234.567)).isfinite().all()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", [ADMAttention, SelfAttention])
def test_attention_sees_dense_features_off_the_cpu(monkeypatch, kind, channels_last):
    """The meta device has the strides of any other, and nothing to compute."""
    strides = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*tensors):
        strides.extend(tensor.stride(-1) for tensor in tensors)
        return attention(*tensors)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(2, 128, 6, 5, device="meta").contiguous(memory_format=layout)
    assert kind(128, 64).to("meta")(x).shape == x.shape
    assert strides == [1, 1, 1]


@pytest.mark.parametrize("blocks", [(0, 1), (2, 0), (1, 3), 1])
def test_every_level_has_its_own_number_of_blocks(blocks):
    config = UNetConfig(16, (1, 2), blocks, (False, True), 16)
    counts = (blocks, blocks) if isinstance(blocks, int) else blocks
    assert config.blocks_of_levels == counts
    net = UNet(config, 4, 3, scalars=2)
    assert len(net.down) == sum(counts) and len(net.up) == sum(counts) + 2
    attentions = sum(isinstance(m, SelfAttention) for m in net.modules())
    assert attentions == 2 * counts[1] + 1 + 1
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    out = net(torch.randn(2, 4, 16, 24), torch.rand(2, 2))
    assert out.shape == (2, 3, 16, 24)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_one_number_of_blocks_is_the_same_for_all_levels():
    configs = [UNetConfig(16, (1, 2), b, (False, True), 16) for b in (2, (2, 2))]
    shapes = [{n: p.shape for n, p in UNet(c, 4, 3, scalars=1).named_parameters()} for c in configs]
    assert shapes[0] == shapes[1]


def test_a_doubled_map_repeats_every_place():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    out = Doubled()(x)
    torch.testing.assert_close(out, F.interpolate(x, scale_factor=2.0))
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    torch.testing.assert_close(x.grad, 4 * F.avg_pool2d(weights, 2))


@pytest.mark.parametrize("change", [{"blocks": (1, 1, 1)}, {"attention": (True,)}], ids=str)
def test_a_unet_that_cannot_be_is_refused(change):
    with pytest.raises(ValueError, match="of each level"):
        UNetConfig(**({"multipliers": (1, 2), "attention": (False, True)} | change))


@pytest.mark.parametrize("attention", [SelfAttention, ADMAttention])
def test_heads_that_do_not_divide_are_refused(attention):
    with pytest.raises(ValueError, match="divisible by head_channels=32, got 48"):
        attention(48, 32)
