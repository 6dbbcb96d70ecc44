"""The page on machines with proxies, other users and taken ports."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from asyncdsb.page import surroundings

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


@pytest.mark.parametrize(
    ("options", "variables", "told"),
    [
        (["--port", "99999"], {}, "expected a port from 1 to 65535, got '99999'"),
        (["--port", "80", "--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1, port 80"),
        (["--host", "203.0.113.1"], {}, "cannot listen on 203.0.113.1"),
        ([], {"GRADIO_SERVER_PORT": "many"}, "GRADIO_SERVER_PORT: expected a port"),
        (
            ["--weights", "user/repo"],
            {"ALL_PROXY": "socks://127.0.0.1:9"},
            "the proxy ALL_PROXY=socks://127.0.0.1:9 cannot be used",
        ),
    ],
)
def test_what_is_in_the_way_is_told_in_one_line(options, variables, told):
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
