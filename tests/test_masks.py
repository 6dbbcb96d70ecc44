import cv2
import numpy as np
import pytest

from asyncdsb.masks import AREA_BINS, MASK_KINDS, make_mask, make_mask_in_bin

# Measured on 100 of RePaint's masks each: mean and standard deviation of the missing share, and
# means of the number of components and of the largest inscribed radius (pixels at 256 x 256).
REFERENCE_COUNT = 100
REFERENCE = {
    "wide": {"area": 0.249, "area_sd": 0.126, "components": 1.3, "radius": 48.0},
    "narrow": {"area": 0.297, "area_sd": 0.122, "components": 6.9, "radius": 15.7},
}
COUNT = 200
# Both samples scatter; at 3.5 standard errors one correct generator in 2000 fails a comparison.
ERRORS = 3.5


def measure(mask: np.ndarray) -> tuple[float, int, float]:
    hole = mask.astype(np.uint8)
    components = cv2.connectedComponents(hole)[0] - 1
    radius = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    return mask.mean(), components, radius


@pytest.fixture(scope="module")
def measured() -> dict[str, np.ndarray]:
    return {
        kind: np.array([measure(make_mask(kind, 256, seed)) for seed in range(COUNT)])
        for kind in REFERENCE
    }


@pytest.mark.parametrize("kind", REFERENCE)
@pytest.mark.parametrize("column, name", [(0, "area"), (1, "components"), (2, "radius")])
def test_means_match_the_published_masks(measured, kind, column, name):
    values = measured[kind][:, column]
    error = values.std(ddof=1) * np.sqrt(1 / COUNT + 1 / REFERENCE_COUNT)
    assert abs(values.mean() - REFERENCE[kind][name]) < ERRORS * error


@pytest.mark.parametrize("kind", REFERENCE)
def test_spread_of_the_area_matches_the_published_masks(measured, kind):
    values = measured[kind][:, 0]
    # Standard error of a standard deviation: sd sqrt((kurtosis - 1) / 4n).
    kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
    relative = np.sqrt((kurtosis - 1) / 4 * (1 / COUNT + 1 / REFERENCE_COUNT))
    assert abs(values.std(ddof=1) / REFERENCE[kind]["area_sd"] - 1) < ERRORS * relative


def test_wide_and_narrow_are_told_apart_by_every_statistic_but_the_area(measured):
    wide, narrow = measured["wide"], measured["narrow"]
    assert wide[:, 2].mean() > 2.5 * narrow[:, 2].mean()
    assert narrow[:, 1].mean() > 3 * wide[:, 1].mean()


@pytest.mark.parametrize("kind", ["wide", "narrow", "freeform"])
def test_share_of_the_area_does_not_depend_on_the_size(kind):
    count = 150
    small, large = (
        np.array([make_mask(kind, size, seed).mean() for seed in range(count)])
        for size in (64, 256)
    )
    # The same seed draws the same shape, so the difference scatters far less than the shares.
    error = (small - large).std(ddof=1) / np.sqrt(count)
    assert abs(small.mean() - large.mean()) < 0.02 + ERRORS * error


def test_center_and_half_are_the_published_ones_at_256():
    center = np.zeros((256, 256), bool)
    center[64:192, 64:192] = True
    half = np.zeros((256, 256), bool)
    half[:, 128:] = True
    np.testing.assert_array_equal(make_mask("center", 256), center)
    np.testing.assert_array_equal(make_mask("half", 256), half)


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("size", [8, 9, 33, (8, 100), (100, 8), (120, 200)])
def test_masks_are_boolean_and_neither_empty_nor_full(kind, size):
    for seed in range(20):
        mask = make_mask(kind, size, seed)
        assert mask.dtype == bool
        assert mask.shape == (size if isinstance(size, tuple) else (size, size))
        assert 0 < mask.sum() < mask.size


@pytest.mark.parametrize("kind", ["wide", "narrow", "freeform"])
def test_a_seed_decides_the_mask(kind):
    first = make_mask(kind, 64, 7)
    np.testing.assert_array_equal(first, make_mask(kind, 64, 7))
    np.testing.assert_array_equal(first, make_mask(kind, 64, np.random.default_rng(7)))
    assert (first != make_mask(kind, 64, 8)).any()


def test_a_generator_goes_on_from_mask_to_mask():
    rng = np.random.default_rng(0)
    assert (make_mask("wide", 64, rng) != make_mask("wide", 64, rng)).any()


def test_at_most_half_is_missing_in_the_random_kinds():
    shares = [make_mask(k, 32, s).mean() for k in ("wide", "narrow", "freeform") for s in range(60)]
    assert max(shares) <= 0.5


@pytest.mark.parametrize("area_bin", AREA_BINS)
@pytest.mark.parametrize("size", [64, (40, 90)])
def test_mask_in_bin_lies_in_its_bin(area_bin, size):
    shares = np.array([make_mask_in_bin(area_bin, size, seed).mean() for seed in range(40)])
    low, high = area_bin
    assert low <= shares.min() and shares.max() <= high
    # Spread over the bin, not stuck at one end.
    assert np.ptp(shares) > 0.4 * (high - low)


def test_mask_in_bin_is_decided_by_its_seed():
    first = make_mask_in_bin((0.2, 0.3), 48, 1)
    np.testing.assert_array_equal(first, make_mask_in_bin((0.2, 0.3), 48, 1))
    assert (first != make_mask_in_bin((0.2, 0.3), 48, 2)).any()


def test_mask_in_bin_of_exactly_one_pixel_count():
    # 13 of 64 pixels: nearly every stroke is too large, so single pixels make up the rest.
    for seed in range(10):
        assert make_mask_in_bin((0.2, 0.2050), 8, seed).sum() == 13


@pytest.mark.parametrize("size", [7, 0, -1, 8.5, (8, 7), (7, 8), (8,), (8, 8, 8), "big", None])
def test_bad_size_is_refused(size):
    with pytest.raises(ValueError, match="expected size .* got"):
        make_mask("wide", size)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="center, half, wide, narrow, freeform.*'blob'"):
        make_mask("blob", 64)


@pytest.mark.parametrize("area_bin", [(0.3, 0.2), (0, 0.2), (0.5, 1), (0.101, 0.102)], ids=str)
def test_bad_bin_is_refused(area_bin):
    """The last one holds no whole number of 64 pixels."""
    with pytest.raises(ValueError, match="expected .*area_bin"):
        make_mask_in_bin(area_bin, 8)
