"""The noise schedule against quadrature, autograd and I2SB's tables; the tau maps against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.integrate import quad
from scipy.stats import rankdata

from asyncdsb.schedule import (
    NoiseSchedule,
    gaussian_blur,
    inward_tau,
    tau_map,
    uniform_tau,
)

TAUS = (0.0, 1e-9, 0.001, 0.2, 0.5, 0.8, 1.0)
RANGES = ((0.1, 0.433), (0.1, 1.0), (1e-3, 5.0), (0.3, 0.3), (0.404858, 1.753036))
TIMES = torch.tensor([1e-6, 0.01, 0.13, 0.31, 0.5, 0.64, 0.77, 0.9, 0.999], dtype=torch.float64)

each_tau = pytest.mark.parametrize("tau", TAUS)
each_range = pytest.mark.parametrize("beta_range", RANGES, ids=str)


def tent(t: np.ndarray | float, tau: float, beta_range: tuple[float, float]) -> np.ndarray:
    """beta(t; tau) by linear interpolation of sqrt(beta) between its three corners."""
    low, high = np.sqrt(beta_range)
    if tau == 0:
        return (high + (low - high) * np.asarray(t)) ** 2
    if tau == 1:
        return (low + (high - low) * np.asarray(t)) ** 2
    return np.interp(t, [0, tau, 1], [low, high, low]) ** 2


def integral(start: float, stop: float, tau: float, beta_range: tuple[float, float]) -> float:
    """Quadrature of the tent, split at its peak."""
    corners = sorted({start, stop, min(max(tau, start), stop)})
    pieces = [
        quad(tent, lo, hi, args=(tau, beta_range), epsabs=1e-13, epsrel=1e-13)[0]
        for lo, hi in zip(corners, corners[1:], strict=False)
    ]
    return float(sum(pieces))


@each_tau
@each_range
def test_beta_is_the_square_of_a_tent(tau: float, beta_range: tuple[float, float]) -> None:
    got = NoiseSchedule(*beta_range).beta(TIMES, tau)
    assert got.numpy() == pytest.approx(tent(TIMES.numpy(), tau, beta_range), abs=1e-12)


@each_range
def test_total_variance_is_the_same_for_every_tau(beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    tau = torch.tensor(TAUS, dtype=torch.float64)
    a, b = np.sqrt(beta_range)
    assert schedule.total_var == pytest.approx((a * a + a * b + b * b) / 3, rel=1e-14)
    total = torch.full_like(tau, schedule.total_var)
    torch.testing.assert_close(schedule.var(1.0, tau), total, rtol=0, atol=1e-12)
    torch.testing.assert_close(schedule.var_bar(0.0, tau), total, rtol=0, atol=1e-12)
    assert torch.equal(schedule.var(0.0, tau), torch.zeros_like(tau))
    assert torch.equal(schedule.var_bar(1.0, tau), torch.zeros_like(tau))


@each_tau
@each_range
def test_variances_are_integrals_of_beta(tau: float, beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    below = [integral(0, t, tau, beta_range) for t in TIMES.tolist()]
    above = [integral(t, 1, tau, beta_range) for t in TIMES.tolist()]
    assert schedule.var(TIMES, tau).tolist() == pytest.approx(below, abs=1e-9)
    assert schedule.var_bar(TIMES, tau).tolist() == pytest.approx(above, abs=1e-9)


@each_tau
@each_range
def test_variances_add_up_to_the_total(tau: float, beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    both = schedule.var(TIMES, tau) + schedule.var_bar(TIMES, tau)
    torch.testing.assert_close(both, torch.full_like(TIMES, schedule.total_var), rtol=0, atol=1e-12)


@each_tau
@each_range
def test_derivative_of_the_variance_is_beta(tau: float, beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    t = TIMES.clone().requires_grad_()
    schedule.var(t, tau).sum().backward()
    beta = schedule.beta(TIMES, tau)
    torch.testing.assert_close(t.grad, beta, rtol=1e-12, atol=1e-12)
    t = TIMES.clone().requires_grad_()
    schedule.var_bar(t, tau).sum().backward()
    torch.testing.assert_close(t.grad, -beta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [t for t in TAUS if t < 0.9])
def test_var_bar_does_not_cancel_near_the_end(tau: float) -> None:
    gap = 2.0**-40
    got = NoiseSchedule(0.1, 0.433).var_bar(torch.tensor(1 - gap, dtype=torch.float64), tau)
    assert got.item() == pytest.approx(0.1 * gap, rel=1e-9)


@pytest.mark.parametrize(
    ("beta_max", "peak", "total"), [(1.0, 0.433, 0.2469), (0.3, 0.187, 0.1410)]
)
def test_tau_half_is_the_discrete_schedule_of_i2sb(
    beta_max: float, peak: float, total: float
) -> None:
    # Its published recipe: sqrt(beta) evenly spaced over N steps, first half taken and mirrored.
    count = 1000
    rise = np.linspace(1e-4**0.5, (beta_max / count) ** 0.5, count)[: count // 2] ** 2
    steps = np.concatenate([rise, rise[::-1]])
    assert rise.max() * count == pytest.approx(peak, abs=5e-4)
    assert steps.sum() == pytest.approx(total, abs=5e-5)

    schedule = NoiseSchedule(0.1, float(rise.max() * count))
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    assert schedule.var(t, 0.5).numpy() == pytest.approx(np.cumsum(steps), abs=2e-4)
    above = steps.sum() - np.cumsum(steps)
    assert schedule.var_bar(t, 0.5).numpy() == pytest.approx(above, abs=2e-4)


@each_tau
@each_range
def test_clock_rises_from_zero_to_one(tau: float, beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    s = schedule.clock(t, tau)
    assert s[0] == 0
    assert s[-1].item() == pytest.approx(1, abs=1e-12)
    assert s.min() >= 0 and s.max() <= 1
    assert bool((s.diff() > 0).all())
    torch.testing.assert_close(s * schedule.total_var, schedule.var(t, tau), rtol=0, atol=1e-12)
    assert schedule.clock(tau, tau).item() == pytest.approx(tau, abs=1e-12)


def test_larger_tau_is_restored_earlier() -> None:
    # Sampling starts at t = 1, so "earlier" is a lower clock at the same time.
    tau = torch.tensor(TAUS, dtype=torch.float64)
    s = NoiseSchedule().clock(TIMES[1:, None], tau)
    assert bool((s.diff(dim=1) < 0).all())


@each_tau
@each_range
def test_inverse_clock_round_trip(tau: float, beta_range: tuple[float, float]) -> None:
    schedule = NoiseSchedule(*beta_range)
    grid = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), TIMES])
    back = schedule.inverse_clock(schedule.clock(grid, tau), tau)
    torch.testing.assert_close(back, grid, rtol=0, atol=1e-9)
    forth = schedule.clock(schedule.inverse_clock(grid, tau), tau)
    torch.testing.assert_close(forth, grid, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["beta", "var", "var_bar", "clock", "inverse_clock"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_methods_broadcast_and_keep_the_dtype(name: str, dtype: torch.dtype) -> None:
    method = getattr(NoiseSchedule(), name)
    t = torch.rand((3, 1, 1, 1), dtype=dtype, generator=torch.Generator().manual_seed(0))
    tau = torch.rand((3, 1, 4, 5), dtype=dtype, generator=torch.Generator().manual_seed(1))
    got = method(t, tau)
    assert got.shape == (3, 1, 4, 5)
    assert got.dtype == dtype
    one = method(float(t[2]), float(tau[2, 0, 3, 1]))
    assert isinstance(one, torch.Tensor)
    assert one.item() == pytest.approx(got[2, 0, 3, 1].item(), abs=2e-6)
    assert method(0.3, tau).dtype == dtype
    assert method(t, 0.3).shape == t.shape


@each_tau
def test_single_precision_stays_in_range(tau: float) -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float32)
    s = NoiseSchedule().clock(t, tau)
    assert bool(torch.isfinite(s).all())
    assert s.min() >= 0 and s.max() <= 1
    assert s[0] == 0
    exact = NoiseSchedule().clock(t.double(), tau)
    torch.testing.assert_close(s.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [(0.0, 0.4), (-0.1, 0.4), (9e-4, 0.4), (0.5, 0.4), (0.1, float("inf")), (float("nan"), 0.4)],
)
def test_bad_beta_values_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="beta_min"):
        NoiseSchedule(*values)


def random_gradient(batch: int = 1, size: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, 1, size, size), dtype=torch.float64, generator=generator)


def square_hole(batch: int = 1, size: int = 48, margin: int = 14) -> torch.Tensor:
    hole = torch.zeros((batch, 1, size, size), dtype=torch.bool)
    hole[..., margin : size - margin, margin : size - margin] = True
    return hole


@pytest.mark.parametrize("limits", [(0.2, 0.5), (0.001, 0.4), (0.0, 1.0)])
@pytest.mark.parametrize("blur_sigma", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("with_hole", [True, False])
def test_tau_map_fills_the_range_over_the_hole(
    limits: tuple[float, float], blur_sigma: float, with_hole: bool
) -> None:
    gradient, hole = random_gradient(2), square_hole(2) | (not with_hole)
    tau = tau_map(gradient, *limits, blur_sigma=blur_sigma, hole=hole)
    assert tau.shape == gradient.shape and tau.dtype == gradient.dtype
    assert tau.min() >= limits[0] - 1e-12 and tau.max() <= limits[1] + 1e-12
    for i in range(2):
        inside = tau[i][hole[i]]
        assert inside.min().item() == pytest.approx(limits[0], abs=1e-12)
        assert inside.max().item() == pytest.approx(limits[1], abs=1e-12)


def test_tau_map_rises_with_the_gradient() -> None:
    gradient, hole = random_gradient(), square_hole()
    tau = tau_map(gradient, 0.1, 0.7, blur_sigma=0.0, hole=hole)
    order = gradient[hole].argsort()
    assert bool((tau[hole][order].diff() > 0).all())


@pytest.mark.parametrize("blur_sigma", [1.0, 2.0, 3.0])
def test_tau_map_is_eq_11_with_scipys_gaussian_filter(blur_sigma: float) -> None:
    gradient, hole = random_gradient(), square_hole()  # The hole keeps clear of the filter's edges.
    blurred = ndimage.gaussian_filter(gradient[0, 0].numpy(), blur_sigma, truncate=6.0)
    inside = blurred[hole[0, 0].numpy()]
    expected = (inside - inside.min()) / (inside.max() - inside.min()) * (0.5 - 0.2) + 0.2
    tau = tau_map(gradient, 0.2, 0.5, blur_sigma=blur_sigma, hole=hole)
    assert tau[hole].numpy() == pytest.approx(expected, abs=1e-3)


def test_tau_map_ignores_known_pixels_when_it_takes_the_range() -> None:
    gradient, hole = random_gradient(), square_hole()
    louder = torch.where(hole, gradient, 7 * gradient + 2)
    tau = tau_map(gradient, 0.2, 0.5, blur_sigma=0.0, hole=hole)
    assert torch.equal(tau[hole], tau_map(louder, 0.2, 0.5, blur_sigma=0.0, hole=hole)[hole])


def test_tau_map_treats_each_sample_alone() -> None:
    gradient, hole = random_gradient(3), square_hole(3)
    gradient[1] *= 0.01
    hole[2, :, 20:] = False
    together = tau_map(gradient, 0.2, 0.5, 3.0, hole)
    for i in range(3):
        alone = tau_map(gradient[i : i + 1], 0.2, 0.5, 3.0, hole[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("with_hole", [True, False])
def test_flat_gradient_gives_the_middle_of_the_range(
    level: float, dtype: torch.dtype, with_hole: bool
) -> None:
    gradient = torch.full((1, 1, 48, 48), level, dtype=dtype)
    tau = tau_map(gradient, 0.2, 0.5, 3.0, square_hole() | (not with_hole))
    torch.testing.assert_close(tau, torch.full_like(tau, 0.35), rtol=0, atol=1e-6)


def test_equal_limits_give_a_constant_map() -> None:
    tau = tau_map(random_gradient(), 0.5, 0.5, 3.0, square_hole())
    assert torch.equal(tau, torch.full_like(tau, 0.5))


def test_uniform_tau_is_the_middle_of_the_range() -> None:
    tau = uniform_tau(square_hole(2), 0.2, 0.6)
    assert tau.shape == (2, 1, 48, 48)
    torch.testing.assert_close(tau, torch.full_like(tau, 0.4))


def blobs(seed: int) -> torch.Tensor:
    """(1, 1, 40, 56) irregular hole: overlapping discs, some cut by the picture's edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :56]
    hole = np.zeros((40, 56), dtype=bool)
    for _ in range(5):
        hole |= (y - rng.uniform(0, 40)) ** 2 + (x - rng.uniform(0, 56)) ** 2 < rng.uniform(9, 90)
    return torch.from_numpy(hole)[None, None]


@pytest.mark.parametrize("seed", range(3))
def test_ranked_tau_has_scipys_ranks_and_fills_its_range(seed: int) -> None:
    values = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(seed)) ** 4
    values = (values * 50).round() / 50  # with many equal values
    hole = blobs(seed)[..., :24, :24].clone()
    hole[..., 8:14, 8:14] = True
    tau = tau_map(values, 0.1, 0.9, 0.0, hole, ranked=True)
    inside = hole > 0.5
    expected = (rankdata(values[inside].numpy()) - 1) / (int(inside.sum()) - 1)
    assert np.allclose(tau[inside].numpy(), 0.1 + 0.8 * expected, atol=1e-6)
    order = tau_map(values, 0.1, 0.9, 0.0, hole)[inside].argsort(stable=True)
    assert (tau[inside][order].diff() >= -1e-6).all()


def test_ranked_tau_of_a_flat_hole_is_the_middle() -> None:
    flat, hole = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    tau = tau_map(flat, 0.2, 0.6, 3.0, hole, ranked=True)
    torch.testing.assert_close(tau, torch.full((1, 1, 8, 8), 0.4))


@pytest.mark.parametrize("seed", range(4))
def test_inward_tau_is_linear_in_scipys_distance(seed: int) -> None:
    hole = blobs(seed)
    distance = ndimage.distance_transform_edt(hole[0, 0].numpy())[hole[0, 0].numpy()]
    share = (distance - distance.min()) / (distance.max() - distance.min())
    tau = inward_tau(hole, 0.1, 0.9)
    assert tau.shape == hole.shape
    assert tau[hole].numpy() == pytest.approx(0.9 - 0.8 * share, abs=1e-5)
    assert tau[hole].min().item() == pytest.approx(0.1, abs=1e-6)
    assert tau[hole].max().item() == pytest.approx(0.9, abs=1e-6)
    assert tau.min() >= 0.1 - 1e-6 and tau.max() <= 0.9 + 1e-6


def test_inward_tau_treats_each_sample_alone() -> None:
    both = inward_tau(torch.cat([blobs(0), blobs(1)]), 0.2, 0.5)
    alone = torch.cat([inward_tau(blobs(i), 0.2, 0.5) for i in range(2)])
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-6)


def test_inward_tau_is_the_same_in_every_call() -> None:
    """Wherever the memory of its arrays begins, on which OpenCV's last bit depends."""
    hole = torch.cat([blobs(i) for i in range(4)])
    first, kept = inward_tau(hole, 0.1, 0.8), []
    for size in range(60):
        kept.append(np.empty(37 * size, np.uint8))
        assert torch.equal(inward_tau(hole.clone(), 0.1, 0.8), first)


def test_inward_tau_of_a_line_is_all_border() -> None:
    hole = torch.zeros((1, 1, 16, 16), dtype=torch.bool)
    hole[..., 7, 3:12] = True
    tau = inward_tau(hole, 0.2, 0.8)
    torch.testing.assert_close(tau[hole], torch.full((9,), 0.8))


@pytest.mark.parametrize("limits", [(0.6, 0.5), (-0.1, 0.5), (0.2, 1.1), (float("nan"), 0.5)])
def test_bad_tau_ranges_are_refused(limits: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="tau_min"):
        tau_map(random_gradient(), *limits, 3.0, square_hole())
    for make in (uniform_tau, inward_tau):
        with pytest.raises(ValueError, match="tau_min"):
            make(square_hole(), *limits)


def test_the_blur_takes_any_floating_type_and_no_picture_at_all():
    image = torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    half = gaussian_blur(image.bfloat16(), 2.0)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), gaussian_blur(image, 2.0), atol=0.02, rtol=0)
    assert gaussian_blur(image[:0], 2.0).shape == (0, 1, 20, 30)


def test_the_blur_is_not_rounded_under_autocast():
    """Also where it is a convolution, as on a GPU."""
    image = torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        blurred = gaussian_blur(image, 2.0)
    assert torch.equal(blurred, gaussian_blur(image, 2.0))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="hole"):
        tau_map(random_gradient(), 0.2, 0.5, 3.0, square_hole(size=40))
