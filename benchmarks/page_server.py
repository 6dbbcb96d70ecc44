"""The page in a process of its own, for the benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PATIENCE = 60
"""Seconds in which the page must answer; the machine may be busy."""

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""Chromium's options in a bare container, without a word to anybody."""


def chromium() -> str | None:
    """Path of the Chromium on this machine, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@dataclass(frozen=True)
class Server:
    """A running page.

    Attributes:
        address: of the page.
        process: that serves it.
        started_in: seconds from the start of the process to its first answer.
    """

    address: str
    process: subprocess.Popen
    started_in: float

    def resident_mib(self) -> float:
        """Memory that the process holds, in MiB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served(
    variables: Mapping[str, str] = os.environ, program: Path = ROOT / "app.py"
) -> Iterator[Server]:
    """Start ``python app.py`` with the bundled weights on the CPU; stop it afterwards.

    Args:
        variables: of its environment.
        program: in place of ``app.py``.

    Raises:
        RuntimeError: it ended, or did not answer within a minute; with what it said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryFile("w+") as said:
        environment = {**variables, "GRADIO_TEMP_DIR": cache}
        command = [sys.executable, str(program), "--device", "cpu", "--port", str(port)]
        begun = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            while True:
                if process.poll() is not None or time.monotonic() > begun + PATIENCE:
                    said.seek(0)
                    raise RuntimeError(f"the page did not start:\n{said.read()}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield Server(f"http://127.0.0.1:{port}", process, time.monotonic() - begun)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
