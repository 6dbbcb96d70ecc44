"""Where weights come from: the project itself, a folder, or the Hub."""

from __future__ import annotations

from pathlib import Path

from asyncdsb.store import hub

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED, _CHECKOUT = _PACKAGE / "weights", _PACKAGE.parent / "assets" / "weights"
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Folder of the weights that come with the project: a wheel has it in the package, a checkout
beside it."""

BUNDLED_NAMES = ("scenes", "portraits")
"""Bundled weights, each a folder in :data:`BUNDLED`. The first are the default."""


def weights_folder(source: str | Path | None, revision: str | None = None) -> Path:
    """Find a folder of weights, and fetch it if need be.

    Args:
        source: one of :data:`BUNDLED_NAMES`, a folder, or "user/repo" on the Hugging Face Hub; None
            for the first of the bundled weights.
        revision: branch, tag or commit on the Hub.

    Raises:
        ValueError: if there are no such weights.
    """
    source = BUNDLED_NAMES[0] if source is None else source
    bundled = source in BUNDLED_NAMES
    folder = BUNDLED / source if bundled else Path(source)
    if folder.is_dir():
        return folder
    if bundled:
        raise ValueError(f"weights not found: expected the bundled weights in {folder}")
    return hub.download(str(source), revision)
