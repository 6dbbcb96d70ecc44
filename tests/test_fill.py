import pytest
import torch

from asyncdsb.photo.fill import FILLS, fill_hole, harmonic_fill


@pytest.fixture
def picture():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 44), indexing="ij")
    return torch.stack([x, y, (x + y) / 2])[None]


@pytest.fixture
def mask():
    mask = torch.zeros(1, 1, 60, 44)
    mask[..., 20:40, 10:31] = 1
    return mask


@pytest.mark.parametrize("kind", FILLS)
def test_known_pixels_stay_and_the_hole_does_not_matter(picture, mask, kind):
    filled = fill_hole(picture, mask, kind)
    garbage = torch.where(mask > 0.5, torch.full_like(picture, float("nan")), picture)
    assert torch.equal(filled, fill_hole(garbage, mask, kind))
    known = (mask < 0.5).expand_as(picture)
    assert torch.equal(filled[known], picture[known])


def test_nothing_known_gives_zero():
    assert fill_hole(torch.ones(1, 3, 7, 9), torch.ones(1, 1, 7, 9), "harmonic").abs().max() == 0


def test_unknown_kind_is_refused(picture, mask):
    with pytest.raises(ValueError, match="zero, harmonic, got 'magic'"):
        fill_hole(picture, mask, "magic")


def test_harmonic_agrees_with_the_solved_equation():
    """Reference: Laplace's equation with the known border, as a dense linear system."""
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 20, 24, generator=g, dtype=torch.float64)
    hole = torch.zeros(1, 1, 20, 24, dtype=torch.bool)
    hole[..., 5:15, 6:18] = True
    hole[..., 0:4, 20:24] = True  # touches the picture's edge, across which nothing flows
    places = hole[0, 0].nonzero().tolist()
    number = {tuple(place): i for i, place in enumerate(places)}
    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), dtype=torch.float64)
    for (y, x), i in number.items():
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < 20 and 0 <= u < 24:
                matrix[i, i] += 1
                if (v, u) in number:
                    matrix[i, number[v, u]] -= 1
                else:
                    right[i] += image[0, 0, v, u]
    wanted = image.clone()
    wanted[hole] = torch.linalg.solve(matrix, right)
    known = torch.where(hole, torch.zeros_like(image), image)
    torch.testing.assert_close(harmonic_fill(known, hole, sweeps=400), wanted, atol=1e-6, rtol=0)
    # The default is not far from it, on white noise, the hardest border.
    default = (harmonic_fill(known, hole) - wanted).abs().mean()
    assert default < 0.3 * (harmonic_fill(known, hole, sweeps=0) - wanted).abs().mean()


def test_harmonic_meets_the_border_without_a_step(mask):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 60), torch.linspace(-1, 1, 44), indexing="ij")
    image = (x + 0.5 * y).expand(1, 3, 60, 44)
    steps = {}
    hole = mask > 0.5
    for sweeps in (0, 8):
        filled = harmonic_fill(image.masked_fill(hole, 0), hole, sweeps)
        steps[sweeps] = (filled[0, 0, 20:40, 10] - filled[0, 0, 20:40, 9]).abs().mean()
    slope = x[0, 1] - x[0, 0]
    assert abs(steps[8] - slope) < 0.05 * slope
    assert abs(steps[0] - slope) > 0.2 * slope
