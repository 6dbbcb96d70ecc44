from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from PIL import Image

from asyncdsb.gradient import image_gradient
from asyncdsb.measure.analysis import (
    PARTS,
    centroids,
    gradient_parts,
    progress,
    rank_correlation,
    restoration_time,
    timeline,
)
from asyncdsb.samplers import sample
from asyncdsb.schedule import NoiseSchedule, inward_tau, tau_map

pytestmark = pytest.mark.slow

SCHEDULE = NoiseSchedule()


def scene(seed=0, side=48):
    """Truth with flat and busy places, hole, noisy start."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g) * 1.6 - 0.8
    x0 = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)
    x0[..., side // 2 :] += 0.2 * torch.randn(1, 3, side, side // 2, generator=g)
    mask = torch.zeros(1, 1, side, side)
    mask[..., 8:40, 8:40] = 1
    x1 = torch.where(mask > 0.5, 0.5 * torch.randn(x0.shape, generator=g), x0)
    return x0, mask, x1


def tau_of(name, x0, mask):
    if name == "uniform":
        return torch.full_like(mask, 0.5)
    if name == "early":
        return torch.full_like(mask, 0.9)
    if name == "inward":
        return inward_tau(mask, 0.1, 0.9)
    return tau_map(image_gradient(x0), 0.0, 1.0, 2.0, mask)


def follow(denoise, tau, steps=50, sampler="ode", measure="projection"):
    """Progress of x_t over a run of :func:`scene`."""
    x0, mask, x1 = scene()
    parts = gradient_parts(image_gradient(x0), mask)
    tau = tau_of(tau, x0, mask) if isinstance(tau, str) else torch.full_like(mask, tau)
    generators = [torch.Generator().manual_seed(100)]
    states = sample(
        denoise, x1, mask, tau, SCHEDULE, steps=steps, sampler=sampler, generators=generators
    )
    return progress(list(states), x0, tau, SCHEDULE, parts, measure)


def oracle(x, t, s):
    """A denoiser that knows the truth."""
    return scene()[0]


@pytest.mark.parametrize("name", ["uniform", "early", "inward", "gradient"])
@pytest.mark.parametrize("sampler", ["posterior", "ode"])
def test_the_projection_of_an_oracle_follows_the_schedule(name, sampler):
    found = follow(oracle, name, sampler=sampler)
    for part in PARTS:
        assert found.beta[part].sum() == pytest.approx(1)
        # Noise moves the sampled run a little; without it the schedule is met exactly.
        delay = centroids(found.t, found.beta[part]) - found.centroid(part)
        assert abs(delay) < (0.02 if sampler == "posterior" else 1e-5)
        if sampler == "ode":
            np.testing.assert_allclose(found.speed(part), found.beta[part], atol=1e-5)


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.8])
def test_the_centroid_of_the_schedule_is_the_mean_time_of_beta(tau):
    mean, _ = scipy.integrate.quad(lambda t: t * float(SCHEDULE.beta(t, tau)), 0, 1, points=[tau])
    found = follow(oracle, tau, steps=400)
    assert found.centroid("all") == pytest.approx(mean / SCHEDULE.total_var, abs=1e-4)


def test_the_estimate_of_a_denoiser_that_learns_late_is_late():
    x0, _, x1 = scene()
    found = follow(lambda x, t, s: x0 if float(t[0]) < 0.3 else x1, 0.5, 20, "posterior")
    assert centroids(found.t, found.beta["all"]) - found.centroid("all") > 0.2


def test_terciles_share_the_hole_and_are_ordered():
    x0, mask, _ = scene()
    gradient = image_gradient(x0)
    parts = gradient_parts(gradient, mask)
    low, middle, high = (parts[name] for name in PARTS[1:])
    assert (low.astype(int) + middle + high == parts["all"]).all()
    assert max(p.sum() for p in (low, middle, high)) - min(p.sum() for p in (low, high)) <= 1
    values = gradient[0, 0].numpy()
    assert values[low].max() <= values[middle].min() <= values[middle].max() <= values[high].min()
    with pytest.raises(ValueError, match="at least 3"):
        gradient_parts(gradient, torch.zeros_like(mask))


def test_restoration_time_is_when_a_pixel_comes_to_stay():
    # Pixel 0 is right at once, 1 from 0.75 on, 2 leaves again and returns at the end.
    runs = [[5, 0, 5], [5, 3, 5], [5, 3, 0], [5, 3, 5]]
    estimates = [
        torch.tensor(r, dtype=torch.float32).view(1, 1, 1, 3).expand(1, 3, 1, 3) for r in runs
    ]
    found = restoration_time(estimates, [1.0, 0.75, 0.5, 0.0], tolerance=0.5)
    assert found.tolist() == [[1.0, 0.75, 0.0]]


def test_rank_correlation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 50).astype(float)  # many ties
    b = a + rng.normal(0, 2, 50)
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


def frames_of(pictures):
    times = np.linspace(1, 0, len(pictures))
    images = [Image.fromarray(p) for p in pictures]
    return [SimpleNamespace(t=t, x_t=p, x0_hat=p) for t, p in zip(times, images, strict=True)]


def test_the_timeline_of_a_photo_follows_its_order():
    """The right half of the hole comes back at t = 0.75, the left one at 0.25."""
    rng = np.random.default_rng(0)
    last = rng.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    mask = np.zeros((24, 32), bool)
    mask[4:20, 8:24] = True
    pictures = [last.copy() for _ in range(5)]
    for index, picture in enumerate(pictures):
        picture[4:20, 8:16] ^= 0x80 if index < 3 else 0
        picture[4:20, 16:24] ^= 0x80 if index < 1 else 0
    tau = np.where(np.arange(32) < 16, 0.2, 0.6)[None].repeat(24, 0).astype(np.float32)
    gradient = np.where(np.arange(32) < 16, 0.1, 0.9)[None].repeat(24, 0).astype(np.float32)
    found = timeline(frames_of(pictures), tau, gradient, mask, SCHEDULE)
    assert np.isnan(found.restored[~mask]).all()
    assert set(found.restored[4:20, 8:16].ravel()) == {0.25}
    assert set(found.restored[4:20, 16:24].ravel()) == {0.75}
    assert found.correlation == pytest.approx(1)
    assert found.progress.centroid("high") > found.progress.centroid("low")
    # Whatever is put into the last frame.
    patched = timeline(frames_of([*pictures[:-1], 255 - last]), tau, gradient, mask, SCHEDULE)
    assert np.array_equal(patched.restored, found.restored, equal_nan=True)
    assert patched.progress.value["all"] == pytest.approx(found.progress.value["all"])
    # The other way round, and against another truth.
    backwards = timeline(frames_of(pictures), 1 - tau, gradient, mask, SCHEDULE)
    assert backwards.correlation == pytest.approx(-1)
    other = timeline(frames_of(pictures), tau, gradient, mask, SCHEDULE, truth=255 - last)
    assert other.progress.value["all"][-1] < found.progress.value["all"][-1]
    assert found.progress.value["all"][-1] == pytest.approx(1)


def test_maps_are_shrunk_to_the_frames():
    pictures = [np.full((24, 32, 3), v, np.uint8) for v in (0, 200, 200)]
    mask = np.zeros((48, 64), bool)
    mask[10:30, 10:50] = True
    found = timeline(frames_of(pictures), mask * 0.5, mask * 0.5, mask, SCHEDULE)
    assert found.restored.shape == found.tau.shape == (24, 32)
    assert np.isnan(found.correlation) and np.nanmax(found.restored) == 0.5
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        timeline(frames_of(pictures[:1]), mask * 0.5, mask * 0.5, mask, SCHEDULE)
