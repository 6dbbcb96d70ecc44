"""What a machine may have in store for the page: proxies, folders and ports of others.

The page talks to this machine alone, yet its library asks the proxy for itself, keeps its files in
a folder that all users share, and ends in a traceback when something is in the way.
"""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

PROXIES = ("http_proxy", "https_proxy", "all_proxy")
LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def settle(environment: MutableMapping[str, str]) -> list[str]:
    """Set the variables that the page's library reads when it is imported.

    Args:
        environment: of the process, changed in place.

    Returns:
        The proxies that cannot be used, as NAME=VALUE; they are taken out.

    Raises:
        ValueError: ``GRADIO_SERVER_PORT`` is no port.
    """
    # Else it asks its server for news.
    environment.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    environment.setdefault("GRADIO_TEMP_DIR", str(own_folder()))
    if "GRADIO_SERVER_PORT" in environment:
        port_number(environment["GRADIO_SERVER_PORT"], "GRADIO_SERVER_PORT: ")
    bypass_proxies(environment, LOCAL)
    unusable = []
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        if name in environment and not _usable(environment[name]):
            unusable.append(f"{name}={environment.pop(name)}")
    return unusable


def bypass_proxies(environment: MutableMapping[str, str], hosts: tuple[str, ...]) -> None:
    """Let this machine be reached without a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        found = [one.strip() for one in environment.get(name, "").split(",")]
        if "*" not in found:
            environment[name] = ",".join(dict.fromkeys([*filter(None, found), *hosts]))


def _usable(proxy: str) -> bool:
    import httpx

    if not proxy:
        return True
    try:
        httpx.HTTPTransport(proxy=proxy if "://" in proxy else f"http://{proxy}").close()
    except (ImportError, ValueError, httpx.InvalidURL):
        return False
    return True


def own_folder() -> Path:
    """Name a folder for the page's files that nobody else has; it is not made."""
    user = getattr(os, "getuid", lambda: "user")()
    folder = Path(tempfile.gettempdir(), f"asyncdsb-page-{user}")
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return folder
    mine = stat.S_ISDIR(found.st_mode) and user in ("user", found.st_uid)
    return folder if mine and os.access(folder, os.W_OK) else Path(f"{folder}-{os.getpid()}")


def port_number(text: str, where: str = "") -> int:
    """Read a port.

    Raises:
        ValueError: it is none.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{where}expected a port from 1 to 65535, got {text!r}")
    return int(text)


def check_listening(host: str, port: int) -> None:
    """Refuse a port or an address on which the page cannot listen.

    Raises:
        ValueError: with the reason.
    """
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}") from error


def unmet(package: str, extra: str) -> list[str]:
    """What an extra of an installed package asks for beyond the package itself, and is not here.

    Returns:
        Each as it asks for it, with the version that is here instead.
    """
    from packaging.requirements import Requirement

    lacking = []
    for line in metadata.requires(package) or ():
        wanted = Requirement(line)
        marker = wanted.marker
        if not marker or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        asked = f"{wanted.name}{wanted.specifier}"
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{asked} (not installed)")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            lacking.append(f"{asked} ({found} is installed)")
    return lacking
