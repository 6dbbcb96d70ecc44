import functools
import http.server
import io
import itertools
import tarfile
import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import smooth_photo
from PIL import Image

import train.corpus
import train.data.streams
from train.data.sources import scaled
from train.data.streams import CropStream, Source, default_lanes, find_shards, mixed, window

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
    count, shards = itertools.count(), []
    for index, size in enumerate(sizes):
        members = {
            f"{n:05d}.bmp": b"broken" if n in broken else tiny(n)
            for n in itertools.islice(count, size)
        }
        path = write_tar(folder / f"shard-{index:06d}.tar", members)
        shards.append({"name": path.name, "records": size, "bytes": 0, "sha256": ""})
    index = {"format": "asyncdsb-corpus", "version": 1, "shards": shards}
    (folder / "index.json").write_text(train.corpus.json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Nine shards, 90 pictures in all."""
    return write_corpus(tmp_path_factory.mktemp("small") / "corpus", range(6, 15))


def open_stream(sources, **options):
    sources = sources if isinstance(sources, list) else [sources]
    options = {"lanes": 3, "buffer": 30} | options
    return CropStream(sources, (8,), SEED, **options)


def drawn(sources, first, count, batch=10, step=1, **options):
    """Numbers of the pictures of samples first, first + step, ..."""
    with open_stream(sources, **options) as stream:
        found = []
        for start in range(0, count, batch):
            crops = stream.crops(first + start * step, min(batch, count - start), 8, step)
            found += numbers(crops)
        return found


def test_ten_thousand_records_come_once_an_epoch_also_after_a_resume(tmp_path):
    sizes = [1200, 1300, 1250, 1250, 1300, 1200, 1250, 1250]
    corpus = write_corpus(tmp_path / "corpus", sizes)
    options = dict(lanes=4, buffer=800, batch=250, workers=2)
    # 7000 samples, then a new process that knows this number alone.
    found = drawn(corpus, 0, 7000, **options) + drawn(corpus, 7000, 13_000, **options)
    shards = np.split(np.arange(10_000), np.cumsum(sizes)[:-1])
    epochs = []
    for lane in range(4):
        samples = np.array(found[lane::4])
        held = np.concatenate(shards[lane::4])
        assert len(samples) == 2 * len(held)
        for epoch in np.split(samples, 2):
            assert np.array_equal(np.sort(epoch), held)
            epochs.append(epoch)
    # Mixed, and in another way every time.
    assert all((np.diff(epoch) == 1).mean() < 0.05 for epoch in epochs)
    assert all((a == b).mean() < 0.05 for a, b in zip(epochs[::2], epochs[1::2], strict=True))


def test_the_sequence_does_not_depend_on_who_draws_it(small):
    whole = drawn(small, 0, 240)
    assert whole != drawn(small, 0, 240, workers=1, buffer=29)
    assert whole == drawn(small, 0, 240, workers=3, batch=7)
    # Two processes: every second sample, or halves of batches of 20.
    for rank in range(2):
        assert whole[rank::2] == drawn(small, rank, 120, step=2, workers=1)
        with open_stream(small) as stream:
            for start in range(10 * rank, 240, 20):
                assert numbers(stream.crops(start, 10, 8)) == whole[start : start + 10]


@pytest.mark.parametrize("first", [1, 29, 89, 90, 91, 137, 200, 239])
@pytest.mark.parametrize("counted", [True, False])
def test_a_start_anywhere_gives_the_same_samples(small, first, counted):
    sources = small if counted else sorted(small.glob("*.tar"))
    whole = drawn(small, 0, 260)
    assert drawn(sources, first, 260 - first) == whole[first:]
    with open_stream(sources) as stream:
        for start in (first, 5, 200, 200, 90):  # Also forth, back, and the same once more.
            assert numbers(stream.crops(start, 8, 8)) == whole[start : start + 8]


def test_a_far_start_is_cheap_and_exact_in_the_millionth_epoch(small):
    far = 90 * 10**6
    found = drawn(small, far, 90)
    assert drawn(small, far + 40, 50) == found[40:]


def test_shards_that_are_passed_are_not_read(tmp_path, monkeypatch):
    corpus = write_corpus(tmp_path / "corpus", [20] * 10)
    opened, read_shard = [], train.data.streams.read_shard
    monkeypatch.setattr(
        train.data.streams,
        "read_shard",
        lambda source: opened.append(source.url) or read_shard(source),
    )
    whole = drawn(corpus, 0, 200, lanes=1, buffer=10)
    assert sorted(opened[:10]) == sorted(map(str, corpus.glob("*.tar")))
    opened.clear()
    # Of the last forty, ten at most lay in the buffer: they come from three shards at least.
    with open_stream(corpus, lanes=1, buffer=10, workers=1) as stream:
        assert numbers(stream.crops(160, 1, 8)) == whole[160:161]
    assert 1 <= len(opened) <= 4
    # With two lanes for two processes, each reads half.
    opened.clear()
    drawn(corpus, 1, 60, step=2, lanes=2, buffer=10)
    shards = sorted(map(str, corpus.glob("*.tar")))
    assert set(opened) <= set(shards[1::2])


def test_mixed_is_uniform_where_all_is_held_and_never_far_ahead():
    rng = np.random.default_rng(0)
    first = [next(mixed(iter(range(5)), 5, rng)) for _ in range(2000)]
    assert np.bincount(first) == pytest.approx([400] * 5, abs=100)
    order = list(mixed(iter(range(1000)), 50, rng))
    assert sorted(order) == list(range(1000))
    assert all(item < place + 51 for place, item in enumerate(order))


@pytest.fixture(scope="module")
def server(small):
    """Serves the folder; a path that starts with /cut/ only half at the first time."""
    cut = set()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if not self.path.startswith("/cut/"):
                return super().do_GET()
            data = (small / self.path.removeprefix("/cut/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if self.path in cut else data[: len(data) // 2])
            cut.add(self.path)

        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(small))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.parametrize(
    "source",
    [
        "{folder}/index.json",
        "{folder}/shard-{{000000..000008}}.tar",
        "pipe:cat {folder}/shard-{{000000..000008}}.tar",
        "{server}/index.json",
        "{server}/shard-{{000000..000008}}.tar",
        "{server}/cut/shard-{{000000..000008}}.tar",
    ],
)
def test_shards_from_elsewhere_give_the_same_samples(small, server, monkeypatch, source):
    monkeypatch.setattr(train.data.streams, "WAITS", (0.0,))
    source = source.format(folder=small, server=server)
    assert drawn(source, 0, 100) == drawn(small, 0, 100)


@pytest.mark.parametrize(
    "source, reason",
    [
        ("{server}/nothing.tar", "exit code 22"),
        ("pipe:exit 7", "exit code 7"),
        ("pipe:echo no tar", ""),
        # All records arrive, then the command fails.
        ("pipe:cat {folder}/shard-000000.tar; exit 9", "exit code 9"),
    ],
)
def test_what_cannot_be_read_is_tried_again_then_told(small, server, monkeypatch, source, reason):
    monkeypatch.setattr(train.data.streams, "WAITS", (0.0, 0.0))
    opened, gopen = [], train.data.streams.gopen
    monkeypatch.setattr(train.data.streams, "gopen", lambda url: opened.append(url) or gopen(url))
    source = source.format(folder=small, server=server)
    with open_stream(source, lanes=1, workers=1) as stream:
        with pytest.raises(ValueError) as error:
            stream.crops(0, 8, 8)
        assert str(error.value).startswith(f"cannot read {source}: ") and reason in str(error.value)
        assert "\n" not in str(error.value) and opened[:3] == [source] * 3


def test_a_shard_that_holds_less_or_more_than_its_index_says(small, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [10, 10])
    for count, got in ((9, "got 9"), (11, "got more")):
        members = {f"{n}.bmp": tiny(n) for n in range(count)}
        write_tar(corpus / "shard-000001.tar", members)
        with pytest.raises(ValueError, match=f"shard-000001.tar: expected 10 pictures, {got}"):
            drawn(corpus, 0, 40, lanes=2)
    path = corpus / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"cannot read {path}: unexpected end of data"):
        drawn(path, 0, 20, lanes=1)


def test_broken_records_show_the_next_one_of_the_lane(tmp_path):
    broken = {4, 5, 17, 29}
    good = write_corpus(tmp_path / "good", [30])
    bad = write_corpus(tmp_path / "bad", [30], broken)
    order = drawn(good, 0, 80, lanes=1)
    expected = []
    for place in range(60):
        expected.append(next(n for n in order[place:] if n not in broken))
    with pytest.warns(UserWarning) as told:
        assert drawn(bad, 0, 60, lanes=1) == expected
    assert len(told) == train.data.streams.WARNINGS
    assert all("passed over" in str(w.message) and ".bmp" in str(w.message) for w in told)
    assert "no more of these are reported" in str(told[-1].message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Anywhere, also by several processes.
        for first in range(30):
            assert drawn(bad, first, 5, lanes=1) == expected[first : first + 5]
        assert drawn(bad, 1, 30, step=2, lanes=1) == expected[1::2]
        with open_stream(bad, lanes=1, workers=2) as stream:
            stream.crops(0, 30, 8)
            stream.crops(0, 30, 8)
            stream.crops(30, 1, 8)
            assert stream.broken >= 4
            assert stream.broken == len(stream._broken) <= 8


def test_nothing_but_broken_records_or_none_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(train.data.streams, "BROKEN_IN_A_ROW", 7)
    bad = write_corpus(tmp_path / "bad", [3, 4], set(range(7)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="got 7 records in a row that cannot be decoded"):
            drawn(bad, 0, 5, lanes=1)
    empty = write_tar(tmp_path / "empty.tar", {"a.txt": b"a"})
    with pytest.raises(ValueError, match="found none in .*empty.tar"):
        drawn(empty, 0, 5, lanes=1)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of several sizes, their files' contents by name."""
    sizes = [(110, 80), (64, 64), (30, 90), (160, 120)]
    photos = {f"{i}.png": smooth_photo(i, size) for i, size in enumerate(sizes)}
    path = tmp_path_factory.mktemp("photographs") / "photos.tar"
    members = {}
    for name, photo in photos.items():
        file = io.BytesIO()
        photo.save(file, "PNG")
        members[name] = file.getvalue()
    members["0.json"] = b"{}"
    return write_tar(path, members), list(photos.values())


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
    with CropStream([path], sides, SEED) as stream:
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


def test_crops_of_another_size_show_the_same_photographs(small):
    def open_wide():
        return CropStream([small], (8, 16), SEED, lanes=3, workers=2)

    requests = [(0, 4, 16), (0, 4, 5), (4, 2, 5), (6, 4, 16), (10, 2, 5)]
    with open_wide() as stream:
        # What was prepared ahead for 5 pixels is made again, and the other way round.
        found = [stream.crops(*request) for request in requests]
    assert [crops.shape[-1] for crops in found] == [16, 5, 5, 16, 5]
    order = drawn(small, 0, 12, buffer=4096)
    shown = [numbers(crops) for crops in found]
    assert shown == [order[first : first + count] for first, count, _ in requests]
    with open_wide() as stream:
        for request, crops in reversed(list(zip(requests, found, strict=True))):
            assert torch.equal(stream.crops(*request), crops)


@pytest.mark.parametrize(
    "records, lanes",
    [
        ([1], 1),
        ([100, 3], 1),
        ([100] * 16, 16),
        ([100] * 17, 4),
        ([100] * 40, 10),
        ([None] * 20, 10),
        ([100] * 200 + [1], 16),
    ],
)
def test_lanes_hold_about_the_same(records, lanes):
    assert default_lanes([Source("x", count) for count in records]) == lanes


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lanes": 0}, "1 to 9 lanes, got 0"),
        ({"lanes": 10}, "1 to 9 lanes, got 10"),
        ({"workers": 0}, "of at least 1"),
        ({"buffer": 0}, "of at least 1"),
    ],
)
def test_numbers_that_cannot_be(small, options, message):
    with pytest.raises(ValueError, match=message):
        open_stream(small, **options)


def test_requests_that_cannot_be(small):
    with open_stream(small) as stream:
        with pytest.raises(ValueError, match="at most 8 pixels, the largest short side, got 9"):
            stream.crops(0, 1, 9)
        for request in ((-1, 1, 8), (0, 0, 8), (0, 1, 0), (0, 1, 8, 0)):
            with pytest.raises(ValueError, match="at least 1"):
                stream.crops(*request)


@pytest.mark.parametrize("source", ["{tmp}/nothing.tar", "{tmp}", "{tmp}/{{a,b}}.tar"])
def test_sources_that_are_not_there(tmp_path, source):
    with pytest.raises(ValueError, match="found no"):
        find_shards([source.format(tmp=tmp_path)])
    with pytest.raises(ValueError, match="got none"):
        find_shards([])


def test_a_name_with_braces_is_a_file(tmp_path):
    path = write_tar(tmp_path / "a{1,2}.tar", {"a.bmp": tiny(7)})
    assert drawn(path, 0, 3, lanes=1) == [7, 7, 7]
