"""The page on machines with proxies, other users and taken ports."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import socket
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import box_mask, synthetic_photo
from PIL import Image

import app
from asyncdsb.page import surroundings
from benchmarks.page_server import served

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("before", ["", "example.org, localhost"])
def test_this_machine_is_reached_without_a_proxy(before):
    environment = {"http_proxy": "http://proxy:3128", "no_proxy": before}
    assert surroundings.settle(environment) == []
    assert environment["http_proxy"] == "http://proxy:3128"
    for name in ("no_proxy", "NO_PROXY"):
        hosts = environment[name].split(",")
        assert {"localhost", "127.0.0.1"} <= set(hosts) and hosts.count("localhost") == 1
    assert ("example.org" in environment["no_proxy"]) == bool(before)


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "https_proxy"])
@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:9/", "nonsense://x", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_taken_out(name, proxy):
    environment = {name: proxy, "HTTP_PROXY": "proxy:3128"}
    assert surroundings.settle(environment) == [f"{name}={proxy}"]
    assert name not in environment and environment["HTTP_PROXY"] == "proxy:3128"


def test_the_folder_for_files_is_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = surroundings.own_folder()
    assert first.parent == tmp_path and not first.exists()
    first.mkdir()
    assert surroundings.own_folder() == first
    first.rmdir()
    first.symlink_to("/")
    assert surroundings.own_folder() not in (first, Path("/"))
    environment = {"GRADIO_TEMP_DIR": "/chosen"}
    surroundings.settle(environment)
    assert environment["GRADIO_TEMP_DIR"] == "/chosen"


@pytest.mark.parametrize("port", ["0", "99999", "-1", "http", ""])
def test_impossible_ports(port):
    with pytest.raises(ValueError, match="expected a port from 1 to 65535"):
        surroundings.port_number(port)
    with pytest.raises(ValueError, match="^GRADIO_SERVER_PORT: expected a port"):
        surroundings.settle({"GRADIO_SERVER_PORT": port})


def test_a_taken_port_and_a_foreign_address():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1, port {port}: "):
            surroundings.check_listening("127.0.0.1", port)
    surroundings.check_listening("127.0.0.1", port)
    with pytest.raises(ValueError, match="cannot listen on 203.0.113.1"):
        surroundings.check_listening("203.0.113.1", port)


def start(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python app.py`` with options with which it ends by itself."""
    return subprocess.run(
        [sys.executable, "app.py", *options],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


def refusal(options: list[str], monkeypatch, capsys) -> str:
    """The line with which the page ends before it is up."""
    monkeypatch.setattr(app, "launch", lambda *args, **named: pytest.fail("it is up"))
    with pytest.raises(SystemExit, match="2"):
        app.main(options)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--port", "99999"], "expected a port from 1 to 65535, got '99999'"),
        (["--port", "80", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1, port 80"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
    ],
)
def test_what_is_in_the_way_is_told_in_one_line(options, told, monkeypatch, capsys):
    assert told in refusal(options, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("options", "variables", "told"),
    [
        ([], {"GRADIO_SERVER_PORT": "many"}, "GRADIO_SERVER_PORT: expected a port"),
        (
            ["--weights", "user/repo"],
            {"ALL_PROXY": "socks://127.0.0.1:9"},
            "the proxy ALL_PROXY=socks://127.0.0.1:9 cannot be used",
        ),
    ],
)
def test_variables_in_the_way_are_told_in_one_line(options, variables, told):
    done = start(*options, **variables)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and told in done.stderr


SERVED = """
import os, sys
import app
def empty(load, names):
    with app.gr.Blocks(analytics_enabled=False) as demo:
        return demo
def stop(*arguments, **options):
    print("served", os.environ["GRADIO_TEMP_DIR"], flush=True)
    os._exit(0)
app.gr.Blocks.block_thread = stop
app.build = empty
app.main(["--port", sys.argv[1]])
"""


def test_the_page_starts_behind_proxies_without_a_home_of_its_own(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    dead = "http://127.0.0.1:9"
    variables = {
        "http_proxy": dead, "HTTPS_PROXY": dead, "ALL_PROXY": "socks5://127.0.0.1:9",
        "NO_PROXY": "", "no_proxy": "", "HOME": "/nonexistent", "TMPDIR": str(tmp_path),
        "XDG_CACHE_HOME": "/nonexistent", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", SERVED, str(port)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split("served ")[1].strip())
    assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700


class Installed:
    """Stands for the packages of a machine, and what gradio asks for."""

    PackageNotFoundError = surroundings.metadata.PackageNotFoundError

    def __init__(self, **versions: str):
        self.versions = versions

    def requires(self, package: str) -> list[str]:
        assert package == "gradio"
        return [
            "numpy<3,>=1",
            "pydantic<=3.0,>=2.0",
            "mcp<2.0.0,>=1.21.0; extra == 'mcp'",
            "pydantic<=2.12.5,>=2.11.10; extra == 'mcp'",
            "authlib; extra == 'oauth'",
        ]

    def version(self, package: str) -> str:
        if package not in self.versions:
            raise self.PackageNotFoundError(package)
        return self.versions[package]


@pytest.mark.parametrize(
    "versions, told",
    [
        ({"mcp": "1.30.0", "pydantic": "2.12.5"}, []),
        ({"pydantic": "2.12.5"}, ["mcp<2.0.0,>=1.21.0 (not installed)"]),
        ({"mcp": "2.1", "pydantic": "2.12.5"}, ["mcp<2.0.0,>=1.21.0 (2.1 is installed)"]),
        (
            {"mcp": "1.2", "pydantic": "2.14.4"},
            [
                "mcp<2.0.0,>=1.21.0 (1.2 is installed)",
                "pydantic<=2.12.5,>=2.11.10 (2.14.4 is installed)",
            ],
        ),
    ],
)
def test_the_page_says_which_versions_mcp_needs(versions, told, monkeypatch, capsys):
    monkeypatch.setattr(surroundings, "metadata", Installed(**versions))
    assert surroundings.unmet("gradio", "mcp") == told
    if told:
        said = refusal(["--mcp"], monkeypatch, capsys)
        assert all(one in said for one in told)
        assert "pip install 'gradio[mcp]'" in said


def test_what_gradio_asks_for_can_be_read(monkeypatch):
    """The extra's own requirements, of the gradio that is here, and none of the others."""
    empty = Installed()
    monkeypatch.setattr(empty, "requires", surroundings.metadata.requires)
    monkeypatch.setattr(surroundings, "metadata", empty)
    names = {line.partition("<")[0] for line in surroundings.unmet("gradio", "mcp")}
    assert {"mcp"} <= names <= {"mcp", "pydantic"}


@pytest.mark.slow
@pytest.mark.skipif(bool(surroundings.unmet("gradio", "mcp")), reason="needs gradio[mcp]")
def test_a_language_model_restores_a_photograph(tmp_path):
    """Over the protocol: the tool is listed with its description, and its picture is right."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    program = tmp_path / "tool.py"
    program.write_text("import sys\nimport app\napp.main([*sys.argv[1:], '--mcp'])\n")
    photo, mask = synthetic_photo(96, 64), box_mask(96, 64)

    def address(picture: Image.Image) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()

    files = {"photo": address(photo), "mask": address(Image.fromarray(mask))}

    async def visit(server: str):
        async with (
            streamablehttp_client(f"{server}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            (tool,) = (await session.list_tools()).tools
            good = await session.call_tool(tool.name, files | {"steps": 2, "seed": 3})
            bad = await session.call_tool(tool.name, files | {"steps": 0})
            return tool, good, bad

    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with served(variables | {"OMP_NUM_THREADS": "1"}, program) as server:
        tool, good, bad = asyncio.run(visit(server.address))
        assert not good.isError, good
        # The answer names the file, to be fetched from the page.
        (text,) = good.content
        found = re.search(rf"{server.address}/[^']+restored.png", text.text)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(found[0], timeout=60) as answer:
            shown = np.asarray(Image.open(io.BytesIO(answer.read())))
    assert tool.name == "inpaint" and "hole of a photograph" in tool.description
    assert tool.inputSchema["required"] == ["photo", "mask"]
    changed = (shown != np.asarray(photo)).any(-1)
    assert changed[mask].any() and not changed[~mask].any()
    assert "'seed': 3" in text.text and bad.isError
