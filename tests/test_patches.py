"""Known patches in the hole: against a search written out, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from asyncdsb import patches
from asyncdsb.gradient import image_gradient
from asyncdsb.patches import SIDE, STRIDE, copy_patches


def scene(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A random estimate, a hole in it, and a random gradient map, float64."""
    generator = torch.Generator().manual_seed(seed)
    estimate = torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1
    gradient = torch.rand(1, 1, height, width, generator=generator, dtype=torch.float64)
    mask = torch.zeros(1, 1, height, width, dtype=torch.float64)
    mask[..., height // 2 - 3 : height // 2 + 3, width // 2 - 4 : width // 2 + 1] = 1
    return estimate, mask, gradient


def searched(estimate: np.ndarray, hole: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The module's formula, patch by patch: (3, H, W), (H, W), (H, W) -> (3, H, W)."""
    rows, columns = hole.shape[0] - SIDE + 1, hole.shape[1] - SIDE + 1
    places = [(i, j) for i in range(rows) for j in range(columns)]

    def cut(picture: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        i, j = place
        return picture[..., i : i + SIDE, j : j + SIDE]

    known = [place for place in places if not cut(hole, place).any()]
    wanted = [
        (i, j) for i, j in places if cut(hole, (i, j)).any() and i % STRIDE == 0 and j % STRIDE == 0
    ]
    sums, weights = np.zeros_like(estimate), np.zeros(hole.shape)
    for p in wanted:

        def cost(q: tuple[int, int], p: tuple[int, int] = p) -> float:
            colours = ((cut(estimate, p) - cut(estimate, q)) ** 2).mean()
            rough = [np.sqrt(cut(gradient, place)).mean() for place in (p, q)]
            away = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2
            return colours + 3 * (rough[0] - rough[1]) ** 2 + away / 300**2

        vote = cut(estimate, min(known, key=cost))
        error = ((vote - cut(estimate, p)) ** 2).mean()
        weight = np.exp(-error / (2 * 0.1**2)) + 1e-3
        cut(sums, p)[:] += weight * vote
        cut(weights, p)[:] += weight
    voted = hole & (weights > 0)
    return np.where(voted, sums / np.maximum(weights, 1e-9), estimate)


@pytest.mark.parametrize("compared", [1, 300, 2**21])
@pytest.mark.parametrize("size", [(16, 21), (23, 20)])
def test_the_nearest_patches_vote(monkeypatch, size, compared):
    monkeypatch.setattr(patches, "DIRECTIONS", 3 * SIDE**2 + 3)
    monkeypatch.setattr(patches, "COMPARED", compared)
    estimate, mask, gradient = scene(*size)
    wanted = searched(estimate[0].numpy(), mask[0, 0].numpy() > 0, gradient[0, 0].numpy())
    found = copy_patches(estimate, mask, gradient)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=0, atol=1e-9)


def test_a_texture_comes_back_from_what_resembles_it():
    # Stripes that the estimate has only faintly, and in the wrong colours.
    x = torch.arange(64.0)
    photo = (torch.sin(x * 2 * torch.pi / 8) * torch.tensor([0.8, 0.4, -0.2])[:, None])[:, None]
    photo = photo.expand(3, 64, 64)[None].clone()
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 24:40, 24:40] = 1
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    estimate = torch.where(mask > 0, 0.5 * photo + 0.1 + 0.05 * noise, photo)
    gradient = image_gradient(photo)
    inside = mask.expand_as(photo) > 0
    before = (estimate - photo)[inside].square().mean().sqrt()
    after = (copy_patches(estimate, mask, gradient) - photo)[inside].square().mean().sqrt()
    assert after < 0.5 * before
    without = copy_patches(estimate, mask, torch.zeros_like(gradient))
    assert after < (without - photo)[inside].square().mean().sqrt(), "the gradient map helps"


def test_known_pixels_stay_and_all_missing_ones_are_known_elsewhere():
    estimate, mask, gradient = scene(40, 44)
    found = copy_patches(estimate, mask, gradient)
    hole = mask.expand_as(estimate) > 0
    assert torch.equal(found[~hole], estimate[~hole])
    assert not torch.isclose(found, estimate)[hole].any()
    known = estimate[~hole]
    assert known.min() <= found.min() and found.max() <= known.max()


@pytest.mark.parametrize("size", [(4, 30), (12, 12)])
def test_with_hardly_anything_known_the_estimate_stays(size):
    estimate, mask, gradient = scene(*size)
    assert torch.equal(copy_patches(estimate, mask, gradient), estimate)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_a_hole_or_with_nothing_else_the_estimate_stays(value):
    estimate, mask, gradient = scene(30, 30)
    mask = torch.full_like(mask, value)
    assert torch.equal(copy_patches(estimate, mask, gradient), estimate)


def test_a_sample_does_not_depend_on_its_batch():
    scenes = [scene(48, 52, seed) for seed in (1, 2)]
    both = copy_patches(*(torch.cat(parts) for parts in zip(*scenes, strict=True)))
    for one, found in zip(scenes, both, strict=True):
        assert torch.equal(copy_patches(*one)[0], found)


def test_few_of_many_sources_are_always_the_same(monkeypatch):
    monkeypatch.setattr(patches, "MOST_SOURCES", 200)
    estimate, mask, gradient = scene(40, 44)
    torch.manual_seed(1)
    first = copy_patches(estimate, mask, gradient)
    torch.manual_seed(2)
    assert torch.equal(copy_patches(estimate, mask, gradient), first)
