import pytest
import torch
from torch import nn

from train.loop.muon import Muon, orthogonalised, split


@pytest.mark.parametrize("shape", [(24, 24), (16, 90), (90, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    (found,) = orthogonalised([matrix])
    inner = u.T @ found @ v.T  # diagonal: only the singular values change
    values = inner.diagonal()
    assert (inner - values.diag()).abs().max() < 1e-9
    assert 0.3 < values.min() and values.max() < 1.3 and 0.7 < values.median() < 1.2


def test_a_step_of_a_convolution_is_that_of_its_matrix():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 32, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    before = conv.weight.detach().clone()
    gradient = torch.randn_like(before)
    optimizer = Muon([conv.weight], lr=0.1, momentum=0.5, weight_decay=0.2)
    conv.weight.grad = gradient.clone()
    optimizer.step()
    # Nesterov: the first momentum is the gradient itself, looked at half a step ahead.
    (update,) = orthogonalised([(1.5 * gradient).reshape(32, 72)])
    update = update.reshape(before.shape)
    torch.testing.assert_close(conv.weight.detach(), before * (1 - 0.02) - 0.1 * update)


def test_layers_are_told_from_other_parameters():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 1))
    matrices, others = split(model.parameters())
    assert [tuple(p.shape) for p in matrices] == [(16, 3, 3, 3)], "three rows are no matrix"
    assert len(matrices) + len(others) == len(list(model.parameters()))
