import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import train.import_adm
from asyncdsb.denoiser import BRIDGES, BridgeConfig, BridgeDenoiser
from asyncdsb.networks import ADMConfig, UNetConfig
from asyncdsb.networks.adm import noise_level
from asyncdsb.networks.layers import sinusoidal_embedding
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.bundled import BUNDLED, BUNDLED_NAMES
from asyncdsb.store.checkpoint import load_weights, misfits, save_weights
from train.bridge import adapted
from train.import_adm import main, peak
from train.presets import BRIDGE_PRESETS

pytestmark = pytest.mark.slow

SMALL = ADMConfig(32, (1, 2), 1, (False, True), 32)
CONFIGS = [SMALL, ADMConfig(32, (1, 2, 2), 2, (False, True, True), 16)]


def published(width, multipliers, blocks, attention, inputs, outputs):
    """Names and shapes of the published architecture, in the order of its parameters."""
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def residual(name, before, after):
        layer(f"{name}.in_layers.0", before)
        layer(f"{name}.in_layers.2", after, before, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * after, 4 * width)
        layer(f"{name}.out_layers.0", after)
        layer(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            layer(f"{name}.skip_connection", after, before, 1, 1)

    def attend(name, channels):
        layer(f"{name}.norm", channels)
        layer(f"{name}.qkv", 3 * channels, channels, 1)
        layer(f"{name}.proj_out", channels, channels, 1)

    layer("time_embed.0", 4 * width, width)
    layer("time_embed.2", 4 * width, 4 * width)
    layer("input_blocks.0.0", width * multipliers[0], inputs, 3, 3)
    # Channels of what each input block hands over, and the level it is at.
    handed, index = [width * multipliers[0]], 0
    for level, multiplier in enumerate(multipliers):
        for part in range(blocks + (level + 1 < len(multipliers))):
            index += 1
            residual(f"input_blocks.{index}.0", handed[-1], width * multiplier)
            if part < blocks and attention[level]:
                attend(f"input_blocks.{index}.1", width * multiplier)
            handed.append(width * multiplier)
    channels = handed[-1]
    residual("middle_block.0", channels, channels)
    attend("middle_block.1", channels)
    residual("middle_block.2", channels, channels)
    index = 0
    for level in range(len(multipliers) - 1, -1, -1):
        for part in range(blocks + 1):
            name, after = f"output_blocks.{index}", width * multipliers[level]
            residual(f"{name}.0", channels + handed.pop(), after)
            if attention[level]:
                attend(f"{name}.1", after)
            if part == blocks and level:
                residual(f"{name}.{2 if attention[level] else 1}", after, after)
            channels, index = after, index + 1
    layer("out.0", channels)
    layer("out.2", outputs, channels, 3, 3)
    return shapes


def shapes_of(config, inputs=3, outputs=3):
    return published(
        config.width, config.multipliers, config.blocks, config.attention, inputs, outputs
    )


def random_state(config, inputs=3, outputs=3, seed=0):
    """Random parameters of about the size of trained ones, also where training starts at zero."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes_of(config, inputs, outputs).items():
        fan_in = math.prod(shape[1:])
        value = torch.randn(shape, generator=g) * (fan_in**-0.5 if len(shape) > 1 else 0.1)
        norm = len(shape) == 1 and name.endswith("weight")
        state[name] = 1 + value if norm else value
    return state


def evaluate(state, config, x, level):
    """The published network as a function of its parameters, read by their names."""

    def at(kind, name, x, **options):
        return kind(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    def norm(name, x):
        return F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def residual(name, x, resize):
        h = at(
            F.conv2d,
            f"{name}.in_layers.2",
            resize(F.silu(norm(f"{name}.in_layers.0", x))),
            padding=1,
        )
        both = at(F.linear, f"{name}.emb_layers.1", F.silu(embedding))[..., None, None]
        half = both.shape[1] // 2
        h = norm(f"{name}.out_layers.0", h) * (1 + both[:, :half]) + both[:, half:]
        h = at(F.conv2d, f"{name}.out_layers.3", F.silu(h), padding=1)
        x = resize(x)
        known = f"{name}.skip_connection.weight" in state
        return h + (at(F.conv2d, f"{name}.skip_connection", x) if known else x)

    def attend(name, x):
        b, c, height, width = x.shape
        flat = x.reshape(b, c, -1)
        qkv = at(F.conv1d, f"{name}.qkv", norm(f"{name}.norm", flat))
        heads = []
        size = config.head_channels
        for part in qkv.split(3 * size, dim=1):
            q, k, v = part[:, :size], part[:, size : 2 * size], part[:, 2 * size :]
            weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / size**0.5, dim=2)
            heads.append(torch.einsum("bij,bcj->bci", weights, v))
        return x + at(F.conv1d, f"{name}.proj_out", torch.cat(heads, 1)).reshape(x.shape)

    def block(name, x, first=lambda x: x):
        for j in range(3):
            if f"{name}.{j}.in_layers.0.weight" in state:
                # A second residual block of an output block is there to enlarge.
                enlarge = name.startswith("output") and j > 0
                resize = (
                    (lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3))
                    if enlarge
                    else first
                )
                x = residual(f"{name}.{j}", x, resize)
            elif f"{name}.{j}.qkv.weight" in state:
                x = attend(f"{name}.{j}", x)
        return x

    def shrink(x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    half = config.width // 2
    angles = level[:, None] * 10_000 ** (-torch.arange(half) / half)
    embedding = at(F.linear, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    embedding = at(F.linear, "time_embed.2", F.silu(embedding))
    h = at(F.conv2d, "input_blocks.0.0", x, padding=1)
    handed = [h]
    count = len(config.multipliers) * (config.blocks + 1)
    for index in range(1, count):
        down = index % (config.blocks + 1) == 0
        h = block(f"input_blocks.{index}", h, shrink if down else lambda x: x)
        handed.append(h)
    h = block("middle_block", h)
    for index in range(count):
        h = block(f"output_blocks.{index}", torch.cat([h, handed.pop()], 1))
    return at(F.conv2d, "out.2", F.silu(norm("out.0", h)), padding=1)


LEVELS = torch.linspace(1e-4, 1, 1000) * 1000
"""What I2SB tells its network of each of its steps."""


@pytest.fixture
def small(monkeypatch):
    """The importer for small networks."""
    monkeypatch.setattr(train.import_adm, "PUBLISHED", SMALL)


@pytest.fixture
def run(small, tmp_path, tiny_weights):
    """Import a file that holds the given content; the written folder."""

    def run(content, *options, code=0):
        file = tmp_path / "file.pt"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            torch.save(content, file)
        out = tmp_path / "out"
        options = [*options, "--fp32", "--gradient", str(tiny_weights)]
        assert main([str(file), str(out), *options]) == code
        return out

    return run


def i2sb_file(net, averages):
    return {
        "net": {f"diffusion_model.{name}": value for name, value in net.items()},
        "ema": {
            "decay": 0.99,
            "num_updates": 7,
            "shadow_params": None if averages is None else list(averages.values()),
            "collected_params": None,
        },
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 5e-5}]},
        "sched": {"last_epoch": 7, "_last_lr": [5e-5]},
    }


@pytest.mark.parametrize("config", CONFIGS)
def test_the_network_is_the_published_one(config):
    state = random_state(config, inputs=4)
    net = config.build(4, 3, scalars=2)
    net.load_state_dict(state)
    x = torch.randn(3, 4, 32, 40, generator=torch.Generator().manual_seed(1))
    steps = torch.tensor([0, 13, 700])
    with torch.no_grad():
        wanted = evaluate(state, config, x, LEVELS[steps])
        got = net(x, torch.stack([(steps + 1) / 1000, torch.ones(3)], 1))
    assert wanted.std() > 0.3
    # At late times the levels carry six digits, the angles of their sines three after the point.
    torch.testing.assert_close(got[:2], wanted[:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[2], wanted[2], atol=1e-4, rtol=1e-4)


def test_times_are_told_as_i2sb_tells_its_steps():
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(1000 * noise_level(t), LEVELS.double(), atol=1e-4, rtol=0)
    assert noise_level(torch.zeros(1)) == noise_level(torch.full((1,), 1e-3))
    angles = LEVELS[500] * 10_000 ** (-torch.arange(4) / 4)
    told = sinusoidal_embedding(noise_level(t[500:501]), 8)[0]
    torch.testing.assert_close(told, torch.cat([angles.cos(), angles.sin()]), atol=2e-4, rtol=0)


def test_names_shapes_and_order_are_the_published_ones():
    config = ADMConfig()
    wanted = published(256, (1, 1, 2, 2, 4, 4), 2, (False,) * 3 + (True,) * 3, 3, 6)
    with torch.device("meta"):
        net = config.build(3, 6, scalars=2)
        full = {name: torch.empty(shape) for name, shape in wanted.items()}
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == wanted
    assert [name for name, _ in net.named_parameters()] == list(wanted)
    assert sum(map(math.prod, wanted.values())) == 552_814_086
    assert misfits(net, full) == []
    assert config.stride == 32
    assert BRIDGE_PRESETS["paper"].model.unet == config


def test_checkpointing_saves_memory_and_changes_no_gradient():
    net = SMALL.build(3, 3, scalars=1)
    net.load_state_dict(random_state(SMALL))
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2, 1)

    def backward(checkpointing):
        net.checkpointing = checkpointing
        kept = []

        def keep(value):
            kept.append(value)
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            loss = net(x, t).square().mean()
        return len(kept), torch.autograd.grad(loss, list(net.parameters()))

    (many, plain), (few, again) = backward(False), backward(True)
    assert few < many / 3
    for a, b in zip(plain, again, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 2"):
        SMALL.build(3, 3, scalars=1)(torch.zeros(1, 3, 16, 17), torch.zeros(1, 1))


def test_it_serves_one_bridge_in_the_score_form():
    for form, bridges in {"score": BRIDGES, "edm": BRIDGES[:1]}.items():
        with pytest.raises(ValueError, match="score form and one bridge for an ADM network"):
            BridgeConfig(unet=SMALL, parametrisation=form, bridges=bridges)


def test_both_kinds_of_network_come_back_from_disk(tmp_path):
    for unet in (SMALL, UNetConfig(16, (1,), 1, (False,), 16)):
        config = BridgeConfig(
            unet=unet, conditions=("mask",), parametrisation="score", bridges=("stochastic",)
        )
        saved = BridgeDenoiser(config)
        save_weights(tmp_path, saved, {}, torch.float32)
        loaded, _ = load_weights(tmp_path, "bridge")
        assert loaded.config == saved.config
        for name, value in saved.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)
    described = json.loads((tmp_path / "bridge.json").read_text())
    assert described["config"]["unet"].pop("kind") == "unet"
    (tmp_path / "bridge.json").write_text(json.dumps(described))
    # Files older than the key load as before.
    assert load_weights(tmp_path, "bridge")[0].config == saved.config
    described["config"]["unet"]["kind"] = "dit"
    (tmp_path / "bridge.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="unet of kind unet, adm, got 'dit'"):
        load_weights(tmp_path, "bridge")


def test_adm_is_imported_without_its_variances(run, capsys):
    state = random_state(SMALL, outputs=6)
    out = run(state)
    denoiser, facts = load_weights(out, "bridge")
    head = {name: state[name][:3] for name in ("out.2.weight", "out.2.bias")}
    for name, value in (state | head).items():
        assert torch.equal(denoiser.state_dict()[f"unet.{name}"], value)
    assert facts["started_from"] == "file.pt, guided diffusion's ADM, not a bridge yet"
    assert len(facts["source_sha256"]) == 64
    assert "left out the three outputs for the variance" in capsys.readouterr().out
    assert denoiser.config == BridgeConfig(
        unet=SMALL,
        beta_max=0.4327,
        solver_order=1,
        fill="zero",
        hole_noise=1.0,
        conditions=(),
        parametrisation="score",
        bridges=("stochastic",),
    )


def test_of_i2sb_the_averages_are_taken(run):
    net, averages = random_state(SMALL, seed=1), random_state(SMALL, seed=2)
    content = i2sb_file(net, averages)
    content["net"]["noise_levels"] = LEVELS
    denoiser, facts = load_weights(run(content, "--ot-ode", "--beta-max", "0.3"), "bridge")
    for name, value in averages.items():
        assert torch.equal(denoiser.state_dict()[f"unet.{name}"], value)
    assert facts["started_from"] == "file.pt, I2SB's network, averaged weights"
    assert denoiser.config.samplers == ("ode",) and denoiser.config.beta_max == 0.1865


def test_by_default_half_precision_and_the_bundled_completion_are_written(small, tmp_path):
    state = random_state(SMALL)
    torch.save(state, tmp_path / "file.pt")
    assert main([str(tmp_path / "file.pt"), str(tmp_path / "out")]) == 0
    pipe = AsyncDSBPipeline.from_pretrained(tmp_path / "out", device="cpu")
    for name, value in state.items():
        assert torch.equal(pipe.denoiser.state_dict()[f"unet.{name}"], value.half().float())
    bundled, _ = load_weights(BUNDLED / BUNDLED_NAMES[0], "gradient")
    for name, value in bundled.state_dict().items():
        assert torch.equal(pipe.completion.state_dict()[name], value.half().float())


@pytest.mark.parametrize("inputs, seen", [(3, ()), (6, ("x1",))])
def test_added_conditions_change_nothing(run, inputs, seen):
    state = random_state(SMALL, inputs=inputs)
    denoiser, _ = load_weights(run(state), "bridge")
    conditions = (*seen, "mask", "gradient", "clock")
    denoiser = adapted(denoiser, dataclasses.replace(denoiser.config, conditions=conditions))
    g = torch.Generator().manual_seed(0)
    image, noise, x_t = torch.randn(3, 2, 3, 32, 32, generator=g).clamp(-1, 1)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    t = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1)
    context = denoiser.context(image, mask, torch.rand_like(mask), torch.ones(2) > 0, noise)
    s = t.expand_as(mask)
    with torch.no_grad():
        got = denoiser.x0_hat(x_t, t, s, context)
        start = image * (1 - mask) + noise * mask
        sees = torch.cat([x_t, start], 1) if seen else x_t
        level = LEVELS[(1000 * t.flatten()).round().long() - 1]
        sigma = (denoiser.config.schedule.total_var * s).sqrt()
        wanted = x_t - sigma * evaluate(state, SMALL, sees, level)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_files_of_the_older_format_of_torch_are_read(run, tmp_path):
    torch.save(GOOD, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    denoiser, _ = load_weights(run((tmp_path / "old.pt").read_bytes()), "bridge")
    assert torch.equal(denoiser.state_dict()["unet.out.2.bias"], GOOD["out.2.bias"])


class Foreign:
    pass


GOOD = random_state(SMALL)
WRONG = {
    "Python object": ({**GOOD, "options": Foreign()}, "other Python objects than tensors"),
    "not a checkpoint": (b"PK\x03\x04 but no archive", "cannot read"),
    "empty": (b"", "cannot read"),
    "list": ([1, 2], "expected tensors by name"),
    "a number": ({**GOOD, "step": 3}, "got other values than tensors"),
    "no tensors": ({"net": 3}, "I2SB's net and ema"),
    "too few averages": (i2sb_file(GOOD, {"a": torch.zeros(1)}), "shorter"),
    "no list of averages": (i2sb_file(GOOD, None), "I2SB's net and ema"),
}


@pytest.mark.parametrize("what", WRONG)
def test_other_files_are_refused_in_one_line(run, capsys, what):
    content, message = WRONG[what]
    out = run(content, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.import_adm: error: ") and message in line
    assert not out.exists()


def test_another_network_names_ten_differences(run, capsys):
    state = random_state(replace(SMALL, width=64))
    state["label_emb.weight"] = state.pop("out.0.bias")
    run(state, code=2)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.endswith("file.pt holds another network:") and len(lines) == 10
    assert lines[:3] == [
        "missing out.0.bias",
        "unexpected label_emb.weight",
        "time_embed.0.weight: expected (128, 32), got (256, 64)",
    ]


@pytest.mark.parametrize(
    "options, inputs, message",
    [
        (["--ot-ode"], 6, "sees the state alone for --ot-ode"),
        (["--beta-max", "0.05"], 3, "at least 0.1, got 0.05"),
        (["--beta-max", "nan"], 3, "at least 0.1, got nan"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, capsys, options, inputs, message):
    out = run(random_state(SMALL, inputs=inputs), *options, code=2)
    assert message in capsys.readouterr().err and not out.exists()


def i2sb_table(beta_max):
    """I2SB's variances: up to step n, n included, and from step n to the end."""
    betas = np.linspace(1e-4**0.5, (beta_max / 1000) ** 0.5, 1000) ** 2
    betas = np.concatenate([betas[:500], betas[:500][::-1]])
    return np.cumsum(betas), np.cumsum(betas[::-1])[::-1]


def integrals(beta_max, parts=200):
    """The same without intervals: sums over so many more, of the tent through both ends."""
    a, b = 0.1**0.5, peak(beta_max) ** 0.5
    middles = (np.arange(1000 * parts) + 0.5) / (1000 * parts)
    betas = (a + (b - a) * (1 - np.abs(1 - 2 * middles))) ** 2 / (1000 * parts)
    forward = np.cumsum(betas)[parts - 1 :: parts]
    return forward, forward[-1] - forward


@pytest.mark.parametrize("beta_max", [1.0, 0.3])
def test_variances_are_i2sbs_up_to_its_intervals(beta_max):
    table, closed = i2sb_table(beta_max)[0], integrals(beta_max)[0]
    assert abs(table - closed).max() < 6e-5
    schedule = BridgeConfig(beta_max=peak(beta_max)).schedule
    ours = schedule.var(torch.arange(1, 1001).double() / 1000, 0.5).numpy()
    np.testing.assert_allclose(ours, closed, atol=1e-8)


def i2sb_sample(state, x1, mask, steps, forward, draws, known):
    """I2SB's sampler, with clamped estimates; ``draws`` None is the OT-ODE."""
    x, states = x1, [x1]
    for i, (n, m) in enumerate(zip(steps, steps[1:], strict=False)):
        out = evaluate(state, SMALL, x, LEVELS[n].expand(len(x)))
        x0 = (x - forward[n] ** 0.5 * out).clamp(-1, 1)
        var_m = forward[m] if m is not None else 0.0
        delta = forward[n] - var_m
        x = (delta * x0 + var_m * x) / forward[n]
        if draws is not None and m:
            x = x + (var_m * delta / forward[n]) ** 0.5 * draws[i]
        x = torch.where(mask > 0, x, known[i + 1])
        states.append(x)
    return states


@pytest.mark.parametrize("sampler", ["posterior", "ode"])
@pytest.mark.parametrize("intervals", [False, True])
def test_with_one_half_everywhere_sampling_is_i2sbs(run, sampler, intervals):
    averages = random_state(SMALL, seed=3)
    options = ["--ot-ode"] if sampler == "ode" else []
    pipe = AsyncDSBPipeline.from_pretrained(
        run(i2sb_file(random_state(SMALL), averages), *options), device="cpu"
    )
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2 - 1
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 6:22] = 1
    settings = dict(strategy="uniform", tau_min=0.5, tau_max=0.5, steps=10, sampler=sampler)
    settings |= {"grid": "uniform"}
    _, states = pipe.trace(image, mask, [11], **settings)
    got = [state.x_t for state in states]

    g = torch.Generator().manual_seed(11)
    start, *draws = (torch.randn(1, 3, 32, 32, generator=g) for _ in range(10))
    x1 = image * (1 - mask) + mask * start
    # In I2SB's table t = 0 does not occur: it ends at the first entry.
    steps = [*range(999, 0, -100), 0 if intervals else None]
    forward, _ = i2sb_table(1.0) if intervals else integrals(1.0)
    # The sampler leaves the noise of known pixels open: it is taken from our run.
    with torch.no_grad():
        wanted = i2sb_sample(
            averages, x1, mask, steps, forward, draws if sampler == "posterior" else None, got
        )
    assert (got[-1] - got[0]).abs().max() > 1
    for ours, theirs in zip(got[:-1], wanted[:-1], strict=True):
        # Variances differ by 6e-5 at most and are 0.015 at least, sigma hence by 2.4e-4, times an
        # output of about 3. Without intervals only rounding is left.
        tolerance = 1e-3 if intervals else 1e-5
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    if intervals:
        # At its end I2SB keeps a share of the last state, which is not there at t = 0.
        share = forward[0] / forward[99]
        theirs = (wanted[-1] - share * wanted[-2]) / (1 - share)
        wanted[-1] = torch.where(mask > 0, theirs, wanted[-1])
    torch.testing.assert_close(got[-1], wanted[-1], atol=tolerance, rtol=0)


def test_known_pixels_have_i2sbs_law_at_each_time(run):
    pipe = AsyncDSBPipeline.from_pretrained(run(random_state(SMALL)), device="cpu")
    image, mask = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., :16, :16] = 1
    settings = dict(strategy="uniform", tau_min=0.5, tau_max=0.5, steps=4, grid="uniform")
    _, states = pipe.trace(image, mask, [0], **settings)
    forward, backward = integrals(1.0)
    for state in states:
        known = state.x_t[(mask == 0).expand_as(image)]
        n = round(1000 * float(state.t)) - 1
        std = (forward[n] * backward[n] / forward[-1]) ** 0.5 if n >= 0 else 0.0
        assert known.mean().abs() < 0.01 and known.std() == pytest.approx(std, rel=0.02, abs=1e-6)
