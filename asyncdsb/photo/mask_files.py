"""Reading masks of every kind: what is white or painted in them is the hole."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from asyncdsb.photo.decoding import (
    SIXTEEN_BIT,
    ImageSource,
    decode,
    eight_bit_grey,
    flatten,
    has_alpha,
    sixteen_bit_grey,
    sizes_differ,
    with_alpha,
)

MASK_THRESHOLD = 127
"""Grey values above it are the hole."""


def read_mask(
    source: ImageSource | np.ndarray | torch.Tensor, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a mask; white marks the hole.

    Grey values above ``MASK_THRESHOLD`` are the hole; so are labels of 1, and values of 16-bit
    files above half of 65535, or of 255 if they stay below that. If the opaque parts of a picture
    with transparency hold both black and white, the hole is white times alpha. Otherwise it is a
    layer painted in an editor, and the hole is the paint of whatever colour: alpha above half of
    its largest value.

    Args:
        source: what ``read_image`` takes, or an array or tensor of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4); colour arrays must be uint8, others bool, integers in {0, 1},
            [0, 255] or, if they are uint16, [0, 65535], or floats in [0, 1].
        size: (width, height) in pixels that the mask must have; None accepts any size.

    Returns:
        Bool array (H, W), True in the hole.

    Raises:
        ValueError: unreadable file, array of a wrong shape, type or range, a picture in many
            colours or of grey values that are all dark, or a size other than ``size``.
    """
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and source.shape[2] == 1:
            source = source[..., 0]
        if source.ndim == 3 and source.shape[2] in (3, 4) and source.dtype == np.uint8:
            source = Image.fromarray(source)
    if isinstance(source, np.ndarray):
        mask = _mask_from_array(source)
    else:
        found = decode(source)
        mask = _mask_from_picture(found.picture, found.name)
    if size is not None and (mask.shape[1], mask.shape[0]) != tuple(size):
        raise ValueError(sizes_differ(size, mask))
    return mask


def _mask_from_picture(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode in SIXTEEN_BIT and not has_alpha(picture):
        return _white(sixteen_bit_grey(picture, name), name)
    picture = eight_bit_grey(picture, name)
    layer = np.asarray(with_alpha(picture)) if has_alpha(picture) else None
    if layer is None or layer[..., 3].min() == 255:
        opaque = flatten(picture, name)
        _refuse_photograph(np.asarray(opaque), name)
        return _white(np.asarray(opaque.convert("L")), name)
    alpha = layer[..., 3]
    paint = layer[alpha > MASK_THRESHOLD][None, :, :3]
    if paint.size:
        _refuse_photograph(paint, name)
        grey = np.asarray(Image.fromarray(paint).convert("L"))
        if grey.min() <= _DARK and grey.max() >= _LIGHT:
            whole = np.asarray(Image.fromarray(layer[..., :3]).convert("L")).astype(np.uint16)
            return whole * alpha > MASK_THRESHOLD * 255
    return alpha > alpha.max() // 2


_DARK, _LIGHT = 32, 223  # grey values up to and from which pixels are black and white
_SHARE = 0.003  # of the pixels makes a colour count; flecks of JPEG files are fewer
_HUES = 4  # most shades between a mask's two colours, distinguished by thirds of their channels


def _refuse_photograph(pixels: np.ndarray, name: str) -> None:
    """Refuse a picture in many colours as a mask: (H, W, 3) uint8, the parts that are opaque.

    A mask has black, white, and perhaps one colour; all of them may be soft at the edges.
    """
    flat = pixels.reshape(-1, 3)
    # A sample says as much of a large picture.
    flat = flat[:: max(1, len(flat) // 200_000)].astype(np.uint16)
    top = flat.max(1, keepdims=True)
    seen = flat[top[:, 0] > 48]
    hues = (seen * 3 + seen.max(1, keepdims=True) // 2) // np.maximum(seen.max(1, keepdims=True), 1)
    kinds, counts = np.unique(hues, axis=0, return_counts=True)
    kinds = kinds[counts >= max(1, _SHARE * len(flat))]
    pure = kinds[kinds.min(1) == 0]
    grey = flat.mean(1)
    between = ((grey > 8) & (grey < 247)).mean()
    if len(kinds) > _HUES or len(pure) > 1:
        got = "a picture in many colours"
    # Masks are mostly black and white, or have one grey as their paint.
    elif len(np.unique(grey // 8)) > 16 and between > 0.75:
        got = "a picture in many greys"
    else:
        return
    raise ValueError(
        f"{name}: expected a mask in black and white, or a layer painted in one colour, got {got}; "
        "if its transparent part is the hole, fill that with white and the rest with black"
    )


def _white(values: np.ndarray, name: str) -> np.ndarray:
    """Where unsigned grey values are white: labels 0 and 1, 8 bits, or 16 bits.

    Raises:
        ValueError: something is not black, but nothing is white.
    """
    high = int(values.max())
    if high <= 1:
        return values > 0
    half = MASK_THRESHOLD if high <= 255 else 32767
    if high <= half:
        some = ", ".join(map(str, np.unique(values)[:6]))
        raise ValueError(
            f"{name}: expected white (above {half}) where the hole is, got nothing above {high} "
            f"(values {some}{', ...' if len(np.unique(values)) > 6 else ''})"
        )
    return values > half


def _mask_from_array(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2:
        raise ValueError(
            "expected a mask array of shape (H, W), or uint8 (H, W, 3) or (H, W, 4), "
            f"got {values.dtype} {values.shape}"
        )
    if 0 in values.shape:
        raise ValueError(f"expected a mask of at least 1x1 pixel, got shape {values.shape}")
    if values.dtype == bool:
        return values.copy()
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        # Written so that NaN is refused too.
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"expected mask values in [0, 1], got [{low:.4g}, {high:.4g}]")
        return values > 0.5
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"expected a bool, integer or float mask, got {values.dtype}")
    most = 65535 if values.dtype == np.uint16 else 255
    if low < 0 or high > most:
        raise ValueError(f"expected mask values in [0, {most}], got [{low}, {high}]")
    return _white(values, "the mask")
