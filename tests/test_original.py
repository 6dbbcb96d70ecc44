"""What a photograph carries, from every door in to every file out."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np
import pytest
from conftest import box_mask, save_mask, synthetic_photo
from PIL import Image, ImageCms, PngImagePlugin

from asyncdsb.photo.images import read_image
from asyncdsb.photo.original import Photograph, read_photograph

SIZE = (96, 64)
MASK = box_mask(*SIZE)
PHOTO = synthetic_photo(*SIZE)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>a wren</x:xmpmeta>"
SUFFIXES = ("png", "tif", "webp", "jpg")


def exif_of(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x013B], exif[0x8298] = orientation, "Ada", "(c) Ada"
    exif.get_ifd(0x8769)[0x829A] = 0.005
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
    return exif


def saved(picture: Image.Image, kind: str, **more) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def written(photo: Photograph, place, suffix: str) -> Image.Image:
    found = Image.open(photo.save(place / f"out.{suffix}"))
    found.load()
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_metadata_go_from_every_format_to_every_other(tmp_path, kind, suffix):
    more = {"exif": exif_of(6), "icc_profile": SRGB, "dpi": (300, 300)}
    if kind == "TIFF":  # Pillow writes parts of Exif data there only if it has read them.
        more["exif"] = exif_of(6).tobytes()
    if kind == "PNG":
        note = PngImagePlugin.PngInfo()
        note.add_itxt("XML:com.adobe.xmp", XMP.decode())
        more["pnginfo"] = note
    elif kind != "TIFF":
        more["xmp"] = XMP
    if kind == "WEBP":
        more["exif"][282], more["exif"][283], more["exif"][296] = 300.0, 300.0, 2
    photo = read_photograph(saved(PHOTO, kind, **more))
    got = written(photo, tmp_path, suffix)
    assert got.size == SIZE[::-1]
    exif = got.getexif()
    assert exif.get(0x0112, 1) == 1 and exif[0x013B] == "Ada" and exif[0x8298] == "(c) Ada"
    assert exif.get_ifd(0x8825)[2] == (51.0, 30.0, 0.0)
    assert float(exif.get_ifd(0x8769)[0x829A]) == pytest.approx(0.005)
    assert got.info["icc_profile"] == SRGB
    if kind != "TIFF":
        assert XMP in (got.info.get("xmp") or got.info["XML:com.adobe.xmp"].encode())
    if suffix == "webp":
        assert float(exif[282]) == pytest.approx(300, abs=1)
    else:
        assert got.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert photo.not_kept(f".{suffix}") == []


def test_the_preview_in_exif_data_is_not_kept():
    """It shows what the hole covers."""
    inside = saved(Image.new("RGB", (8, 8), (250, 0, 0)), "JPEG")
    exif = exif_of()
    head = exif.tobytes()
    with_preview = head + inside
    photo = read_photograph(saved(PHOTO, "JPEG", exif=with_preview))
    assert inside[20:60] in with_preview and inside[20:60] not in photo.info["exif"]


def test_a_picture_of_the_caller_keeps_its_rotation():
    picture = Image.open(io.BytesIO(saved(PHOTO, "JPEG", exif=exif_of(6))))
    assert read_image(picture).size == read_image(picture).size == SIZE[::-1]
    assert picture.getexif()[0x0112] == 6


def test_texts_stay_in_png_and_are_told_of_elsewhere(tmp_path):
    note = PngImagePlugin.PngInfo()
    note.add_text("Title", "a wren")
    note.add_itxt("Titel", "Zaunkönig", "de")
    note.add_text("asyncdsb", "of an earlier run")
    photo = read_photograph(saved(PHOTO, "PNG", pnginfo=note))
    photo.save(tmp_path / "out.png", {"seed": 3})
    with Image.open(tmp_path / "out.png") as found:
        assert found.text["Title"] == "a wren" and found.text["Titel"] == "Zaunkönig"
        assert json.loads(found.text["asyncdsb"]) == {"seed": 3}
    assert photo.not_kept(".tif") == ["PNG text"]


def deep(channels: int) -> np.ndarray:
    shape = (SIZE[1], SIZE[0], channels)
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    return values[..., 0] if channels == 1 else values


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay(tiny_pipe, tmp_path, channels, suffix):
    values = deep(channels)
    stored = values if channels == 1 else values[..., [2, 1, 0, 3][:channels]]
    path = str(tmp_path / f"in.{suffix}")
    assert cv2.imwrite(path, stored)
    for source in (path, values):
        result = tiny_pipe(source, MASK, steps=1)
        got = cv2.imread(str(result.save(tmp_path / f"out.{suffix}")), cv2.IMREAD_UNCHANGED)
        assert got.dtype == np.uint16 and got.shape == stored.shape
        np.testing.assert_array_equal(got[~MASK], stored[~MASK])
        assert (got[MASK] != stored[MASK]).any()
    assert result.photograph.not_kept(".jpg")[-1] == "16 bits per channel"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_are_turned_as_eight_are(tmp_path, orientation):
    values = deep(3)
    path = Photograph(values, {"exif": exif_of(orientation).tobytes()}).save(tmp_path / "in.png")
    photo = read_photograph(path)
    assert photo.pixels.dtype == np.uint16
    with Image.open(path) as seen:
        expected = np.asarray(read_image(seen)).astype(int)
    assert np.abs(photo.rgb - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_transparency_stays(tiny_pipe, tmp_path, suffix):
    layer = np.dstack([np.asarray(PHOTO), np.full(MASK.shape, 255, np.uint8)])
    layer[:, :20, 3] = np.arange(64)[:, None] * 4
    for source in (Image.fromarray(layer), layer, saved(Image.fromarray(layer), "PNG")):
        result = tiny_pipe(source, MASK, steps=1)
        got = np.asarray(written(result.photograph, tmp_path, suffix))
        np.testing.assert_array_equal(got[~MASK], layer[~MASK])
        assert (got[MASK][:, 3] == 255).all()
        assert result.image.mode == "RGBA"
    assert "transparency" in result.photograph.not_kept(".jpg")


def test_what_is_erased_becomes_opaque(tiny_pipe):
    layer = np.dstack([np.asarray(PHOTO), np.where(MASK, 0, 255).astype(np.uint8)])
    assert (np.asarray(tiny_pipe(layer, MASK, steps=1).image)[..., 3] == 255).all()


@pytest.mark.parametrize("finish", ["none", "patches"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_stays_grey(tiny_pipe, finish, mode):
    grey = PHOTO.convert("L").convert(mode)
    for source in (grey, np.asarray(grey), saved(grey, "PNG")):
        result = tiny_pipe(source, MASK, steps=2, finish=finish)
        assert result.image.mode == mode
        got = np.asarray(result.image.convert("RGB"))
        assert (got == got[..., :1]).all() and (got[MASK] != got[~MASK].mean()).any()
        assert (np.ptp(np.asarray(result.trajectory[-1].x0_hat), axis=2) == 0).all()


def test_a_grey_profile_stays_with_grey_pixels(tmp_path):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    photo = read_photograph(saved(PHOTO.convert("L"), "PNG", icc_profile=profile))
    got = written(photo, tmp_path, "png")
    assert got.mode == "L" and got.info["icc_profile"] == profile
    assert "icc_profile" not in photo.picture.convert("RGB").info or photo.picture.mode == "L"
    assert photo.not_kept(".webp") == ["the colour profile"]


def test_colours_of_inks_are_converted_and_it_is_told():
    photo = read_photograph(saved(PHOTO.convert("CMYK"), "JPEG", quality=100))
    assert photo.pixels.shape[2] == 3
    assert photo.not_kept(".png") == ["CMYK (converted to RGB)"]


@pytest.mark.parametrize("door", ["path", "picture", "read_image"])
def test_the_profile_comes_through_every_door(tiny_pipe, tmp_path, door):
    path = tmp_path / "in.jpg"
    PHOTO.save(path, icc_profile=SRGB, exif=exif_of())
    source = {"path": lambda: path, "picture": lambda: Image.open(path)}.get(
        door, lambda: read_image(path)
    )()
    image = tiny_pipe(source, MASK, steps=1).image
    assert image.info["icc_profile"] == SRGB and b"Ada" in image.info["exif"]
    assert Image.open(io.BytesIO(saved(image, "PNG"))).info["icc_profile"] == SRGB


def test_a_result_is_saved_by_its_suffix_alone(tiny_pipe, tmp_path):
    result = tiny_pipe(PHOTO, save_mask(MASK, tmp_path / "mask.png"), steps=1)
    with pytest.raises(ValueError, match=r"expected a file ending in .png .* got out.gif"):
        result.save(tmp_path / "out.gif")
    assert Image.open(result.save(tmp_path / "out.tif")).size == SIZE


def test_a_result_warns_of_what_the_format_cannot_hold(tiny_pipe, tmp_path):
    seen = []
    photo = np.dstack([np.asarray(PHOTO), np.full(MASK.shape, 99, np.uint8)])
    result = tiny_pipe(photo, MASK, steps=1, trajectory=False, on_frame=seen.append)
    assert [frame.step for frame in seen] == [0, 1] and not result.trajectory
    with pytest.warns(UserWarning, match="^not kept in out.bmp: transparency$"):
        result.save(tmp_path / "out.bmp")


@pytest.mark.parametrize("damage", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"nonsense"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_metadata_do_not_matter(tmp_path, damage):
    photo = read_photograph(saved(PHOTO, "WEBP", exif=damage, lossless=True))
    np.testing.assert_array_equal(photo.rgb, np.asarray(PHOTO))
    for suffix in SUFFIXES:
        assert written(photo, tmp_path, suffix).size == SIZE


def test_exif_data_too_long_for_jpeg_are_told_of(tmp_path):
    exif = exif_of()
    exif[0x010E] = "x" * 70_000
    photo = read_photograph(saved(PHOTO, "PNG", exif=exif))
    assert photo.not_kept(".jpg") == ["Exif data"]
    assert written(photo, tmp_path, "jpg").size == SIZE
