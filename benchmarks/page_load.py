"""Many visitors at once: is every one answered, with the right picture, in flat memory?

    python -m benchmarks.page_load [--clients 16] [--seconds 120]

Every client sends its own photograph and mask again and again and checks each answer: the size, the
known pixels, and that the same request always gets the same picture. A client that is told that the
queue is full waits a moment and goes on. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import collections
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.page_server import Server, served


class Visitor(threading.Thread):
    """One client with a photograph of its own."""

    def __init__(self, number: int, address: str, folder: Path, until: float):
        super().__init__(daemon=True)
        self.number, self.address, self.folder, self.until = number, address, folder, until
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    def run(self) -> None:
        """Ask until the time is up."""
        from gradio_client import Client, handle_file

        rng = np.random.default_rng(self.number)
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        size = 160 + 8 * self.number, 128
        photo = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
        mask = np.zeros(photo.shape[:2], bool)
        mask[40:80, 40:90] = True
        paths = [self.folder / f"{name}-{self.number}.png" for name in ("photo", "mask")]
        Image.fromarray(photo).save(paths[0])
        Image.fromarray(mask.astype(np.uint8) * 255).save(paths[1])
        files = self.folder / f"answers-{self.number}"
        client = Client(self.address, verbose=False, download_files=str(files))
        first = None
        while time.monotonic() < self.until:
            started = time.monotonic()
            try:
                path, _ = client.predict(
                    photo=handle_file(str(paths[0])),
                    mask=handle_file(str(paths[1])),
                    steps=1,
                    seed=self.number,
                    api_name="/inpaint",
                )
            except Exception as error:
                told = "queue is full" in str(error).lower() or "queue" in type(error).__name__
                self.outcomes["queue full" if told else f"error: {error}"[:90]] += 1
                time.sleep(0.5)
                continue
            result = np.asarray(Image.open(path))
            Path(path).unlink()
            first = result if first is None else first
            right = result.shape == photo.shape and (result[~mask] == photo[~mask]).all()
            self.outcomes["answered" if right and (result == first).all() else "mixed up"] += 1
            self.seconds.append(time.monotonic() - started)


def watch(server: Server, until: float) -> list[tuple[float, float]]:
    """Sample (time, MiB) twice a second."""
    samples = []
    while time.monotonic() < until:
        samples.append((time.monotonic(), server.resident_mib()))
        time.sleep(0.5)
    return samples


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.page_load", description=__doc__)
    options.add_argument("--clients", type=int, default=16)
    options.add_argument("--seconds", type=float, default=120)
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, served() as server:
        begun = time.monotonic()
        until = begun + arguments.seconds
        visitors = [
            Visitor(number, server.address, Path(folder), until)
            for number in range(arguments.clients)
        ]
        for visitor in visitors:
            visitor.start()
        samples = watch(server, until)
        for visitor in visitors:
            visitor.join(120)
        hanging = sum(visitor.is_alive() for visitor in visitors)
        with urllib.request.urlopen(server.address, timeout=30) as answer:
            live = answer.status == 200

    outcomes = sum((visitor.outcomes for visitor in visitors), collections.Counter())
    seconds = [one for visitor in visitors for one in visitor.seconds]
    half = arguments.seconds / 2
    early, late = (
        statistics.median(mib for at, mib in samples if low <= at - begun < low + half)
        for low in (0, half)
    )
    print(f"{arguments.clients} clients, {arguments.seconds:.0f} s\n")
    print("| what | |\n| --- | ---: |")
    for name, count in outcomes.most_common():
        print(f"| {name} | {count} |")
    print(f"| clients without an answer at the end | {hanging} |")
    print(f"| wait for an answer, median | {statistics.median(seconds):.1f} s |")
    print(f"| wait for an answer, worst | {max(seconds):.1f} s |")
    print(f"| memory, first half, median | {early:.0f} MiB |")
    print(f"| memory, second half, median | {late:.0f} MiB ({late / early - 1:+.1%}) |")
    print(f"| memory, most | {max(mib for _, mib in samples):.0f} MiB |")
    print(f"| page answers afterwards | {'yes' if live else 'no'} |")


if __name__ == "__main__":
    main()
