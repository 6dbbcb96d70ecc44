"""Losses of the gradient-completion step (Eq. 10)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class CompletionLossWeights:
    """Weights of the generator's loss terms."""

    adversarial: float = 1.0  # lambda_adv of Eq. 10
    feature_matching: float = 10.0  # lambda_FM of Eq. 10
    l1: float = 10.0  # of the error over the hole; not in the paper, whose maps are edges


def discriminator_loss(discriminator: nn.Module, image: Tensor, real: Tensor, fake: Tensor):
    """Cross-entropy of telling true from completed maps, into which no gradient flows."""
    # One pass over both, because spectral normalisation advances its power iteration on every call.
    logits, _ = discriminator(_pair(image, real, fake.detach()))
    on_real, on_fake = logits.chunk(2)
    loss_real = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
    loss_fake = F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
    return (loss_real + loss_fake) / 2


def generator_loss(
    discriminator: nn.Module,
    image: Tensor,
    real: Tensor,
    fake: Tensor,
    mask: Tensor,
    weights: CompletionLossWeights,
) -> dict[str, Tensor]:
    """Non-saturating adversarial, feature-matching and L1 terms, already weighted (Eq. 10).

    The discriminator returns (logits, features). The image (B, 3, H, W) is the condition; real and
    fake are the true and the completed map, mask is 1 where it was completed, (B, 1, H, W) each.
    """
    logits, features = discriminator(_pair(image, real, fake))
    on_fake = logits.chunk(2)[1]
    matching = on_fake.new_zeros(())
    for real_part, fake_part in (feature.chunk(2) for feature in features):
        matching = matching + F.l1_loss(fake_part, real_part.detach())
    # Each sample's own mean, so that a batch may be shared among processes.
    error = (mask * (fake - real).abs()).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
    return {
        "adversarial": weights.adversarial
        * F.binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake)),
        "feature_matching": weights.feature_matching * matching,
        "l1": weights.l1 * error.mean(),
    }


def _pair(image: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """True pairs above completed ones, (2B, 4, H, W)."""
    return torch.cat([torch.cat([image, real], 1), torch.cat([image, fake], 1)])
