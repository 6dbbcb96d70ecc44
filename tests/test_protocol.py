"""Which crops and masks an evaluation restores."""

import numpy as np
import pytest
from conftest import PHOTOS, mask_folder, smooth_photo
from PIL import Image

from train.judge.protocol import AREA_KINDS, derived_seed, iter_crops, parse_kinds


def test_crop_zero_is_the_centre_with_the_short_side_resized():
    (crop,) = iter_crops([("a", smooth_photo(0, (120, 80)))], 1, 40)
    expected = (
        smooth_photo(0, (120, 80)).crop((20, 0, 100, 80)).resize((40, 40), Image.Resampling.LANCZOS)
    )
    np.testing.assert_allclose(crop.pixels.astype(int), np.array(expected), atol=1)


def test_crops_depend_on_the_key_alone():
    forward = {c.name: c.pixels for c in iter_crops(PHOTOS, 3, 48)}
    backward = {c.name: c.pixels for c in iter_crops(PHOTOS[::-1], 4, 48)}
    assert set(forward) < set(backward)
    for name, pixels in forward.items():
        np.testing.assert_array_equal(pixels, backward[name])
    renamed = next(c for c in iter_crops([("other", PHOTOS[0][1])], 2, 48) if c.index == 1)
    assert (renamed.pixels != forward["photo-0-1"]).any()


def test_later_crops_lie_between_the_whole_short_side_and_full_resolution():
    # Along a ramp the difference between neighbours tells the scale.
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8), (200, 240))
    source = Image.fromarray(np.stack([ramp] * 3, 2))
    crops = list(iter_crops([("ramp", source)], 40, 50))
    slopes = [np.polyfit(range(50), crop.pixels[25, :, 0].astype(float), 1)[0] for crop in crops]
    assert slopes[0] == pytest.approx(4, abs=0.05)
    assert min(slopes) > 0.97 and max(slopes) < 4.05
    assert min(slopes) < 1.6 and np.ptp(slopes[1:]) > 1
    starts = [crop.pixels[25, 0, 0] for crop in crops[1:]]
    assert np.ptp(starts) > 60


def test_a_photo_smaller_than_a_crop_is_enlarged():
    crops = list(iter_crops([("small", smooth_photo(1, (30, 40)))], 3, 48))
    assert all(crop.pixels.shape == (48, 48, 3) for crop in crops)


def test_masks_and_noise_differ_between_crops_and_kinds():
    crops = list(iter_crops(PHOTOS, 2, 48))
    seeds = {crop.noise_seed(kind) for crop in crops for kind in ("wide", "narrow")}
    assert len(seeds) == 2 * len(crops)
    wide = [crop.mask("wide") for crop in crops]
    assert (wide[0] != wide[1]).any() and (wide[0] != crops[0].mask("narrow")).any()
    np.testing.assert_array_equal(wide[0], next(iter_crops(PHOTOS, 1, 48)).mask("wide"))


def test_derived_seed_separates_its_parts():
    assert derived_seed("a", 1) == derived_seed("a", 1)
    assert len({derived_seed("a", 11), derived_seed("a1", 1), derived_seed("a", 1, 1)}) == 3
    assert 0 <= derived_seed("a") < 2**63


def test_bad_protocols_are_refused():
    with pytest.raises(ValueError, match="at least 1 crop.*got 0"):
        list(iter_crops(PHOTOS, 0, 48))
    with pytest.raises(ValueError, match="at least 32.*got 31"):
        list(iter_crops(PHOTOS, 1, 31))
    with pytest.raises(ValueError, match="center.*1-10%.*got 'blob'"):
        parse_kinds("center,blob")
    with pytest.raises(ValueError, match="got ''"):
        parse_kinds("")


@pytest.mark.parametrize("kind", AREA_KINDS)
def test_kinds_by_area_have_that_area(kind):
    crop = next(iter_crops(PHOTOS, 1, 48))
    low, high = (int(part) / 100 for part in kind.rstrip("%").split("-"))
    assert low <= crop.mask(kind).mean() <= high


def rows(crop, kind):
    mask = crop.mask(kind)
    assert (mask == mask[:, :1]).all()
    return int(mask[:, 0].sum())


def test_masks_come_from_a_folder_by_name_or_in_turn(tmp_path):
    named = mask_folder(tmp_path / "a", ["photo-1", "photo-0-1", "other"])
    turns = mask_folder(tmp_path / "b", ["000", "001", "002", "003"])
    kinds, folders = parse_kinds(f"named={named},center,turns={turns}")
    assert kinds == ("named", "center", "turns")
    crops = list(iter_crops(PHOTOS, 2, 48, folders))
    # By photo, by crop, and where there is no such name by place.
    assert [rows(crop, "named") for crop in crops] == [3, 2, 1, 1, 2, 1]
    assert [rows(crop, "turns") for crop in crops] == [1, 2, 3, 4, 1, 2]
    assert rows(crops[0], "turns") == 1 and crops[0].mask("center").mean() == 0.25


def test_masks_of_a_folder_may_be_inverted_and_of_another_size(tmp_path):
    folder = mask_folder(tmp_path / "a", ["000", "001"], size=96)
    crop = next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={folder}", inverted=True)[1]))
    kept = next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={folder}")[1]))
    assert rows(kept, "x") == 1
    np.testing.assert_array_equal(kept.mask("x"), ~crop.mask("x"))


def test_bad_folders_of_masks_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    full = mask_folder(tmp_path / "full", ["000"])
    Image.new("L", (48, 48), 0).save(full / "000.png")
    with pytest.raises(ValueError, match="found none at .*empty"):
        parse_kinds(f"x={tmp_path / 'empty'}")
    with pytest.raises(ValueError, match="another name.*'center'"):
        parse_kinds(f"center={full}")
    with pytest.raises(ValueError, match="000.png has no hole"):
        next(iter_crops(PHOTOS, 1, 48, parse_kinds(f"x={full}")[1])).mask("x")
