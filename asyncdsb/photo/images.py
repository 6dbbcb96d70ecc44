"""Photographs and masks at the border of the package: reading, checking, converting, writing.

Everything a user hands over passes through here, and is an 8-bit RGB picture and a boolean mask
afterwards. An 8-bit RGB photograph comes through bit-identically; every other kind of file
is brought to that form. What cannot be read is refused with one sentence in a ``ValueError``.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from asyncdsb.photo.formats import FIELD, READ

MAX_PIXELS = 64_000_000
"""Largest photograph that is decoded, in pixels (width times height)."""

MASK_THRESHOLD = 127
"""Grey values above it are the hole."""

_READABLE = "a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")

ImageSource = str | os.PathLike | bytes | BinaryIO | Image.Image


def read_image(source: ImageSource) -> Image.Image:
    """Read a photograph as the 8-bit RGB picture that a viewer would show.

    EXIF rotation is applied, transparency is composited on white, 16 bits are scaled by 255/65535,
    palette, grey, 1-bit and CMYK are converted. Of an animation the first frame is read. What else
    the file says about the picture is in ``info``: an RGB colour profile, Exif data, resolution,
    XMP, texts. :func:`asyncdsb.photo.original.read_photograph` keeps transparency and 16 bits too.

    Args:
        source: Path, file contents, binary file object, or PIL picture of any mode.

    Returns:
        Picture of mode RGB, at most ``MAX_PIXELS`` pixels; always a new object.

    Raises:
        ValueError: Missing, unreadable, truncated, empty or oversized file.
    """
    found = decode(source)
    rgb = flatten(found.picture, found.name)
    rgb.info = {}
    rgb.info.update(**fitting(found.info, "RGB"))
    return rgb


def flatten(picture: Image.Image, name: str) -> Image.Image:
    """Composite on white and convert to 8-bit RGB; always a new picture.

    Raises:
        ValueError: it has more than 16 bits, or Pillow cannot convert it.
    """
    try:
        return _flatten(_eight_bit(picture, name))
    except (OSError, KeyError) as error:
        raise ValueError(f"{name}: cannot convert mode {picture.mode} to RGB ({error})") from error


def fitting(info: dict[str, Any], space: str) -> dict[str, Any]:
    """The same without a colour profile of another colour space ("RGB" or "GRAY")."""
    profile = info.get("icc_profile")
    if profile is None or profile[16:20].strip() == space.encode():
        return info
    return {key: value for key, value in info.items() if key != "icc_profile"}


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that can be read here, in lower case."""
    known_kinds()
    return frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in known_kinds())


@cache
def known_kinds() -> tuple[str, ...]:
    """Formats that can be read here, by Pillow's names."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    return tuple(kind for kind in READ if kind in Image.OPEN)


def read_mask(
    source: ImageSource | np.ndarray | torch.Tensor, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a mask; white marks the hole.

    Grey values above ``MASK_THRESHOLD`` are the hole. Labels 0 and 1 are understood, and of 16 bits
    those that use the range of 8. Where a picture with transparent parts holds both black and
    white, the hole is white times alpha. Else it is a layer painted in an editor, as drawing tools
    export it, and the hole is the paint of whatever colour: alpha above half of its largest value.
    Arrays may be bool, integers in {0, 1}, [0, 255] or, if they are uint16, [0, 65535], or floats
    in [0, 1].

    Args:
        source: What ``read_image`` takes, or an array or tensor of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4); colour arrays must be uint8.
        size: (width, height) in pixels that the mask must have; None accepts any size.

    Returns:
        Bool array (H, W), True in the hole.

    Raises:
        ValueError: Unreadable file, array of a wrong shape, type or range, a picture in many
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


def shortened(stem: str, most: int) -> str:
    """Cut a file's name to so many bytes, which is what file systems count, between characters."""
    name = os.fsencode(stem)
    return stem if len(name) <= most else name[:most].decode("utf-8", "ignore")


def write_atomic(path: str | os.PathLike, write: Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: beside its place first, then renamed into it.

    Args:
        path: The file to write. An existing file is replaced, a symbolic link is followed.
        write: Called once with the temporary path, which has the same folder and suffix; it must
            create that file.

    Returns:
        The path written.

    Raises:
        ValueError: The folder does not exist or cannot be written to, or ``path`` is something
            other than a file.
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
    stem = f".{shortened(target.stem, 80)}-{secrets.token_hex(4)}"
    temporary = target.with_name(f"{stem}{target.suffix}")
    try:
        # The mode of a new file here; some libraries make theirs readable by none but the owner.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        raise ValueError(f"cannot write {asked}: {error.strerror}") from error
    try:
        mode = temporary.stat().st_mode
        temporary.unlink()
        write(temporary)
        if temporary.stat().st_mode != mode:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return asked


@dataclass(frozen=True)
class Decoded:
    """A picture as it was found, upright.

    Attributes:
        picture: of any mode.
        name: for messages.
        info: what the file says about it, see :data:`asyncdsb.photo.formats.CALLED`:
            ``icc_profile``, ``exif`` (bytes, without rotation and preview), ``dpi``, ``xmp``
            (bytes), ``text`` (a dictionary), ``comment``.
        deep: (H, W, C) uint16 where the picture has 16 bits per channel and ``picture`` only 8.
        lost: what could not be taken over, in words.
    """

    picture: Image.Image
    name: str
    info: dict[str, Any] = field(default_factory=dict)
    deep: np.ndarray | None = None
    lost: tuple[str, ...] = ()


def decode(source: ImageSource) -> Decoded:
    """Open a picture, check the size in the header, decode it, and turn it upright.

    Args:
        source: as of :func:`read_image`.

    Raises:
        ValueError: as :func:`read_image`.
    """
    name = _name(source)
    if isinstance(source, Image.Image):
        return _load(source, name)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        try:
            with path.open("rb") as file:
                return _load(_open(file, name), name, file)
        except FileNotFoundError as error:
            raise ValueError(f"{name}: there is no such file ({path})") from error
        except IsADirectoryError as error:
            raise ValueError(f"{name}: expected a picture, got a folder") from error
        except OSError as error:
            raise ValueError(f"{name}: cannot read the file ({error.strerror})") from error
    if isinstance(source, bytes | bytearray | memoryview):
        data = io.BytesIO(source)
        return _load(_open(data, name), name, data)
    if hasattr(source, "read"):
        # Copied, so that the caller's position and a stream that cannot seek do not matter.
        data = io.BytesIO(source.read())
        return _load(_open(data, name), name, data)
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
    try:
        return Image.open(file, formats=known_kinds())
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {_too_large('a larger one')}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"{name}: expected {_READABLE}, got {_guess(head)}") from error
    except Exception as error:  # A damaged header makes the parsers raise nearly anything.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error


def _load(picture: Image.Image, name: str, file: BinaryIO | None = None) -> Decoded:
    """Decode the pixels, once the size is known to be acceptable."""
    width, height = picture.size
    if width < 1 or height < 1:
        raise ValueError(f"{name}: expected at least 1x1 pixel, got {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name}: {_too_large(f'{width}x{height}')}")
    # What Pillow reads at 8 bits; told by the decoder's arguments, which are gone afterwards.
    deep = re.search(r";16|, 65535\)", str([tile[3] for tile in getattr(picture, "tile", [])]))
    lost = ["frames after the first"] if getattr(picture, "is_animated", False) else []
    if picture.format == "MPO":
        lost = []  # Previews and depth maps of cameras and telephones.
    try:
        picture.load()
    except Exception as error:  # As above: what a decoder raises on damaged data is not defined.
        raise ValueError(f"{name}: damaged or truncated picture ({_one_line(error)})") from error
    exif = _exif(picture)
    values = None
    if deep and picture.mode not in _SIXTEEN_BIT:
        values = None if file is None else _sixteen_bit(file, picture, _orientation(picture))
        lost += ["16 bits per channel"] if values is None else []
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:
        # Unreadable metadata is no reason to refuse a readable picture.
        upright = picture.copy()
        lost.append("Exif data that cannot be read")
    if 0x0404 in _photoshop(picture):
        lost.append("IPTC data")
    info = _carried(upright.info, exif, getattr(picture, "text", None))
    return Decoded(upright, name, info, values, tuple(lost))


EXIF_PARTS = (0x8769, 0x8825)
"""Tags of exposure and of GPS position, directories of their own within Exif data."""

_STRUCTURE = {
    *range(254, 260), *range(262, 267), *range(273, 274 + 1), *range(277, 280), 284, 292, 293, 297,
    317, *range(320, 326), *range(330, 333), *range(338, 348), *range(512, 533), 700, 34377, 34675,
}  # fmt: skip
"""Tags of TIFF files that belong to the file, not to the picture: sizes, offsets, orientation, and
what is kept in a place of its own."""


def _exif(picture: Image.Image) -> bytes | None:
    """Exif data without rotation, and without the preview, which shows what the hole covers."""
    try:
        found, exif = picture.getexif(), Image.Exif()
        for tag in found:
            if tag in EXIF_PARTS:
                # Without what a third part is for, the way in which the file is to be read.
                part = found.get_ifd(tag).items()
                exif[tag] = {name: value for name, value in part if name != 0xA005}
            elif tag not in _STRUCTURE:
                exif[tag] = found[tag]
        return exif.tobytes() if len(exif) else None
    except Exception:  # Damaged data make the parser raise nearly anything.
        return None


def exif_tags(data: bytes | None) -> Image.Exif:
    """Parse Exif data; None stands for none."""
    tags = Image.Exif()
    tags.load(data or b"")
    return tags


def _resolution(exif: bytes | None) -> tuple[float, float]:
    """Pixels per inch by Exif data, which WebP files have no other place for."""
    tags = exif_tags(exif)
    inches = 2.54 if tags.get(296) == 3 else 1.0
    return float(tags[282]) * inches, float(tags[283]) * inches


def _orientation(picture: Image.Image) -> int:
    try:
        tags = getattr(picture, "tag_v2", exif_tags(picture.info.get("exif")))
        return int(tags.get(0x0112, 1))
    except Exception:
        return 1


def _photoshop(picture: Image.Image) -> dict:
    found = picture.info.get("photoshop")
    return found if isinstance(found, dict) else {}


def _carried(found: dict, exif: bytes | None, text: dict | None) -> dict[str, Any]:
    """What a file says about its picture, whatever format it is."""
    info: dict[str, Any] = {}
    profile = found.get("icc_profile")
    if profile and len(profile) >= 128:
        info["icc_profile"] = profile
    if exif:
        info["exif"] = exif
    try:
        across, down = map(float, found["dpi"] if "dpi" in found else _resolution(exif))
        if 0 < across < 1e6 and 0 < down < 1e6:
            info["dpi"] = across, down
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        pass
    xmp = found.get("xmp") or found.get("XML:com.adobe.xmp")
    if xmp:
        info["xmp"] = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    text = found.get("text") if text is None else text
    if isinstance(text, dict):
        kept = {
            key: value
            for key, value in text.items()
            # Copies of Exif data by ImageMagick, rotation included; and our own, of another run.
            if not key.startswith("Raw profile type") and key not in ("XML:com.adobe.xmp", FIELD)
        }
        info |= {"text": kept} if kept else {}
    comment = found.get("comment")
    if comment and isinstance(comment, bytes | str):
        info["comment"] = comment.encode() if isinstance(comment, str) else comment
    return info


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda values: values[:, ::-1],
    3: lambda values: values[::-1, ::-1],
    4: lambda values: values[::-1],
    5: lambda values: values.swapaxes(0, 1),
    6: lambda values: np.rot90(values, -1),
    7: lambda values: values[::-1, ::-1].swapaxes(0, 1),
    8: lambda values: np.rot90(values),
}
"""What undoes each orientation of Exif."""


def _sixteen_bit(file: BinaryIO, picture: Image.Image, orientation: int) -> np.ndarray | None:
    """Decode all 16 bits of a colour picture, which Pillow cannot: (H, W, C) uint16, or None."""
    file.seek(0)
    values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    bands = len(picture.getbands())
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    values = values.astype(np.uint16, copy=False)
    values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    values = values[..., [0, 3]] if bands == 2 and values.shape[2] == 4 else values
    seen = np.asarray(picture)
    # Proof that both decoders mean the same: rounding apart, there is no difference.
    if values.shape != seen.shape or np.abs(values // 256 - seen.astype(int)).max() > 1:
        return None
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda same: same)(values))


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


def sixteen_bit_grey(picture: Image.Image, name: str) -> np.ndarray:
    """Values of a 16-bit grey picture, (H, W) uint16.

    Raises:
        ValueError: they are outside [0, 65535].
    """
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"{name}: expected 16-bit values in [0, 65535], got [{low}, {high}]")
    return values.astype(np.uint16)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Scale uint16 to uint8: round(values / 257)."""
    return (values // 257 + (values % 257 > 128)).astype(np.uint8)


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """Bring 16-bit grey to mode L (or LA); leave the other modes alone."""
    if picture.mode == "F":
        raise ValueError(f"{name}: expected 8 or 16 bits per channel, got 32-bit floats")
    if picture.mode not in _SIXTEEN_BIT:
        return picture
    values = sixteen_bit_grey(picture, name)
    grey = Image.fromarray(eight_bit(values))
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def has_alpha(picture: Image.Image) -> bool:
    """Whether parts of a picture may be transparent."""
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def with_alpha(picture: Image.Image) -> Image.Image:
    """The picture in mode RGBA."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    return picture if picture.mode == "RGBA" else picture.convert("RGBA")


def _flatten(picture: Image.Image) -> Image.Image:
    """Composite on white and convert to RGB; always a new picture."""
    if has_alpha(picture):
        layer = with_alpha(picture)
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _mask_from_picture(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode in _SIXTEEN_BIT and not has_alpha(picture):
        return _white(sixteen_bit_grey(picture, name), name)
    picture = _eight_bit(picture, name)
    if not has_alpha(picture):
        _refuse_photograph(np.asarray(_flatten(picture)), name)
        return _white(np.asarray(_flatten(picture).convert("L")), name)
    layer = np.asarray(with_alpha(picture))
    alpha = layer[..., 3]
    opaque = alpha > MASK_THRESHOLD
    if alpha.min() == 255:
        _refuse_photograph(layer[..., :3], name)
        return _white(np.asarray(_flatten(picture).convert("L")), name)
    paint = layer[opaque][None, :, :3]
    if paint.size:
        _refuse_photograph(paint, name)
        grey = np.asarray(Image.fromarray(paint).convert("L"))
        if grey.min() <= _DARK and grey.max() >= _LIGHT:
            whole = np.asarray(Image.fromarray(layer[..., :3]).convert("L")).astype(np.uint16)
            return whole * alpha > MASK_THRESHOLD * 255
    return alpha > alpha.max() // 2


_DARK, _LIGHT = 32, 223
"""Grey values up to and from which a mask's pixels are its black and its white."""

_SHARE = 0.003
"""Share of the pixels that makes a colour count, which flecks of JPEG files do not reach."""

_HUES = 4
"""Most shades between a mask's two colours, told apart by thirds of their channels."""


def _refuse_photograph(pixels: np.ndarray, name: str) -> None:
    """Refuse a picture in many colours as a mask: (H, W, 3) uint8, the parts that are opaque.

    A mask has black, white, and perhaps a colour, all of which may be soft at the edges.
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
    # Masks are black and white for the most part, or have one grey as their paint.
    elif len(np.unique(grey // 8)) > 16 and between > 0.75:
        got = "a picture in many greys"
    else:
        return
    raise ValueError(
        f"{name}: expected a mask in black and white, or a layer painted in one colour, got {got}; "
        "if its transparent part is the hole, fill that with white and the rest with black"
    )


def _white(values: np.ndarray, name: str) -> np.ndarray:
    """Where unsigned grey values are white: labels 0 and 1, 8 bits, or 16.

    Raises:
        ValueError: there is something, but none of it is white.
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


def _sizes_differ(size: tuple[int, int], mask: np.ndarray) -> str:
    return (
        "the photo and the mask must have the same size: the photo is "
        f"{size[0]}x{size[1]}, the mask {mask.shape[1]}x{mask.shape[0]} (width x height)"
    )
