import numpy as np
import pytest
import torch
from scipy import ndimage

from asyncdsb.gradient import (
    GradientCompletion,
    GradientConfig,
    _sobel,
    image_gradient,
    known_gradient,
    luma_weights,
)
from asyncdsb.networks import CompletionConfig
from asyncdsb.networks.device import per_channel


@pytest.fixture
def image():
    return torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def mask():
    mask = torch.zeros(2, 1, 48, 32)
    mask[:, :, 10:30, 8:20] = 1
    return mask


def test_operator_is_the_sobel_magnitude_of_luma(image):
    rgb = (image[0].double().numpy() + 1) / 2
    luma = np.tensordot([0.299, 0.587, 0.114], rgb, 1)
    x, y = ndimage.sobel(luma, 1, mode="nearest"), ndimage.sobel(luma, 0, mode="nearest")
    expected = np.clip(np.hypot(x, y) / 4, 0, 1)
    np.testing.assert_allclose(image_gradient(image)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_black_to_white_edge_has_magnitude_one(axis):
    image = torch.full((1, 3, 8, 8), -1.0)
    image.narrow(axis, 4, 4).fill_(1)
    gradient = image_gradient(image)
    assert gradient.max() == pytest.approx(1)
    assert gradient.min() == 0


def test_constants_are_made_once_and_serve_a_training_after_a_look():
    device = torch.device("cpu")
    weights = luma_weights(device, torch.float64)
    assert weights is luma_weights(device, torch.float64) and weights.shape == (1, 3, 1, 1)
    per_channel.cache_clear()
    _sobel.cache_clear()
    with torch.inference_mode():
        image_gradient(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    image_gradient(image).sum().backward()
    assert image.grad.isfinite().all()


def test_known_gradient_ignores_what_is_under_the_mask(image, mask):
    other = torch.where(mask > 0.5, -image, image)
    for a, b in zip(known_gradient(image, mask), known_gradient(other, mask), strict=True):
        assert torch.equal(a, b)


def test_unknown_is_the_hole_and_the_pixels_whose_operator_touches_it(image, mask):
    gradient, unknown = known_gradient(image, mask)
    expected = ndimage.binary_dilation(mask[0, 0].numpy() > 0, np.ones((3, 3)))
    assert np.array_equal(unknown[0, 0].numpy() > 0, expected)
    inside = unknown > 0
    assert torch.equal(gradient[~inside], image_gradient(image)[~inside])
    assert gradient[inside].abs().max() == 0


def test_completion_keeps_known_values_and_predicts_the_rest(image, mask):
    torch.manual_seed(0)
    net = GradientCompletion(GradientConfig(CompletionConfig(width=4, blocks=1))).eval()
    with torch.no_grad():
        completed = net(image, mask)
        again = net(torch.where(mask > 0.5, torch.zeros_like(image), image), mask)
    gradient, unknown = known_gradient(image, mask)
    assert torch.equal(completed[unknown < 0.5], gradient[unknown < 0.5])
    assert torch.equal(completed, again)
    assert 0 <= completed.min() and completed.max() <= 1
    assert completed[unknown > 0.5].std() > 0
