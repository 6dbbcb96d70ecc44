"""What a photograph carries, from every door in to every file out."""

from __future__ import annotations

import io
import json
import struct
import zlib

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
    for source in (path, values, Image.open(path)):
        result = tiny_pipe(source, MASK, steps=1)
        got = cv2.imread(str(result.save(tmp_path / f"out.{suffix}")), cv2.IMREAD_UNCHANGED)
        assert got.dtype == np.uint16 and got.shape == stored.shape
        np.testing.assert_array_equal(got[~MASK], stored[~MASK])
        assert (got[MASK] != stored[MASK]).any()
    assert result.photograph.not_kept(".jpg")[-1] == "16 bits per channel"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_with_transparency_in_sixteen_bits_can_be_read_again(tmp_path, suffix):
    values = deep(4)[..., :2]
    again = read_photograph(Photograph(values).save(tmp_path / f"out.{suffix}"))
    np.testing.assert_array_equal(again.pixels, values[..., [0, 0, 0, 1]])


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [1, 3])
def test_a_hole_in_a_transparent_photo_is_seen_as_it_was_restored(dtype, colours):
    """A viewer puts the photo on white, on which the networks have seen it."""
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (*MASK.shape, colours + 1), dtype)
    pixels[..., -1] = np.linspace(0.3, 1, MASK.shape[1]) * top
    photo = Photograph(pixels)
    found = photo.restored(photo.rgb, MASK)
    # Alpha in the hole is what a smooth fill makes of it, and colours have 8 bits.
    assert np.abs(found.rgb[MASK].astype(int) - photo.rgb[MASK]).max() <= 2
    np.testing.assert_array_equal(found.pixels[~MASK], pixels[~MASK])


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


def ink_profile() -> bytes:
    """A colour profile of a press: white paper, and inks that each take a part of its lightness.

    ICC.1 10.10, ``lut8Type``: 2 x 2 x 2 x 2 grid points from cyan, magenta, yellow, black to Lab.
    """
    inks = np.stack(np.meshgrid(*[(0, 1)] * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = 1 - inks @ [0.2, 0.25, 0.05, 0.4]
    red, yellow = inks @ [-0.1, 0.2, 0, 0], inks @ [-0.1, 0, 0.25, 0]
    grid = np.rint(np.stack([lightness * 255, 128 + red * 255, 128 + yellow * 255], 1))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", *np.eye(3, dtype=int).ravel() * 65536)
    table += ramp * 4 + grid.astype(np.uint8).tobytes() + ramp * 3
    parts = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 6) + b"press\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"A2B0": table,
    }
    index, data = b"", b""
    for name, part in parts.items():
        place = 128 + 4 + 12 * len(parts) + len(data)
        index += name + struct.pack(">II", place, len(part))
        data += part + bytes(-len(part) % 4)
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x40\0\0", b"prtrCMYKLab ", b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)
    whole = bytes(head) + struct.pack(">I", len(parts)) + index + data
    return struct.pack(">I", len(whole)) + whole[4:]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_converted_through_their_profile(kind):
    profile = ink_profile()
    inks = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    inks[:, 32:64, 1] = inks[:, 64:, 3] = 255  # bare paper, magenta, black
    file = saved(Image.fromarray(inks, "CMYK"), kind, icc_profile=profile)
    photo = read_photograph(file)
    assert photo.not_kept(".png") == ["CMYK (converted to RGB)"]
    paper, magenta, black = photo.rgb[32, [8, 48, 90]].astype(int)
    # In the Lab colours of the table, and not (255, 0, 255) and 0 as without a profile.
    assert (paper == 255).all()
    assert np.abs(black - 145).max() <= 10  # L* = 60, with colours rounded to 8 bits
    assert magenta[0] > magenta[2] > magenta[1] + 20 and 150 < magenta.mean() < 210


@pytest.mark.parametrize("profile", [b"", b"x" * 200])
def test_inks_without_a_profile_are_converted_and_it_is_told(profile):
    more = {"icc_profile": profile} if profile else {}
    photo = read_photograph(saved(PHOTO.convert("CMYK"), "JPEG", quality=100, **more))
    assert photo.pixels.shape[2] == 3 and "icc_profile" not in photo.info
    assert photo.not_kept(".png") == ["CMYK (converted to RGB)"]


def chunk(name: bytes, data: bytes) -> PngImagePlugin.PngInfo:
    note = PngImagePlugin.PngInfo()
    note.add(name, data)
    return note


def test_the_gamma_of_a_png_stays_in_png(tmp_path):
    for values in (np.asarray(PHOTO), deep(3)):
        photo = Photograph(values, {"gamma": (1.0, None)})
        again = read_photograph(photo.save(tmp_path / "out.png"))
        assert again.info["gamma"] == (1.0, None) and again.pixels.dtype == values.dtype
    places = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    Photograph(values, {"gamma": (1.0, places)}).save(tmp_path / "out.png")
    assert read_photograph(tmp_path / "out.png").info["gamma"] == (1.0, places)
    assert again.not_kept(".tif") == ["the gamma"]
    usual = read_photograph(saved(PHOTO, "PNG", pnginfo=chunk(b"gAMA", struct.pack(">I", 45455))))
    assert "gamma" not in usual.info


@pytest.mark.parametrize("gamma", [(1.0, None), (1.0, (0.3, 0.3, 0.6, 0.3, 0.2, 0.6, 0.1, 0.1))])
def test_a_picture_that_was_handed_out_can_be_read_again(tmp_path, gamma):
    note = {"gamma": gamma, "dpi": (300.0, 300.0), "text": {"Title": "a wren"}, "xmp": XMP}
    photo = Photograph(np.array(PHOTO), note | {"comment": b"by Ada"})
    photo.save(tmp_path / "photo.png")
    for picture in (photo.picture, read_image(tmp_path / "photo.png")):
        assert picture.info["gamma"] == 1.0
        assert read_photograph(picture).info["gamma"] == gamma
    assert read_photograph(photo.picture).info == photo.info


def test_what_is_not_read_of_a_file_is_told():
    wide = saved(PHOTO, "PNG", pnginfo=chunk(b"cICP", bytes([9, 16, 0, 1])))
    assert read_photograph(wide).lost == ("the description of its colours (CICP)",)
    usual = saved(PHOTO, "PNG", pnginfo=chunk(b"cICP", bytes([1, 13, 0, 1])))
    assert read_photograph(usual).lost == ()
    segment = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
    plain = saved(PHOTO, "JPEG")
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert read_photograph(data).lost == ("extended XMP data",)
    several = saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO])
    assert read_photograph(several).lost == ("further pictures",)


@pytest.mark.parametrize("suffix", [".avif", ".jp2"])
def test_more_than_eight_bits_that_are_not_read_are_told(tmp_path, suffix):
    path = str(tmp_path / f"in{suffix}")
    values = np.asarray(PHOTO).astype(np.uint16)
    more = [cv2.IMWRITE_AVIF_DEPTH, 10] if suffix == ".avif" else []
    if not cv2.imwrite(path, values * (4 if suffix == ".avif" else 16), more):
        pytest.skip(f"OpenCV writes no {suffix} here")
    photo = read_photograph(path)
    assert photo.pixels.dtype == np.uint16 or photo.lost == ("more than 8 bits per channel",)
    PHOTO.save(path)
    assert read_photograph(path).lost == ()


def test_sixteen_bits_with_one_transparent_colour_stay():
    done, data = cv2.imencode(".png", deep(3)[..., ::-1])
    assert done
    name, clear = b"tRNS", struct.pack(">3H", *map(int, deep(3)[0, 0]))
    part = struct.pack(">I", 6) + name + clear + struct.pack(">I", zlib.crc32(name + clear))
    place = data.tobytes().index(b"IDAT") - 4
    photo = read_photograph(data.tobytes()[:place] + part + data.tobytes()[place:])
    assert photo.pixels.dtype == np.uint16 and photo.pixels.shape[2] == 4
    np.testing.assert_array_equal(photo.pixels[..., :3], deep(3))
    assert photo.pixels[0, 0, 3] == 0 and (photo.pixels[1:, :, 3] == 65535).all()


def test_comments_in_another_encoding_stay(tmp_path):
    comment = "Zaunkönig"
    for encoding in ("utf-8", "latin-1"):
        photo = read_photograph(saved(PHOTO, "JPEG", comment=comment.encode(encoding)))
        photo.save(tmp_path / "out.png")
        assert Image.open(tmp_path / "out.png").info["Comment"] == comment


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


def test_heic_pictures_keep_what_they_hold(tiny_pipe, tmp_path):
    """Runs where the package pillow-heif is installed, which is none of this project's own."""
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    PHOTO.save(tmp_path / "in.heic", exif=exif_of(6).tobytes(), icc_profile=SRGB, xmp=XMP)
    photo = read_photograph(tmp_path / "in.heic")
    assert photo.size == SIZE[::-1] and photo.lost == ()
    exif = written(photo, tmp_path, "jpg").getexif()
    assert exif.get(0x0112, 1) == 1 and exif[0x013B] == "Ada" and exif.get_ifd(0x8825)[1] == "N"
    assert photo.info["icc_profile"] == SRGB and photo.info["xmp"] == XMP
    result = tiny_pipe(tmp_path / "in.heic", MASK.T, steps=1)
    np.testing.assert_array_equal(np.asarray(result.image)[~MASK.T], photo.rgb[~MASK.T])
    layer = PHOTO.copy()
    layer.putalpha(77)
    assert read_photograph(saved(layer, "HEIF")).pixels.shape[2] == 4
    assert read_photograph(saved(PHOTO.convert("L"), "HEIF")).colours == 1
    deep_data = np.asarray(PHOTO).astype(np.uint16) * 257
    heif.from_bytes("RGB;16", SIZE, deep_data.tobytes()).save(tmp_path / "deep.heic")
    assert read_photograph(tmp_path / "deep.heic").lost == ("more than 8 bits per channel",)


def profile_of(size: int) -> bytes:
    """A colour profile with so many bytes, the last of which say nothing."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made + np.random.default_rng(0).bytes(size - len(made))


@pytest.mark.parametrize("size, kept", [(1_000_000, True), (1_500_000, False)])
def test_a_profile_that_other_programs_do_not_read_in_a_png_is_told(tmp_path, size, kept):
    photo = read_photograph(saved(synthetic_photo(*SIZE), "TIFF", icc_profile=profile_of(size)))
    assert (photo.not_kept(".png") == []) == kept
    with written(photo, tmp_path, "png") as picture:  # With Pillow's own limit or ours.
        assert ("icc_profile" in picture.info) == kept


@pytest.mark.parametrize("kind", ["text", "profile"])
def test_a_png_with_much_beside_its_pixels_is_read(kind):
    note = PngImagePlugin.PngInfo()
    more = {"icc_profile": profile_of(2_000_000)} if kind == "profile" else {"pnginfo": note}
    note.add_text("log", "line\n" * 300_000, zip=True)
    photo = read_photograph(saved(synthetic_photo(*SIZE), "PNG", **more))
    assert photo.info["icc_profile" if kind == "profile" else "text"]


@pytest.mark.parametrize("suffix", [".sgi", ".ppm"])
def test_sixteen_bits_of_other_formats_stay_or_are_told(tmp_path, suffix):
    values = deep(3)
    if suffix == ".sgi":
        head = struct.pack(">hbbHHHHll", 474, 0, 2, 3, *values.shape[1::-1], 3, 0, 65535)
        planes = values[::-1].transpose(2, 0, 1).astype(">u2")
        data = head.ljust(512, b"\0") + planes.tobytes()
    else:
        head = f"P6\n{values.shape[1]} {values.shape[0]}\n1023\n".encode()
        data = head + (values // 64).astype(">u2").tobytes()
    photo = read_photograph(data)
    told = "more than 8 bits per channel" in photo.lost
    assert told or np.array_equal(photo.pixels, values)


def test_a_jpeg_is_refused_or_told_what_it_cannot_hold(tiny_pipe, tmp_path):
    wide = tiny_pipe(np.zeros((8, 66_000), np.uint8), box_mask(66_000, 8), steps=1)
    with pytest.raises(ValueError, match="JPEG holds at most 65500 pixels a side"):
        wide.save(tmp_path / "wide.jpg")
    photo = Photograph(np.zeros((8, 8, 3), np.uint8), {"dpi": (1e5, 1e5), "comment": b"a" * 66_000})
    assert photo.not_kept(".jpg") == ["the resolution", "the comment"]
    with written(photo, tmp_path, "jpg") as picture:
        assert "comment" not in picture.info


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_rotation_of_xmp_is_reset_with_that_of_exif_data(quote):
    xmp = f"<x:xmpmeta tiff:Orientation={quote}6{quote} a='6'/>".encode()
    photo = read_photograph(saved(synthetic_photo(*SIZE), "JPEG", exif=exif_of(6), xmp=xmp))
    assert quote.encode() + b"6" not in photo.info["xmp"].replace(b"a='6'", b"")


def test_the_arrays_of_the_caller_may_change_during_a_run(tiny_pipe):
    before, hole = np.asarray(synthetic_photo(*SIZE)), box_mask(*SIZE)
    changing = before.copy()
    frames = tiny_pipe.stream(changing, hole, steps=1)
    changing.fill(7)
    *_, last = frames
    assert np.array_equal(np.asarray(last.image)[~hole], before[~hole])
    tau = np.full(hole.shape, 0.5, np.float32)
    result = tiny_pipe(before, hole, steps=1, strategy=tau)
    tau.fill(0)
    assert (result.tau == 0.5).all()
