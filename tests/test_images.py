from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_photo
from PIL import Image

from asyncdsb.photo import decoding
from asyncdsb.photo.images import check_pair, read_image, to_pil, to_tensor, write_atomic
from asyncdsb.photo.mask_files import read_mask

ROOT = Path(__file__).resolve().parent.parent


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """Write a PNG by hand, for the kinds that Pillow does not write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + png_chunk(b"IEND", b"")


@pytest.fixture
def photo() -> Image.Image:
    return synthetic_photo(61, 47)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_comes_through_bit_identically(photo, kind):
    restored = read_image(encoded(photo, kind))
    assert restored.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(restored), np.asarray(photo))


def test_every_kind_of_source_is_read(photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    with path.open("rb") as file:
        sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file, photo]
        for source in sources:
            np.testing.assert_array_equal(np.asarray(read_image(source)), np.asarray(photo))


def test_a_picture_in_memory_is_copied(photo):
    before = np.array(photo)
    read_image(photo).paste((0, 0, 0), (0, 0, 10, 10))
    np.testing.assert_array_equal(np.asarray(photo), before)


# A corner that is red in the viewer's top left, wherever the file stores it.
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_exif_rotation_is_applied_once(photo, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(photo.transpose(stored) if stored is not None else photo, "PNG", exif=exif)
    upright = read_image(file)
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(photo))
    np.testing.assert_array_equal(np.asarray(read_image(upright)), np.asarray(photo))


def test_unreadable_exif_does_not_matter(photo):
    file = encoded(photo, "PNG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    np.testing.assert_array_equal(np.asarray(read_image(file)), np.asarray(photo))


def test_alpha_is_composited_on_white(photo):
    layer = photo.convert("RGBA")
    alpha = np.full((47, 61), 255, np.uint8)
    alpha[:10] = 0
    alpha[10:20] = 128
    layer.putalpha(Image.fromarray(alpha))
    got = np.asarray(read_image(encoded(layer, "PNG"))).astype(float)
    expected = (
        np.asarray(photo) * (alpha / 255.0)[..., None] + 255.0 * (1 - alpha / 255.0)[..., None]
    )
    assert np.abs(got - expected).max() <= 1
    np.testing.assert_array_equal(got[20:], np.asarray(photo)[20:])


def test_grey_with_alpha(photo):
    layer = photo.convert("LA")
    layer.putalpha(0)
    assert np.asarray(read_image(encoded(layer, "PNG"))).min() == 255


def test_palette_with_transparent_entry(photo):
    indexed = photo.quantize(16)
    file = encoded(indexed, "PNG", transparency=3)
    got = np.asarray(read_image(file))
    holes = np.asarray(indexed) == 3
    assert holes.any() and (got[holes] == 255).all()
    np.testing.assert_array_equal(got[~holes], np.asarray(indexed.convert("RGB"))[~holes])


def test_rgb_with_transparent_colour():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = (10, 20, 30)
    got = np.asarray(read_image(encoded(Image.fromarray(pixels), "PNG", transparency=(10, 20, 30))))
    assert (got[0] == 255).all() and (got[1:] == 0).all()


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_three_equal_channels(photo, mode):
    grey = photo.convert(mode)
    got = np.asarray(read_image(encoded(grey, "PNG")))
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey.convert("L"))[..., None], 3, 2))


def test_cmyk_jpeg(photo):
    inks = photo.resize((64, 64)).convert("CMYK")
    got = np.asarray(read_image(encoded(inks, "JPEG", quality=100))).astype(float)
    assert np.abs(got - np.asarray(photo.resize((64, 64)))).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind):
    values = np.linspace(0, 65535, 64 * 32).round().astype(np.uint16).reshape(32, 64)
    picture = read_image(encoded(Image.fromarray(values), kind))
    got = np.asarray(picture)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(got[..., 0], np.rint(values / 257.0))
    assert got.min() == 0 and got.max() == 255


def test_sixteen_bit_grey_with_transparent_value():
    values = np.full((4, 4), 1000, ">u2")
    values[0] = 4660
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    file = png(4, 4, 16, 0, rows, png_chunk(b"tRNS", struct.pack(">H", 4660)))
    got = np.asarray(read_image(file))
    assert (got[0] == 255).all() and (got[1:] == 4).all()


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_is_scaled(colour, channels):
    values = np.random.default_rng(0).integers(0, 65536, (8, 8, channels)).astype(">u2")
    if channels in (2, 4):
        values[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    got = np.asarray(read_image(png(8, 8, 16, colour, rows))).astype(float)
    expected = values[..., : 3 if channels > 2 else 1] / 257.0
    assert np.abs(got - expected).max() <= 1


def test_sixteen_bit_values_out_of_range_are_refused():
    picture = Image.fromarray(np.full((4, 4), 70000, np.int32))
    with pytest.raises(ValueError, match=r"16-bit values in \[0, 65535\], got \[70000, 70000\]"):
        read_image(picture)


def test_float_pictures_are_refused():
    with pytest.raises(ValueError, match="32-bit floats"):
        read_image(encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))


def test_first_frame_of_an_animation(photo):
    second = synthetic_photo(61, 47, seed=1)
    file = encoded(photo, "WEBP", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(np.asarray(read_image(file)), np.asarray(photo))


def test_only_an_rgb_colour_profile_is_kept(photo):
    rgb, cmyk = (b"\0" * 16 + space + b"\0" * 108 for space in (b"RGB ", b"CMYK"))
    assert read_image(encoded(photo, "PNG", icc_profile=rgb)).info == {"icc_profile": rgb}
    assert read_image(encoded(photo.convert("CMYK"), "JPEG", icc_profile=cmyk)).info == {}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused_in_one_line(photo, tmp_path, kind, share):
    file = encoded(photo, kind)
    path = tmp_path / "cut off.bin"
    path.write_bytes(file[: int(len(file) * share)])
    with pytest.raises(ValueError, match="^cut off.bin: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


# Pillow tells what it found odd; what counts here is what is raised.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF"])
def test_damaged_files_raise_nothing_but_value_error(photo, kind):
    file = encoded(photo, kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(file)
        for place in rng.integers(0, min(len(file), 300), 4):
            damaged[place] = int(rng.integers(256))
        try:
            assert read_image(bytes(damaged)).mode == "RGB"
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"  <svg width='10' height='10'></svg>", "an SVG drawing"),
        (b"just a few words", "a text file"),
        ("Grüße ".encode() * 200, "a text file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "an HEIC"),
        (b"\0\x01\x02\x03" * 100, "something else"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "a text file"),
    ],
)
def test_other_files_are_named(tmp_path, content, told):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^odd.png: expected a PNG.* got {told}"):
        read_image(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match="^nothing.png: there is no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="cannot read the file .Is a directory"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match="got int"):
        read_image(3)


def test_bomb_is_refused_from_its_header():
    # The data are missing: decoding would say so, the size is noticed before.
    header = png(20000, 20000, 8, 2, b"")
    with pytest.raises(ValueError, match="at most 64 megapixels, got"):
        read_image(header)
    with pytest.raises(ValueError, match="at most 64 megapixels, got 9000x9000"):
        read_image(png(9000, 9000, 8, 2, b""))


def test_own_limit_counts_pixels(photo, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 61 * 47)
    read_image(encoded(photo, "PNG"))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 61 * 47 - 1)
    with pytest.raises(ValueError, match="got 61x47"):
        read_image(encoded(photo, "PNG"))


HOLE = np.zeros((40, 50), bool)
HOLE[10:20, 5:30] = True


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_mask_of_every_mode(mode):
    grey = Image.fromarray(HOLE.astype(np.uint8) * 255)
    if mode == "I;16":
        picture = Image.fromarray(HOLE.astype(np.uint16) * 65535)
    else:
        picture = grey.convert(mode)
    np.testing.assert_array_equal(read_mask(encoded(picture, "PNG")), HOLE)


def test_mask_threshold():
    values = np.array([[0, 127, 128, 255]], np.uint8)
    expected = [[False, False, True, True]]
    np.testing.assert_array_equal(read_mask(Image.fromarray(values)), expected)
    np.testing.assert_array_equal(read_mask(values), expected)
    np.testing.assert_array_equal(read_mask(values.astype(np.int64)), expected)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 90)])
def test_painted_layer_is_read_by_its_alpha(colour):
    layer = np.zeros((40, 50, 4), np.uint8)
    layer[HOLE] = (*colour, 90)
    np.testing.assert_array_equal(read_mask(layer), HOLE)
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(layer), "PNG")), HOLE)


@pytest.mark.parametrize(
    "values",
    [
        HOLE,
        HOLE.astype(np.uint8),
        HOLE.astype(np.uint8) * 255,
        HOLE.astype(np.float32),
        HOLE.astype(np.float64) * 0.8,
        HOLE[..., None],
        np.repeat(HOLE[..., None].astype(np.uint8) * 255, 3, 2),
        torch.from_numpy(HOLE),
    ],
)
def test_mask_arrays(values):
    got = read_mask(values)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, HOLE)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((3, 4, 5, 6)), r"shape \(H, W\)"),
        (np.zeros((4, 4, 3), np.float32), r"shape \(H, W\)"),
        (np.full((4, 4), 2.0), r"\[0, 1\], got \[2, 2\]"),
        (np.full((4, 4), np.nan), r"\[0, 1\], got \[nan"),
        (np.full((4, 4), -1), r"\[0, 255\], got \[-1, -1\]"),
        (np.full((4, 4), 300), r"\[0, 255\], got \[300, 300\]"),
        (np.zeros((4, 4), complex), "complex"),
    ],
)
def test_mask_arrays_out_of_range(values, told):
    with pytest.raises(ValueError, match=told):
        read_mask(values)


def test_mask_size():
    assert read_mask(HOLE, size=(50, 40)).shape == (40, 50)
    with pytest.raises(ValueError, match="the photo is 40x50, the mask 50x40"):
        read_mask(HOLE, size=(40, 50))


def test_check_pair():
    photo = Image.new("RGB", (50, 40))
    check_pair(photo, HOLE)
    check_pair(np.asarray(photo), HOLE)
    with pytest.raises(ValueError, match="the mask is empty"):
        check_pair(photo, np.zeros_like(HOLE))
    with pytest.raises(ValueError, match="nothing known"):
        check_pair(photo, np.ones_like(HOLE))
    with pytest.raises(ValueError, match="the photo is 50x41, the mask 50x40"):
        check_pair(Image.new("RGB", (50, 41)), HOLE)
    with pytest.raises(ValueError, match=r"shape \(H, W\), got shape \(1, 40, 50\)"):
        check_pair(photo, HOLE[None])


def test_tensor_round_trip_is_exact():
    pixels = np.stack(np.meshgrid(np.arange(256), np.arange(3)), -1)[..., [0, 1, 0]].astype(
        np.uint8
    )
    tensor = to_tensor(pixels)
    assert tensor.shape == (1, 3, 3, 256) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    for view in (tensor, tensor[0], tensor.double()):
        np.testing.assert_array_equal(np.asarray(to_pil(view)), pixels)
    np.testing.assert_array_equal(to_tensor(Image.fromarray(pixels)), tensor)


def test_to_pil_clips_and_rounds():
    values = torch.tensor([-3.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 3.0]).expand(3, 1, 4)
    np.testing.assert_array_equal(np.asarray(to_pil(values))[0, :, 0], [0, 0, 1, 255])


def test_tensor_shapes_are_checked():
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 4\)"):
        to_pil(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="NaN"):
        to_pil(torch.full((3, 4, 4), torch.nan))
    for value in (torch.nan, torch.inf, -torch.inf):
        one = torch.zeros(3, 4, 4)
        one[1, 2, 3] = value
        with pytest.raises(ValueError, match="finite"):
            to_pil(one)
    with pytest.raises(ValueError, match=r"got float32 \(4, 4, 3\)"):
        to_tensor(np.zeros((4, 4, 3), np.float32))


def test_write_atomic_replaces_whole_files(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    assert write_atomic(path, lambda temporary: temporary.write_text("new")) == path
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_write_atomic_leaves_nothing_behind(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary.suffix == ".txt" and temporary.parent == tmp_path
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


FULL = """
import resource, sys, warnings
from pathlib import Path
import numpy as np
from asyncdsb.photo.images import write_atomic
from asyncdsb.photo.original import Photograph
from asyncdsb.show.viz import save_animation

pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
photo = Photograph(pixels)

resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
for path in map(Path, sys.argv[1:]):
    try:
        if path.suffix == ".gif":
            save_animation([photo.picture], path)
        else:
            write_atomic(path, photo.save)
    except ValueError as error:
        print(error)
"""


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path):
    paths = [tmp_path / f"out.{kind}" for kind in ("bmp", "jpg", "webp", "tif", "png", "gif")]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *map(str, paths)], capture_output=True, text=True, cwd=ROOT
    )
    told = [f"cannot write {path}: File too large" for path in paths]
    assert done.stdout.splitlines() == told, done.stderr
    assert not list(tmp_path.iterdir())


def test_write_atomic_follows_links_and_refuses_other_places(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_atomic(tmp_path / "link.txt", lambda temporary: temporary.write_text("new"))
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    for place, told in (
        (tmp_path / "none" / "file.txt", "there is no folder"),
        (tmp_path, "got a folder"),
        (Path("/dev/null"), "got a device or pipe"),
    ):
        with pytest.raises(ValueError, match=told):
            write_atomic(place, lambda temporary: temporary.write_text("x"))
    assert not Path("/dev/null").is_file()


def test_suffixes_are_known_before_anything_was_read():
    code = "from asyncdsb.photo import decoding; print(*decoding.readable_suffixes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {".png", ".jpg", ".webp", ".tif"} <= set(done.stdout.split())


def test_zero_size_is_refused():
    with pytest.raises(ValueError, match="at least 1x1 pixel, got 0x5"):
        read_image(Image.new("RGB", (0, 5)))
