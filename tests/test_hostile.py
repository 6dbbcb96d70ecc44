"""Odd and hostile input through the page's own address for programs.

Every request must end in a picture or in a message that says what was expected; afterwards the
server still answers, and no file was read or written outside the page's cache.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import synthetic_photo
from PIL import Image

import app
from asyncdsb.masks import make_mask

pytestmark = pytest.mark.slow

SIZE = (96, 64)
DEFAULTS = [0.2, 0.5, 1, "posterior", "gradient", 0, 0, "uniform", 8, *[None] * 6]


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTO = encoded(synthetic_photo(*SIZE))
MASK = encoded(Image.fromarray(make_mask("center", (SIZE[1], SIZE[0])).astype(np.uint8) * 255))


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims, and unpacks, a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(3 * width + 1)
    body = b"".join(packer.compress(row) for _ in range(min(height, 200))) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("../../evil.png", PHOTO)
    return buffer.getvalue()


def alpha_only() -> bytes:
    picture = synthetic_photo(*SIZE).convert("RGBA")
    picture.putalpha(0)
    return encoded(picture)


def whole(value: int) -> bytes:
    return encoded(Image.new("L", SIZE, value))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def address(tiny_pipe, cache) -> Iterator[str]:
    """The page with a small model, on a free port of this machine."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(cache))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo = app.build(lambda name: tiny_pipe)
    app.launch(demo, server_port=port, prevent_thread_lock=True, quiet=True)
    yield f"http://127.0.0.1:{port}/gradio_api"
    demo.close()
    patch.undo()


def upload(address: str, content: bytes, name: str) -> str:
    """Upload a file as the browser does; return its path on the server."""
    border = "hostile"
    body = (
        f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    ).encode() + content + f"\r\n--{border}--\r\n".encode()  # fmt: skip
    request = urllib.request.Request(
        f"{address}/upload", body, {"Content-Type": f"multipart/form-data; boundary={border}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        path = json.loads(answer.read())[0]
    assert os.environ["GRADIO_TEMP_DIR"] == os.path.commonpath(
        [os.environ["GRADIO_TEMP_DIR"], os.path.realpath(path)]
    ), path
    return path


def inpaint(address: str, data: list) -> tuple[str | None, object]:
    """Ask for a restoration with the raw arguments; return the last event and its content."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{address}/call/inpaint", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.loads(answer.read())["event_id"]
    kind = content = None
    with urllib.request.urlopen(f"{address}/call/inpaint/{event}", timeout=120) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                content = json.loads(line.removeprefix("data: "))
    if kind == "error":
        assert isinstance(content, dict) and content["error"], "an error without a message"
    return kind, content


def file(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


FILES = {
    "empty": (b"", MASK, "empty"),
    "text": (b"hello", MASK, "a text file"),
    "truncated": (PHOTO[: len(PHOTO) // 2], MASK, "damaged or truncated"),
    "header only": (PHOTO[:8], MASK, "expected"),
    "bomb": (bomb(60_000, 60_000), MASK, "megapixels"),
    "large": (bomb(9_000, 9_000), MASK, "megapixels"),
    # Its pixels end early, which the decoder takes for black ones.
    "lying header": (bomb(5_000, 5_000), MASK, "same size"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>', MASK, ""),
    "zip": (archive(), MASK, "expected"),
    "html": (b"<html><script>alert(1)</script></html>", MASK, "expected"),
    "pickle": (b"\x80\x04\x95\x1a\x00\x00\x00", MASK, "expected"),
    "pdf": (b"%PDF-1.7\n", MASK, "expected"),
    "other size": (encoded(synthetic_photo(50, 50)), MASK, "same size"),
    "thin": (encoded(synthetic_photo(1, 5000)), MASK, "same size"),
    "mask as text": (PHOTO, b"mask", "expected"),
    "mask truncated": (PHOTO, MASK[:60], "damaged or truncated"),
    "mask empty": (PHOTO, whole(0), "empty"),
    "mask full": (PHOTO, whole(255), "leaves nothing known"),
    "floats": (encoded(Image.new("F", SIZE), "TIFF"), MASK, "32-bit floats"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_refused_with_a_message(address, name):
    photo, mask, message = FILES[name]
    paths = [upload(address, content, "a.png") for content in (photo, mask)]
    kind, content = inpaint(address, [*map(file, paths), *DEFAULTS])
    assert kind == "error" and message in str(content), content
    assert "Traceback" not in str(content)


GOOD = {
    "1x1 hole": (PHOTO, None),
    "alpha only": (alpha_only(), MASK),
    "animation": (
        encoded(synthetic_photo(*SIZE), "GIF", save_all=True, append_images=[Image.new("P", SIZE)]),
        MASK,
    ),
    "CMYK": (encoded(synthetic_photo(*SIZE).convert("CMYK"), "JPEG"), MASK),
    "one bit": (encoded(synthetic_photo(*SIZE).convert("1")), MASK),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_files_are_restored(address, name):
    photo, mask = GOOD[name]
    if mask is None:
        dot = Image.new("L", SIZE)
        dot.putpixel((40, 30), 255)
        mask = encoded(dot)
    paths = [upload(address, photo, "../../a.png"), upload(address, mask, "m\u0000.png")]
    kind, content = inpaint(address, [*map(file, paths), *DEFAULTS])
    assert kind == "complete", content
    assert Image.open(content[0]["path"]).size == SIZE


VALUES = {
    "tau_min nan": (0, float("nan"), ""),
    "tau_min above tau_max": (0, 0.9, "tau_min"),
    "tau_max of text": (1, "0.5; rm -rf", ""),
    "negative steps": (2, -5, ""),
    "no steps": (2, None, ""),
    "a million steps": (2, 1_000_000, ""),
    "half a step": (2, 1.5, "whole"),
    "unknown sampler": (3, "__import__('os')", ""),
    "a list of samplers": (3, ["ode"], ""),
    "unknown strategy": (4, "/etc/passwd", ""),
    "painted without an order": (4, "painted", "expected an order"),
    "negative seed": (5, -1, ""),
    "huge seed": (5, 2**80, ""),
    "eta out of range": (6, 7, ""),
    "unknown grid": (7, {"grid": 1}, ""),
    "a billion tiles": (8, 10**9, ""),
    "unknown finish": (10, "varnish", "finish"),
    "unknown weights": (11, "../../etc", "weights"),
    "negative guidance": (14, -1, "guidance"),
}


@pytest.fixture(scope="module")
def uploaded(address) -> list[dict]:
    return [file(upload(address, content, "a.png")) for content in (PHOTO, MASK)]


@pytest.mark.parametrize("name", VALUES)
def test_values_are_refused_with_a_message(address, uploaded, name):
    place, value, message = VALUES[name]
    given = list(DEFAULTS)
    given[place] = value
    kind, content = inpaint(address, [*uploaded, *given])
    assert kind == "error" and message in str(content), content


PATHS = [
    "/etc/passwd",
    "/proc/self/environ",
    "../../../../etc/passwd",
    "app.py",
    "https://example.com/a.png",
    "file:///etc/passwd",
    "\\\\server\\share\\a.png",
    "",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("place", [0, 1, 12])
def test_paths_and_addresses_of_the_client_are_not_opened(address, uploaded, path, place):
    given = [*uploaded, *DEFAULTS]
    given[6] = "painted" if place == 12 else given[6]
    given[place] = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
    kind, content = inpaint(address, given)
    assert kind == "error", content
    assert "root:" not in str(content)


@pytest.mark.parametrize("data", [[], [None] * 14, [{}] * 14, ["a"] * 40, [[[[[]]]]] * 14])
def test_arguments_of_another_shape(address, data):
    kind, content = inpaint(address, data)
    assert kind == "error", content


def test_files_of_the_server_are_not_served(address):
    for path in ("/etc/passwd", os.path.abspath("app.py"), "../app.py"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/file={path}", timeout=30)
        assert refused.value.code in (403, 404)


def test_the_server_is_still_up_and_wrote_into_its_cache_only(address, uploaded, cache):
    kind, content = inpaint(address, [*uploaded, *DEFAULTS])
    assert kind == "complete"
    path = Path(content[0]["path"])
    assert cache in path.parents and path.is_file()
    assert not (cache.parent / "a.png").exists() and not Path("/evil.png").exists()
