import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.data.draws import Draws
from train.data.photos import PhotoBank
from train.data.sources import find_photos, iter_photos


def photo(seed, size=(90, 70)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    photo(0).save(tmp_path / "photos" / "a.png")
    photo(1, (70, 130)).save(tmp_path / "photos" / "deep" / "b.png")
    (tmp_path / "photos" / "notes.txt").write_text("not a photo")
    return tmp_path / "photos"


@pytest.fixture
def shard(tmp_path, folder):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("deep/b.png", "a.png"):
            data = (folder / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_folder_and_shard_give_the_same_photos(folder, shard):
    from_folder, from_shard = dict(iter_photos([folder])), dict(iter_photos([shard]))
    assert list(from_folder) == list(from_shard) == ["a", "b"]
    for key in from_folder:
        assert np.array_equal(from_folder[key], from_shard[key])


def test_a_folder_without_pictures_stands_for_its_shards(folder, shard):
    assert [key for key, _ in iter_photos([shard.parent / "photos"])] == ["a", "b"]
    alone = folder / "shards"
    alone.mkdir()
    for name in ("2.tar", "1.tar", ".unfinished.tar"):
        (alone / name).write_bytes(shard.read_bytes())
    found = find_photos([alone])
    members = [f"{tar}/{name}" for tar in ("1.tar", "2.tar") for name in ("a.png", "deep/b.png")]
    assert [photo.source for photo in found] == [f"{alone}/{member}" for member in members]
    # Photographs beside a tar file are what counts.
    assert len(find_photos([folder])) == 2


def test_hidden_files_and_folders_named_like_photos_are_left_out(folder, shard):
    (folder / "._a.png").write_bytes(b"\x00\x05\x16\x07 Mac OS X")
    (folder / "c.jpg").mkdir()
    photo(2).save(folder / "c.jpg" / "d.png")
    assert [key for key, _ in iter_photos([folder])] == ["a", "d", "b"]
    with tarfile.open(shard, "a") as tar:
        tar.add(folder / "._a.png", "deep/._b.png")
    assert [key for key, _ in iter_photos([shard])] == ["a", "b"]


def test_photos_of_one_name_are_numbered_and_the_others_keep_theirs(folder):
    photo(2).save(folder / "deep" / "a.png")
    photo(3).save(folder / "deep" / "a.jpg")
    photo(4).save(folder / "deep" / "a-2.png")
    found = {Path(p.source).relative_to(folder).as_posix(): p.key for p in find_photos([folder])}
    assert found == {
        "a.png": "a",
        "deep/a-2.png": "a-2",
        "deep/a.jpg": "a-3",
        "deep/a.png": "a-4",
        "deep/b.png": "b",
    }


def test_an_unreadable_photo_is_named_with_its_folder_or_shard(folder, shard):
    (folder / "deep" / "b.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"^{folder}/deep/b.png: expected"):
        list(iter_photos([folder]))
    with tarfile.open(shard, "a") as tar:
        tar.add(folder / "deep" / "b.png", "c.png")
    with pytest.raises(ValueError, match=f"^{shard}/c.png: expected"):
        list(iter_photos([shard]))


def test_a_list_names_photos_beside_it_in_its_order(folder):
    (folder / "split.txt").write_text("deep/b.png\n\na.png\n")
    assert [key for key, _ in iter_photos([folder / "split.txt"])] == ["b", "a"]
    # As programs on Windows write it.
    (folder / "split.txt").write_text("a.png\n", "utf-8-sig")
    assert [key for key, _ in iter_photos([folder / "split.txt"])] == ["a"]
    (folder / "split.txt").write_text("a.png\n", "utf-16")
    with pytest.raises(ValueError, match=r"expected a list in UTF-8, got .*split\.txt"):
        list(iter_photos([folder / "split.txt"]))
    (folder / "split.txt").write_text("c.png\n")
    with pytest.raises(ValueError, match="c.png"):
        list(iter_photos([folder / "split.txt"]))


def test_a_shard_that_is_compressed_or_no_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="uncompressed tar file, got .*x.tar"):
        list(iter_photos([tmp_path / "x.tar"]))


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_nothing_to_read_is_said(tmp_path, path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found n"):
        list(iter_photos([tmp_path / path]))


def draws(count: int, seed: int) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, torch.arange(count))


def test_crops_are_windows_of_the_kept_copies(folder):
    bank = PhotoBank([folder], [40, 64])
    copies = []
    for _, original in iter_photos([folder]):
        for side in (40, 64):
            scale = side / min(original.size)
            size = tuple(max(side, round(edge * scale)) for edge in original.size)
            copies.append(np.asarray(original.resize(size, Image.LANCZOS)))
    copies = [c for copy in copies for c in (copy, copy[:, ::-1])]
    crops = bank.crops(32, draws(12, 0))
    assert crops.shape == (12, 3, 32, 32) and crops.dtype == torch.float32
    for crop in crops:
        pixels = ((crop + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert any(contains(copy, pixels) for copy in copies)


def contains(image, window):
    views = np.lib.stride_tricks.sliding_window_view(image, window.shape)[:, :, 0]
    corners = (views[..., 0, 0, :] == window[0, 0]).all(-1)
    return any(np.array_equal(views[y, x], window) for y, x in np.argwhere(corners))


def test_crops_depend_on_the_generator_alone(folder):
    bank = PhotoBank([folder], [40])
    first, second = (bank.crops(32, draws(4, 5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, bank.crops(32, draws(4, 6)))
    part = Draws(torch.Generator().manual_seed(5), 4, torch.tensor([1, 2]))
    assert torch.equal(bank.crops(32, part), first[1:3])


def test_too_large_crops_are_refused(folder):
    with pytest.raises(ValueError, match="crops of 50 x 50 pixels, got copies of at most 40 on"):
        PhotoBank([folder], [40]).crops(50, draws(1, 0))
