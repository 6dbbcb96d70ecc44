import io
import itertools
import json
import tarfile
from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import smooth_photo
from PIL import Image

from train.data.sources import scaled
from train.data.streams import CropStream, window

pytestmark = pytest.mark.slow

SEED = 3


def tiny(number: int) -> bytes:
    """An 8 x 8 picture whose colour is its number."""
    return TINY[:54] + bytes([0, number // 256, number % 256]) * 64


def _bmp() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "BMP")
    return file.getvalue()


TINY = _bmp()


def numbers(crops: torch.Tensor) -> list[int]:
    red, green, _ = ((crops[:, :, 0, 0] + 1) * 127.5).round().long().unbind(1)
    return (256 * green + red).tolist()


def write_tar(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_corpus(folder, sizes, broken=()):
    """Shards of so many tiny pictures, numbered through; with an index, which knows the counts."""
    folder.mkdir()
    count, counts = itertools.count(), {}
    for index, size in enumerate(sizes):
        members = {
            f"{n:05d}.bmp": b"broken" if n in broken else tiny(n)
            for n in itertools.islice(count, size)
        }
        path = write_tar(folder / f"shard-{index:06d}.tar", members)
        counts[path.name] = size
    return write_index(folder, counts)


def write_index(folder, counts):
    shards = [{"name": n, "records": c, "bytes": 0, "sha256": ""} for n, c in counts.items()]
    index = {"format": "asyncdsb-corpus", "version": 1, "shards": shards}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Nine shards, 90 pictures in all."""
    return write_corpus(tmp_path_factory.mktemp("small") / "corpus", range(6, 15))


def drawn(source, first, count, batch=10, step=1, size=8, **options):
    """Numbers of the pictures of samples first, first + step, ..."""
    with closing(CropStream([source], (8, 16), SEED, **options)) as stream:
        found = []
        for start in range(0, count, batch):
            crops = stream.crops(first + start * step, min(batch, count - start), size, step)
            found += numbers(crops)
        return found


def test_every_picture_comes_once_an_epoch_each_time_in_another_order(small):
    found = drawn(small, 0, 270)
    epochs = [found[start : start + 90] for start in (0, 90, 180)]
    assert all(sorted(epoch) == list(range(90)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # Shards are mixed: the first ten are not from one or two of them.
    assert len({min(number // 10, 8) for number in epochs[0][:10]}) > 3


def test_the_sequence_does_not_depend_on_who_draws_it(small):
    whole = drawn(small, 0, 60)
    assert drawn(small, 0, 60, batch=7, workers=3) == whole
    assert drawn(small, 37, 23) == whole[37:]
    assert drawn(small, 0, 60, size=5) == drawn(small, 0, 60, size=16) == whole
    for rank in range(3):
        assert drawn(small, rank, 20, step=3) == whole[rank::3]
    far = 90 * 10**6
    assert drawn(small, far + 5, 20) == drawn(small, far, 25)[5:]


def test_a_shard_that_holds_less_than_its_index_says(small, tmp_path):
    folder = write_corpus(tmp_path / "corpus", [4, 5])
    write_tar(folder / "shard-000001.tar", {"a.bmp": tiny(1)})
    with pytest.raises(ValueError, match="expected 5 photographs in .*shard-000001.tar, got 1"):
        CropStream([folder], (8,), SEED)


def test_a_broken_picture_is_named(tmp_path):
    folder = write_corpus(tmp_path / "corpus", [20], range(20))
    with pytest.raises(ValueError, match=r"shard-000000.tar, byte \d+: expected"):
        drawn(folder, 0, 1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of several sizes, their files' contents by name."""
    sizes = [(110, 80), (64, 64), (30, 90), (160, 120)]
    photos = {f"{i}.png": smooth_photo(i, size) for i, size in enumerate(sizes)}
    folder = tmp_path_factory.mktemp("photographs")
    members = {}
    for name, photo in photos.items():
        file = io.BytesIO()
        photo.save(file, "PNG")
        members[name] = file.getvalue()
    members["0.json"] = b"{}"
    write_tar(folder / "photos.tar", members)
    return write_index(folder, {"photos.tar": 4}), list(photos.values())


def test_crops_are_windows_of_the_scaled_photographs(photographs):
    path, photos = photographs
    sides = (40, 64, 100)
    views = {}
    for index, photo in enumerate(photos):
        fitting = [side for side in sides if side <= min(photo.size)] or [40]
        for side in fitting:
            picture = np.asarray(scaled(photo, side))
            for mirrored in (False, True):
                turned = picture[:, ::-1] if mirrored else picture
                windows = np.lib.stride_tricks.sliding_window_view(turned, (32, 32, 3))[:, :, 0]
                views[index, side, mirrored] = windows.astype(np.int16)
    counts = dict.fromkeys(views, 0)
    with closing(CropStream([path], sides, SEED)) as stream:
        crops = stream.crops(0, 240, 32)
        assert crops.shape == (240, 3, 32, 32) and crops.dtype == torch.float32
    for crop in crops:
        pixels = ((crop + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.int16)
        (found,) = [name for name in views if contains(views[name], pixels)]
        counts[found] += 1
    # Each photo 60 times, at the sizes that it has, one way or the other.
    for index in range(4):
        mine = {name: count for name, count in counts.items() if name[0] == index}
        assert sum(mine.values()) == 60
        assert all(abs(count - 60 / len(mine)) < 15 for count in mine.values())


def contains(windows, pixels):
    # Pillow keeps the window's edges in 24 bits and rounds between its two passes.
    near = (np.abs(windows[..., 0, 0, :] - pixels[0, 0]) <= 2).all(-1)
    return any(np.abs(windows[y, x] - pixels).max() <= 2 for y, x in np.argwhere(near))


@pytest.mark.parametrize("side", [64, 80, 100, 150])
def test_a_window_is_cut_from_the_whole_scaled_photo(side):
    photo = smooth_photo(5, (110, 80))
    whole = np.asarray(scaled(photo, side), int)
    for x, y in itertools.product((0, 0.37, 0.9999), repeat=2):
        left = int(x * (whole.shape[1] - 63))
        top = int(y * (whole.shape[0] - 63))
        expected = whole[top : top + 64, left : left + 64]
        got = np.asarray(window(photo, side, (x, y), 64), int)
        assert np.abs(got - expected).max() <= (0 if side == 80 else 2)


def test_a_folder_that_is_no_corpus(tmp_path):
    with pytest.raises(ValueError, match="found no"):
        CropStream([tmp_path], (8,), SEED)
