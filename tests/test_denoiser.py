"""Both forms of the denoiser, in float64, against conditioning written out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asyncdsb import bridge
from asyncdsb.denoiser import (
    CONDITIONS,
    LEVELS,
    PARAMETRISATIONS,
    BridgeConfig,
    BridgeDenoiser,
    Context,
)
from asyncdsb.networks import ADMConfig, UNetConfig
from asyncdsb.noise import COLOUR_AXES, MIDDLE, mirrored
from asyncdsb.photo.fill import FILLS
from asyncdsb.photo.tiles import Tiles
from asyncdsb.samplers import sample

TINY = UNetConfig(16, (1,), 1, (False,), 16)
SHAPE = (3, 3, 16, 16)

each_form = pytest.mark.parametrize("form", PARAMETRISATIONS)
each_bridge = pytest.mark.parametrize("stochastic", [True, False])
each_start = pytest.mark.parametrize("hole_noise", [0.0, 0.5, 1.0])


class Fixed(nn.Module):
    """Stands in for the UNet: returns what it is told to."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        assert torch.isfinite(x).all() and torch.isfinite(scalars).all()
        return self.output


class Recorder(nn.Module):
    """Stands in for the UNet: some function of all that it sees, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        self.seen.append((x, scalars))
        return torch.tanh(x.cumsum(1)[:, -3:] + scalars.sum(1).view(-1, 1, 1, 1))


@dataclasses.dataclass
class Scene:
    """A denoiser and one batch: the hole has rows 4 to 11 and columns 3 to 13."""

    denoiser: Any  # A BridgeDenoiser whose network may be replaced by one of the above.
    x0: Tensor
    context: Context
    z: Tensor
    tau: Tensor

    @property
    def total_var(self) -> float:
        return self.denoiser.config.schedule.total_var

    @property
    def hole(self) -> Tensor:
        return (self.context.mask > 0.5).expand_as(self.x0)

    def at(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """State, time and clock of the bridge."""
        time = torch.full((len(self.x0), 1, 1, 1), t, dtype=torch.float64)
        s = self.denoiser.config.schedule.clock(time, self.tau)
        z = self.z * self.context.stochastic
        return bridge.marginal(self.x0, self.context.x1, s, self.total_var, z), time, s


def scene(stochastic: bool = True, **config: Any) -> Scene:
    given: dict[str, Any] = {"unet": TINY, "fill": "harmonic"} | config
    denoiser = BridgeDenoiser(BridgeConfig(**given))
    g = torch.Generator().manual_seed(1)
    x0 = (torch.rand(SHAPE, generator=g) * 2 - 1).double()
    mask = torch.zeros(3, 1, 16, 16, dtype=torch.float64)
    mask[:, :, 4:12, 3:14] = 1
    gradient, tau = torch.rand(2, 3, 1, 16, 16, generator=g).double()
    noise, z = torch.randn(2, *SHAPE, generator=g).double()
    context = denoiser.context(x0, mask, gradient, torch.full((3,), stochastic), noise)
    return Scene(denoiser, x0, context, z, tau)


def conditioned(
    s: Tensor, sigma_data: float, total_var: float, hole_noise: float
) -> tuple[Tensor, Tensor]:
    """Gain and variance of e given d, from the covariance of both for every pixel's clock.

    Columns are independent sources of unit variance: e / sigma_d, the noise of x1, the bridge's z.
    """
    zero = torch.zeros_like(s)
    e = torch.stack([zero + sigma_data, zero, zero], -1)
    d = torch.stack([(1 - s) * sigma_data, s * hole_noise, (total_var * s * (1 - s)).sqrt()], -1)
    both = torch.stack([e, d], -2)
    covariance = both @ both.mT
    gain = covariance[..., 0, 1] / covariance[..., 1, 1]
    return gain, covariance[..., 0, 0] - gain * covariance[..., 1, 0]


@each_form
@each_bridge
@each_start
@pytest.mark.parametrize("sigma_data", [0.5, (0.8, 0.3, 0.1)], ids=str)
@pytest.mark.parametrize("t", [0.0, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_the_target_stands_for_x0_and_has_no_loss(
    form: str, stochastic: bool, hole_noise: float, sigma_data: Any, t: float
) -> None:
    this = scene(stochastic, parametrisation=form, hole_noise=hole_noise, sigma_data=sigma_data)
    x_t, time, s = this.at(t)
    rest = (this.context,)
    z = this.z * this.context.stochastic
    target = this.denoiser.form.target(this.x0, x_t, s, z, *rest)
    assert torch.isfinite(target).all()
    this.denoiser.unet = Fixed(target)
    estimate = this.denoiser.x0_hat(x_t, time, s, *rest)
    torch.testing.assert_close(estimate, this.x0, rtol=0, atol=1e-9)
    loss = this.denoiser.loss(this.x0, time, s, this.z, *rest)
    assert loss.shape == (3,) and loss.max() < 1e-20


@each_form
@pytest.mark.parametrize(("stochastic", "hole_noise"), [(True, 0.0), (True, 1.0), (False, 1.0)])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_the_loss_is_the_error_of_the_estimate_in_units_of_c_out(
    form: str, stochastic: bool, hole_noise: float, t: float
) -> None:
    """c_out^2 is M s in the score form, and the variance of e given d in EDM's."""
    this = scene(stochastic, parametrisation=form, hole_noise=hole_noise, sigma_data=0.7)
    x_t, time, s = this.at(t)
    rest = (this.context,)
    g = torch.Generator().manual_seed(5)
    this.denoiser.unet = Fixed(torch.randn(SHAPE, generator=g).double())
    variance = this.total_var * s
    if form == "edm":
        variance = conditioned(s, 0.7, stochastic * this.total_var, hole_noise)[1]
    squared = (this.denoiser.x0_hat(x_t, time, s, *rest) - this.x0) ** 2 / variance
    expected = torch.stack([one[hole].mean() for one, hole in zip(squared, this.hole, strict=True)])
    found = this.denoiser.loss(this.x0, time, s, this.z, *rest)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_an_axis_counts_as_much_as_its_colours_differ(t: float) -> None:
    """The loss is the mean over axes of their errors in units of c_out, weighted by sigma_d."""
    sigmas = (0.8, 0.3, 0.1)
    this = scene(sigma_data=sigmas)
    x_t, time, s = this.at(t)
    rest = (this.context,)
    g = torch.Generator().manual_seed(5)
    this.denoiser.unet = Fixed(torch.randn(SHAPE, generator=g).double())
    error = this.denoiser.x0_hat(x_t, time, s, *rest) - this.x0
    expected = torch.zeros(3, dtype=torch.float64)
    for axis, sigma in zip(COLOUR_AXES, sigmas, strict=True):
        along = sum(a * part for a, part in zip(axis, error.unbind(1), strict=True))
        variance = conditioned(s, sigma, this.total_var, 1.0)[1]
        share = this.context.mask * along[:, None] ** 2 / variance
        expected += sigma / sum(sigmas) * share.sum((1, 2, 3)) / this.context.mask.sum((1, 2, 3))
    found = this.denoiser.loss(this.x0, time, s, this.z, *rest)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("stochastic", "hole_noise"), [(True, 0.0), (True, 0.5), (False, 1.0)])
@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.99])
def test_edm_is_bayes_for_a_gaussian_unknown(stochastic: bool, hole_noise: float, t: float) -> None:
    """Output 0 is the posterior mean of e given d; output 1 adds its standard deviation."""
    this = scene(stochastic, hole_noise=hole_noise, sigma_data=0.4)
    x_t, time, s = this.at(t)
    gain, variance = conditioned(s, 0.4, stochastic * this.total_var, hole_noise)
    mean = this.context.fill + gain * (x_t - this.context.fill)
    for output in (0.0, 1.0):
        this.denoiser.unet = Fixed(torch.full_like(x_t, output))
        estimate = this.denoiser.x0_hat(x_t, time, s, this.context)
        expected = mean + output * variance.sqrt()
        torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("stochastic", "hole_noise"), [(True, 0.0), (True, 0.5), (False, 1.0)])
@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.99])
def test_edm_is_bayes_for_a_gaussian_unknown_whose_colours_hang_together(
    stochastic: bool, hole_noise: float, t: float
) -> None:
    """Every pixel's RGB covariance, inverted as a 3 x 3 matrix, gives what output 0 stands for."""
    sigmas = (0.8, 0.3, 0.1)
    this = scene(stochastic, hole_noise=hole_noise, sigma_data=sigmas)
    x_t, time, s = this.at(t)
    axes = torch.tensor(COLOUR_AXES, dtype=torch.float64)
    prior = axes.T @ torch.diag(torch.tensor(sigmas, dtype=torch.float64) ** 2) @ axes
    noise = stochastic * this.total_var * s * (1 - s) + s**2 * hole_noise**2
    keep = (1 - s).permute(0, 2, 3, 1)[..., None]
    seen = keep**2 * prior + noise.permute(0, 2, 3, 1)[..., None] * torch.eye(3).double()
    gain = keep * prior @ torch.linalg.inv(seen)
    d = (x_t - this.context.fill).permute(0, 2, 3, 1)[..., None]
    mean = this.context.fill + (gain @ d)[..., 0].permute(0, 3, 1, 2)
    self_information = prior - gain @ (keep * prior)
    for output in (0.0, 1.0):
        this.denoiser.unet = Fixed(torch.full_like(x_t, output))
        estimate = this.denoiser.x0_hat(x_t, time, s, this.context)
        along = torch.einsum("ij,bjhw->bihw", axes, estimate - mean)
        left = torch.einsum("ij,bhwjk,ik->bihw", axes, self_information, axes)
        torch.testing.assert_close(along**2, output * left, rtol=0, atol=1e-10)


def test_colour_axes_are_orthonormal() -> None:
    axes = torch.tensor(COLOUR_AXES, dtype=torch.float64)
    torch.testing.assert_close(axes @ axes.T, torch.eye(3).double(), rtol=0, atol=1e-15)


def test_nothing_is_known_at_the_start() -> None:
    """At s = 1 the posterior mean is the fill, whatever the noise in x1."""
    this = scene()
    x_t, time, s = this.at(1.0)
    assert s.min() > 1 - 1e-12
    this.denoiser.unet = Fixed(torch.zeros_like(x_t))
    estimate = this.denoiser.x0_hat(x_t, time, s, this.context)
    torch.testing.assert_close(estimate, this.context.fill, rtol=0, atol=1e-12)


@each_bridge
@pytest.mark.parametrize("t", [0.01, 0.4, 0.8, 1.0])
def test_input_and_target_have_unit_variance_for_unknowns_of_the_assumed_size(
    stochastic: bool, t: float
) -> None:
    """3 x 88 x 3 x 40 draws: the standard deviation of both variances is 0.008."""
    found = []
    for seed in range(40):
        this = scene(stochastic, sigma_data=0.5)
        g = torch.Generator().manual_seed(seed)
        e, z, noise = torch.randn(3, *SHAPE, generator=g).double()
        this.x0 = this.context.fill + this.context.mask * 0.5 * e
        x1 = this.context.fill + this.context.mask * noise
        this.context, this.z = dataclasses.replace(this.context, x1=x1), z
        x_t, time, s = this.at(t)
        rest = (this.context,)
        seen = this.denoiser.form.view(x_t, time, s, *rest).seen
        target = this.denoiser.form.target(this.x0, x_t, s, z * this.context.stochastic, *rest)
        found.append(torch.stack([seen[0][this.hole], target[this.hole]]))
    variances = torch.cat(found, 1).var(1)
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=0, atol=0.04)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 150.0])
def test_the_network_of_edm_sees_the_unknown_in_noise_and_its_level_only(sigma: float) -> None:
    """Whatever M, h and clock made e + sigma n, the network sees the same and says the same."""
    g = torch.Generator().manual_seed(2)
    n = torch.randn(SHAPE, generator=g).double()
    found = []
    for beta_max, hole_noise, stochastic in (
        (0.433, 1.0, True),
        (0.433, 0.0, True),
        (4.0, 0.3, True),
        (0.433, 0.2, False),
    ):
        this = scene(
            stochastic,
            beta_max=beta_max,
            hole_noise=hole_noise,
            conditions=("mask", "fill", "gradient", "position"),
        )
        level = torch.tensor(sigma, dtype=torch.float64)
        total_var = this.total_var * stochastic
        s = bridge.clock_at_level(level, total_var, hole_noise).expand_as(this.context.mask)
        fill = this.context.fill
        x_t = fill + (1 - s) * (this.x0 - fill + sigma * n)
        network = Recorder()
        this.denoiser.unet = network
        time = torch.full((3, 1, 1, 1), 0.123 + hole_noise / 3, dtype=torch.float64)
        estimate = this.denoiser.x0_hat(x_t, time, s, this.context)
        found.append((*network.seen[0], estimate * this.context.mask))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    log = (math.log(sigma) - math.log(LEVELS[0])) / (math.log(LEVELS[1]) - math.log(LEVELS[0]))
    pixels, scalars = found[0][:2]
    assert pixels[:, 3][this.hole[:, 0]].mean() == pytest.approx(log)
    assert pixels[:, 3][~this.hole[:, 0]].abs().max() == 0
    assert scalars[0].tolist() == pytest.approx([log, 88 / 256])


@each_form
def test_known_pixels_are_seen_as_they_are(form: str) -> None:
    this = scene(parametrisation=form, hole_noise=1.0)
    this.z = torch.zeros_like(this.z)
    x_t, time, s = this.at(0.6)
    seen = this.denoiser.form.view(x_t, time, s, this.context).seen
    torch.testing.assert_close(seen[0][~this.hole], this.x0[~this.hole], rtol=0, atol=1e-12)


def test_known_pixels_are_seen_along_the_axes_of_the_colours() -> None:
    this = scene(sigma_data=(0.8, 0.3, 0.1))
    x_t, time, s = this.at(0.6)
    seen = this.denoiser.form.view(x_t, time, s, this.context).seen
    red, green, blue = this.x0.unbind(1)
    known = (1 - this.context.mask[:, 0]).bool()
    expected = torch.stack([(red + green + blue) / 3**0.5, (red - blue) / 2**0.5], 1)
    for found, wanted in zip(seen[0].unbind(1), expected.unbind(1), strict=False):
        torch.testing.assert_close(found[known], wanted[known], rtol=0, atol=1e-12)


@each_form
@pytest.mark.parametrize("fill", FILLS)
def test_what_a_photograph_holds_under_its_mask_has_no_influence(form: str, fill: str) -> None:
    this = scene(parametrisation=form, fill=fill, conditions=tuple(CONDITIONS))
    g = torch.Generator().manual_seed(4)
    noise = torch.randn(SHAPE, generator=g)
    x0, mask, gradient = (x.float() for x in (this.x0, this.context.mask, this.context.gradient))
    this.denoiser.unet = Recorder()
    estimates = []
    for under in (0.0, 0.7, float("nan")):
        image = torch.where(mask > 0.5, torch.full_like(x0, under), x0)
        context = this.denoiser.context(image, mask, gradient, torch.ones(3).bool(), noise)
        _, time, s = this.at(0.7)
        found = this.denoiser.x0_hat(context.x1, time.float(), s.float(), context)
        estimates.append(found)
    assert torch.isfinite(estimates[0]).all()
    assert all(torch.equal(one, estimates[0]) for one in estimates)


@each_form
def test_only_the_hole_counts(form: str) -> None:
    this = scene(parametrisation=form)
    _, time, s = this.at(0.5)
    losses = []
    for outside in (0.0, 100.0):
        this.denoiser.unet = Fixed((1 - this.context.mask) * outside + torch.zeros_like(this.x0))
        losses.append(this.denoiser.loss(this.x0, time, s, this.z, this.context))
    assert torch.equal(*losses)


def test_position_tells_row_and_column() -> None:
    this = scene(conditions=("mask", "position"))
    assert this.denoiser.unet.in_channels == 4 + 1 + 2
    network = Recorder()
    this.denoiser.unet = network
    x_t, time, s = this.at(0.5)
    this.denoiser.x0_hat(x_t, time, s, this.context)
    row, column = network.seen[0][0][:, -2:].unbind(1)
    ramp = torch.arange(16).double() / 7.5 - 1
    torch.testing.assert_close(row, ramp.view(1, -1, 1).expand_as(row), rtol=0, atol=1e-6)
    torch.testing.assert_close(column, ramp.view(1, 1, -1).expand_as(row), rtol=0, atol=1e-6)


@each_form
def test_conditions_come_in_the_order_of_the_configuration(form: str) -> None:
    names = tuple(CONDITIONS)
    for conditions in (names, names[::-1]):
        this = scene(parametrisation=form, conditions=conditions)
        network = Recorder()
        this.denoiser.unet, wanted = network, this.denoiser.unet.in_channels
        x_t, time, s = this.at(0.5)
        this.denoiser.x0_hat(x_t, time, s, this.context, this.z)
        seen = network.seen[0][0]
        of_state = sum(this.denoiser.form.channels.values())
        assert seen.shape[1] == wanted == of_state + sum(CONDITIONS.values())
        parts = seen[:, of_state:].split([CONDITIONS[c] for c in conditions], 1)
        part = dict(zip(conditions, parts, strict=True))
        assert torch.equal(part["mask"], this.context.mask) and torch.equal(part["clock"], s)
        assert torch.equal(part["x1"], this.context.x1)
        assert torch.equal(part["fill"], this.context.fill)
        assert torch.equal(part["gradient"], this.context.gradient.sqrt())
        before = torch.where(this.hole, this.z, this.context.fill)
        assert torch.equal(part["estimate"], before)


@each_form
@pytest.mark.parametrize("sigma_data", [0.5, (0.8, 0.3, 0.1)], ids=str)
def test_skip_is_the_estimate_of_a_silent_network(form: str, sigma_data: Any) -> None:
    this = scene(parametrisation=form, conditions=("skip",), sigma_data=sigma_data)
    network = Recorder()
    this.denoiser.unet = network
    for t in (0.05, 0.5, 1.0):
        x_t, time, s = this.at(t)
        this.denoiser.x0_hat(x_t, time, s, this.context)
        view = this.denoiser.form.view(x_t, time, s, this.context)
        silent = view.x0_hat(torch.zeros_like(x_t))
        torch.testing.assert_close(network.seen[-1][0][:, -3:], silent, rtol=0, atol=1e-12)


def test_x1_is_hidden_in_the_bridge_without_noise() -> None:
    """x_t and x1 together would give x0 away there."""
    this = scene(stochastic=False, conditions=("x1",))
    network = Recorder()
    this.denoiser.unet = network
    x_t, time, s = this.at(0.5)
    this.denoiser.x0_hat(x_t, time, s, this.context)
    assert network.seen[0][0][:, -3:].abs().max() == 0


def test_a_run_goes_on_from_its_last_estimate() -> None:
    this = scene(conditions=("mask", "estimate"))
    network = Recorder()
    this.denoiser.unet = network
    denoise, known = this.denoiser.bind(this.context), this.context.fill
    estimates = [known, *(denoise(*this.at(t)) for t in (1.0, 0.7, 0.3))]
    for (seen, _), last in zip(network.seen, estimates, strict=False):
        assert torch.equal(seen[:, -3:], torch.where(this.hole, last, known))
    # Of another run nothing is left.
    assert torch.equal(this.denoiser.bind(this.context)(*this.at(1.0)), estimates[1])


def test_on_tiles_a_run_goes_on_from_its_last_estimate() -> None:
    this = scene(conditions=("mask", "estimate"))
    context = Context(*(getattr(this.context, f.name)[:1] for f in dataclasses.fields(Context)))
    this.denoiser.unet = network = Recorder()
    tiles = Tiles.over((context.mask[0, 0] > 0.5).numpy(), 8)
    denoise, last = this.denoiser.bind(context, tiles), context.fill
    for t in (1.0, 0.7, 0.3):
        x_t, time, s = (x[:1] for x in this.at(t))
        found = denoise(x_t, time, s)
        assert torch.equal(network.seen[-1][0][:, -3:], tiles.cut(last))
        last = torch.where(this.hole[:1], found, context.fill)


@pytest.mark.parametrize("hole_noise, tiled", [(1.0, False), (1.0, True), (0.0, False)])
def test_a_guide_moves_the_estimates_of_guided_levels_away_from_its_own(
    hole_noise: float, tiled: bool
) -> None:
    conditions = ("mask", "estimate", "membrane")
    guidance: dict[str, Any] = {"guide": TINY, "guidance": 1.5, "guidance_interval": (0.4, 2.5)}
    guidance |= {"hole_noise": hole_noise}
    this = scene(conditions=conditions, **guidance)
    whole = this.context
    context = Context(*(getattr(whole, f.name)[:1] for f in dataclasses.fields(Context)))
    this.denoiser.unet, this.denoiser.guide = network, guide = Recorder(), Recorder()
    tiles = Tiles.over((context.mask[0, 0] > 0.5).numpy(), 16) if tiled else None
    denoise, last, guided = this.denoiser.bind(context, tiles), context.fill, 0
    for t in (1.0, 0.9, 0.6, 0.3, 0.1):
        x_t, time, s = (x[:1] for x in this.at(t))
        own = this.denoiser.x0_hat(x_t, time, s, context, last).clamp(-1, 1)
        seen, scalars = network.seen.pop()
        found = denoise(x_t, time, s)
        # x0_hat is linear in the output: the state with an output of 0, and that of 1 over it.
        this.denoiser.unet = Fixed(torch.zeros_like(x_t))
        offset = this.denoiser.x0_hat(x_t, time, s, context, last)
        this.denoiser.unet = Fixed(torch.ones_like(x_t))
        slope = this.denoiser.x0_hat(x_t, time, s, context, last) - offset
        this.denoiser.unet = network
        # The guide sees no estimate, which lies between the mask and the membrane here.
        shown = torch.cat([seen[:, :5], seen[:, 8:]], dim=1)
        worse = (offset + slope * guide(shown, scalars)).clamp(-1, 1)
        noise = this.total_var * s * (1 - s) + (hole_noise * s) ** 2
        level = torch.where(s < 1, noise.sqrt() / (1 - s), math.inf)
        within = (level >= 0.4) & (level <= 2.5) & this.hole[:1]
        wanted = torch.where(within, own + 1.5 * (own - worse), own).clamp(-1, 1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        guided += int(within.sum())
        # It goes on from its own estimate.
        torch.testing.assert_close(network.seen.pop()[0], seen, rtol=0, atol=1e-12)
        last = own
    assert guided > 200 and not within.any()


@pytest.mark.parametrize(
    "config, said",
    [
        ({"guidance": 1.0}, "a guide if it is not 0"),
        ({"guidance": -1.0, "guide": TINY}, "a finite guidance >= 0"),
        ({"guidance": math.nan, "guide": TINY}, "a finite guidance >= 0"),
        ({"guidance_interval": (2.0, 1.0)}, "two rising levels > 0"),
        ({"guidance_interval": (0.0, 1.0)}, "two rising levels > 0"),
    ],
)
def test_guidance_needs_a_guide_and_levels(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BridgeConfig(unet=TINY, **config)


def test_a_network_learns_from_its_own_estimate() -> None:
    this = scene(conditions=("mask", "estimate"))
    network = Recorder()
    this.denoiser.unet = network
    x_t, time, s = this.at(0.5)
    own = this.denoiser.x0_hat(x_t, time, s, this.context).clamp(-1, 1)
    network.seen.clear()
    this.denoiser.loss(this.x0, time, s, this.z, this.context)
    this.denoiser.loss(this.x0, time, s, this.z, this.context, self_conditioned=True)
    first, *second = (seen[:, -3:] for seen, _ in network.seen)
    fill = this.context.fill
    for found, wanted in zip((first, *second), (fill, fill, own), strict=True):
        assert torch.equal(found, torch.where(this.hole, wanted, fill))


def test_its_own_estimate_leaves_the_gradient_of_mixed_precision_alone() -> None:
    """Autocast keeps weights that it has cast; those cast without a gradient must not be used."""
    learned = []
    for conditions in (("mask", "estimate"), ("mask",)):
        torch.manual_seed(0)
        this = scene(conditions=conditions)
        inputs = [getattr(this.context, f.name).float() for f in dataclasses.fields(Context)]
        _, time, s = this.at(0.5)
        with torch.autocast("cpu", torch.bfloat16):
            rest = time.float(), s.float(), this.z.float(), Context(*inputs)
            this.denoiser.loss(this.x0.float(), *rest, self_conditioned=True).mean().backward()
        grads = [p.grad for p in this.denoiser.unet.parameters()]
        learned.append(sum(g is not None and bool(g.abs().max() > 0) for g in grads))
    assert learned[0] == learned[1] > 1


@each_form
@pytest.mark.parametrize("sampler", ["posterior", "implicit", "ode"])
def test_inputs_stay_bounded_on_a_whole_run(form: str, sampler: str) -> None:
    this = scene(sampler != "ode", parametrisation=form, conditions=("mask", "fill", "x1"))
    values = {f.name: getattr(this.context, f.name).float() for f in dataclasses.fields(Context)}
    context = Context(**values)
    network = Recorder()
    this.denoiser.unet = network
    states = sample(
        this.denoiser.bind(context),
        context.x1,
        context.mask,
        this.tau.float(),
        this.denoiser.config.schedule,
        steps=10,
        sampler=sampler,
        eta=0.0,
        generators=[torch.Generator().manual_seed(i) for i in range(3)],
    )
    last = list(states)[-1].x_t
    assert torch.isfinite(last).all() and last.abs().max() <= 1
    assert len(network.seen) == 10
    assert max(float(x.abs().max()) for x, _ in network.seen) < 8
    assert all(bool(((s >= 0) & (s <= 1)).all()) for _, s in network.seen)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conditions": ("mask", "depth")}, "conditions out of mask.*got depth"),
        ({"bridges": ("noisy",)}, "bridges out of stochastic.*got noisy"),
        ({"parametrisation": "velocity"}, "parametrisation out of score, edm, got velocity"),
        ({"fill": "blur"}, "fill out of zero.*got blur"),
        ({"window": "whole"}, "window out of hole, head, got whole"),
        ({"finish": "paint"}, "finish out of none, patches, got paint"),
        ({"unet": ADMConfig()}, "score form and one bridge for an ADM network.*got edm and 2"),
    ],
    ids=str,
)
@each_form
def test_nonsense_is_refused_in_every_form(form: str, change: dict, said: str) -> None:
    if "unet" in change and form == "score":
        said = "score form and one bridge for an ADM network.*got score and 2"
    with pytest.raises(ValueError, match=said):
        BridgeConfig(**({"parametrisation": form} | change))


@each_form
@pytest.mark.parametrize("conditions", [(), ("mask", "x1")])
def test_samplers_follow_the_trained_bridges(form: str, conditions: tuple[str, ...]) -> None:
    def samplers(*bridges: str) -> tuple[str, ...]:
        config = BridgeConfig(parametrisation=form, conditions=conditions, bridges=bridges)
        return config.samplers

    noisy = ("posterior", "implicit") if conditions else ("posterior",)
    assert samplers("stochastic") == noisy
    assert samplers("deterministic") == ("ode",)
    assert samplers("stochastic", "deterministic") == (*noisy, "ode")


@pytest.mark.parametrize("temperature", [1.0, 0.5, (0.9, 0.4, 0.0)], ids=str)
def test_the_temperature_scales_the_noise_along_the_axes_of_colour(temperature: Any):
    network = BridgeDenoiser(BridgeConfig(unet=TINY, temperature=temperature))
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes = torch.tensor(COLOUR_AXES, dtype=torch.float64)
    factors = torch.tensor(network.config.temperatures, dtype=torch.float64).expand(3)
    wanted = torch.einsum("ai,a,aj,bjhw->bihw", axes, factors, axes, noise)
    assert torch.allclose(network.start_noise(noise), wanted, atol=1e-6)
    if temperature == 1.0:
        assert (network.start_noise(noise) == noise).all()


@pytest.mark.parametrize("end", [0.0, 3.0, 100.0])
@pytest.mark.parametrize("fine", [1.0, 1.1])
def test_above_a_frequency_the_temperature_is_another(end: float, fine: float):
    temperatures: dict[str, Any] = {"temperature": (0.9, 0.4, 0.0), "fine_temperature": fine}
    config = BridgeConfig(unet=TINY, temperature_end=end, **temperatures)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    everywhere = BridgeDenoiser(dataclasses.replace(config, temperature_end=None))
    found = torch.fft.fft2(BridgeDenoiser(config).start_noise(noise))
    rows, columns = (torch.fft.fftfreq(side, 1 / side) for side in SHAPE[2:])
    coarse = (rows[:, None] ** 2 + columns**2).sqrt() < end
    low, high = torch.fft.fft2(everywhere.start_noise(noise)), torch.fft.fft2(fine * noise)
    torch.testing.assert_close(found, torch.where(coarse, low, high), atol=1e-9, rtol=0)


@pytest.mark.parametrize("temperature", [-0.1, 1.1, math.nan, (1.0, 1.0)], ids=str)
def test_temperatures_are_checked(temperature: Any):
    with pytest.raises(ValueError, match="temperatures"):
        BridgeConfig(temperature=temperature)


@pytest.mark.parametrize(("size", "lowest"), [((32, 32), 4.0), ((24, 40), 3.0), ((17, 33), 4.0)])
def test_mirrored_noise_is_white_and_its_halves_alike(size: tuple[int, int], lowest: float):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1500, 1, *size, generator=generator, dtype=torch.float64)
    found = mirrored(noise, lowest)
    assert found.shape == noise.shape
    # Modes below the frequency are those of the noise itself.
    rows, columns = (torch.fft.fftfreq(side, 1 / side) for side in size)
    coarse = (rows[:, None] ** 2 + columns**2).sqrt() < lowest
    change = torch.fft.fft2(found - noise)[:, 0]
    assert change[:, coarse].abs().max() < 1e-9
    assert change[:, ~coarse].abs().mean() > 0.1
    # Neighbours do not correlate anywhere, and the variance is 1: the denoiser's assumption.
    assert (found.var(0) - 1).abs().max() < 0.2
    for axis in (1, 2):
        pairs = (found * found.roll(1, axis + 1)).mean(0)[0]
        inner = pairs.narrow(axis - 1, 1, size[axis - 1] - 1)
        assert inner.abs().max() < 0.2
        assert inner.abs().mean() < 0.03
    # The halves are nearly each other's mirror image, the middle is not.
    alike = (found * found.flip(3)).mean(0)[0]
    outer = int(size[1] * (0.5 - MIDDLE[1])) - 1
    assert alike[:, :outer].mean() > 0.85
    if size[1] % 2 == 0:
        assert alike[:, size[1] // 2].abs().mean() < 0.2


def test_a_run_mirrors_its_noise_where_the_configuration_says_so():
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    network = BridgeDenoiser(BridgeConfig(unet=TINY, mirrored=2.0, temperature=0.5))
    assert torch.equal(network.start_noise(noise), 0.5 * mirrored(noise, 2.0))
    assert torch.equal(BridgeDenoiser(BridgeConfig(unet=TINY)).start_noise(noise), noise)


@pytest.mark.parametrize("name", ["mirrored", "temperature_end", "fine_temperature"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_numbers_of_the_noise_are_checked(name: str, value: float):
    change: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} >= 0"):
        BridgeConfig(**change)
