"""Which files the command line reads and writes: pairing, naming, and writing all or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    import numpy as np
    from PIL import Image

    from asyncdsb.photo.restoration import Result
    from asyncdsb.schedule import NoiseSchedule

PHOTO_SUFFIXES = frozenset(
    ".png .jpg .jpeg .webp .tif .tiff .bmp .gif .avif .jp2 .ppm .pgm .tga".split()
)
"""Files that count as pictures when a folder is given."""

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},
    ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    ".bmp": {"format": "BMP"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}
LOSSY = (".jpg", ".jpeg")
_TRAJECTORY_SUFFIXES = (".webp", ".gif")
_REPORT_SUFFIXES = (".png", ".pdf", ".svg")

Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Job:
    """One photograph to restore.

    Attributes:
        photo: File to read.
        mask: Its mask.
        out: File to write.
        trajectory: Animation to write, or None.
        report: Figure to write, or None.
    """

    photo: Path
    mask: Path
    out: Path
    trajectory: Path | None = None
    report: Path | None = None


def plan(arguments: argparse.Namespace) -> tuple[list[Job], list[str]]:
    """Pair photographs with masks and choose the names of the files to write.

    Returns:
        The jobs, and one sentence for each photograph of a folder that has to be left out.

    Raises:
        ValueError: The command as a whole cannot be carried out.
    """
    photo, mask, out = arguments.photo, arguments.mask, arguments.out
    trajectory, report = arguments.trajectory, arguments.report
    for what, path in (("photo", photo), ("mask", mask)):
        if not path.exists():
            raise ValueError(f"there is no such {what}: {path}")
    if not photo.is_dir():
        job = Job(
            photo,
            _mask_for(photo, mask),
            output_file(out),
            trajectory and _checked("--trajectory", trajectory, _TRAJECTORY_SUFFIXES),
            report and _checked("--report", report, _REPORT_SUFFIXES),
        )
        _refuse_clashes([job], arguments.strategy)
        return [job], []

    photos = _pictures(photo)
    if not photos:
        raise ValueError(f"there is no picture in the folder {photo}")
    jobs, problems = [], []
    for path in photos:
        try:
            job_mask = _mask_for(path, mask)
        except ValueError as error:
            problems.append(str(error))
            continue
        jobs.append(
            Job(
                path,
                job_mask,
                out / f"{path.stem}.png",
                trajectory and trajectory / f"{path.stem}.webp",
                report and report / f"{path.stem}.png",
            )
        )
    _refuse_clashes(jobs, arguments.strategy)
    for folder in filter(None, (out, arguments.trajectory, arguments.report)):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"PHOTO is a folder, so {folder} must be one too; it is a file")
    return jobs, problems


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")
        if path.is_file()
    )


def _mask_for(photo: Path, mask: Path) -> Path:
    if not mask.is_dir():
        return mask
    found = [path for path in _pictures(mask) if path.stem == photo.stem]
    if len(found) != 1:
        got = "none" if not found else ", ".join(path.name for path in found)
        raise ValueError(
            f"{photo.name}: expected one mask named {photo.stem}.* in {mask}, got {got}"
        )
    return found[0]


def output_file(out: Path) -> Path:
    """Name the file to write; PNG where nothing is asked for."""
    if out.is_dir():
        raise ValueError(f"cannot write {out}: expected a file name, got a folder")
    if not out.suffix:
        out = out.with_name(f"{out.name}.png")
    return _checked("-o", out, tuple(SAVE_OPTIONS))


def _checked(option: str, path: Path, suffixes: Sequence[str]) -> Path:
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{option}: expected a file ending in {' '.join(suffixes)}, got {path.name}"
        )
    if not path.parent.is_dir():
        raise ValueError(f"{option}: there is no folder {path.parent}")
    return path


def _refuse_clashes(jobs: Sequence[Job], strategy: str | None) -> None:
    """Refuse to write a file twice, or over one that is read, a map of the order among them."""
    read = {path.resolve() for job in jobs for path in (job.photo, job.mask)}
    read |= {Path(strategy).resolve()} if strategy else set()
    written: dict[Path, str] = {}
    for job in jobs:
        for path in filter(None, (job.out, job.trajectory, job.report)):
            place = path.resolve()
            if place in read:
                raise ValueError(f"{path} is read and would be overwritten: choose another name")
            if place in written:
                names = " and ".join(sorted({written[place], job.photo.name}))
                raise ValueError(f"{path} would be written twice (for {names})")
            written[place] = job.photo.name


def write_files(
    job: Job, result: Result, image: Image.Image, mask: np.ndarray, schedule: NoiseSchedule
) -> None:
    """Write all files of one job, or none."""
    from asyncdsb.photo.record import save_restored
    from asyncdsb.show.viz import report_figure, save_trajectory

    profile = image.info.get("icc_profile")
    files: list[tuple[Path, Writer]] = []
    if job.trajectory:
        files.append((job.trajectory, lambda path: save_trajectory(result.trajectory, path)))
    if job.report:

        def report(path: Path) -> None:
            report_figure(result, image, mask, path, schedule=schedule)

        files.append((job.report, report))

    def restored(path: Path) -> None:
        if job.out.suffix.lower() == ".png":
            save_restored(path, result.image, result.settings, profile)
        else:
            options = SAVE_OPTIONS[job.out.suffix.lower()]
            result.image.save(path, **options, **({"icc_profile": profile} if profile else {}))

    files.append((job.out, restored))
    made = _make_folders(path.parent for path, _ in files)
    try:
        _write_together(files)
    except BaseException:
        for folder in reversed(made):
            folder.rmdir()
        raise


def _write_together(files: Sequence[tuple[Path, Writer]]) -> None:
    """Write every file beside its place before the first is renamed into it."""
    from asyncdsb.photo.images import write_atomic

    (path, write), *others = files

    def write_this_and_others(temporary: Path) -> None:
        write(temporary)
        if others:
            _write_together(others)

    write_atomic(path, write_this_and_others)


def _make_folders(folders: Iterable[Path]) -> list[Path]:
    """Create the folders that are missing, and return those, outermost first."""
    made = []
    for folder in folders:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
    return made
