"""How close a restored image is to the truth, and a set of restored images to a set of true ones.

Distances between sets are over features that a network of :mod:`asyncdsb.measure.perceptual`
extracts. A Frechet distance is biased upwards in small sets: compare it at equal n only.
"""

import math

import numpy as np

from asyncdsb.noise import COLOUR_AXES


def psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in decibels, 10 log10(255^2 / MSE), of images in [0, 255].

    Both have one shape (H, W) or (H, W, C), else ValueError. With a mask, bool (H, W), the mean
    runs over its True pixels only. Infinite where the images agree exactly.
    """
    image, truth = _pair(image, truth)
    squared = (image - truth) ** 2
    error = squared.mean() if mask is None else squared[mask].mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al. 2004), averaged over channels and pixels; at most 1.

    Both images have one shape (H, W) or (H, W, C), values in [0, 255] and sides of at least 11.
    With a mask, bool (H, W), the mean runs over the windows centred on its True pixels, the image
    being mirrored at its border, else over all windows that lie inside the image. ValueError on two
    shapes, or on smaller images.
    """
    similarity = ssim_map(*_pair(image, truth))
    inside = similarity[5:-5, 5:-5] if mask is None else similarity[mask]
    return float(inside.mean())


def ssim_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of the Gaussian window (sigma 1.5, 11 x 11 pixels) around every pixel.

    With the window's means m, variances v and covariance c of each channel,
    ``(2 m1 m2 + C1) (2 c + C2) / ((m1^2 + m2^2 + C1) (v1 + v2 + C2))``, C1 = (0.01 * 255)^2 and
    C2 = (0.03 * 255)^2. Of the images' shape; they are in grey levels of a range of 255, which they
    may leave. ValueError below 11 pixels.
    """
    # Imported here, because scipy comes with it and takes time to load.
    from skimage.metrics import structural_similarity

    if min(image.shape[:2]) < 11:
        raise ValueError(f"expected sides of at least 11 pixels for SSIM; got {image.shape[:2]}")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    options = {"data_range": 255, "channel_axis": 2 if image.ndim == 3 else None, "full": True}
    return structural_similarity(image, truth, **options, **window)[1]


def seam(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> tuple[float, float]:
    """How much the border of a restored hole stands out.

    Over all pairs of a hole pixel p and a known 4-neighbour q, with the step d = I(p) - I(q)::

        step  = mean |d_image| - mean |d_truth|      jumps that the untouched photo does not have
        shift = mean over channels |mean (d_image - d_truth)|      a common offset of the colour

    A blurred border makes the step negative. Images have one shape (H, W) or (H, W, C), the hole is
    bool (H, W). ValueError on two shapes, or a hole without a border.
    """
    both = np.stack(_pair(image, truth)).reshape(2, *hole.shape, -1)
    jumps = []
    for axis in (0, 1):
        # Signed from the known pixel to the restored one, so that an offset does not cancel.
        change = np.diff(hole.astype(float), axis=axis)
        border = change != 0
        jumps.append(change[border][:, None] * np.diff(both, axis=axis + 1)[:, border])
    jump, true_jump = np.concatenate(jumps, axis=1)
    if not len(jump):
        raise ValueError("expected a hole with a border, got none")
    step = np.abs(jump).mean() - np.abs(true_jump).mean()
    return float(step), float(np.abs((jump - true_jump).mean(0)).mean())


def colour_excess(image: np.ndarray, hole: np.ndarray) -> float:
    """How far the colours of a restored hole go beyond those of the known pixels.

    Along each of the two axes of colour of :data:`asyncdsb.noise.COLOUR_AXES` the range of a
    region is from its 1st to its 99th percentile. The excess is the largest distance, of four ends,
    by which the hole's range passes the known one; 0 if it does not. A blob of a colour that the
    photograph does not have shows here although it hardly counts in any mean.

    The image is uint8 (H, W, 3), the hole bool (H, W); in grey levels along unit vectors of RGB.
    """
    axes = image.astype(np.float64) @ np.array(COLOUR_AXES[1:]).T
    low, high = np.percentile(axes[hole], (1, 99), axis=0)
    known_low, known_high = np.percentile(axes[~hole], (1, 99), axis=0)
    return float(max(0.0, (known_low - low).max(), (high - known_high).max()))


def squared_error(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Sum of the squared differences of (H, W, C) over the pixels of a hole, bool (H, W)."""
    difference = image[hole].astype(np.float64) - truth[hole].astype(np.float64)
    return float((difference**2).sum())


def octaves(side: int) -> tuple[str, ...]:
    """Names of the bands of :func:`band_power`, in cycles per picture: "0-1", "1-2", "2-4", ...

    The last ends at half the side, the finest pattern along one axis.
    """
    ends = _octave_ends(side)
    return tuple(f"{low:g}-{high:g}" for low, high in zip(ends[:-1], ends[1:], strict=True))


def _octave_ends(side: int) -> list[float]:
    doublings = (2.0**n for n in range(side.bit_length()))
    return [0.0, *(end for end in doublings if end < side / 2), side / 2]


def band_power(picture: np.ndarray, fill: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Power of what a hole shows beyond a smooth fill, for every octave of frequency.

    With X the orthonormal two-dimensional cosine transform (DCT-II) of (picture - fill) inside the
    hole and 0 outside, over the whole picture, mode (i, j) has the frequency
    f = sqrt(i^2 + j^2) / 2 cycles per picture, and a band has the power

        sum over channels and the modes with low <= f < high of X_ij^2.

    The bands are those of :func:`octaves`; the last also takes the corner of the spectrum, which
    lies above it, so that the powers add up to the squared difference in the hole (Parseval).
    Powers of two pictures can be compared if they have the same fill, ``harmonic``, and hole.

    Picture and fill are (S, S, C), the hole is bool (S, S). In squared units of the picture, one
    number for each of ``octaves(S)``.
    """
    # Only evaluations need scipy: it comes with the extra `eval`.
    from scipy.fft import dctn

    side = hole.shape[0]
    residual = picture.astype(np.float64) - fill.astype(np.float64)
    modes = dctn(np.where(hole[..., None], residual, 0.0), axes=(0, 1), norm="ortho")
    index = np.arange(side) / 2
    frequency = np.hypot(index[:, None], index[None, :])
    inner = _octave_ends(side)[1:-1]
    band = np.digitize(frequency, inner)
    return np.bincount(band.ravel(), (modes**2).sum(2).ravel(), minlength=len(inner) + 1)


def _pair(image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; ValueError where they would be broadcast."""
    if image.shape != truth.shape:
        raise ValueError(f"expected two images of one shape; got {image.shape} and {truth.shape}")
    return image.astype(np.float64), truth.astype(np.float64)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and sample covariances S. The trace
    of the root is the sum of the singular values of X1 X2^T / sqrt((n1 - 1)(n2 - 1)), X being the
    centred features (n, d), n >= 2: exact also with fewer samples than dimensions.
    """
    first, second = (np.asarray(features, np.float64) for features in (first, second))
    x1, x2 = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (first, second))
    # R with R^T R = X^T X keeps the product small whichever of n and d is the larger.
    r1, r2 = (x if len(x) <= x.shape[1] else np.linalg.qr(x).R for x in (x1, x2))
    root_trace = np.linalg.svd(r1 @ r2.T, compute_uv=False).sum()
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(apart + (x1**2).sum() + (x2**2).sum() - 2 * root_trace)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (as KID).

    Features are (n, d), n >= 2. It is below 0 at times.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def inception_score(logits: np.ndarray) -> float:
    """Inception score (Salimans et al. 2016): exp of the mean KL(p(y | x) || p(y)).

    Of class scores (n, classes) before the softmax, all taken as one set; at least 1.
    """
    from scipy.special import log_softmax

    log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
    p = np.exp(log_p)
    # Classes nobody gets add nothing: p log p tends to 0.
    marginal = np.log(np.maximum(p.mean(0), 1e-300))
    return math.exp((p * (log_p - marginal)).sum(1).mean())
