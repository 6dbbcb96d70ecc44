"""The exact errors on Gaussian data against figures computed by a separate implementation.

The reference propagates (64, 64) covariances with hand-written step matrices in numpy; it shares no
code with the package. Its figures are rounded to four decimals.
"""

from __future__ import annotations

import math

import pytest
import torch

from asyncdsb.samplers import sample
from asyncdsb.schedule import NoiseSchedule
from benchmarks.gaussian_bridge import (
    Case,
    conditional_covariance,
    denoise,
    error,
    hole_tau,
    main,
    produced_covariance,
    squared_w2,
)

REFERENCE = {
    Case("posterior"): (0.1088, 0.0375, 0.0125, 0.0028),
    Case("posterior", tau="inward"): (0.1013, 0.0351, 0.0118, 0.0027),
    Case("posterior", tau="outward"): (0.1260, 0.0446, 0.0152, 0.0034),
    Case("posterior", power=1.5): (0.0963, 0.0317, 0.0096, 0.0018),
    Case("posterior", tau="inward", power=1.5): (0.0911, 0.0297, 0.0090, 0.0017),
    Case("posterior", total_var=0.05): (None, 0.0290, None, None),
    Case("posterior", total_var=1.0, power=2.0): (None, 0.0380, None, None),
    Case("ode"): (0.2267, 0.1607, 0.1321, 0.1165),
    Case("ode", total_var=0.0): (0.0921, 0.0268, 0.0073, 0.0012),
    Case("ode", total_var=0.0, tau="inward"): (0.0838, 0.0245, 0.0066, 0.0011),
    Case("implicit", eta=0.0): (0.0766, 0.0246, 0.0076, 0.0015),
    Case("implicit", eta=1.0): (0.0992, 0.0359, 0.0122, 0.0028),
    Case("implicit", total_var=1.0, eta=0.0, power=2.0): (0.0674, 0.0193, 0.0053, 0.0009),
    Case("implicit", total_var=1.0, eta=1.0, power=2.0): (0.1060, 0.0385, 0.0125, 0.0025),
}
STEPS = (5, 10, 20, 50)
POINTS = [
    pytest.param(case, steps, value, id=f"{case.label}, {steps} steps")
    for case, values in REFERENCE.items()
    for steps, value in zip(STEPS, values, strict=True)
    if value is not None
]


@pytest.mark.parametrize(("case", "steps", "value"), POINTS)
def test_errors_are_those_of_the_reference(case: Case, steps: int, value: float) -> None:
    assert error(case, steps) == pytest.approx(value, abs=1e-4)


def growth(case: Case) -> tuple[float, float]:
    """How much steps * W2 grows from 12 to 24 steps and from 24 to 48."""
    scaled = [steps * math.sqrt(error(case, steps)) for steps in (12, 24, 48)]
    return scaled[1] - scaled[0], scaled[2] - scaled[1]


@pytest.mark.parametrize("tau", ["0.5", "inward"])
def test_ode_is_of_first_order(tau: str) -> None:
    """W2 = a / N + b / N^2, so that the growth of N W2 halves."""
    first, second = growth(Case("ode", total_var=0.0, tau=tau))
    assert second / first == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "case",
    [
        Case("posterior"),
        Case("posterior", tau="inward"),
        Case("implicit", eta=0.0),
        Case("implicit", eta=0.0, tau="inward"),
        Case("implicit", eta=0.4),
        Case("implicit", eta=1.0),
    ],
    ids=lambda case: case.label,
)
def test_noisy_samplers_are_of_first_order_up_to_a_logarithm(case: Case) -> None:
    """W2 = (a + b log N) / N on a uniform grid: N W2 grows by the same amount at each doubling."""
    first, second = growth(case)
    assert 0 < first < 0.4
    assert second / first == pytest.approx(1, abs=0.12)


def test_ode_with_a_denoiser_made_for_noise_stays_wrong() -> None:
    assert error(Case("ode"), 60) > 0.11


@pytest.mark.parametrize("tau", ["0.5", "inward"])
def test_the_sampling_loop_is_the_propagation(tau: str) -> None:
    """The ODE is linear in x1: unit vectors through the loop itself give the same covariance."""
    covariance, schedule = conditional_covariance(), NoiseSchedule()
    unit = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)

    def predict(x_t: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return denoise(x_t, unit, s[:1], 0.0, covariance, sees_x1=False)

    everything = torch.ones((64, 1, 8, 8), dtype=torch.bool)
    tau_map = hole_tau(tau).expand(64, 1, 8, 8)
    states = sample(predict, unit, everything, tau_map, schedule, steps=6, sampler="ode")
    *_, last = states
    columns = last.x_t.flatten(1)
    expected = produced_covariance(Case("ode", total_var=0.0, tau=tau), 6, covariance)
    torch.testing.assert_close(columns.T @ columns, expected, rtol=0, atol=1e-12)


def test_squared_w2_of_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.0]).double(), torch.tensor([1.0, 1.0, 9.0]).double()
    assert squared_w2(a.diag(), b.diag()) == pytest.approx(1 + 0 + 9, abs=1e-6)


def test_command_line_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps", "1", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| sampler | 1 steps | 2 steps |"
    assert sum(line.startswith("| ") for line in lines) == 14
