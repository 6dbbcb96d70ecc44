"""Where weights come from: the project itself, a folder, or the Hub."""

from pathlib import Path

from asyncdsb.store import hub


def shipped(name: str) -> Path:
    """A folder of the project's files: in the package of a wheel, beside that of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / name if (package / name).is_dir() else package.parent / "assets" / name


BUNDLED = shipped("weights")
"""Folder of the project's weights."""

BUNDLED_NAMES = ("scenes", "portraits")
"""Bundled weights, each a folder in :data:`BUNDLED`. The first are the default."""


def public_name(source: str | Path | None) -> str | None:
    """The name of bundled weights or of those on the Hub; None for a folder of one's own."""
    source = str(BUNDLED_NAMES[0] if source is None else source)
    return None if source not in BUNDLED_NAMES and Path(source).is_dir() else source


def weights_folder(source: str | Path | None, revision: str | None = None) -> Path:
    """Find the weights of :meth:`asyncdsb.AsyncDSBPipeline.from_pretrained`, fetch if need be."""
    source = str(BUNDLED_NAMES[0] if source is None else source)
    bundled = source in BUNDLED_NAMES
    folder = BUNDLED / source if bundled else Path(source)
    if folder.is_dir():
        return folder
    if bundled:
        raise ValueError(f"weights not found: expected the bundled weights in {folder}")
    return hub.download(source, revision)
