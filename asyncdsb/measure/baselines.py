"""Inpainting methods to compare with; none of them is trained.

===============  ==============================================================================
telea            fast marching (Telea 2004), cv2
navier-stokes    isophotes followed into the hole (Bertalmio et al. 2001), cv2
patchmatch       patches of the known part copied into the hole (PatchMatch, Barnes et al. 2009),
                 package ``patchmatch-cython``
patch-fill       what :mod:`asyncdsb.photo.patches` does without any network, from a smooth fill
===============  ==============================================================================
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

from asyncdsb.photo.fill import fill_hole
from asyncdsb.photo.images import to_pil, to_tensor
from asyncdsb.photo.patches import copy_patches


def opencv(flags: int, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill by one of OpenCV's methods, which look 3 pixels far; see :func:`restore`."""
    return cv2.inpaint(image, mask.astype(np.uint8), 3.0, flags)


def patchmatch(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill with patches of the known part, coarse to fine; see :func:`restore`.

    A mask of many gaps can leave nothing known on the coarsest scale; then only the full scale is
    searched.
    """
    try:
        from patchmatch_cython import CythonSolver, inpaint_pyramid, inpaint_single
    except ImportError as error:
        raise ValueError(f"got {error}: run `pip install patchmatch-cython`") from None
    try:
        return inpaint_pyramid(image, mask, solver_class=CythonSolver, seed=0)
    except ValueError:
        return inpaint_single(image, mask, solver_class=CythonSolver, seed=0, iterations=7)


def patch_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill with the known patches that resemble a smooth fill most; see :func:`restore`."""
    hole = torch.from_numpy(mask)[None, None]
    return np.asarray(to_pil(copy_patches(fill_hole(to_tensor(image), hole, "harmonic"), hole)))


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "telea": partial(opencv, cv2.INPAINT_TELEA),
    "navier-stokes": partial(opencv, cv2.INPAINT_NS),
    "patchmatch": patchmatch,
    "patch-fill": patch_fill,
}
"""Names that :func:`restore` accepts."""


def restore(method: str, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Restore one image, uint8 (H, W, 3), with a method out of :data:`METHODS`.

    The mask is bool (H, W), True = missing; known pixels of the result are those of the input. The
    same arguments give the same result, and what the hole shows has no influence. ValueError if a
    package is not installed.
    """
    filled = METHODS[method](np.where(mask[..., None], np.uint8(0), image), mask)
    return np.where(mask[..., None], filled, image)
