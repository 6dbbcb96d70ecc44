"""The bridge's identities, exact in float64 and pixel by pixel.

Everything in the bridge is linear in (x0, x1, noise). A random variable is therefore written here
as its vector of coefficients, one sample of the batch per source: x0, x1, z_n, z_m. Passing these
through the bridge's functions gives exact means, variances and covariances, without a random draw.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from asyncdsb.bridge import (
    extrapolated,
    implicit_step,
    marginal,
    posterior_step,
    target,
    x0_from_target,
)
from asyncdsb.schedule import NoiseSchedule

TAU = torch.tensor([0.0, 1e-9, 0.001, 0.2, 0.37, 0.5, 0.8, 1.0], dtype=torch.float64)
TAU = TAU.view(1, 1, 2, 4)
SCHEDULES = (NoiseSchedule(), NoiseSchedule(0.001, 4.0), NoiseSchedule(0.404858, 1.753036))
STEPS = ((1.0, 0.9), (1.0, 0.0), (0.9, 0.5), (0.51, 0.5), (0.5, 0.001), (0.3, 0.0), (0.01, 0.002))
ETAS = (0.0, 0.3, 0.7, 1.0)

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
each_step = pytest.mark.parametrize("times", STEPS, ids=str)


def sources(height: int = 2, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, x1, z_n, z_m as unit vectors, (4, 1, H, W) each, the batch running over the sources."""
    unit = torch.eye(4, dtype=torch.float64)[:, :, None, None, None]
    return tuple(unit[i].expand(4, 1, height, width) for i in range(4))


def images(channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random x0, x1, z, (5, C, 2, 4)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 5, channels, 2, 4)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator))


def close(got: Tensor, expected: Tensor | float, atol: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=got.dtype).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def check_marginal(x: Tensor, s: Tensor, total_var: float) -> None:
    """Assert that coefficients x are those of Eq. 6 at clock s in law: mean and variance."""
    close(x[0], (1 - s)[0])
    close(x[1], s[0])
    close((x[2:] ** 2).sum(0), (total_var * s * (1 - s))[0])


@each_schedule
@pytest.mark.parametrize("t", [0.0, 0.001, 0.4, 0.5, 0.99, 1.0])
def test_marginal_is_eq_6_in_the_papers_symbols(schedule: NoiseSchedule, t: float) -> None:
    var, var_bar = schedule.var(t, TAU), schedule.var_bar(t, TAU)
    x0, x1, z = images()
    expected = (var_bar * x0 + var * x1) / (var + var_bar)
    expected = expected + var.sqrt() * var_bar.sqrt() / (var + var_bar).sqrt() * z
    s = schedule.clock(t, TAU)
    # sqrt(1 - s) turns rounding of s near 1 into sqrt(eps).
    close(marginal(x0, x1, s, schedule.total_var, z), expected, 1e-7 if t == 1 else 1e-12)


@each_schedule
@each_step
def test_posterior_of_the_marginal_is_the_earlier_marginal(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0, x1, z_n, z_m = sources()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    total = schedule.total_var
    x_n = marginal(x0, x1, s_n, total, z_n)
    x_m = posterior_step(x_n, x0, s_n, s_m, total, z_m)
    check_marginal(x_m, s_m, total)
    # The joint law of both times too: a Brownian bridge has covariance M s_m (1 - s_n).
    close((x_m * x_n)[2:].sum(0), (total * s_m * (1 - s_n))[0])


@each_schedule
@each_step
@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_keeps_the_marginals(
    schedule: NoiseSchedule, times: tuple[float, float], eta: float
) -> None:
    x0, x1, z_n, z_m = sources()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    total = schedule.total_var
    x_n = marginal(x0, x1, s_n, total, z_n)
    check_marginal(implicit_step(x_n, x0, x1, s_n, s_m, total, eta, z_m), s_m, total)


@each_schedule
@each_step
def test_ode_step_of_the_noise_free_marginal_is_the_earlier_one(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0, x1, _ = images()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    x_n = marginal(x0, x1, s_n, schedule.total_var, None)
    got = posterior_step(x_n, x0, s_n, s_m, schedule.total_var, None)
    close(got, (1 - s_m) * x0 + s_m * x1)
    # M drops out of the ODE.
    assert torch.equal(got, posterior_step(x_n, x0, s_n, s_m, 17.0, None))


@each_schedule
@each_step
def test_implicit_step_with_eta_one_is_the_posterior_step(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0_hat, x1, z = images()
    x_n = images(seed=1)[0]
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    if times[0] == 1:
        x_n = x1  # At s = 1 there is but one state.
    expected = posterior_step(x_n, x0_hat, s_n, s_m, schedule.total_var, z)
    got = implicit_step(x_n, x0_hat, x1, s_n, s_m, schedule.total_var, 1.0, z)
    close(got, expected, 1e-10)


@each_schedule
def test_implicit_step_with_eta_zero_draws_no_noise(schedule: NoiseSchedule) -> None:
    x0_hat, x1, z = images()
    s_n, s_m = schedule.clock(0.7, TAU), schedule.clock(0.2, TAU)
    step = [implicit_step(z, x0_hat, x1, s_n, s_m, schedule.total_var, 0.0, n) for n in (z, -z)]
    assert torch.equal(*step)


@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_from_the_start_is_the_posterior_step(eta: float) -> None:
    x0_hat, x1, z = images()
    s_m = NoiseSchedule().clock(0.8, TAU)
    s_n = torch.ones_like(s_m)
    got = implicit_step(x1, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    close(got, posterior_step(x1, x0_hat, s_n, s_m, 0.247, z))


@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_decides_about_the_start_pixel_by_pixel(eta: float) -> None:
    x0_hat, x1, z = images()
    s_n = torch.tensor([1.0, 0.9, 1.0, 0.5, 1 - 2.0**-52, 0.1, 0.0, 1.0], dtype=torch.float64)
    s_n = s_n.view(1, 1, 2, 4)
    s_m = 0.6 * s_n
    x_n = marginal(x0_hat, x1, s_n, 0.247, images(seed=2)[0])
    whole = implicit_step(x_n, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    assert bool(torch.isfinite(whole).all())
    for row in range(2):
        for column in range(4):
            at = (..., slice(row, row + 1), slice(column, column + 1))
            parts = (v[at] for v in (x_n, x0_hat, x1, s_n, s_m))
            close(implicit_step(*parts, 0.247, eta, z[at]), whole[at])


@each_schedule
@pytest.mark.parametrize("t", [1e-6, 0.001, 0.4, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("noisy", [True, False])
def test_target_is_the_scaled_distance_to_x0(
    schedule: NoiseSchedule, t: float, noisy: bool
) -> None:
    x0, x1, z = images()
    noise = z if noisy else None
    s = schedule.clock(t, TAU)
    x_t = marginal(x0, x1, s, schedule.total_var, noise)
    expected = (x_t - x0) / schedule.var(t, TAU).sqrt()
    close(target(x0, x1, s, schedule.total_var, noise), expected, 1e-9)


def test_target_is_bounded_down_to_the_clean_image() -> None:
    x0, x1, z = images()
    zero = torch.zeros_like(TAU)
    assert torch.equal(target(x0, x1, zero, 0.247, z), z)
    assert torch.equal(target(x0, x1, zero, 0.247, None), torch.zeros_like(z))


@each_schedule
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("noisy", [True, False])
def test_target_and_x0_are_a_round_trip(schedule: NoiseSchedule, t: float, noisy: bool) -> None:
    x0, x1, z = images()
    noise, total = z if noisy else None, schedule.total_var
    s = schedule.clock(t, TAU)
    x_t = marginal(x0, x1, s, total, noise)
    close(x0_from_target(x_t, target(x0, x1, s, total, noise), s, total), x0)


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
def test_constant_tau_map_is_the_scalar_bridge(tau: float) -> None:
    schedule = NoiseSchedule()
    x0, x1, z = images()
    total = schedule.total_var
    tau_map = torch.full((5, 1, 2, 4), tau, dtype=torch.float64)
    s_n, s_m = schedule.clock(0.6, tau), schedule.clock(0.4, tau)
    map_n, map_m = schedule.clock(0.6, tau_map), schedule.clock(0.4, tau_map)
    close(marginal(x0, x1, map_n, total, z), marginal(x0, x1, s_n, total, z))
    close(target(x0, x1, map_n, total, z), target(x0, x1, s_n, total, z))
    close(x0_from_target(x0, x1, map_n, total), x0_from_target(x0, x1, s_n, total))
    close(
        posterior_step(x0, x1, map_n, map_m, total, z), posterior_step(x0, x1, s_n, s_m, total, z)
    )
    close(
        implicit_step(x0, x1, z, map_n, map_m, total, 0.4, z),
        implicit_step(x0, x1, z, s_n, s_m, total, 0.4, z),
    )


def test_end_points_are_exact() -> None:
    x0, x1, z = images()
    zero, one = torch.zeros_like(TAU), torch.ones_like(TAU)
    assert torch.equal(marginal(x0, x1, zero, 0.247, z), x0)
    assert torch.equal(marginal(x0, x1, one, 0.247, z), x1)


@pytest.mark.parametrize("s_n", [1.0, 0.5, 1e-12, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_last_step_lands_on_the_estimate(s_n: float, dtype: torch.dtype) -> None:
    x0_hat, x1, z = (v.to(dtype) for v in images())
    s_n = torch.full((1, 1, 2, 4), s_n, dtype=dtype)
    zero = torch.zeros_like(s_n)
    x_n = marginal(x0_hat, x1, s_n, 0.247, z)
    assert torch.equal(posterior_step(x_n, x0_hat, s_n, zero, 0.247, z), x0_hat)
    assert torch.equal(posterior_step(x_n, x0_hat, s_n, zero, 0.247, None), x0_hat)
    for eta in ETAS:
        assert torch.equal(implicit_step(x_n, x0_hat, x1, s_n, zero, 0.247, eta, z), x0_hat)


@pytest.mark.parametrize("s", [1e-9, 0.2, 0.5, 0.999])
def test_step_of_no_length_changes_nothing(s: float) -> None:
    x0_hat, x1, z = images()
    x_n = images(seed=1)[0]
    s = torch.full_like(TAU, s)
    close(posterior_step(x_n, x0_hat, s, s, 0.247, z), x_n)
    close(posterior_step(x_n, x0_hat, s, s, 0.247, None), x_n)
    for eta in ETAS:
        close(implicit_step(x_n, x0_hat, x1, s, s, 0.247, eta, z), x_n)


@pytest.mark.parametrize("eta", ETAS)
def test_single_precision_steps_stay_finite(eta: float) -> None:
    # Clocks at and an ulp off both ends, and steps of an ulp, as 1000-step runs meet them.
    ends = torch.tensor([0, 1e-38, 1e-12, 6e-8, 0.5, 1 - 2**-23, 1 - 2**-24, 1.0])
    s_n, s_m = (v.reshape(1, 1, 8, 8) for v in torch.meshgrid(ends, ends, indexing="ij"))
    s_m = torch.minimum(s_m, s_n)
    generator = torch.Generator().manual_seed(0)
    x0_hat, x1, z, noise = torch.randn((4, 2, 3, 8, 8), generator=generator)
    x_n = marginal(x0_hat, x1, s_n, 0.247, noise)
    got = implicit_step(x_n, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    assert bool(torch.isfinite(got).all())
    bound = 2 * (x0_hat.abs() + x1.abs() + noise.abs() + z.abs())
    assert bool((got.abs() <= bound).all())
    assert bool(torch.isfinite(posterior_step(x_n, x0_hat, s_n, s_m, 0.247, z)).all())


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
def test_extrapolation_makes_the_noise_free_step_second_order(order: int, tau: float) -> None:
    """Against the exact flow of a Gaussian pixel, which keeps its quantile on the way.

    With x1 seen, y = x_t - s x1 is N((1 - s) mean, (1 - s)^2 var + M s (1 - s)).
    """
    mean, var = 0.3, 0.04
    schedule = NoiseSchedule()
    total = schedule.total_var

    def spread(s: Tensor) -> Tensor:
        return ((1 - s) ** 2 * var + total * s * (1 - s)).sqrt()

    quantile = torch.linspace(-2, 2, 5, dtype=torch.float64)
    x1 = torch.tensor([1.0, -0.5, 0.2, 0.0, 2.0], dtype=torch.float64)

    def exact(s: Tensor) -> Tensor:
        return s * x1 + (1 - s) * mean + spread(s) * quantile

    errors = []
    for steps in (40, 80, 160):
        times = torch.linspace(0.95, 0.05, steps + 1, dtype=torch.float64)
        clocks = schedule.clock(times, torch.tensor(tau, dtype=torch.float64))
        x, before = exact(clocks[0]), None
        for s, s_next in zip(clocks, clocks[1:], strict=False):
            gain = var * (1 - s) / spread(s) ** 2
            x0_hat = mean + gain * (x - s * x1 - (1 - s) * mean)
            ahead = x0_hat
            if order == 2 and before is not None:
                ahead = extrapolated(x0_hat, before[0], s_next, s, before[1])
            x = implicit_step(x, ahead, x1, s, s_next, total, 0.0, torch.zeros_like(x))
            before = x0_hat, s
        errors.append(float((x - exact(clocks[-1])).abs().max()))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2**order, rel=0.15), errors


def test_extrapolation_is_first_order_at_the_ends_and_where_the_clock_stands_still() -> None:
    x0_hat, before = torch.ones(4), torch.zeros(4)
    s_before = torch.tensor([1.0, 0.5, 0.4, 0.6])
    s_n = torch.tensor([0.5, 0.3, 0.4, 0.5])
    s_m = torch.tensor([0.3, 0.0, 0.2, 0.4])
    found = extrapolated(x0_hat, before, s_m, s_n, s_before)
    assert torch.equal(found[:3], x0_hat[:3])
    step = (math.log(0.6 / 0.4) - math.log(1.0)) / (2 * (math.log(1.0) - math.log(0.4 / 0.6)))
    assert float(found[3]) == pytest.approx(1 + step)
