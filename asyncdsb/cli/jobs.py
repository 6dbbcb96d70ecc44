"""Which files the command line reads and writes: pairing, naming, and writing all or none."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from asyncdsb.photo.formats import SAVE_OPTIONS

if TYPE_CHECKING:
    import numpy as np

    from asyncdsb.photo.result import Result

_NO_PHOTOS = ("thumbs.db", "desktop.ini")  # what systems put into folders, beside hidden files

Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Job:
    """One photograph to restore: files to read, and files to write."""

    photo: Path
    mask: Path
    out: Path
    trajectory: Path | None = None
    report: Path | None = None

    @property
    def written(self) -> list[Path]:
        """The files to write."""
        return [path for path in (self.out, self.trajectory, self.report) if path]


def plan(arguments: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """Pair photographs with masks and choose the names of the files to write.

    Returns the jobs, and one sentence for each file of a folder that has to be left out. ValueError
    if the command as a whole cannot be carried out.
    """
    photo, mask, out = arguments.photo, arguments.mask, Path(arguments.out)
    trajectory, report = arguments.trajectory, arguments.report
    for what, path in (("photo", photo), ("mask", mask)):
        if not path.exists():
            raise ValueError(f"there is no such {what}: {path}")
    if not photo.is_dir():
        job = Job(photo, _mask_for(photo, mask), output_file(arguments.out), trajectory, report)
        if trajectory:
            _check_name("--trajectory", trajectory, (".webp", ".gif"))
        if report:
            _check_name("--report", report, (".png",))
        return [job], []

    if not (photos := [path for path in _pictures(photo) if _place(path) != _place(mask)]):
        raise ValueError(f"there is no picture in the folder {photo}")
    used = [_place(path) for path in (mask, out, trajectory, report) if path]
    others = (path for path in _visible(photo) if path not in photos)
    problems = [_left_out(path) for path in others if _place(path) not in used]
    found = defaultdict[Path, list[Job]](list)
    for path in photos:
        png, webp = f"{path.stem}.png", f"{path.stem}.webp"
        more = trajectory and trajectory / webp, report and report / png
        try:
            job = Job(path, _mask_for(path, mask), out / png, *more)
            found[job.out].append(job)
        except ValueError as error:
            problems.append(str(error))
    for path, twins in found.items():
        if len(twins) > 1:
            same = f"each would be written as {path.name}; give them different names"
            problems.append(f"{', '.join(job.photo.name for job in twins)}: left out: {same}")
    jobs = [job for job, *twins in found.values() if not twins]
    for folder in filter(None, (out, trajectory, report)):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"PHOTO is a folder, so {folder} must be one too; it is a file")
    return jobs, problems


def _place(path: Path) -> object:
    """What tells a file or folder from all others, whatever path leads to it."""
    try:
        # Not its path alone: a folder can be mounted twice, and Macs read Photo.png as photo.png.
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    # Some network drives on Windows give all files the number 0.
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)


def _pictures(folder: Path) -> list[Path]:
    from asyncdsb.photo.decoding import readable_suffixes

    known = readable_suffixes()
    return [path for path in _visible(folder) if path.suffix.lower() in known and path.is_file()]


def _visible(folder: Path) -> list[Path]:
    names = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in names if path.name.lower() not in _NO_PHOTOS)


def _left_out(path: Path) -> str:
    """Why a file of a folder is left out."""
    if path.is_dir():
        why = "a folder within the folder; give it by itself"
    elif not path.is_file():
        why = "a link that leads nowhere" if path.is_symlink() else "a device or pipe"
    elif path.suffix.lower() in (".heic", ".heif", ".hif"):
        why = "HEIC pictures need the package pillow-heif"
    else:
        why = f"expected a picture, got a file ending in {path.suffix!r}"
    return f"{path.name}: left out: {why}"


def _mask_for(photo: Path, mask: Path) -> Path:
    if not mask.is_dir():
        return mask

    def looks(path: Path) -> str:
        # Macs write accents as characters of their own.
        return unicodedata.normalize("NFC", path.stem).casefold()

    alike = [path for path in _pictures(mask) if looks(path) == looks(photo)]
    found = [path for path in alike if path.stem == photo.stem] or alike
    if len(found) != 1:
        got = "none" if not found else ", ".join(path.name for path in found)
        raise ValueError(
            f"{photo.name}: expected one mask named {photo.stem}.* in {mask}, got {got}"
        )
    return found[0]


def output_file(text: str) -> Path:
    """Name the file to write; PNG where nothing is asked for."""
    out = Path(text)
    # A path alone does not keep the slash with which a person means a folder.
    if out.is_dir() or text.endswith(("/", os.sep)):
        raise ValueError(f"cannot write {text}: expected a file name, got a folder")
    if not out.suffix:
        out = out.with_name(f"{out.name}.png")
    _check_name("-o", out, SAVE_OPTIONS)
    return out


def _check_name(option: str, path: Path, suffixes: Collection[str]) -> None:
    if path.suffix.lower() not in suffixes:
        known = " ".join(suffixes)
        raise ValueError(f"{option}: expected a file ending in {known}, got {path.name}")
    if not path.parent.is_dir():
        raise ValueError(f"{option}: there is no folder {path.parent}")


def check_places(jobs: Iterable[Job]) -> None:
    """Raise ValueError if a file could not be written, before the work starts."""
    paths = [path for job in jobs for path in job.written]
    for folder in dict.fromkeys(path.parent for path in paths):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            what = folder if len(paths) > 1 else paths[0]
            raise ValueError(f"cannot write {what}: {error.strerror}") from error


def refuse_clashes(jobs: Sequence[Job], *others: str | Path | None) -> None:
    """Raise ValueError if a file would be written twice, or over one that is read.

    ``others`` are read beside photographs and masks: a map of the order, settings.
    """
    read = {_place(path) for job in jobs for path in (job.photo, job.mask)}
    read |= {_place(Path(path)) for path in others if path}
    written = set[object]()
    for job in jobs:
        for path in job.written:
            place = _place(path)
            if place in read:
                raise ValueError(f"{path} is read and would be overwritten: choose another name")
            if place in written:
                raise ValueError(f"{path} would be written twice (for {job.photo.name})")
            written.add(place)


def write_files(job: Job, result: Result, image: np.ndarray, mask: np.ndarray) -> None:
    """Write all files of one job, or none."""
    from asyncdsb.show.viz import report_figure, save_animation

    files: list[tuple[Path, Writer]] = []
    if job.trajectory:
        pictures = [frame.x_t for frame in result.trajectory]
        files.append((job.trajectory, lambda path: save_animation(pictures, path)))
    if job.report:
        files.append((job.report, lambda path: report_figure(result, image, mask, path)))
    files.append((job.out, lambda path: result.photograph.save(path, result.settings)))
    with contextlib.ExitStack() as undoing:
        for path, _ in files:
            for folder in reversed(path.parents):
                if not folder.exists():
                    folder.mkdir()
                    undoing.callback(folder.rmdir)
        _write_together(files)
        undoing.pop_all()


def _write_together(files: Sequence[tuple[Path, Writer]]) -> None:
    """Write every file beside its place before the first is renamed into it."""
    from asyncdsb.photo.images import write_atomic

    if not files:
        return
    (path, write), *others = files

    def write_this_and_others(temporary: Path) -> None:
        write(temporary)
        _write_together(others)

    write_atomic(path, write_this_and_others)
