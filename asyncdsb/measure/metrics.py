"""How close a restored image is to the truth, and a set of restored images to a set of true ones.

Paired: :func:`psnr` and :func:`ssim` (both over the whole image or over the hole alone),
:func:`seam` along the hole's border, and :func:`squared_error`. Of a result alone:
:func:`band_power`, how much structure of every size a hole holds, and :func:`colour_excess`.
Between sets, over features that a network of :mod:`asyncdsb.measure.perceptual` extracts:
:func:`frechet_distance` and :func:`kernel_distance`; of one set, over its class scores:
:func:`inception_score`. The perceptual distance of a pair is
:class:`asyncdsb.measure.perceptual.Lpips`.

A Frechet distance is biased upwards in small sets: compare it at equal n only, and print n.
"""

import math

import cv2
import numpy as np

from asyncdsb.denoiser import COLOUR_AXES


def psnr(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE).

    Args:
        image: uint8 (H, W) or (H, W, C) in [0, 255].
        truth: as ``image``, of the same shape.
        mask: bool (H, W); the mean runs over its True pixels only. None = all pixels.

    Returns:
        Decibels; infinite where the images agree exactly.

    Raises:
        ValueError: shapes or types that differ from the above, or an empty mask.
    """
    image, truth, mask = _check_pair(image, truth, mask)
    squared = (image - truth) ** 2
    error = squared.mean() if mask is None else squared[mask].mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al. 2004), Gaussian window of sigma 1.5, 11 x 11 pixels.

    With the window's means m, variances v and covariance c of each channel,
    ``(2 m1 m2 + C1) (2 c + C2) / ((m1^2 + m2^2 + C1) (v1 + v2 + C2))``, C1 = (0.01 * 255)^2 and
    C2 = (0.03 * 255)^2, averaged over channels and pixels.

    Args:
        image: uint8 (H, W) or (H, W, C) in [0, 255], sides of at least 11.
        truth: as ``image``, of the same shape.
        mask: bool (H, W); the mean runs over the windows centred on its True pixels, the image
            being mirrored at its border. None = all windows that lie inside the image.

    Returns:
        Similarity, at most 1.

    Raises:
        ValueError: shapes or types that differ from the above, an image below 11 pixels, or an
            empty mask.
    """
    image, truth, mask = _check_pair(image, truth, mask)
    similarity = ssim_map(image, truth)
    inside = similarity[5:-5, 5:-5] if mask is None else similarity[mask]
    return float(inside.mean())


def ssim_map(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of the window around every pixel, see :func:`ssim`.

    Args:
        image: float (H, W) or (H, W, C), in grey levels of a range of 255, which it may leave.
        truth: as ``image``, of the same shape.

    Returns:
        float of the same shape; the image is mirrored at its border.

    Raises:
        ValueError: an image below 11 pixels.
    """
    if min(image.shape[:2]) < 11:
        raise ValueError(f"expected sides of at least 11 pixels for SSIM; got {image.shape[:2]}")

    def smooth(values: np.ndarray) -> np.ndarray:
        blurred = cv2.GaussianBlur(values, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)
        return blurred.reshape(values.shape)

    mean_1, mean_2 = smooth(image), smooth(truth)
    variance_1 = smooth(image * image) - mean_1 * mean_1
    variance_2 = smooth(truth * truth) - mean_2 * mean_2
    covariance = smooth(image * truth) - mean_1 * mean_2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    return similarity / ((mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2))


def seam(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> tuple[float, float]:
    """How much the border of a restored hole stands out.

    Over all pairs of a hole pixel p and a known 4-neighbour q, with the step d = I(p) - I(q)::

        step  = mean |d_image| - mean |d_truth|      jumps that the untouched photo does not have
        shift = mean over channels |mean (d_image - d_truth)|      a common offset of the colour

    Both are 0 for a perfect restoration; a seam makes both larger, a blurred border makes the step
    negative.

    Args:
        image: uint8 (H, W) or (H, W, C) in [0, 255].
        truth: as ``image``, of the same shape.
        hole: bool (H, W), True = was missing.

    Returns:
        Step and shift in grey levels.

    Raises:
        ValueError: shapes or types that differ from the above, or a hole without a border.
    """
    image, truth, _ = _check_pair(image, truth, hole)
    image, truth = (x.reshape(*hole.shape, -1) for x in (image, truth))
    jumps: list[np.ndarray] = []
    true_jumps: list[np.ndarray] = []
    for axis in (0, 1):
        first, second = (np.take(hole, part, axis) for part in _neighbours(hole.shape[axis]))
        border = first != second
        # Signed from the known pixel to the restored one, so that an offset does not cancel.
        sign = np.where(first[border], -1.0, 1.0)[:, None]
        for found, picture in ((jumps, image), (true_jumps, truth)):
            found.append(sign * np.diff(picture, axis=axis)[border])
    jump, true_jump = np.concatenate(jumps), np.concatenate(true_jumps)
    if not len(jump):
        raise ValueError("expected a hole with a border, got none")
    step = np.abs(jump).mean() - np.abs(true_jump).mean()
    return float(step), float(np.abs((jump - true_jump).mean(0)).mean())


def colour_excess(image: np.ndarray, hole: np.ndarray) -> float:
    """How far the colours of a restored hole go beyond those of the known pixels.

    Along each of the two axes of colour (red against blue, green against magenta,
    :data:`asyncdsb.denoiser.COLOUR_AXES`) the range of a region is from its 1st to its 99th
    percentile. The excess is the largest distance, of four ends, by which the hole's range passes
    the known one; 0 if it does not. A blob of a colour that the photograph does not have shows here
    although it hardly counts in any mean.

    Args:
        image: uint8 (H, W, 3).
        hole: bool (H, W), True = was missing, with known pixels around it.

    Returns:
        Grey levels (along unit vectors of RGB), >= 0.
    """
    axes = image.astype(np.float64) @ np.array(COLOUR_AXES[1:]).T
    low, high = np.percentile(axes[hole], (1, 99), axis=0)
    known_low, known_high = np.percentile(axes[~hole], (1, 99), axis=0)
    return float(max(0.0, (known_low - low).max(), (high - known_high).max()))


def _neighbours(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of neighbours along an axis."""
    return np.arange(length - 1), np.arange(1, length)


def squared_error(image: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Sum of the squared differences over the pixels of a hole and all channels.

    Args:
        image: float (H, W, C).
        truth: as ``image``, of the same shape.
        hole: bool (H, W), True = was missing.

    Returns:
        The sum, in squared units of the images.
    """
    difference = image[hole].astype(np.float64) - truth[hole].astype(np.float64)
    return float((difference**2).sum())


def octaves(side: int) -> tuple[str, ...]:
    """Names of the bands of :func:`band_power`, in cycles per picture: "0-1", "1-2", "2-4", ...

    Args:
        side: of the square picture in pixels, at least 4.

    Returns:
        "LOW-HIGH" for each band, rising; the last ends at half the side, the finest pattern along
        one axis.
    """
    ends = _octave_ends(side)
    return tuple(f"{low:g}-{high:g}" for low, high in zip(ends[:-1], ends[1:], strict=True))


def _octave_ends(side: int) -> list[float]:
    if side < 4:
        raise ValueError(f"expected a side of at least 4 pixels, got {side}")
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

    The window is the hole itself, of any shape, so that the powers of two pictures with the same
    fill and hole can be compared, band by band. The fill meets the known pixels without a step
    (``harmonic``); where a picture does so too, the window's border adds no power.

    Args:
        picture: float (S, S, C), all units alike.
        fill: smooth fill, of the same shape.
        hole: bool (S, S), True = was missing.

    Returns:
        float64, one number for each of ``octaves(S)``, in squared units of the picture.

    Raises:
        ValueError: shapes that differ from the above.
    """
    # Only evaluations need scipy: it comes with the extra `eval`.
    from scipy.fft import dctn

    side = hole.shape[0]
    if hole.shape != (side, side) or picture.shape != fill.shape or picture.shape[:2] != hole.shape:
        raise ValueError(
            "expected a square picture and a fill (S, S, C) and a hole (S, S);"
            f" got {picture.shape}, {fill.shape} and {hole.shape}"
        )
    residual = picture.astype(np.float64) - fill.astype(np.float64)
    modes = dctn(np.where(hole[..., None], residual, 0.0), axes=(0, 1), norm="ortho")
    index = np.arange(side) / 2
    frequency = np.hypot(index[:, None], index[None, :])
    inner = _octave_ends(side)[1:-1]
    band = np.digitize(frequency, inner)
    return np.bincount(band.ravel(), (modes**2).sum(2).ravel(), minlength=len(inner) + 1)


def _check_pair(
    image: np.ndarray, truth: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return both images as float64 and the mask, or raise ValueError."""
    for name, array in (("image", image), ("truth", truth)):
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise ValueError(
                f"expected {name} as uint8 (H, W) or (H, W, C); got {array.dtype} {array.shape}"
            )
    if image.shape != truth.shape:
        raise ValueError(f"expected two images of one shape; got {image.shape} and {truth.shape}")
    if mask is not None:
        if mask.dtype != bool or mask.shape != image.shape[:2]:
            raise ValueError(
                f"expected mask as bool {image.shape[:2]}; got {mask.dtype} {mask.shape}"
            )
        if not mask.any():
            raise ValueError("expected a mask with at least one True pixel; got an empty one")
    return image.astype(np.float64), truth.astype(np.float64), mask


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), with means m and sample covariances S. The trace
    of the root is the sum of the singular values of X1 X2^T / sqrt((n1 - 1)(n2 - 1)), X being the
    centred features: exact also with fewer samples than dimensions, and no matrix root is needed.

    Args:
        first: (n1, d), n1 >= 2.
        second: (n2, d), n2 >= 2.

    Returns:
        Distance, not negative up to rounding.

    Raises:
        ValueError: other shapes.
    """
    first, second = _check_features(first, second)
    centred_1, centred_2 = first - first.mean(0), second - second.mean(0)
    centred_1 /= math.sqrt(len(first) - 1)
    centred_2 /= math.sqrt(len(second) - 1)
    # The two thin factors keep the product small whichever of n and d is the larger.
    small_1, small_2 = _thin(centred_1), _thin(centred_2)
    root_trace = np.linalg.svd(small_1 @ small_2.T, compute_uv=False).sum()
    means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    return float(means + (centred_1**2).sum() + (centred_2**2).sum() - 2 * root_trace)


def _thin(matrix: np.ndarray) -> np.ndarray:
    """Return R with R^T R = M^T M and at most as many rows as columns."""
    return matrix if len(matrix) <= matrix.shape[1] else np.asarray(np.linalg.qr(matrix, mode="r"))


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x . y / d + 1)^3 (as KID).

    Args:
        first: (n1, d), n1 >= 2.
        second: (n2, d), n2 >= 2.

    Returns:
        Distance, 0 on average for two sets of one distribution, and so at times below 0.

    Raises:
        ValueError: other shapes.
    """
    first, second = _check_features(first, second)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def inception_score(logits: np.ndarray, splits: int = 1) -> float:
    """Inception score (Salimans et al. 2016): exp of the mean KL(p(y | x) || p(y)).

    Args:
        logits: (n, classes) class scores before the softmax, rows in the order of the images.
        splits: how many consecutive parts of nearly equal size are scored and averaged; 10 is
            customary for tens of thousands of images.

    Returns:
        Score between 1 and the number of classes; the more, the clearer and the more varied the
        classes are.

    Raises:
        ValueError: another shape, or fewer images than parts.
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(
            f"expected logits (n, classes) with n of at least {splits} parts >= 1;"
            f" got {logits.shape}"
        )
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    scores = []
    for part in np.array_split(log_p, splits):
        p = np.exp(part)
        # Classes nobody gets add nothing: p log p tends to 0.
        marginal = np.log(np.maximum(p.mean(0), 1e-300))
        scores.append(math.exp((p * (part - marginal)).sum(1).mean()))
    return float(np.mean(scores))


def _check_features(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as float64, or raise ValueError."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shapes = f"{first.shape} and {second.shape}"
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected two sets (n, d) with the same d; got {shapes}")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"expected at least 2 samples in each set; got {shapes}")
    return first, second
