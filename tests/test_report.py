"""Intervals, tables and sheets of an evaluation."""

import numpy as np
import pytest

from train.judge.report import contact_sheet, ratio_table
from train.judge.results import clustered_mean, frechet_difference


def test_interval_covers_the_mean_and_grows_with_the_groups_not_the_values():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=40)
    values = (centres[:, None] + 0.01 * rng.normal(size=(40, 5))).ravel().tolist()
    photos = [str(i) for i in range(40) for _ in range(5)]
    by_photo = clustered_mean(values, photos)
    assert by_photo["mean"] == pytest.approx(np.mean(values))
    assert by_photo["low"] < by_photo["mean"] < by_photo["high"]
    assert (by_photo["n"], by_photo["groups"]) == (200, 40)
    # Half the width is about 1.96 standard errors of 40 photos, not of 200 independent crops.
    half = (by_photo["high"] - by_photo["low"]) / 2
    assert half == pytest.approx(1.96 * centres.std() / np.sqrt(40), rel=0.15)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        values = rng.normal(size=30).tolist()
        found = clustered_mean(values, [str(i) for i in range(30)])
        hits += found["low"] < 0 < found["high"]
    # Binomial(100, 0.95) lies in here with probability 0.998; the bootstrap is a little narrow.
    assert 86 <= hits <= 100


def test_one_photo_has_no_interval():
    found = clustered_mean([1.0, 3.0], ["a", "a"])
    assert found["mean"] == 2 and found["low"] is found["high"] is None


def test_contact_sheet_puts_pictures_in_their_places():
    red, blue = (np.full((40, 40, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    sheet = np.array(contact_sheet([[red, blue], [blue, red]], ["a", "b"]))
    assert tuple(sheet[24 + 20, 6 + 20]) == (255, 0, 0)
    assert tuple(sheet[24 + 20, 52 + 20]) == (0, 0, 255)
    assert tuple(sheet[70 + 20, 52 + 20]) == (255, 0, 0)


def test_the_difference_of_distances_has_an_interval_that_finds_a_real_one():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(80, 6))
    groups = [str(i // 2) for i in range(80)]
    near, far = truth + 0.1 * rng.normal(size=(2, 80, 6)) + [[[0.0]], [[0.8]]]
    found = frechet_difference(far, near, truth, groups)
    assert found["mean"] == pytest.approx(6 * 0.8**2, rel=0.2)
    assert 0 < found["low"] < found["mean"] < found["high"]
    # The measured difference lies well inside.
    share = (found["mean"] - found["low"]) / (found["high"] - found["low"])
    assert 0.25 < share < 0.75
    # Two methods that are equally good: the interval holds zero.
    same = frechet_difference(*(truth + 0.1 * rng.normal(size=(2, 80, 6))), truth, groups)
    assert same["low"] < 0 < same["high"]


def test_no_share_of_a_classical_method_without_any_error():
    summary = {"center": {"bridge": {"lpips": 0.1}, "telea": {"lpips": 0.0}}}
    assert ratio_table(summary, "bridge", ["lpips"]).splitlines()[-1].endswith("| - |")
