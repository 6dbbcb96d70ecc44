import math
import sys
import types

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from asyncdsb.masks import make_mask
from asyncdsb.measure import baselines
from asyncdsb.measure.metrics import (
    band_power,
    colour_excess,
    frechet_distance,
    inception_score,
    kernel_distance,
    octaves,
    psnr,
    seam,
    squared_error,
    ssim,
)
from asyncdsb.measure.perceptual import (
    INCEPTION_FILE,
    EfficientNetFeatures,
    InceptionFeatures,
    Lpips,
)
from asyncdsb.photo.fill import fill_hole

pytestmark = pytest.mark.slow


def picture(seed: int, shape: tuple[int, int] = (48, 60)) -> np.ndarray:
    """Smooth colour ramps with some noise, uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / 16
    waves = [np.sin(rows * a + columns * b) for a, b in rng.uniform(-1, 1, (3, 2))]
    clean = 120 + 70 * np.stack(waves, 2) + rng.normal(0, 6, (*shape, 3))
    return np.clip(clean, 0, 255).astype(np.uint8)


def disturbed(image: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(9).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2, 40])
def test_psnr_agrees_with_scikit_image(channels, sigma):
    truth = picture(0)[..., :channels]
    image = disturbed(truth, sigma)
    expected = peak_signal_noise_ratio(truth, image, data_range=255)
    assert psnr(image, truth) == pytest.approx(expected, abs=1e-4)


def test_grey_images_need_no_channel_axis():
    truth = picture(1)[..., 0]
    image = disturbed(truth, 10)
    assert ssim(image, truth) == pytest.approx(ssim(image[..., None], truth[..., None]), abs=1e-12)
    assert psnr(image, truth) == psnr(image[..., None], truth[..., None])


def test_equal_images_are_perfect():
    truth = picture(2)
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == pytest.approx(1)


def test_masked_psnr_sees_the_hole_alone():
    truth = picture(3)
    mask = make_mask("center", truth.shape[:2])
    image = np.where(mask[..., None], truth ^ 16, truth)
    assert psnr(image, truth, mask) == pytest.approx(10 * math.log10(255**2 / 16**2))
    # The same squared error spread over four times the pixels.
    assert psnr(image, truth) == pytest.approx(psnr(image, truth, mask) + 10 * math.log10(4))
    assert psnr(image, truth, ~mask) == math.inf


def test_masked_ssim_is_the_mean_of_the_map_over_the_mask():
    truth = picture(4)
    image = disturbed(truth, 20)
    mask = np.zeros(truth.shape[:2], bool)
    mask[10:30, 12:40] = True
    _, similarity = structural_similarity(
        truth,
        image,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    assert ssim(image, truth, mask) == pytest.approx(similarity[mask].mean(), abs=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_paired_metrics_refuse_what_they_cannot_compare(metric):
    image = picture(5)
    with pytest.raises(ValueError, match="one shape.*got"):
        metric(image, image[:-1])


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match=r"at least 11.*\(10, 20\)"):
        ssim(np.zeros((10, 20, 3), np.uint8), np.zeros((10, 20, 3), np.uint8))


# --- LPIPS ---


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    return Lpips()


def noise_pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, (3, 64, 96, 3)).astype(np.float32)
    second = np.clip(first + rng.normal(0, 0.3, first.shape), -1, 1).astype(np.float32)
    one, other = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in (first, second))
    return one, other


def test_lpips_gives_the_values_of_another_implementation(lpips):
    # Computed once with lpips_jax 0.1.0 under jax 0.10.2 on the same arrays, in single precision.
    expected = [0.02796656, 0.03375862, 0.04109457]
    np.testing.assert_allclose(lpips(*noise_pair()).numpy(), expected, rtol=1e-4)


def test_lpips_is_a_symmetric_dissimilarity(lpips):
    first, second = noise_pair()
    torch.testing.assert_close(lpips(first, second), lpips(second, first))
    assert (lpips(first, first) == 0).all()
    halfway = (first + second) / 2
    assert (lpips(first, halfway) < lpips(first, second)).all()


def test_lpips_of_a_sample_does_not_depend_on_its_batch(lpips):
    first, second = noise_pair()
    torch.testing.assert_close(lpips(first[1:2], second[1:2]), lpips(first, second)[1:2])


def test_lpips_refuses_bad_shapes(lpips):
    with pytest.raises(AssertionError):
        lpips(torch.zeros(1, 3, 64, 64), torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match="at least 32"):
        lpips(torch.zeros(1, 3, 64, 16), torch.zeros(1, 3, 64, 16))


# --- distances between sets ---


def exact_gaussian(mean: np.ndarray, cov: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Samples whose mean and sample covariance are exactly those given."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return mean + x @ np.linalg.cholesky(cov).T


def test_frechet_distance_of_known_gaussians():
    # Commuting covariances: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2 over the eigenvalues.
    first = exact_gaussian(np.zeros(3), np.diag([1.0, 4.0, 9.0]), 50, 0)
    second = exact_gaussian(np.array([1.0, 2.0, 2.0]), np.diag([4.0, 4.0, 1.0]), 70, 1)
    assert frechet_distance(first, second) == pytest.approx(9 + 1 + 0 + 4)


@pytest.mark.parametrize("counts", [(40, 60), (5, 60), (5, 6)])
def test_frechet_distance_agrees_with_a_matrix_root(counts):
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(2, 8, 8))
    first, second = (
        rng.normal(size=(n, 8)) @ m + i for i, (n, m) in enumerate(zip(counts, mixing, strict=True))
    )
    cov_1, cov_2 = np.cov(first.T), np.cov(second.T)
    root_1 = scipy.linalg.sqrtm(cov_1)
    root = scipy.linalg.sqrtm(root_1 @ cov_2 @ root_1)
    means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = means + np.trace(cov_1 + cov_2 - 2 * np.real(root))
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_a_set_to_itself_is_zero():
    features = np.random.default_rng(4).normal(size=(20, 50))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_agrees_with_its_definition():
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(6, 4)), rng.normal(1, 1, (5, 4))

    def k(a, b):
        return (a @ b / 4 + 1) ** 3

    within_1 = np.mean(
        [k(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j]
    )
    within_2 = np.mean(
        [k(a, b) for i, a in enumerate(second) for j, b in enumerate(second) if i != j]
    )
    across = np.mean([k(a, b) for a in first for b in second])
    assert kernel_distance(first, second) == pytest.approx(within_1 + within_2 - 2 * across)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(6)
    values = [kernel_distance(*rng.normal(size=(2, 20, 3))) for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


def test_feature_net_gives_one_vector_per_image_whatever_the_batch():
    network = EfficientNetFeatures()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = network(images)
    assert features.shape == (3, 1280) and features.dtype == np.float64
    np.testing.assert_allclose(network(images[1:2])[0], features[1], atol=1e-4)
    # A trained network tells the pictures apart from a shift of their grey value by 1/255.
    shifted = network(images + 2 / 255)
    assert np.abs(shifted - features).mean() < 0.3 * np.abs(features[0] - features[1]).mean()


def test_class_scores_are_those_of_the_whole_network():
    network = EfficientNetFeatures()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = network.logits(network(images))
    # The package's own forward pass, from pixels to classes.
    with torch.inference_mode():
        wanted = network._network(((images + 1) * 127.5 - 127) / 128)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


# --- Inception score ---


def test_inception_score_of_known_distributions():
    certain = 50 * np.eye(8)
    assert inception_score(certain) == pytest.approx(8)
    assert inception_score(np.zeros((8, 5))) == pytest.approx(1)
    assert inception_score(np.tile(certain[:1], (6, 1))) == pytest.approx(1)


def test_inception_score_agrees_with_scipy():
    logits = np.random.default_rng(2).normal(0, 3, (30, 7))
    p = scipy.special.softmax(logits, 1)
    wanted = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert inception_score(logits) == pytest.approx(wanted, rel=1e-12)


# --- FID's own network, which is an extra ---


class FakeInception(torch.nn.Module):
    """As torch-fidelity's extractor: bytes in, a tuple of features out."""

    def __init__(self, name, features, feature_extractor_weights_path=None):
        super().__init__()
        assert features == ["2048"]
        self.fc = torch.nn.Linear(2048, 1008)
        if feature_extractor_weights_path is not None:
            torch.load(feature_extractor_weights_path, weights_only=True)

    def forward(self, images):
        assert images.dtype == torch.uint8
        return (images.float().mean((1, 2, 3))[:, None].repeat(1, 2048),)


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A torch-fidelity of which only the extractor is there."""
    package, module = types.ModuleType("torch_fidelity"), types.ModuleType("x")
    module.FeatureExtractorInceptionV3 = FakeInception
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


def test_inception_features_see_bytes_and_have_fids_names(torch_fidelity, tmp_path):
    torch.save({}, tmp_path / INCEPTION_FILE)
    network = InceptionFeatures(tmp_path / INCEPTION_FILE)
    levels = torch.tensor([0, 17, 255], dtype=torch.float64).view(3, 1, 1, 1)
    features = network((levels / 127.5 - 1).float().expand(3, 3, 4, 4))
    np.testing.assert_array_equal(features[:, 5], [0, 17, 255])
    assert network.names == ("FID", "KID", "IS")
    bias = network._network.fc.bias.detach().numpy()
    with_bias = network._network.fc(torch.from_numpy(features).float()).detach().numpy()
    np.testing.assert_allclose(network.logits(features), with_bias - bias, atol=1e-3)


def test_missing_inception_says_what_to_do(tmp_path, monkeypatch, request):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        InceptionFeatures()
    request.getfixturevalue("torch_fidelity")
    with pytest.raises(ValueError, match=f"{INCEPTION_FILE}.*No such file"):
        InceptionFeatures(tmp_path / "none.pth")


# --- classical methods ---


@pytest.mark.parametrize("method", baselines.METHODS)
@pytest.mark.parametrize("kind", ["center", "narrow"])
def test_classical_methods_keep_known_pixels_and_repeat_themselves(method, kind):
    image = picture(7, (64, 64))
    mask = make_mask(kind, 64, 3)
    restored = baselines.restore(method, image, mask)
    assert restored.dtype == np.uint8 and restored.shape == image.shape
    np.testing.assert_array_equal(restored[~mask], image[~mask])
    np.testing.assert_array_equal(restored, baselines.restore(method, image, mask))
    # Better than the grey mean, and blind to what the hole shows.
    grey = np.where(mask[..., None], image[~mask].mean(0).astype(np.uint8), image)
    assert psnr(restored, image, mask) > psnr(grey, image, mask)
    other = np.where(mask[..., None], np.uint8(255) - image, image)
    np.testing.assert_array_equal(restored, baselines.restore(method, other, mask))


def test_patchmatch_serves_a_mask_that_covers_its_coarsest_scale():
    image = picture(8, (64, 64))
    mask = np.zeros((64, 64), bool)
    mask[::8] = mask[:, ::8] = True
    restored = baselines.restore("patchmatch", image, mask)
    np.testing.assert_array_equal(restored[~mask], image[~mask])
    assert (restored[mask] != 0).mean() > 0.9


# --- colours ---


def test_colours_of_the_photograph_are_no_excess_and_a_blob_is():
    rng = np.random.default_rng(0)
    image = (100 + rng.integers(-20, 21, (64, 64, 1)) + np.zeros((1, 1, 3))).astype(np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:50, 20:50] = True
    assert colour_excess(image, hole) == 0.0
    # Brighter is no colour.
    brighter = image.copy()
    brighter[hole] += 100
    assert colour_excess(brighter, hole) < 1e-6
    # 5 % of the hole in magenta: 60 levels more of red and blue, 2 x 60 / sqrt(6) along the axis.
    blob = image.copy()
    blob[30:37, 30:37, [0, 2]] += 60
    assert colour_excess(blob, hole) == pytest.approx(2 * 60 / 6**0.5, abs=1e-6)
    # Known elsewhere, the colour is the photograph's own.
    blob[:12, :, [0, 2]] += 60
    assert colour_excess(blob, hole) == pytest.approx(0.0, abs=1e-6)


# --- seams ---


def seam_scene():
    rng = np.random.default_rng(3)
    truth = rng.integers(60, 180, (40, 48, 3)).astype(np.uint8)
    hole = np.zeros((40, 48), bool)
    hole[10:25, 12:30] = True
    hole[0:5, 40:48] = True  # a corner: its outer sides are no border
    return truth, hole


def test_a_perfect_restoration_has_no_seam():
    truth, hole = seam_scene()
    assert seam(truth, truth, hole) == (0.0, 0.0)


def test_a_common_offset_is_the_shift():
    truth, hole = seam_scene()
    image = truth.copy()
    image[hole] += np.array([7, 3, 2], np.uint8)
    step, shift = seam(image, truth, hole)
    assert shift == pytest.approx(4.0)  # mean of the three channels' offsets


@pytest.mark.parametrize("transpose", [False, True])
def test_a_step_between_flat_areas_is_its_height(transpose):
    truth = np.full((20, 30, 3), 100, np.uint8)
    hole = np.zeros((20, 30), bool)
    hole[:, 10:] = True
    image = truth.copy()
    image[hole] = 109
    if transpose:
        truth, image, hole = truth.swapaxes(0, 1), image.swapaxes(0, 1), hole.T
    assert seam(image, truth, hole) == (9.0, 9.0)


def test_seam_agrees_with_a_loop_over_pixels():
    truth, hole = seam_scene()
    image = np.where(hole[..., None], np.flip(truth, 0), truth)
    pairs = []
    for y, x in zip(*np.nonzero(hole), strict=True):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < hole.shape[0] and 0 <= u < hole.shape[1] and not hole[v, u]:
                pairs.append([p[y, x].astype(float) - p[v, u] for p in (image, truth)])
    found, true = np.array(pairs).swapaxes(0, 1)
    step, shift = seam(image, truth, hole)
    assert step == pytest.approx(np.abs(found).mean() - np.abs(true).mean())
    assert shift == pytest.approx(np.abs((found - true).mean(0)).mean())


def test_a_hole_without_a_border_is_refused():
    truth, hole = seam_scene()
    with pytest.raises(ValueError, match="border"):
        seam(truth, truth, np.ones_like(hole))


# --- what a hole holds beyond a smooth fill ---


def holed(side: int, seed: int = 0):
    """A picture (side, side, 3), the smooth fill of an irregular hole in it, and the hole."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (side, side, 3))
    hole = make_mask("wide", side, seed)
    tensors = torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(hole)[None, None]
    fill = fill_hole(*tensors, "harmonic")[0].permute(1, 2, 0).numpy()
    return image, fill, hole


@pytest.mark.parametrize("side, last", [(48, "16-24"), (64, "16-32"), (128, "32-64")])
def test_powers_add_up_to_the_squared_difference_in_the_hole(side, last):
    image, fill, hole = holed(side)
    found = band_power(image, fill, hole)
    assert found.sum() == pytest.approx(squared_error(image, fill, hole), rel=1e-12)
    assert found.sum() == pytest.approx(((image - fill) ** 2)[hole].sum(), rel=1e-12)
    assert len(found) == len(octaves(side)) and octaves(side)[-1] == last
    # What the pictures show outside does not matter.
    elsewhere = np.where(hole[..., None], image, 7.0)
    np.testing.assert_array_equal(band_power(elsewhere, fill, hole), found)


def test_the_fill_itself_has_no_power_and_twice_the_structure_has_four_times_the_power():
    image, fill, hole = holed(64)
    np.testing.assert_array_equal(band_power(fill, fill, hole), np.zeros(6))
    twice = band_power(2 * image - fill, fill, hole)
    np.testing.assert_allclose(twice / band_power(image, fill, hole), 4)


def test_powers_of_a_hand_made_picture():
    """Cosines over the whole of 8 x 8 pixels, one per channel: each has its own band."""
    place = (np.arange(8) + 0.5) / 8
    # Half a cycle across; one cycle down and one across; three cycles down; nearly the finest.
    half, one, three, fine = (np.cos(2 * np.pi * f * place) for f in (0.5, 1, 3, 3.5))
    flat = np.ones(8)
    waves = [flat[:, None] * half, one[:, None] * one, three[:, None] * flat, fine[:, None] * fine]
    picture = np.stack(waves, 2) * [1.0, 2.0, 3.0, 4.0]
    everywhere = np.ones((8, 8), bool)
    # A cosine has the mean square 1/2 along its axis, so 64 pixels have 32, and 16 with two axes.
    expected = [32, 4 * 16, 9 * 32 + 16 * 16]
    assert octaves(8) == ("0-1", "1-2", "2-4")
    np.testing.assert_allclose(band_power(picture, 0 * picture, everywhere), expected)
    for channel, band in enumerate((0, 1, 2, 2)):
        alone = band_power(picture[..., [channel]], 0 * picture[..., :1], everywhere)
        assert alone[band] == pytest.approx(alone.sum()) and alone.sum() > 1


def test_a_band_begins_with_its_own_frequency():
    place = (np.arange(16) + 0.5) / 16
    for cycles, band in ((0.5, 0), (1, 1), (1.5, 1), (2, 2), (3.5, 2), (4, 3), (7.5, 3)):
        wave = np.broadcast_to(np.cos(2 * np.pi * cycles * place)[:, None, None], (16, 16, 1))
        found = band_power(wave, 0 * wave, np.ones((16, 16), bool))
        assert int(found.argmax()) == band and found[band] == pytest.approx(128)
