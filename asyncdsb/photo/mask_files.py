"""Reading masks of every kind: what is white or painted in them is the hole."""

import numpy as np
import torch
from PIL import Image

from asyncdsb.photo import decoding

MASK_THRESHOLD = 127  # grey values above it are the hole
_LIGHT = 223  # grey value from which even few pixels are white
_LOSSY = 2  # levels by which lossy compression changes one colour
_SHARE = 0.003  # of the pixels makes a colour count; flecks of JPEG files are fewer
_HUES = 4  # most shades between a mask's two colours, distinguished by thirds of their channels
_EDGES = 0.05  # of the pixels are often the soft edges of JPEG files
_FLAT = 4  # most colours of which a layer is mostly made


def read_mask(
    source: decoding.ImageSource | np.ndarray | torch.Tensor, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a mask, bool (H, W), True in the hole, which is white; docs/files.md has the rules.

    Args:
        source: what ``read_image`` takes, or an array or tensor of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4); colour arrays must be uint8, others bool, integers in {0, 1},
            [0, 255] or, if they are uint16, [0, 65535], or floats in [0, 1].
        size: (width, height) in pixels that the mask must have; None accepts any size.

    Raises:
        ValueError: unreadable file, array of a wrong shape, type or range, a picture in many
            colours or of grey values that are all dark, or a size other than ``size``.
    """
    if isinstance(source, torch.Tensor):  # Numpy has no bfloat16.
        source = (source.float() if source.is_floating_point() else source).detach().cpu().numpy()
    if isinstance(source, np.ndarray) and source.ndim == 3:
        if source.shape[2] == 1:
            source = source[..., 0]
        elif source.shape[2] in (3, 4) and source.dtype == np.uint8:
            source = Image.fromarray(source)
    mask = _from_array(source) if isinstance(source, np.ndarray) else _from_picture(source)
    if size is not None:
        decoding.check_size(mask, size)
    return mask


def _from_picture(source: decoding.ImageSource) -> np.ndarray:
    """White where all is opaque or the paint is black and white, else all paint of a layer."""
    found = decoding.decode(source)
    pixels, name = found.pixels, found.name
    if pixels.dtype == np.uint16:
        if pixels.shape[2] == 1:
            return _white(pixels[..., 0], name)
        colours, alpha = np.split(pixels, [1 if pixels.shape[2] == 2 else 3], 2)
        # 255 is white if nothing is above it.
        colours = colours.astype(np.uint8) if colours.max() <= 255 else decoding.eight_bit(colours)
        pixels = np.concatenate([colours, decoding.eight_bit(alpha)], 2)
    if pixels.shape[2] in (1, 3):
        _refuse_photograph(decoding.shown(pixels), name)
        return _white(np.asarray(decoding.as_picture(pixels).convert("L")), name)
    layer = pixels if pixels.shape[2] == 4 else pixels[..., [0, 0, 0, 1]]
    alpha = layer[..., 3]
    half, opaque = alpha > alpha.max() // 2, alpha > alpha.max() * 0.95
    if not half.any():
        return half
    whole = np.asarray(Image.fromarray(layer[..., :3]).convert("L"))
    paint, grey = layer[opaque][:, :3], whole[opaque]
    _refuse_photograph(paint, name, layer=True)
    # Of colours the largest channel counts: red is paint, not black.
    dark, light = paint.max(1) <= MASK_THRESHOLD, grey > MASK_THRESHOLD
    if min(dark.mean(), light.mean()) >= _SHARE or (dark.any() and grey.max() >= _LIGHT):
        return whole.astype(np.uint16) * alpha > MASK_THRESHOLD * 255
    if dark.all() and (paint == paint[:, :1]).all() and grey.min() < grey.max():
        if grey.max() == 1:
            return half & (whole == 1)
        if grey.max() - grey.min() > _LOSSY:
            _white(grey, name)  # Refuses it: a mask without white, or paint in two dark colours.
    return half


def _refuse_photograph(pixels: np.ndarray, name: str, layer: bool = False) -> None:
    """Refuse pixels (..., 3) uint8 in many colours; in a ``layer``, paint has no soft edges."""
    # A mask has black, white, and perhaps one colour; all of them may be soft at the edges.
    flat = pixels.reshape(-1, 3)
    # A sample says as much of a large picture.
    flat = flat[:: max(1, len(flat) // 200_000)].astype(np.uint16)
    top = flat.max(1, keepdims=True)
    bright = top[:, 0] > 48
    hues = (flat[bright] * 3 + top[bright] // 2) // top[bright]
    kinds, counts = np.unique(hues, axis=0, return_counts=True)
    kinds = kinds[counts >= max(1, _SHARE * len(flat))]
    pure = kinds[kinds.min(1) == 0]
    between = top[(top > 8) & (top < 247)]
    share = len(between) / len(top)
    # Paint is of few exact values, and soft edges reach from black to white.
    shades = layer and not _mostly_flat(flat)
    if share > _EDGES and not _mostly_flat(between):
        shades = shades or share > 0.75 or bool(np.ptp(np.percentile(between, (5, 95))) < 100)
    colours = len(kinds) > _HUES or len(pure) > 1
    if colours or shades:
        raise ValueError(
            f"{name}: expected a mask in black and white, or a layer painted in one colour, got "
            f"a picture in many {'colours' if colours else 'shades'}; "
            "if its transparent part is the hole, fill that with white and the rest with black"
        )


def _mostly_flat(values: np.ndarray) -> bool:
    """Whether half of the values, (N,) or (N, 3), are among the few most common ones."""
    counts = np.unique(values, axis=0, return_counts=True)[1]
    return bool(np.sort(counts)[-_FLAT:].sum() >= len(values) / 2)


def _white(values: np.ndarray, name: str) -> np.ndarray:
    """Where unsigned grey values are white: labels 0 and 1, 8 bits, or 16; ValueError: nowhere."""
    high = int(values.max())
    if high <= 1:
        return values > 0
    half = MASK_THRESHOLD if high <= 255 else 32767
    if high <= half:
        expected = f"expected white (above {half}) where the hole is"
        raise ValueError(f"{name}: {expected}, got nothing above {high}")
    return values > half


def _from_array(values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or not values.size:
        expected = "expected a mask array of shape (H, W), or uint8 (H, W, 3) or (H, W, 4)"
        raise ValueError(f"{expected}, got {values.dtype} {values.shape}")
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
