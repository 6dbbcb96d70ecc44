"""How far each sampler is from the truth, without a network: the bridge on Gaussian data.

For Gaussian data the best possible denoiser is linear and known in closed form, and so is every
sampling step. The law that a sampler produces can then be computed exactly and compared with the
true one. What is left is the error of the sampler itself: of its step rule, its time grid, and the
order in which it restores the pixels. There are two parts.

**A small hole with correlated pixels.** The field is 16 x 16 with power spectrum 1 / (f^2 + 1e-4),
scaled to variance 0.25, on the frequencies of a 64 x 64 periodic grid (cycles per pixel; the mean
gets the power of the lowest other frequency). The middle 8 x 8 pixels are missing, and x1 is
N(0, 1) noise there. Known pixels are given exactly. The schedule is the package's default shape,
beta_max / beta_min = 4.33.

Error = squared Wasserstein-2 distance between the sampler's law and the true conditional law of the
hole, divided by the trace of the true conditional covariance. Both laws have the same mean (the
denoiser is exact and the bridge's mean is linear in it), so only covariances enter.

The noise sources of a run (x1 and one z per step) are passed through the package's own step
functions as unit vectors, one sample of the batch for each. The result is a matrix F of how every
pixel depends on every source, and the covariance is F F^T.

**Holes of photograph size.** The unknown is e = truth - fill in a centre hole with half the side of
the picture. Its orthonormal cosine transform is taken as independent Gaussian modes with the mean
variances of photographs, octave by octave (:data:`PICTURES`, measured with ``--measure``). With
tau = 0.5 everywhere, every mode is a bridge of its own::

    E[e | d] = (1 - s) v d / ((1 - s)^2 v + N),   d = x_t - fill = (1 - s) e + noise of variance N

Figure = sum of the variances of a run's result over the sum of the modes' variances. 1 is a result
as varied as photographs; the smooth fill has 0. A run that invents too little of the coarse modes,
which hold most of the variance, shows here, while the small hole has no such modes.

    python -m benchmarks.gaussian_bridge
    python -m benchmarks.gaussian_bridge --steps 5 10 20 50 200
    python -m benchmarks.gaussian_bridge --measure PHOTOS --size 256 --fill harmonic
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
import torch
from scipy.fft import dctn
from torch import Tensor

from asyncdsb.bridge import extrapolated, implicit_step, noise_var, posterior_step
from asyncdsb.names import GRIDS, SOLVER_ORDERS
from asyncdsb.photo.fill import FILLS, fill_hole
from asyncdsb.photo.images import to_tensor
from asyncdsb.samplers import time_grid
from asyncdsb.schedule import NoiseSchedule, inward_tau
from train.data.sources import iter_photos, scaled

FIELD, HOLE, PERIOD = 16, 8, 64
DEFAULT_M = NoiseSchedule().total_var


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        sampler: "posterior", "ode" or "implicit".
        total_var: M of the bridge that the denoiser was made for, and of the stochastic samplers.
        tau: "0.5", "inward" (0.8 at the hole's border to 0.2 in its middle) or "outward".
        eta: share of fresh noise of the implicit sampler, whose denoiser also sees x1.
        power: p of the time grid t = (i / N)^p.
        solver_order: of the steps, 1 or 2.
    """

    sampler: str
    total_var: float = DEFAULT_M
    tau: str = "0.5"
    eta: float = 1.0
    power: float = 1.0
    solver_order: int = 1

    @property
    def label(self) -> str:
        """The row's name in the printed table."""
        parts = [self.sampler]
        if self.sampler == "implicit":
            parts[0] += f" eta {self.eta:g}, denoiser sees x1"
        parts.append(f"M {self.total_var:.3g}")
        parts.append(f"tau {self.tau}")
        if self.solver_order == 2:
            parts.append("second order")
        if self.power != 1:
            parts.append(f"t = (i/N)^{self.power:g}")
        return ", ".join(parts)


CASES = (
    Case("posterior"),
    Case("posterior", tau="inward"),
    Case("posterior", tau="outward"),
    Case("posterior", power=1.5),
    Case("posterior", tau="inward", power=1.5),
    Case("posterior", solver_order=2),
    Case("posterior", tau="inward", solver_order=2),
    Case("ode"),
    Case("ode", total_var=0.0),
    Case("ode", total_var=0.0, tau="inward"),
    Case("ode", total_var=0.0, solver_order=2),
    Case("ode", total_var=0.0, tau="inward", solver_order=2),
    Case("implicit", eta=0.0),
    Case("implicit", eta=1.0),
    Case("implicit", eta=0.0, solver_order=2),
    Case("implicit", total_var=1.0, eta=0.0, power=2.0),
    Case("implicit", total_var=1.0, eta=1.0, power=2.0),
)


def conditional_covariance() -> Tensor:
    """Covariance of the hole given the known pixels, (64, 64) float64, by Gaussian conditioning."""
    frequency = torch.fft.fftfreq(PERIOD, dtype=torch.float64)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    squared[0, 0] = 1 / PERIOD**2
    correlation = torch.fft.ifft2(1 / (squared + 1e-4)).real
    correlation = 0.25 * correlation / correlation[0, 0]

    index = torch.arange(FIELD * FIELD)
    row, column = index // FIELD, index % FIELD
    full = correlation[
        (row[:, None] - row[None]) % PERIOD, (column[:, None] - column[None]) % PERIOD
    ]
    hole = hole_mask().flatten()
    between = full[hole][:, ~hole]
    return full[hole][:, hole] - between @ torch.linalg.solve(full[~hole][:, ~hole], between.T)


def hole_mask() -> Tensor:
    """(1, 1, 16, 16) bool, True in the 8 x 8 hole in the middle."""
    margin = (FIELD - HOLE) // 2
    hole = torch.zeros((1, 1, FIELD, FIELD), dtype=torch.bool)
    hole[..., margin : margin + HOLE, margin : margin + HOLE] = True
    return hole


def hole_tau(name: str) -> Tensor:
    """Tau map of the hole, (1, 1, 8, 8) float64; names as in :class:`Case`."""
    hole = hole_mask()
    inward = inward_tau(hole, 0.2, 0.8)[hole].view(1, 1, HOLE, HOLE).double()
    return {"0.5": torch.full_like(inward, 0.5), "inward": inward, "outward": 1 - inward}[name]


def denoise(
    x_t: Tensor, x1: Tensor, s: Tensor, total_var: float, covariance: Tensor, sees_x1: bool
) -> Tensor:
    """E[x0 | x_t] or E[x0 | x_t, x1] in the hole, for a zero conditional mean.

    With A = diag(1 - s), ``x_t = A x0 + noise`` and the noise is x1's share plus the bridge's:
    variance s^2 + M s (1 - s); when x1 is seen, its share is subtracted and M s (1 - s) remains.

    Args:
        x_t: (K, 1, 8, 8) states.
        x1: (K, 1, 8, 8) starts of the runs.
        s: (1, 1, 8, 8) clock.
        total_var: M that the denoiser assumes.
        covariance: (64, 64) conditional covariance of x0.
        sees_x1: whether x1 is given.

    Returns:
        (K, 1, 8, 8) estimates.
    """
    clock = s.flatten()
    shrink, noise_var = 1 - clock, total_var * clock * (1 - clock)
    if sees_x1:
        x_t = x_t - s * x1
    else:
        noise_var = noise_var + clock**2
    spread = shrink[:, None] * covariance * shrink[None] + noise_var.diag()
    # At s = 1 with x1 seen, nothing is left to learn from: the pseudo-inverse then gives 0.
    gain = covariance @ shrink.diag() @ torch.linalg.pinv(spread, hermitian=True)
    return (x_t.flatten(1) @ gain.T).view_as(x_t)


def produced_covariance(case: Case, steps: int, covariance: Tensor) -> Tensor:
    """Exact covariance of the hole's pixels after a run, (64, 64)."""
    schedule, tau = NoiseSchedule(), hole_tau(case.tau)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** case.power
    pixels = HOLE * HOLE
    unit = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, HOLE, HOLE)
    nothing = torch.zeros_like(unit)
    sees_x1 = case.sampler == "implicit"

    x, x1, before = unit, unit, None
    for t, t_next in zip(times, times[1:], strict=False):
        s, s_next = schedule.clock(t, tau), schedule.clock(t_next, tau)
        estimate = x0_hat = denoise(x, x1, s, case.total_var, covariance, sees_x1)
        if before and t_next > 0:
            earlier, s_p = before
            grown = torch.cat([earlier, torch.zeros_like(x0_hat[len(earlier) :])])
            x0_hat = extrapolated(estimate, grown, s_p, s, s_next)
        before = (estimate, s) if case.solver_order == 2 and t < 1 else None
        if case.sampler == "ode":
            x = posterior_step(x, x0_hat, s, s_next, case.total_var, None)
            continue
        # The new z is one more block of sources, on which nothing depends yet.
        z = torch.cat([torch.zeros_like(x), unit])
        x, x0_hat, x1 = (torch.cat([v, nothing]) for v in (x, x0_hat, x1))
        if case.sampler == "posterior":
            x = posterior_step(x, x0_hat, s, s_next, case.total_var, z)
        else:
            x = implicit_step(x, x0_hat, x1, s, s_next, case.total_var, case.eta, z)
    factors = x.flatten(1)
    return factors.T @ factors


def squared_w2(a: Tensor, b: Tensor) -> float:
    """Squared Wasserstein-2 distance of two centred Gaussians with covariances a and b."""
    root = _square_root(b)
    return (a.trace() + b.trace() - 2 * _square_root(root @ a @ root).trace()).item()


def error(case: Case, steps: int) -> float:
    """Error of one run, see the module's docstring; the conditional mean alone would score 1."""
    covariance = conditional_covariance()
    produced = produced_covariance(case, steps, covariance)
    return squared_w2(produced, covariance) / covariance.trace().item()


def markdown_table(cases: Sequence[Case], step_counts: Sequence[int]) -> str:
    """The errors of ``cases`` at each number of steps."""
    lines = [
        "| sampler | " + " | ".join(f"{n} steps" for n in step_counts) + " |",
        "| --- |" + " ---: |" * len(step_counts),
    ]
    for case in cases:
        values = " | ".join(f"{error(case, n):.4f}" for n in step_counts)
        lines.append(f"| {case.label} | {values} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Picture:
    """Statistics of e = truth - fill in the centre hole of one kind of picture.

    Attributes:
        name: what they show.
        size: side of the picture in pixels; that of the hole is half of it.
        fill: one of :data:`asyncdsb.photo.fill.FILLS`.
        variance: mean variance of the modes in each band of :func:`bands`, pixels in [-1, 1].
    """

    name: str
    size: int
    fill: str
    variance: tuple[float, ...]

    @property
    def label(self) -> str:
        """The picture's name in the printed table."""
        return f"{self.size} px {self.name}, fill {self.fill}"


PICTURES = (
    Picture(
        "scenes",
        256,
        "harmonic",
        (171.7, 47.36, 28.07, 5.885, 1.075, 0.1861, 0.03418, 0.005929, 0.001084),
    ),
    Picture(
        "scenes",
        128,
        "harmonic",
        (43.23, 12.22, 7.095, 1.478, 0.2698, 0.04719, 0.007341, 0.001177),
    ),
    Picture(
        "scenes",
        64,
        "harmonic",
        (11.06, 3.25, 1.818, 0.3734, 0.06882, 0.01016, 0.001421),
    ),
    Picture(
        "faces",
        128,
        "zero",
        (294.1, 39.62, 12.38, 3.402, 0.5136, 0.08456, 0.006314, 0.0003989),
    ),
    Picture(
        "faces",
        64,
        "zero",
        (73.57, 9.917, 3.097, 0.8526, 0.13, 0.01848, 0.001782),
    ),
)
"""Of 120 photographs of scenes and 300 of faces out of the training data, see ``--measure``."""


def bands(side: int) -> np.ndarray:
    """Octave of each mode of a square hole, (side, side) int.

    Band 0 is the mean alone, band b > 0 the modes (i, j) with 2^(b - 1) <= |(i, j)| < 2^b.
    """
    index = np.arange(side)
    length = np.hypot(index[:, None], index[None])
    return np.where(length > 0, 1 + np.floor(np.log2(length.clip(min=1))), 0).astype(int)


def measure(paths: Sequence[str], size: int, fill: str, count: int) -> tuple[float, ...]:
    """Mean variance of the modes of each band on photographs, see :class:`Picture`.

    Args:
        paths: folders or tar files of photographs.
        size: scale their short side to this and keep the square in the middle.
        fill: of the hole, one of :data:`asyncdsb.photo.fill.FILLS`.
        count: how many photographs at most.
    """
    quarter = size // 4
    middle = slice(quarter, quarter + size // 2)
    mask = torch.zeros(1, 1, size, size)
    mask[..., middle, middle] = 1
    power, found = np.zeros((size // 2, size // 2)), 0
    for _, photo in islice(iter_photos(paths), count):
        photo = scaled(photo, size)
        left, top = (photo.width - size) // 2, (photo.height - size) // 2
        x0 = to_tensor(np.asarray(photo.crop((left, top, left + size, top + size))))
        e = (x0 - fill_hole(x0, mask, fill))[0, :, middle, middle].numpy()
        power += (dctn(e, axes=(1, 2), norm="ortho") ** 2).mean(0)
        found += 1
    band = bands(size // 2)
    return tuple(float(power[band == b].mean() / found) for b in range(band.max() + 1))


def restored_share(
    picture: Picture, sampler: str, grid: str, steps: int, solver_order: int = 2
) -> float:
    """Share of the variance that a run with the exact denoiser gives back, x1 = fill + noise.

    Args:
        picture: whose modes are restored.
        sampler: "posterior" or "ode".
        grid: one of :data:`asyncdsb.names.GRIDS`.
        steps: number of evaluations.
        solver_order: of the steps, 1 or 2.
    """
    schedule, side = NoiseSchedule(), picture.size // 2
    total_var = 0.0 if sampler == "ode" else schedule.total_var
    tau = torch.full((side, side), 0.5, dtype=torch.float64)
    times = time_grid(grid, steps, tau, None, schedule, 1.0, total_var)
    clocks = schedule.clock(times, tau[0, 0])
    count = torch.from_numpy(np.bincount(bands(side).ravel())).double()
    v = torch.tensor(picture.variance, dtype=torch.float64)

    # How every mode depends on its noise: that of x1, and one z of each step.
    modes, v = torch.ones(len(v), 1, dtype=torch.float64), v[:, None]
    nothing, before = torch.zeros_like(v), None
    for s, s_next in zip(clocks, clocks[1:], strict=False):
        gain = (1 - s) * v / ((1 - s) ** 2 * v + noise_var(s, total_var, 1.0))
        estimate = x0_hat = gain * modes
        if before and s_next > 0:
            x0_hat = extrapolated(estimate, *before, s, s_next)
        modes = posterior_step(modes, x0_hat, s, s_next, total_var, None)
        z = None if sampler == "ode" else torch.ones_like(v)
        fresh = posterior_step(nothing, nothing, s, s_next, total_var, z)
        modes = torch.cat([modes, fresh], dim=1)
        if solver_order == 2 and s < 1:
            before = torch.cat([estimate, nothing], dim=1), s
    return float((count * (modes**2).sum(1)).sum() / (count * v[:, 0]).sum())


def photograph_table(step_counts: Sequence[int]) -> str:
    """:func:`restored_share` of every picture, sampler and grid."""
    lines = [
        "| picture | sampler | order | grid | "
        + " | ".join(f"{n} steps" for n in step_counts)
        + " |",
        "| --- | --- | ---: | --- |" + " ---: |" * len(step_counts),
    ]
    for picture in PICTURES:
        rows = product(("posterior", "ode"), SOLVER_ORDERS, sorted(GRIDS, reverse=True))
        for sampler, order, grid in rows:
            shares = [restored_share(picture, sampler, grid, n, order) for n in step_counts]
            values = " | ".join(f"{share:.3f}" for share in shares)
            lines.append(f"| {picture.label} | {sampler} | {order} | {grid} | {values} |")
    return "\n".join(lines)


def _square_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or measure photographs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gaussian_bridge",
        description="Exact results of every sampler on Gaussian data, as Markdown tables.",
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], metavar="N")
    parser.add_argument(
        "--photograph-steps", type=int, nargs="+", default=[10, 20, 50, 100], metavar="N"
    )
    parser.add_argument(
        "--measure",
        nargs="+",
        metavar="PHOTOS",
        help="print the variances of the modes of these photographs instead",
    )
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--fill", choices=FILLS, default="harmonic", help="of the hole")
    parser.add_argument("--count", type=int, default=120, help="how many photographs at most")
    args = parser.parse_args(argv)
    least = min(*args.steps, *args.photograph_steps, args.count)
    if least < 1:
        parser.error(f"expected numbers >= 1, got {least}")
    if args.size < 8 or args.size % 4:
        parser.error(f"expected a size that is a multiple of 4, at least 8, got {args.size}")
    if args.measure:
        variance = measure(args.measure, args.size, args.fill, args.count)
        print(", ".join(f"{v:.4g}" for v in variance))
        return
    start = time.perf_counter()
    print(markdown_table(CASES, args.steps))
    print(f"\n{photograph_table(args.photograph_steps)}")
    print(f"\n{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
