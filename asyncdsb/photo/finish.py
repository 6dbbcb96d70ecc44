"""What happens to the bridge's result: it is shown as it is, or replaced by known patches.

Patches are copied twice: at the size at which the networks work, into the last state of a run, and
from there up to the photo's own size where a window was scaled down. Both ask :func:`copies`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from asyncdsb.photo.patches import copy_patches
from asyncdsb.samplers import SamplerState


def copies(finish: str | None, step: int, steps: int) -> bool:
    """Whether known patches are copied into a state: into the last one, if the finish says so.

    Args:
        finish: one of :data:`asyncdsb.denoiser.FINISHES`; None is "none".
        step: steps done.
        steps: of the run.
    """
    return finish == "patches" and step == steps


def finished(
    states: Iterator[SamplerState], mask: Tensor, finish: str | None
) -> Iterator[SamplerState]:
    """The states of a run with what its finish makes of them.

    Args:
        states: of :func:`asyncdsb.samplers.sample`.
        mask: (B, 1, H, W), 1 = missing.
        finish: see :func:`copies`.
    """
    for state in states:
        if copies(finish, state.step, state.steps):
            result = copy_patches(state.x_t, mask)
            state = dataclasses.replace(state, x_t=result, x0_hat=result)
        yield state
