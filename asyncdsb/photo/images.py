"""Photographs and masks at the border of the package: reading, checking, converting, writing.

Everything a user hands over passes through here once, and is an 8-bit RGB picture and a boolean
mask afterwards. An 8-bit RGB photograph comes through bit-identically; every other kind of file
is brought to that form. What cannot be read is refused with one sentence in a ``ValueError``.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
"""Largest photograph that is decoded, in pixels (width times height)."""

MASK_THRESHOLD = 127
"""Grey values above it are the hole."""

# Only plain raster formats: Pillow would hand EPS files to an external interpreter.
_FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "AVIF", "JPEG2000",
    "ICO", "PCX", "SGI",
)  # fmt: skip
_READABLE = "a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")

ImageSource = str | os.PathLike | bytes | BinaryIO | Image.Image


def read_image(source: ImageSource) -> Image.Image:
    """Read a photograph as the 8-bit RGB picture that a viewer would show.

    EXIF rotation is applied, transparency is composited on white, 16-bit grey is scaled by
    255/65535, palette, grey, 1-bit and CMYK are converted. Of an animation the first frame is
    read. Metadata is dropped, except an RGB colour profile (``info["icc_profile"]``), which
    belongs to the pixel values.

    Args:
        source: Path, file contents, binary file object, or PIL picture of any mode.

    Returns:
        Picture of mode RGB, at most ``MAX_PIXELS`` pixels; always a new object.

    Raises:
        ValueError: Missing, unreadable, truncated, empty or oversized file.
    """
    picture, name = _decode(source)
    try:
        rgb = _flatten(_eight_bit(picture, name))
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error})") from error
    profile = picture.info.get("icc_profile")
    rgb.info = {"icc_profile": profile} if profile and profile[16:20] == b"RGB " else {}
    return rgb


def read_mask(
    source: ImageSource | np.ndarray | torch.Tensor, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a mask; white marks the hole.

    Pictures are compared with ``MASK_THRESHOLD`` in grey. A picture with transparent parts is
    taken for a layer painted in an editor, as drawing tools export it: the hole is wherever the
    layer holds paint (alpha > 0), of whatever colour. An alpha channel that is opaque everywhere
    is ignored. Arrays may be bool, integers in {0, 1} or [0, 255], or floats in [0, 1].

    Args:
        source: What ``read_image`` takes, or an array or tensor of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4); colour arrays must be uint8.
        size: (width, height) in pixels that the mask must have; None accepts any size.

    Returns:
        Bool array (H, W), True in the hole.

    Raises:
        ValueError: Unreadable file, array of a wrong shape, type or range, or a size other than
            ``size``.
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
        picture, name = _decode(source)
        mask = _mask_from_picture(_eight_bit(picture, name))
    if size is not None and (mask.shape[1], mask.shape[0]) != tuple(size):
        raise ValueError(_sizes_differ(size, mask))
    return mask


def check_pair(image: Image.Image | np.ndarray, mask: np.ndarray) -> None:
    """Refuse a photograph and a mask that cannot be restored.

    Args:
        image: PIL picture or array (H, W, 3).
        mask: Bool array (H, W), True in the hole.

    Raises:
        ValueError: The sizes differ, the mask is empty, or it leaves nothing known.
    """
    size = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"expected a mask of shape (H, W), got shape {mask.shape}")
    if (mask.shape[1], mask.shape[0]) != size:
        raise ValueError(_sizes_differ(size, mask))
    if not mask.any():
        raise ValueError(
            "the mask is empty: expected at least one white pixel (white marks the hole), got none"
        )
    if mask.all():
        raise ValueError(
            "the mask leaves nothing known: expected at least one black pixel (black is kept), "
            "got only white"
        )


def check_rgb(image: np.ndarray) -> None:
    """Raise ValueError unless it is a uint8 array (H, W, 3)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 array of shape (H, W, 3), got {image.dtype} {image.shape}"
        )


def to_tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
    """Turn 8-bit RGB into a batch of one: x / 127.5 - 1.

    Args:
        image: PIL picture of any mode, or uint8 array (H, W, 3) in [0, 255].

    Returns:
        Float32 tensor (1, 3, H, W) in [-1, 1].

    Raises:
        ValueError: An array of another shape or type.
    """
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode == "RGB" else read_image(image))
    check_rgb(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return _scaled(pixels)


def channel_of(image: np.ndarray, channel: int) -> torch.Tensor:
    """One channel of what :func:`to_tensor` makes of a picture, for pictures that are large.

    Args:
        image: uint8 (H, W, 3) in [0, 255].
        channel: 0 to 2.

    Returns:
        Float32 tensor (1, 1, H, W) in [-1, 1].
    """
    return _scaled(torch.from_numpy(np.array(image[..., channel]))[None, None])


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.to(torch.float32).contiguous() / 127.5 - 1.0


def to_pil(tensor: torch.Tensor) -> Image.Image:
    """Turn one picture in [-1, 1] into 8-bit RGB: round((x + 1) * 127.5), clipped.

    The exact inverse of ``to_tensor`` for all 256 values.

    Args:
        tensor: Floating-point tensor (3, H, W) or (1, 3, H, W) on any device.

    Returns:
        PIL picture of mode RGB.

    Raises:
        ValueError: A tensor of another shape, or one that is not finite.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(
            f"expected a tensor of shape (3, H, W) or (1, 3, H, W), got {tuple(tensor.shape)}"
        )
    values = tensor.detach().to("cpu", torch.float32)
    # Of both extremes, which NaN takes over: a tenth of the time of asking every value.
    if not torch.isfinite(torch.stack(values.aminmax())).all():
        raise ValueError("expected finite values in [-1, 1], got NaN or infinity")
    pixels = (values + 1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def write_atomic(path: str | os.PathLike, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: beside its place first, then renamed into it.

    Args:
        path: The file to write. An existing file is replaced, a symbolic link is followed.
        write: Called once with the temporary path, which has the same folder and suffix; it must
            create that file.

    Returns:
        The path written.

    Raises:
        ValueError: The folder does not exist, or ``path`` is something other than a file.
        Exception: Whatever ``write`` raises, after the temporary file is removed.
    """
    asked = Path(path)
    target = Path(os.path.realpath(asked))
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {asked}: there is no folder {target.parent}")
    if target.is_dir():
        raise ValueError(f"cannot write {asked}: expected a file name, got a folder")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {asked}: expected a regular file, got a device or pipe")
    temporary = target.with_name(f".{target.stem[:80]}-{secrets.token_hex(4)}{target.suffix}")
    try:
        # The mode of a new file here; some libraries make theirs readable by none but the owner.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = temporary.stat().st_mode
        temporary.unlink()
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return asked


def _decode(source: ImageSource) -> tuple[Image.Image, str]:
    """Open, check the size in the header, decode, apply EXIF rotation."""
    name = _name(source)
    if isinstance(source, Image.Image):
        return _load(source, name), name
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            with path.open("rb") as file:
                return _load(_open(file, name), name), name
        except FileNotFoundError as error:
            raise ValueError(f"{name}: there is no such file ({path})") from error
        except IsADirectoryError as error:
            raise ValueError(f"{name}: expected a picture, got a folder") from error
        except OSError as error:
            raise ValueError(f"{name}: cannot read the file ({error.strerror})") from error
    if isinstance(source, bytes | bytearray | memoryview):
        return _load(_open(io.BytesIO(source), name), name), name
    if hasattr(source, "read"):
        # Copied, so that the caller's position and a stream that cannot seek do not matter.
        return _load(_open(io.BytesIO(source.read()), name), name), name
    raise ValueError(
        f"expected a path, bytes, a binary file or a PIL picture, got {type(source).__name__}"
    )


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name or str(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return Path(name).name if isinstance(name, str) and name else "the picture"


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Read the header only."""
    head = file.read(512)
    file.seek(0)
    if not head:
        raise ValueError(f"{name}: expected {_READABLE}, got an empty file")
    Image.init()
    try:
        return Image.open(file, formats=[kind for kind in _FORMATS if kind in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {_too_large('a larger one')}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected {_READABLE}, got {_guess(head)}") from error
    except Exception as error:  # A damaged header makes the parsers raise nearly anything.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error


def _load(picture: Image.Image, name: str) -> Image.Image:
    """Decode the pixels, once the size is known to be acceptable."""
    width, height = picture.size
    if width < 1 or height < 1:
        raise ValueError(f"{name}: expected at least 1x1 pixel, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {_too_large(f'{width}x{height}')}")
    try:
        picture.load()
    except Exception as error:  # As above: what a decoder raises on damaged data is not defined.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        # Unreadable metadata is no reason to refuse a readable picture.
        return picture.copy()


def _too_large(got: str) -> str:
    return f"expected a picture of at most {MAX_PIXELS // 1_000_000} megapixels, got {got}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _guess(head: bytes) -> str:
    """Say what a file that is no readable picture most likely is."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")) or b"<svg" in text:
        return "an SVG drawing; export it as PNG"
    if head[4:8] == b"ftyp":
        return "an HEIC picture or a film; export it as JPEG or PNG"
    if head.startswith(b"%PDF"):
        return "a PDF document"
    if b"\0" not in head:
        try:
            head.decode("utf-8")
        except UnicodeDecodeError as error:
            # A character cut in two by the end of the sample is still text.
            if error.start < len(head) - 3:
                return "something else, or a damaged file"
        return "a text file"
    return "something else, or a damaged file"


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """Bring 16-bit grey to mode L (or LA); leave the other modes alone."""
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got 32-bit floats")
    if picture.mode not in _SIXTEEN_BIT:
        return picture
    values = np.asarray(picture).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{name}: expected 16-bit values in [0, 65535], got [{low}, {high}]")
    grey = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def _with_alpha(picture: Image.Image) -> Image.Image:
    if picture.mode == "La":
        picture = picture.convert("LA")
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def _flatten(picture: Image.Image) -> Image.Image:
    """Composite on white and convert to RGB; always a new picture."""
    if _has_alpha(picture):
        layer = _with_alpha(picture)
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _mask_from_picture(picture: Image.Image) -> np.ndarray:
    if _has_alpha(picture):
        alpha = np.asarray(_with_alpha(picture).getchannel("A"))
        if alpha.min() < 255:
            return alpha > 0
    return np.asarray(_flatten(picture).convert("L")) > MASK_THRESHOLD


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
    if low < 0 or high > 255:
        raise ValueError(f"expected mask values in [0, 255], got [{low}, {high}]")
    return values > (0 if high <= 1 else MASK_THRESHOLD)


def _sizes_differ(size: tuple[int, int], mask: np.ndarray) -> str:
    return (
        "the photo and the mask must have the same size: the photo is "
        f"{size[0]}x{size[1]}, the mask {mask.shape[1]}x{mask.shape[0]} (width x height)"
    )
