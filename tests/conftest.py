"""Fixtures shared by the suite: a synthetic photograph, masks, and a tiny model on disk."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


def pytest_configure() -> None:
    # The tensors here are small: more threads only wait for each other, badly so on a busy machine.
    torch.set_num_threads(1)


# Two processes that run the tests begin with these files, so that both end at about the same time.
LONGEST = ("test_browser.py", "test_processes.py", "test_training.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def synthetic_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth scene with edges and grain: every 8-bit value occurs, no two photos are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = rng.uniform(0, 6.28, 3)
    waves = [np.sin(x / (17 + 5 * c) + y / (23 - 4 * c) + phase[c]) for c in range(3)]
    scene = 128 + 70 * np.stack(waves, -1) + 40 * ((x // 40 + y // 40) % 2)[..., None]
    scene += rng.normal(0, 12, scene.shape)
    return Image.fromarray(scene.clip(0, 255).astype(np.uint8))


def box_mask(width: int, height: int) -> np.ndarray:
    """A hole over the middle third of both sides, bool (height, width)."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height * 2 // 3, width // 3 : width * 2 // 3] = True
    return mask


def save_mask(mask: np.ndarray, path: Path) -> Path:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


@pytest.fixture(scope="session", autouse=True)
def float32() -> Iterator[None]:
    """The precision "auto" is float32 in tests, whatever the processor: results are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncdsb.networks.device.multiplies_bf16", lambda device: False)
        yield


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of random weights: what it paints does not matter here."""
    from asyncdsb import AsyncDSBPipeline

    folder = tmp_path_factory.mktemp("weights")
    AsyncDSBPipeline.random(seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipe(tiny_weights: Path):
    from asyncdsb import AsyncDSBPipeline

    return AsyncDSBPipeline.from_pretrained(tiny_weights, device="cpu")


def smooth_photo(seed: int, size: tuple[int, int] = (110, 80)) -> Image.Image:
    """Smooth colours, so that crops of different places and scales differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def photo_folder(folder: Path, count: int) -> Path:
    """A new folder with so many small photographs."""
    folder.mkdir()
    for number in range(count):
        smooth_photo(number, (120, 96)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four photographs to train on."""
    return photo_folder(tmp_path_factory.mktemp("training") / "photos", 4)


PHOTOS = [(f"photo-{index}", smooth_photo(index)) for index in range(3)]
"""Three small photographs with their keys."""


def mask_folder(folder: Path, names: list[str], size: int = 48) -> Path:
    """Masks whose hole is as many rows high as the place of the name says, plus one."""
    folder.mkdir()
    for index, name in enumerate(names):
        hole = np.zeros((size, size), bool)
        hole[: index + 1] = True
        save_mask(hole, folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three photographs in a tar file."""
    folder = tmp_path_factory.mktemp("data")
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for key, picture in PHOTOS:
            picture.save(folder / f"{key}.jpg", quality=95)
            tar.add(folder / f"{key}.jpg", f"{key}.jpg")
    return folder / "photos.tar"


def refusal(main: Callable[[list[str]], int], argv: list[str], capsys) -> str:
    """What a program says that refuses its command line."""
    assert main(argv) == 2
    return capsys.readouterr().err


def save_photos(folder: Path, names: list[str]) -> Path:
    """Small photographs by name, in folders of their own where the names have them."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_photo(seed, (80, 72)).save(path)
    return folder
