import pytest
import torch

from asyncdsb.fill import fill_hole


@pytest.fixture
def picture():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 44), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])[None]


@pytest.fixture
def mask():
    mask = torch.zeros(1, 1, 60, 44)
    mask[..., 20:40, 10:31] = 1
    return mask


@pytest.mark.parametrize("kind", ["zero", "pyramid", "telea"])
def test_known_pixels_stay_and_the_hole_does_not_matter(picture, mask, kind):
    filled = fill_hole(picture, mask, kind)
    garbage = torch.where(mask > 0.5, torch.full_like(picture, float("nan")), picture)
    assert torch.equal(filled, fill_hole(garbage, mask, kind))
    known = (mask < 0.5).expand_as(picture)
    assert torch.equal(filled[known], picture[known])


def test_pyramid_continues_a_ramp_smoothly(picture, mask):
    filled = fill_hole(picture, mask, "pyramid")
    hole = (mask > 0.5).expand_as(picture)
    error = (filled - picture)[hole].abs()
    assert error.mean() < 0.12  # the ramp itself spans 2, the hole a third of it
    assert filled[hole].abs().max() <= 1


def test_pyramid_of_a_constant_is_that_constant(mask):
    image = torch.full((1, 3, 60, 44), 0.3)
    torch.testing.assert_close(fill_hole(image, mask, "pyramid"), image)


def test_nothing_known_gives_zero():
    assert fill_hole(torch.ones(1, 3, 7, 9), torch.ones(1, 1, 7, 9), "pyramid").abs().max() == 0


def test_unknown_kind_is_refused(picture, mask):
    with pytest.raises(ValueError, match="zero, pyramid, telea, got 'magic'"):
        fill_hole(picture, mask, "magic")
