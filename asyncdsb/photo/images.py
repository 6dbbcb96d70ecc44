"""Photographs at the border of the package: reading, checking, converting, writing."""

import contextlib
import io
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from asyncdsb.photo.decoding import ImageSource, check_size, decode, inform, shown
from asyncdsb.photo.mask_files import read_mask as read_mask  # Documented under this module.


def read_image(source: ImageSource) -> Image.Image:
    """Read a photograph as the 8-bit RGB picture that a viewer would show.

    EXIF rotation is applied, transparency composited on white, 16 bits scaled by 255 / 65535. Of an
    animation the first frame is read. ``info`` holds an RGB colour profile, Exif data, resolution,
    XMP, texts. :func:`asyncdsb.photo.original.read_photograph` keeps transparency and 16 bits too.
    The source is a path, file contents, a binary file object, or a PIL picture of any mode.

    Raises:
        ValueError: missing, unreadable, truncated, empty or oversized file.
    """
    found = decode(source)
    rgb = Image.fromarray(shown(found.pixels))
    inform(rgb, found.info, "RGB")
    return rgb


def to_bytes(x: torch.Tensor) -> np.ndarray:
    """Turn values in [-1, 1] into uint8: round((x + 1) * 127.5); values beyond are clipped."""
    return (x + 1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).numpy()


def check_pair(image: Image.Image | np.ndarray, mask: np.ndarray) -> None:
    """Raise ValueError unless a mask (H, W) fits a photograph and has missing and known pixels."""
    size = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
    if mask.ndim != 2:
        raise ValueError(f"expected a mask of shape (H, W), got shape {mask.shape}")
    check_size(mask, size)
    if not mask.any():
        raise ValueError("the mask is empty: expected a white pixel (white marks the hole)")
    if mask.all():
        raise ValueError("the mask leaves nothing known: expected a black pixel (black is kept)")


def to_tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
    """Turn 8-bit RGB, PIL or uint8 (H, W, 3), into x / 127.5 - 1, float32 (1, 3, H, W)."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode == "RGB" else read_image(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} {image.shape}"
        raise ValueError(f"expected a uint8 array of shape (H, W, 3), got {got}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return pixels.to(torch.float32).contiguous() / 127.5 - 1.0


def to_pil(tensor: torch.Tensor) -> Image.Image:
    """Turn a tensor (3, H, W) or (1, 3, H, W) in [-1, 1] into 8-bit RGB, see :func:`to_bytes`.

    The exact inverse of ``to_tensor`` for all 256 values. ValueError: another shape, NaN, infinity.
    """
    if tensor.shape[:-2] not in ((3,), (1, 3)):
        got = tuple(tensor.shape)
        raise ValueError(f"expected a tensor of shape (3, H, W) or (1, 3, H, W), got {got}")
    values = tensor.detach().to("cpu", torch.float32).reshape(tensor.shape[-3:])
    # NaN and infinity reach the extremes, which take a tenth of the time of looking at all values.
    if not torch.isfinite(torch.stack(values.aminmax())).all():
        raise ValueError("expected finite values in [-1, 1], got NaN or infinity")
    return Image.fromarray(np.ascontiguousarray(to_bytes(values).transpose(1, 2, 0)))


def scaled(size: tuple[float, float], scale: float) -> tuple[int, int]:
    """A picture's two sides times a number, in whole pixels, at least one each."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shortened(stem: str, most: int) -> str:
    """Cut a file's name to so many bytes, which is what file systems count, between characters."""
    name = os.fsencode(stem)
    return stem if len(name) <= most else name[:most].decode("utf-8", "ignore")


def encoded(picture: Image.Image, **options: Any) -> bytes:
    """The bytes of a picture's file, with Pillow's options."""
    # On a full disk Pillow leaves half a JPEG, BMP or GIF file without an error.
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def write_atomic(path: str | os.PathLike, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: beside its place first, then renamed into it.

    An existing file is replaced, a symbolic link is followed. ``write`` is called once with the
    temporary path, of the same suffix, to create that file.

    Raises:
        ValueError: the folder does not exist or cannot be written to, the disk is full, or
            ``path`` is something other than a file.
    """
    asked = Path(path)
    target = Path(os.path.realpath(asked))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {asked}: there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        got = "a folder" if target.is_dir() else "a device or pipe"
        raise ValueError(f"cannot write {asked}: expected a regular file, got {got}")
    stem = f".{shortened(target.stem, 80)}-{secrets.token_hex(4)}"
    temporary = target.with_name(stem + target.suffix)
    try:
        # The mode of a new file in this folder; some libraries make private files.
        temporary.touch(exist_ok=False)
        mode = stat.S_IMODE(temporary.stat().st_mode)
        temporary.unlink()
        write(temporary)
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise ValueError(f"cannot write {asked}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return asked
