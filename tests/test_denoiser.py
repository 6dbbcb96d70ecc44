import dataclasses
import itertools

import pytest
import torch
from torch import nn

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.networks import UNetConfig
from asyncdsb.samplers import sample

TINY = UNetConfig(16, (1,), 1, (False,), 16)
CASES = [
    (parametrisation, stochastic, x1, hole_noise)
    for parametrisation, stochastic, x1, hole_noise in itertools.product(
        ("wiener", "score"), (True, False), (True, False), (0.5, 1.0)
    )
]


class Fixed(nn.Module):
    """Stands in for the UNet: returns what it is told to."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, scalars):
        assert torch.isfinite(x).all() and torch.isfinite(scalars).all()
        return self.output


def make(parametrisation, stochastic, x1, hole_noise, batch=3, gradient=None):
    conditions = ("mask", "gradient", "fill") + (("x1",) if x1 else ())
    config = BridgeConfig(
        unet=TINY, conditions=conditions, parametrisation=parametrisation, hole_noise=hole_noise
    )
    denoiser = BridgeDenoiser(config)
    g = torch.Generator().manual_seed(1)
    shape = (batch, 3, 16, 16)
    x0 = (torch.rand(shape, generator=g) * 2 - 1).double()
    mask = torch.zeros(batch, 1, 16, 16, dtype=torch.float64)
    mask[:, :, 4:12, 3:14] = 1
    if gradient is None:
        gradient = torch.rand(batch, 1, 16, 16, generator=g).double() ** 4
    else:
        gradient = torch.full_like(mask, gradient)
    noise, z = torch.randn(2, *shape, generator=g).double()
    context = denoiser.context(x0, mask, gradient, torch.full((batch,), stochastic), noise)
    return denoiser, x0, context, z, g


def unit_prior(context):
    """The context with the same prior everywhere: r = q = 1."""
    one = torch.ones_like(context.mask)
    return dataclasses.replace(context, relief=one, tone=one)


def fix(denoiser, output, detail=None):
    """Replace the UNet; in the Wiener form ``output`` is o2 and ``detail`` o1."""
    if denoiser.config.parametrisation == "wiener":
        detail = torch.zeros_like(output) if detail is None else detail
        output = torch.cat([detail, output], dim=1)
    denoiser.unet = Fixed(output)


def predict(denoiser, output, *args):
    fix(denoiser, output)
    return denoiser.x0_hat(*args)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("t", [1e-3, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_output_that_gives_x0_has_zero_loss(case, t):
    """x0_hat and loss are two sides of one parametrisation."""
    denoiser, x0, context, z, g = make(*case)
    schedule = denoiser.config.schedule
    tau = torch.rand(x0[:, :1].shape, generator=g).double()
    time = torch.full((len(x0), 1, 1, 1), t, dtype=torch.float64)
    s = schedule.clock(time, tau)
    std = (schedule.total_var * s * (1 - s)).sqrt()
    x_t = (1 - s) * x0 + s * context.x1 + std * z * context.stochastic
    args = (x_t, time, s, context, schedule.total_var)
    at_zero = predict(denoiser, torch.zeros_like(x0), *args)
    units = torch.eye(3, dtype=torch.float64).view(3, 1, 3, 1, 1).expand(3, *x0.shape)
    effects = torch.stack([predict(denoiser, unit, *args) - at_zero for unit in units])
    # x0_hat is affine in the output, pixel by pixel: solve the 3x3 system of each pixel.
    matrix, wanted = effects.permute(1, 3, 4, 2, 0), (x0 - at_zero).permute(0, 2, 3, 1)
    output = torch.linalg.solve(matrix, wanted[..., None])[..., 0].permute(0, 3, 1, 2)
    fix(denoiser, output)
    loss, _ = denoiser.loss(x0, time, s, z, context, schedule.total_var)
    assert loss.shape == (len(x0),)
    assert loss.max() < 1e-7  # the colour axes are float32


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("x1", [True, False])
@pytest.mark.parametrize("s", [0.02, 0.3, 0.7, 0.99])
def test_zero_output_is_the_gaussian_conditional_mean(stochastic, x1, s):
    """Reference: joint covariance of (e, x_t - s x1 or x_t) for one pixel, conditioned directly."""
    denoiser, x0, context, z, _ = make("wiener", stochastic, x1, 0.5)
    context = unit_prior(context)
    h, m = 0.5, 0.247 * stochastic
    # The prior of a pixel's colour: independent along the axes, hence a full covariance in RGB.
    axes = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    prior = axes.T @ torch.diag(torch.tensor(denoiser.config.residual_std).double() ** 2) @ axes
    s_map = torch.full_like(x0[:, :1], s)
    x_t = (1 - s) * x0 + s * context.x1 + (m * s * (1 - s)) ** 0.5 * z
    estimate = predict(
        denoiser, torch.zeros_like(x0), x_t, s_map[:, :, :1, :1], s_map, context, 0.247
    )
    seen = x1 and stochastic
    observed = x_t - (s * context.x1 + (1 - s) * context.fill if seen else context.fill)
    noise = (m * s * (1 - s) + (0 if seen else (s * h) ** 2)) * torch.eye(3).double()
    gain = (1 - s) * prior @ torch.linalg.inv((1 - s) ** 2 * prior + noise)
    expected = context.fill + torch.einsum("ij,bjhw->bihw", gain, observed)
    inside = (context.mask > 0).expand_as(x0)
    torch.testing.assert_close(estimate[inside], expected[inside], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("t", [0.01, 0.4, 0.8, 1.0])
def test_targets_have_unit_variance_for_residuals_of_the_assumed_size(stochastic, t):
    denoiser, _, context, z, g = make("wiener", stochastic, True, 0.5, batch=64, gradient=0.1)
    std = torch.tensor(denoiser.config.residual_std).double().view(1, 3, 1, 1)
    along_axes = torch.randn(z.shape, generator=g).double() * std
    residual = torch.einsum("ij,bihw->bjhw", denoiser.axes.double(), along_axes)
    context = unit_prior(context)
    x0 = context.fill + context.mask * residual
    time = torch.full((64, 1, 1, 1), t, dtype=torch.float64)
    s = denoiser.config.schedule.clock(time, torch.full_like(context.mask, 0.4))
    fix(denoiser, torch.zeros_like(x0))
    loss, _ = denoiser.loss(x0, time, s, z, context, denoiser.config.schedule.total_var)
    assert loss.mean() == pytest.approx(1, abs=0.05)  # 64 * 88 * 3 draws: sd of the mean 0.011


@pytest.mark.parametrize(
    ("gradient", "expected"), [(0.0, 1 / 50), (0.1, 1), (0.05, 0.5**1.1), (1.0, 5 / 4)]
)
def test_the_prior_follows_gradient_and_depth(gradient, expected):
    _, _, context, _, _ = make("wiener", True, True, 0.5, gradient=gradient)
    # The hole has rows 4 to 11 and columns 3 to 13.
    for (row, column), depth in {(4, 7): 1, (5, 7): 2, (7, 7): 4, (7, 3): 1, (0, 0): 1}.items():
        relief, tone = (float(x[0, 0, row, column]) for x in (context.relief, context.tone))
        assert relief == pytest.approx(0.72 * expected * depth**0.2)
        assert tone == pytest.approx((relief**2 + (0.0375 * depth) ** 2) ** 0.5)


@pytest.mark.parametrize("gradient", [0.0, 0.02, 0.5])
def test_detail_and_tone_count_in_units_of_their_priors(gradient):
    denoiser, x0, context, z, g = make("wiener", True, True, 0.5, gradient=gradient)
    time = torch.full((len(x0), 1, 1, 1), 0.6, dtype=torch.float64)
    s = denoiser.config.schedule.clock(time, torch.full_like(context.mask, 0.5))
    x_t = (1 - s) * x0 + s * context.x1 + 0.2 * z * context.mask
    args = (x_t, time, s, context, 0.247)
    change = torch.randn(x0.shape, generator=g).double()
    nothing = predict(denoiser, torch.zeros_like(x0), *args)
    tone = predict(denoiser, change, *args) - nothing
    fix(denoiser, torch.zeros_like(x0), detail=change)
    detail = denoiser.x0_hat(*args) - nothing
    torch.testing.assert_close(detail * context.tone, context.relief * tone)


def test_only_the_hole_counts():
    denoiser, x0, context, z, _ = make("wiener", True, True, 0.5)
    time = torch.full((len(x0), 1, 1, 1), 0.5, dtype=torch.float64)
    s = denoiser.config.schedule.clock(time, torch.full_like(context.mask, 0.5))
    losses = []
    for outside in (0.0, 100.0):
        fix(denoiser, (1 - context.mask) * outside + torch.zeros_like(x0))
        losses.append(denoiser.loss(x0, time, s, z, context, 0.247)[0])
    assert torch.equal(*losses)


@pytest.mark.parametrize("sampler", ["posterior", "implicit", "multistep", "ode"])
def test_what_the_network_sees_does_not_depend_on_the_bridge_noise_it_cannot_use(sampler):
    """d and nu carry the same law for every M: the network's inputs stay bounded on a whole run."""
    denoiser, x0, context, _, _ = make("wiener", sampler != "ode", True, 0.5)
    context = type(context)(*(v if v is None else v.float() for v in vars(context).values()))
    inputs = []

    class Spy(nn.Module):
        def forward(self, x, scalars):
            inputs.append(x)
            return torch.zeros(x.shape[0], 6, *x.shape[2:])

    denoiser.unet = Spy()
    tau = torch.rand(context.mask.shape, generator=torch.Generator().manual_seed(3))
    states = sample(
        denoiser.bind(context, 0.247),
        context.x1,
        context.mask,
        tau,
        denoiser.config.schedule,
        steps=10,
        sampler=sampler,
        eta=0.0,
        generators=[torch.Generator().manual_seed(i) for i in range(3)],
    )
    assert torch.isfinite(list(states)[-1].x_t).all()
    assert max(float(x.abs().max()) for x in inputs) < 8


def test_configuration_is_checked():
    with pytest.raises(ValueError, match="conditions out of mask.*got depth"):
        BridgeConfig(conditions=("mask", "depth"))
    with pytest.raises(ValueError, match="at least one bridge"):
        BridgeConfig(bridges=())
    with pytest.raises(ValueError, match="parametrisation"):
        BridgeConfig(parametrisation="velocity")


def test_samplers_follow_the_trained_bridges():
    assert BridgeConfig().samplers == ("posterior", "implicit", "multistep", "ode")
    assert BridgeConfig(bridges=("stochastic",)).samplers == ("posterior", "implicit", "multistep")
    assert BridgeConfig(bridges=("deterministic",)).samplers == ("ode",)
