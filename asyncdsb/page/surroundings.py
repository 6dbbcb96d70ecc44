"""What the page may meet on a machine: proxies, and folders and ports of others.

The page talks to this machine alone, but its library would ask a proxy for the page's own address,
keep files in a folder that all users share, and end in a traceback when something is in the way.
"""

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
    """Set, in place, the variables that the page's library reads when it is imported.

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
    names = (*PROXIES, *map(str.upper, PROXIES))
    unusable = [name for name in names if not _usable(environment.get(name))]
    return [f"{name}={environment.pop(name)}" for name in unusable]


def bypass_proxies(environment: MutableMapping[str, str], hosts: tuple[str, ...]) -> None:
    """Let this machine be reached without a proxy."""
    for name in ("no_proxy", "NO_PROXY"):
        found = [one.strip() for one in environment.get(name, "").split(",")]
        if "*" not in found:
            environment[name] = ",".join(dict.fromkeys([*filter(None, found), *hosts]))


def _usable(proxy: str | None) -> bool:
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
    """Read a port; raise ValueError, with where it was found, if it is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{where}expected a port from 1 to 65535, got {text!r}")
    return int(text)


def check_listening(host: str, port: int) -> None:
    """Raise ValueError, with the reason, if the page cannot listen on an address and a port."""
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from error


def unmet(package: str, extra: str) -> list[str]:
    """What an extra of an installed package asks for beyond the package itself, and is not here.

    Each with the versions that are asked for and the version that is here.
    """
    from packaging.requirements import Requirement

    lacking = []
    for line in metadata.requires(package) or ():
        wanted = Requirement(line)
        asked, marker = f"{wanted.name}{wanted.specifier}", wanted.marker
        if not marker or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        try:
            found = metadata.version(wanted.name)
            if not wanted.specifier.contains(found, prereleases=True):
                lacking.append(f"{asked} ({found} is installed)")
        except metadata.PackageNotFoundError:
            lacking.append(f"{asked} (not installed)")
    return lacking
