"""What happens when a visitor restores, and with the results: see :mod:`asyncdsb.page.handlers`."""

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asyncdsb.page import archive, canvas, payload, session
from asyncdsb.page.engine import Engine
from asyncdsb.page.handlers import maps_of, show, with_maps
from asyncdsb.page.payload import BUSY, IDLE, NO_RUN, Update
from asyncdsb.page.press import Press, add_finish, listed, make_film, read_view, show_kept
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import read_image
from asyncdsb.photo.original import read_photograph
from asyncdsb.photo.record import NOT_KEPT, load_map


def on_restore(
    engine: Engine,
    photo: session.Photo | None,
    hole: str | None,
    painted: str | None,
    results: list[session.Kept],
    beside: bool,
    seeds: float,
    seen: int | None,
    *values: object,
) -> Iterator[Update]:
    """Restore the hole, one update per step, with as many seeds as wanted; keep the results.

    The maps are sent with the first state, unless they are those that the page shows.
    """
    try:
        photo, image, mask = session.read_pair(photo, hole)
        settings = session.read_settings(values, session.read_order(painted, image.size))
        settings = dataclasses.replace(settings, box=photo.box)
        count = session.read_count("seeds", seeds, session.MAX_SEEDS)
        wanted = maps_of(photo, hole, settings.tiles)
        begun = "The first step …" if seen == wanted else "Predicting the edges …"
        yield NO_RUN | BUSY | {"status": payload.message(begun, "busy")}
        for number in range(count):
            seed = (settings.seed + number) % (session.MAX_SEED + 1)
            one = dataclasses.replace(settings, seed=seed)
            folder = session.result_folder()
            run = Press(engine, photo, image, mask, one, folder, maps=seen != wanted)
            try:
                for update in run.restore(f"Seed {number + 1} of {count}. " if count > 1 else ""):
                    yield update | ({"seen": wanted} if "tau" in update else {})
                seen = wanted
                # At once, so that stopping what follows loses nothing.
                most = session.MAX_RESULTS
                results = [*results, run.kept]
                session.forget(results[:-most])
                results = results[-most:]
                yield listed(results, len(results) - 1)
                if beside:
                    yield from run.restore_beside()
            finally:
                # Also of a run that was stopped between its end and its place among the results.
                if all(kept is not run.kept for kept in results):
                    shutil.rmtree(folder, ignore_errors=True)
        what = f"seed {settings.seed}" + (f" and the {count - 1} after it" if count > 1 else "")
        said = f"Done: {settings.steps} steps, {what}, {image.width} × {image.height}."
        if run.not_kept:
            said += f" Not kept of the photo: {', '.join(run.not_kept)}."
        yield IDLE | {"status": payload.message(said, "done")}
    except Exception as error:
        # The server's log says more about a fault of the page itself, or a lack of memory.
        reason = str(error) if isinstance(error, ValueError) else "The run failed. Try it again."
        yield IDLE | {"status": payload.message(reason, "error")}
        if not isinstance(error, ValueError):
            raise


def on_choose(
    engine: Engine,
    results: list[session.Kept],
    index: int,
    photo: session.Photo | None,
    hole: str | None,
) -> Update:
    """Show one of the session's results again: in place, with its film and its files.

    Its photograph and its hole come back with it if the canvas shows others, or none.
    """
    kept = _shown(results, index)
    said = f"Result with seed {kept.settings.seed}. It can be downloaded, compared and edited."
    same = there = False
    with contextlib.suppress(ValueError):
        now, painted = session.read_hole(photo, hole)
        there = now.stamp == kept.photo.stamp
        # At the canvas's scale, which may be coarser than the photograph's.
        mask = canvas.resize_mask(kept.mask, painted.shape[::-1])
        enlarged = canvas.resize_mask(painted, now.size)
        alike = np.array_equal(painted, mask) or np.array_equal(enlarged, kept.mask)
        same = there and now.box == kept.photo.box and alike
    opened: Update = {}
    if not same:
        image = None if there else read_image(kept.photo.path)
        # What the result has stays, whatever its weights decide otherwise.
        own = dataclasses.replace(kept.photo, said=(*kept.photo.said, "finish"))
        opened = show(own, kept.mask, image=image)
        opened = with_maps(engine, opened, kept.settings.tiles)
    shown = opened | read_view(kept) | show_kept(kept) | listed(results, index)
    return shown | {"status": payload.message(said)}


def on_finish(
    engine: Engine, results: list[session.Kept], chosen: int, finish: str
) -> Iterator[Update]:
    """Show the result as the bridge left it, or with known patches copied into it."""
    if not results:
        return
    kept = results[chosen]
    if finish not in kept.files:
        yield BUSY | {"status": payload.message("Copying known patches …", "busy")}
        for made in add_finish(engine, results[chosen], finish):
            yield {}  # between two steps, where it can be stopped
            kept = made
    kept = dataclasses.replace(kept, finish=finish)
    results = [*results[:chosen], kept, *results[chosen + 1 :]]
    said = "Known patches that resemble the bridge's result take its place."
    if finish == "none":
        said = "The bridge alone."
    shown = IDLE | show_kept(kept) | listed(results, chosen)
    yield shown | {"status": payload.message(said, "done")}


def on_film(results: list[session.Kept], chosen: int, suffix: str) -> Iterator[Update]:
    """Make the film of the result that is shown, ``.webp`` or ``.mp4``, to be downloaded."""
    kept = _shown(results, chosen)
    yield {"status": payload.message("Making the film …", "busy")}
    try:
        path = make_film(kept, suffix)
    except ValueError as error:
        yield {"status": payload.message(str(error), "error")}
        raise
    said = f"The film is ready: {path.name}, {path.stat().st_size / 1000:.0f} kB."
    yield {"archive": str(path), "status": payload.message(said, "done")}


def on_files(engine: Engine, results: list[session.Kept], chosen: int) -> Iterator[Update]:
    """Pack everything that belongs to the result that is shown."""
    kept = _shown(results, chosen)
    photo = kept.photo
    image, tiles = read_image(photo.path), kept.settings.tiles
    maps = engine.predict(photo.weights, image, kept.mask, tiles, photo.box)
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = Path(folder, f"{photo.stem}-asyncdsb.zip")
        archive.pack(path, kept, maps, make_film(kept, ".webp"))
        yield {"archive": str(path)}


def _shown(results: list[session.Kept], chosen: int) -> session.Kept:
    """The result that is shown; raise ValueError if there is none."""
    if chosen not in range(len(results)):
        raise ValueError("Restore something first.")
    return results[chosen]


def on_stopped() -> Update:
    """Say that the run was stopped; its film so far stays."""
    # Restore stays off until the step that is on its way is over: before, the page's library drops
    # a press without a word.
    said = "Stopped. A film that has begun stays in view."
    return {"stop": IDLE["stop"], "status": payload.message(said)}


def inpaint(
    engine: Engine,
    photo: str,
    mask: str,
    tau_min: float,
    tau_max: float,
    steps: int,
    sampler: str,
    strategy: str,
    seed: int,
    eta: float,
    grid: str,
    tiles: int,
    order: str | None = None,
    finish: str | None = None,
    weights: str | None = None,
    solver_order: int | None = None,
    box: Box | None = None,
    guidance: float | None = None,
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Restore the hole of a photograph, both given as files.

    Args:
        engine: runs the bridge.
        photo: path of the photograph.
        mask: path of the mask, of the same size, white = missing.
        tau_min: tau of the pixels restored last, in [0, tau_max].
        tau_max: tau of the pixels restored first, in [tau_min, 1].
        steps: number of steps.
        sampler: one of SAMPLERS.
        strategy: one of STRATEGIES, or "painted".
        seed: seed of the noise.
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        grid: one of GRIDS.
        tiles: in how many fields of 256 pixels a large hole, or holes far apart, may be restored.
        order: path of a grey picture of the photo's size, 8 or 16 bits, for the strategy "painted":
            white is restored first (at tau_max), black last (at tau_min).
        finish: "none", or "patches" to replace the bridge's result by patches of the known part;
            None for what the weights say.
        weights: name of the weights, such as "portraits"; None for the page's first.
        solver_order: of the steps, 1 (the paper's) or 2; None for what the weights say.
        box: [left, top, side] in pixels of the photo, the square around the head in which weights
            for portraits work; None for the one that is found. Other weights do without.
        guidance: how far the guide counts, >= 0; None for what the weights say. Weights without a
            guide do without.

    Yields:
        After each step nothing and how far the run is, {"step": 3, "steps": 20}. In the end the
        path of the result as PNG, and the settings; their field "not_kept" lists in words what the
        result does not hold of the photograph's file.
    """
    if (strategy == session.PAINTED) != bool(order):
        expected = "an order" if not order else f"the strategy {session.PAINTED!r} for the order"
        raise ValueError(f"expected {expected}, got the strategy {strategy!r}")
    image, hole = session.read_files(photo, mask)
    painted = load_map(Path(order), image.size) if order else None
    values = (tau_min, tau_max, steps, sampler, strategy, seed, eta, grid, tiles)
    settings = session.read_settings((*values, guidance, solver_order, finish), painted)
    settings = dataclasses.replace(settings, box=box)
    for last in engine.steps_of(weights, image, hole, settings):
        # With each step, because a call that is given up ends where it yields.
        yield None, {"step": last.step, "steps": last.steps}
    # As above: copied into the page's cache with the answer, removed after it.
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = Path(folder, "restored.png")
        original = read_photograph(photo)
        original.restored(last.image, hole).save(path, last.settings)
        yield str(path), last.settings | {NOT_KEPT: original.not_kept(path.suffix)}
