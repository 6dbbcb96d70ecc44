"""What happens when a visitor uses a part of the page: events, their handlers, their answers."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from asyncdsb.page import canvas, handlers, session, updates
from asyncdsb.page.engine import Engine, Maps, Model, Step, predict_maps, run_steps
from asyncdsb.page.layout import PRESET_MASKS, RANGES, by_path, layout
from asyncdsb.photo.settings import FROM_WEIGHTS

try:  # Present on a hosted ZeroGPU machine only; must come before anything touches the GPU.
    import spaces
except ImportError:
    spaces = None


def build(load: Callable[[str], Any], names: Sequence[str], examples: Path) -> gr.Blocks:
    """Lay out the page and start loading the models.

    Args:
        load: makes the pipeline of named weights; called once for each, in the background.
        names: of the weights that a visitor can choose from.
        examples: folder of the photographs that come with the page.
    """
    model = Model(load, names)
    if spaces:  # The hosted machine wants the model in place before its first visitor.
        with contextlib.suppress(ValueError):
            for name in names:
                model.get(name)

    def steps_of(weights: str | None, *args: Any) -> Iterator[Step]:
        yield from run_steps(model.get(weights), *args)

    def predict(weights: str | None, *args: Any) -> Maps:
        return predict_maps(model.get(weights), *args)

    if spaces:
        steps_of, predict = spaces.GPU(steps_of), spaces.GPU(predict)

    engine = Engine(one_at_a_time(predict), steps_of, model.pace, model.ready)
    with gr.Blocks(
        title="AsyncDSB", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
    ) as demo:
        parts = layout(names, examples)
        wire(demo, parts, model, engine, handlers.find_examples(examples))
    return demo.queue(max_size=20, default_concurrency_limit=2)


def one_at_a_time(function: Callable) -> Callable:
    """Let calls of a function wait for one another.

    Events have limits each of their own, and maps of the largest photographs take much memory. The
    lock is this process's: what a hosted machine runs on its GPU, it runs in others.
    """
    turn = threading.Lock()

    def call(*args: Any) -> Any:
        with turn:
            return function(*args)

    return call


def wire(
    demo: gr.Blocks,
    parts: dict[str, Any],
    model: Model,
    engine: Engine,
    examples: list[handlers.Example],
) -> None:
    """Connect the parts with the handlers."""

    def on(event: Callable, handler: Callable, inputs: str, outputs: str, **options: Any) -> Any:
        """Listen to an event; a handler's answer may name any of the outputs."""
        return event(
            listener(handler, lambda update: named(update, parts)),
            [parts[name] for name in inputs.split()],
            [parts[name] for name in outputs.split()],
            api_visibility="private",
            # The canvas must show no progress of its own: it hands over its whole content each time
            # that its progress changes.
            show_progress_on=parts["status"],
            **{"show_progress": "hidden"} | options,
        )

    run = "frame compare film timing seeds_view view run result animation files reuse"
    fresh = f"photo weights layer gradient tau seen status link {run}"
    settings = " ".join(session.SETTINGS)

    maps = {"concurrency_id": "maps", "concurrency_limit": 1, "trigger_mode": "always_last"}

    on_preview = functools.partial(handlers.on_preview, engine)

    def follow(event: Callable) -> None:
        """Show the maps for the hole that is painted when the event comes."""
        on(event, on_preview, "photo layer seen tiles", "gradient tau seen", **maps)

    def on_example(tiles: float, event: gr.EventData) -> updates.Update:
        return handlers.on_example(engine, examples, event.index, tiles)

    # Every photograph that a handler takes over changes the link: it is drawn on the canvas, and
    # its maps are seen to. Nothing of it happens for a page that opens without an example, where
    # an answer that comes late would undo what the visitor has done meanwhile.
    taken = parts["link"].change
    on(taken, handlers.on_canvas, "photo layer", "editor status")
    follow(taken)
    on(parts["editor"].clear, handlers.on_clear, "", fresh)
    on(parts["open_photo"].upload, handlers.on_photo, "open_photo weights", fresh)
    told = f"photo sampler {' '.join(FROM_WEIGHTS)}"
    on_weights = functools.partial(handlers.on_weights, model)
    follow(on(parts["weights"].change, on_weights, "photo weights", told).then)
    on(parts["examples"].click, on_example, "tiles", fresh)
    on_mask = functools.partial(handlers.on_mask_file, engine)
    on(parts["open_mask"].upload, on_mask, "open_mask photo tiles", fresh)
    for kind in PRESET_MASKS:
        on_preset = functools.partial(handlers.on_preset, engine, kind)
        on(parts[kind].click, on_preset, "photo drawn tiles", f"{fresh} drawn")

    def painted(button: str) -> Callable:
        """Fetch what was painted from the browser, once; return the event for what comes after.

        A listener with the canvas among its inputs would make it hand over its whole content with
        every frame of every later run.
        """
        js = "(...shown) => [asyncdsb.paintedLayer(...shown), asyncdsb.paintedOrder()]"
        shown, outputs = ("editor", "layer"), ("layer", "painted")
        return (
            parts[button]
            .click(None, [parts[name] for name in shown], [parts[name] for name in outputs], js=js)
            .then
        )

    follow(painted("preview"))
    follow(parts["tiles"].release)
    for edit in canvas.EDITS:
        on_edit = functools.partial(handlers.on_edit, engine, edit)
        on(painted(edit), on_edit, "photo layer tiles", fresh)

    started = on(
        painted("restore"),
        functools.partial(handlers.on_restore, engine),
        f"photo layer painted beside seeds {settings}",
        f"gradient tau status restore stop {run}",
        concurrency_id="run",
        concurrency_limit=1,
        # Says how many visitors are before this one.
        show_progress="minimal",
    )
    on(started.failure, lambda: updates.IDLE, "", "restore stop")
    stopped = parts["stop"].click(None, None, None, cancels=[started], api_visibility="private")
    on(stopped.then, handlers.on_stopped, "", "restore stop status")

    on(parts["reuse"].click, handlers.on_reuse, "result photo", fresh)
    packed = on(
        parts["files"].click,
        functools.partial(handlers.on_files, engine),
        "run result animation",
        "archive",
        show_progress="minimal",
    )
    packed.success(None, None, None, js="() => asyncdsb.fetchArchive()")

    files = [by_path(gr.File(visible=False, label=name)) for name in ("photo", "mask", "order")]
    answers = [gr.File(visible=False, label="result"), gr.JSON(visible=False, label="settings")]
    given = [parts[name] for name in session.SETTINGS if name not in FROM_WEIGHTS]
    # Not the page's control, which has a value before the weights say theirs.
    own = [gr.Textbox(None, visible=False, label=name) for name in ("finish", "weights")]
    inpaint: Any = functools.partial(handlers.inpaint, engine)
    # What programs are told about it.
    inpaint.__name__, inpaint.__doc__ = "inpaint", handlers.inpaint.__doc__
    gr.Button(visible=False).click(
        listener(inpaint),
        [*files[:2], *given, files[2], *own],
        answers,
        api_name="inpaint",
        concurrency_id="run",
        concurrency_limit=1,
    )

    def on_load(request: gr.Request) -> Iterator[updates.Update]:
        yield from handlers.on_load(model, dict(request.query_params))

    on(demo.load, on_load, "", f"model status sampler {' '.join(FROM_WEIGHTS)}")

    def on_link(request: gr.Request) -> updates.Update:
        return handlers.on_link(examples, dict(request.query_params))

    on(demo.load, on_link, "", f"{fresh} {settings}")
    wire_browser(parts)


def wire_browser(parts: dict[str, Any]) -> None:
    """Connect what the browser does by itself, without asking the server."""
    low, high, strategy = parts["tau_min"], parts["tau_max"], parts["strategy"]
    for part in (low, high, strategy):
        part.change(None, [low, high, strategy], None, js="(...range) => asyncdsb.draw(...range)")
    # The address follows the settings, so that it can be passed on.
    names = list(session.SETTINGS)
    every = [parts[name] for name in names]
    for part in every:
        part.change(None, every, None, js=f"(...values) => asyncdsb.remember({names}, values)")
    work = [parts[name] for name in ("steps", "beside", "seeds")]
    for part in work:
        part.change(None, work, None, js="(...work) => asyncdsb.estimate(...work)")
    views = list(updates.VIEWS)
    parts["view"].change(
        None, parts["view"], None, js=f"(view) => asyncdsb.show({views}.indexOf(view))"
    )
    # Whenever the canvas has loaded a photograph, the server's too.
    parts["editor"].upload(None, None, None, js="() => asyncdsb.canvasLoaded()")
    # The range is kept in order by moving the other end along.
    low.input(None, [low, high], high, js="(low, high) => Math.max(low, high)")
    high.input(None, [low, high], low, js="(low, high) => Math.min(low, high)")
    for name, values in RANGES.items():
        parts[name].click(None, None, [low, high], js=f"() => {list(values)}")
    parts["dice"].click(
        None, None, parts["seed"], js=f"() => Math.floor(Math.random() * {session.MAX_SEED})"
    )


def named(update: updates.Update, parts: dict[str, Any]) -> Any:
    """Turn the names in a handler's answer into components."""
    if not update:
        return gr.skip()
    return {
        parts[name]: gr.update(**value) if isinstance(value, updates.Props) else value
        for name, value in update.items()
    }


def listener(handler: Callable, convert: Callable = lambda answer: answer) -> Callable:
    """Make a listener of a handler: its answers are converted, a ValueError becomes a message."""

    @functools.wraps(handler)
    def stream(*args: Any) -> Iterator[Any]:
        try:
            for answer in handler(*args):
                yield convert(answer)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    @functools.wraps(handler)
    def call(*args: Any) -> Any:
        try:
            return convert(handler(*args))
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return stream if inspect.isgeneratorfunction(handler) else call
