"""What happens when a visitor uses a part of the page: events, their handlers, their answers."""

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from asyncdsb.page import canvas, handlers, opening, restoring, session
from asyncdsb.page.engine import Engine, Maps, Model, Step, predict_maps, run_steps
from asyncdsb.page.layout import PRESET_MASKS, RANGES, by_path, layout
from asyncdsb.page.payload import Props, Update
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings

try:  # Present on hosted machines only; must come before anything touches the GPU.
    import spaces
except ImportError:
    spaces = None

# How the browser says what is painted on the canvas and on the heatmap.
PAINTED = {"hole": "asyncdsb.canvas.hole()", "painted": "asyncdsb.paintedOrder()"}


def build(load: Callable[..., Any], names: Sequence[str] = ("scenes",)) -> gr.Blocks:
    """Lay out the page and start loading the models.

    Args:
        load: makes the pipeline of named weights, and with ``device="cpu"`` one on the processor;
            called once for each, in the background.
        names: of the weights that a visitor can choose from.
    """
    first = opening.read(names)
    expected = None
    if first:
        photo, image, mask = session.read_pair(first["photo"], first["editor"]["hole"])
        expected = str(photo.weights), image, mask
    model = maps = Model(load, names, expected)
    # Maps of the largest photographs take much memory, and events have limits each of their own.
    turn = threading.Lock()

    def steps_of(weights: str | None, *args: Any) -> Iterator[Step]:
        yield from run_steps(model.get(weights), *args)

    def predict(weights: str | None, *args: Any) -> Maps:
        with turn:
            return predict_maps(maps.get(weights), *args)

    if spaces and spaces.config.Config.zero_gpu:
        # Only runs take the time of the GPU that visitors share; maps are cheap enough without.
        maps = Model(partial(load, device="cpu"), names)
        # The hosted machine wants the model in place before its first visitor.
        with contextlib.suppress(ValueError):
            for name in names:
                model.get(name)
        steps_of = spaces.GPU(duration=gpu_seconds)(steps_of)

    engine = Engine(predict, steps_of, model.pace, model.ready)
    with gr.Blocks(
        title="AsyncDSB", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        wire(demo, layout(names, first), model, engine)
    # All events of all visitors count, strokes as well as runs.
    return demo.queue(max_size=200, default_concurrency_limit=2)


def gpu_seconds(
    weights: str | None, image: Any, mask: Any, settings: Settings, maps: bool = False
) -> int:
    """How long a run may take on a shared GPU: a start, and its steps with a margin.

    An evaluation of the bundled networks takes milliseconds there; a field of a large hole counts
    as one evaluation, and copied patches take a few seconds.
    """
    return min(120, 15 + math.ceil(settings.steps * settings.tiles / 20))


def wire(demo: gr.Blocks, parts: dict[str, Any], model: Model, engine: Engine) -> None:
    """Connect the parts with the handlers."""

    def on(event: Callable, handler: Callable, inputs: str, outputs: str, **options: Any) -> Any:
        """Listen to an event; a handler's answer may name any of the outputs."""
        names = inputs.split()
        if PAINTED.keys() & set(names):
            # As it is at this moment, whatever is on its way.
            read = [PAINTED.get(name, f"given[{i}]") for i, name in enumerate(names)]
            options["js"] = f"(...given) => [{', '.join(read)}]"
        return event(
            listener(handler, lambda update: named(update, parts)),
            [parts[name] for name in names],
            [parts[name] for name in outputs.split()],
            api_visibility="private",
            show_progress_on=parts["status"],
            **{"show_progress": "hidden"} | options,
        )

    run = "frame compare timing result animation movie files reuse"
    kept = "results chosen strip finish"
    fresh = f"photo weights editor gradient tau seen status {run}"
    own_values = " ".join(handlers.AFTER_OPENING)
    opened = f"{fresh} {own_values}"
    settings = " ".join(session.SETTINGS)

    maps = {"concurrency_id": "maps", "concurrency_limit": 1, "trigger_mode": "always_last"}
    on_preview = partial(handlers.on_preview, engine)

    def follow(event: Callable) -> Any:
        """Show the maps for the hole that is painted when the event comes."""
        return on(event, on_preview, "photo hole seen tiles", "gradient tau seen status", **maps)

    told = f"photo sampler {' '.join(FROM_WEIGHTS)}"
    on_weights = partial(handlers.on_weights, model)
    # All are answered in their order, so that the last one that is chosen stays.
    opens: dict[str, Any] = {
        "concurrency_id": "open",
        "concurrency_limit": 1,
        "trigger_mode": "multiple",
    }
    # A press that comes while the server still answers the one before it counts as well.
    again: dict[str, Any] = {"trigger_mode": "always_last"}
    # What is answered about the photograph on the canvas, or about its hole.
    about = [follow(on(parts["weights"].change, on_weights, "photo weights", told).then)]
    about += [follow(parts["preview"].click), follow(parts["tiles"].release)]
    on_mask = partial(handlers.on_mask_file, engine)
    about.append(on(parts["open_mask"].upload, on_mask, "open_mask photo hole tiles", fresh))
    for kind in PRESET_MASKS:
        on_preset = partial(handlers.on_preset, engine, kind)
        drawn = "photo hole drawn tiles", f"{fresh} drawn"
        about.append(on(parts[kind].click, on_preset, *drawn, **again))
    for edit in canvas.EDITS:
        on_edit = partial(handlers.on_edit, engine, edit)
        about.append(on(parts[edit].click, on_edit, "photo hole tiles", fresh, **again))

    one_run: dict[str, Any] = {"concurrency_id": "run", "concurrency_limit": 1}
    # A run that waits for its turn can be stopped as well. This comes first, because the listeners
    # of a press are called one after the other, and the next one ends with the run.
    enabled = "() => ({__type__: 'update', interactive: true})"
    parts["restore"].click(None, None, parts["stop"], js=enabled)
    started = on(
        parts["restore"].click,
        partial(restoring.on_restore, engine),
        f"photo hole painted results beside seeds seen {settings}",
        f"gradient tau seen status restore stop {run} {kept}",
        # Says how many visitors are before this one.
        show_progress="minimal",
        **one_run,
    )

    def on_choose(results: Any, photo: Any, hole: str | None, event: gr.EventData) -> Update:
        return restoring.on_choose(engine, results, event.index, photo, hole)

    chosen = "results photo hole", f"{fresh} {kept}"
    about.append(on(parts["strip"].click, on_choose, *chosen, **opens))
    about.append(on(parts["reuse"].click, handlers.on_reuse, "result photo hole", fresh))
    on_finish, changed = partial(restoring.on_finish, engine), f"status restore stop {run} {kept}"
    finished = on(parts["finish"].input, on_finish, "results chosen finish", changed, **one_run)
    work = [started, finished]

    def ends(*events: Callable) -> None:
        """Let events end the run of the photograph on the canvas, and answers on their way."""
        for event in events:
            event(None, None, None, cancels=[*work, *about], api_visibility="private")

    # Listeners of an event are called one after the other. Before another photograph is shown, a
    # run ends that belongs to the one that is put away; after it, answers that were late.
    upload, example = parts["open_photo"].upload, parts["examples"].click
    closing = parts["close_photo"].click
    ends(upload, example, closing)
    close = "() => asyncdsb.canvas.close()"
    on(closing, handlers.on_clear, "", fresh, js=close, **opens)
    on_photo = partial(handlers.on_photo, names=model.names)
    taken = f"open_photo weights photo {own_values}"
    photo_opened = on(upload, on_photo, taken, opened, **opens)
    photo_opened.failure(None, None, None, js="() => asyncdsb.canvas.opening('')")

    def on_example(
        tiles: float, before: Any, low: float, high: float, seed: float, event: gr.EventData
    ) -> Update:
        values = low, high, seed
        return handlers.on_example(engine, event.index, tiles, before, *values, names=model.names)

    on(example, on_example, f"tiles photo {own_values}", opened, **opens)
    ends(upload, example, closing)
    for event in work:
        # Comes as well when a stopped run has really ended, and another one would be taken.
        on(event.failure, handlers.on_ended, "photo hole status", "restore stop status")
    stopped = parts["stop"].click(None, None, None, cancels=work, api_visibility="private")
    on(stopped.then, restoring.on_stopped, "", "stop status")
    # Made when they are asked for; the browser fetches what the answer names.
    for name, make, progress in (
        ("animation", partial(restoring.on_film, suffix=".webp"), "hidden"),
        ("movie", partial(restoring.on_film, suffix=".mp4"), "hidden"),
        ("files", partial(restoring.on_files, engine), "minimal"),
    ):
        outputs = "archive status"
        made = on(parts[name].click, make, "results chosen", outputs, show_progress=progress)
        made.success(None, parts["archive"], None, js="(file) => asyncdsb.fetchFile(file)")

    files = [by_path(gr.File(visible=False, label=name)) for name in ("photo", "mask", "order")]
    answers = [gr.File(visible=False, label="result"), gr.JSON(visible=False, label="settings")]
    # Programs have the package's defaults, whatever the page's controls show at first.
    plain = {
        name: gr.Number(value, visible=False, label=name)
        for name, value in handlers.AFTER_OPENING.items()
    }
    given = [plain.get(name, parts[name]) for name in session.SETTINGS if name not in FROM_WEIGHTS]
    own: list[Any] = [gr.Textbox(None, visible=False, label=name) for name in ("finish", "weights")]
    own.append(gr.Number(None, precision=0, visible=False, label="solver_order"))
    own.append(gr.JSON(visible=False, label="box"))
    own.append(gr.Number(None, visible=False, label="guidance"))
    inpaint: Any = partial(restoring.inpaint, engine)
    # What programs are told about it.
    inpaint.__name__, inpaint.__doc__ = "inpaint", restoring.inpaint.__doc__
    asked = [*files[:2], *given, files[2], *own]
    gr.Button(visible=False).click(listener(inpaint), asked, answers, api_name="inpaint", **one_run)

    def on_loaded(weights: str, request: gr.Request) -> Update:
        return handlers.on_loaded(model, dict(request.query_params), weights)

    loaded = on(demo.load, partial(handlers.on_load, model), "weights", "model status")
    on(loaded.then, on_loaded, "weights", f"sampler {' '.join(FROM_WEIGHTS)}")

    def on_link(weights: str, request: gr.Request) -> Update:
        return handlers.on_link(dict(request.query_params), model.names, weights)

    linked = on(demo.load, on_link, "weights", f"{fresh} {settings}")
    # Whatever came of it: until then the example with which the page opens stays out of sight.
    linked.then(None, None, None, js="() => { asyncdsb.nameGroups(); asyncdsb.linkOpened(); }")
    wire_browser(parts)


def wire_browser(parts: dict[str, Any]) -> None:
    """Connect what the browser does by itself, without asking the server."""
    low, high, strategy = parts["tau_min"], parts["tau_max"], parts["strategy"]
    for part in (low, high, strategy):
        part.change(None, [low, high, strategy], None, js="(...range) => asyncdsb.draw(...range)")
    # The address follows the settings, so that it can be passed on.
    names = [*session.SETTINGS, *(["weights"] if parts["weights"].visible else [])]
    every = [parts[name] for name in names]
    for part in every:
        part.change(None, every, None, js=f"(...values) => asyncdsb.remember({names}, values)")
    work = [parts[name] for name in ("steps", "beside", "seeds")]
    for part in work:
        part.change(None, work, None, js="(...work) => asyncdsb.estimate(...work)")
    # The range is kept in order by moving the other end along.
    low.input(None, [low, high], high, js="(low, high) => Math.max(low, high)")
    high.input(None, [low, high], low, js="(low, high) => Math.min(low, high)")
    for name, values in RANGES.items():
        parts[name].click(None, None, [low, high], js=f"() => {list(values)}")
    parts["dice"].click(
        None, None, parts["seed"], js=f"() => Math.floor(Math.random() * {session.MAX_SEED})"
    )


def named(update: Update, parts: dict[str, Any]) -> Any:
    """Turn the names in a handler's answer into components."""
    if not update:
        return gr.skip()

    def sent(part: Any, value: Any) -> Any:
        if isinstance(value, Props):
            return gr.update(**value)
        # As an update, because the page's library deletes the files of no other value in the end.
        return value if isinstance(part, gr.State) else gr.update(value=with_files(value))

    return {parts[name]: sent(parts[name], value) for name, value in update.items()}


def with_files(value: Any) -> Any:
    """Let the browser fetch the pictures of a value, given as the content of JPEG files."""
    if not isinstance(value, dict):
        return value
    cache = get_upload_folder()
    return {
        key: gr.FileData(path=save_bytes_to_cache(part, "photo.jpg", cache)).model_dump()
        if isinstance(part, bytes)
        else part
        for key, part in value.items()
    }


def listener(handler: Callable, convert: Callable = lambda answer: answer) -> Callable:
    """Make a listener of a handler: its answers are converted, a ValueError becomes a message."""

    @wraps(handler)
    def stream(*args: Any) -> Iterator[Any]:
        try:
            for answer in handler(*args):
                yield convert(answer)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    @wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return convert(handler(*args))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return stream if inspect.isgeneratorfunction(handler) else call
