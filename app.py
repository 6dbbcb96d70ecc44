"""The page: paint a hole into a photograph and watch it being restored.

    python app.py [--host HOST] [--port PORT] [--share] [--weights DIR] [--device DEVICE]
                  [--precision PRECISION] [--compile] [--open]

Here the parts of the page are laid out and connected; what they do is in ``asyncdsb.page``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from asyncdsb.page import surroundings

# Before the import, which reads them.
try:
    UNUSABLE_PROXIES = surroundings.settle(os.environ)
except ValueError as error:
    print(f"app.py: error: {error}", file=sys.stderr)
    sys.exit(2)

import gradio as gr

from asyncdsb import viz
from asyncdsb.allocator import keep_freed
from asyncdsb.page import canvas, handlers, payload, session, updates
from asyncdsb.page.engine import Engine, Maps, Model, Step, predict_maps, run_steps
from asyncdsb.restoration import LEFT_TO_WEIGHTS, Settings
from asyncdsb.samplers import GRIDS, SAMPLERS
from asyncdsb.schedule import STRATEGIES

try:  # Present on a hosted ZeroGPU machine only; must come before anything touches the GPU.
    import spaces
except ImportError:
    spaces = None

MAX_FILE_SIZE = "32mb"
EXAMPLES = Path(__file__).parent / "assets" / "examples"
ABOUT_PHOTO = "colosseum.jpg"
RANGES = {"Regular hole": (0.2, 0.5), "Irregular hole": (0.001, 0.4), "I²SB": (0.5, 0.5)}
PRESET_MASKS = ("center", "half", "wide", "narrow")
DEFAULTS = Settings()
WEIGHTS = {"scenes": "Any photo", "portraits": "Portrait: a head, upright"}
"""What the bundled weights are for, as the page says it."""

FACES = "A restored face is an invention, not the person: do not use it to identify anybody."

FINISH_NAMES = {"Bridge only": "none", "With known patches": "patches"}


def build(load: Callable[[str], Any], names: Sequence[str] = ("scenes",)) -> gr.Blocks:
    """Lay out the page and start loading the models.

    Args:
        load: makes the pipeline of named weights; called once for each, in the background.
        names: of the weights that a visitor can choose from.
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
        parts = layout(names)
        wire(demo, parts, model, engine)
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


def layout(names: Sequence[str]) -> dict[str, gr.blocks.Block]:
    """Create the parts of the page; their names are those in the handlers' answers."""
    parts: dict[str, Any] = {name: gr.State(None) for name in ("photo", "seen", "run")}
    parts["drawn"] = gr.State(0)
    with gr.Row(elem_id="header"):
        gr.HTML(payload.asset("header.html"), elem_id="title")
        parts["model"] = gr.HTML(elem_id="model")
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_classes="pane", elem_id="pane-canvas", min_width=320):
            canvas_pane(parts)
        with gr.Column(elem_classes="pane", elem_id="pane-order", min_width=280):
            order_pane(parts)
        with gr.Column(elem_classes="pane", elem_id="pane-restore", min_width=320):
            restore_pane(parts, names)
    with gr.Accordion("How it works", open=False, elem_id="about"):
        gr.HTML(
            payload.about(EXAMPLES / ABOUT_PHOTO), elem_id="story",
            js_on_load="asyncdsb.mountAbout(element)",
        )  # fmt: skip
    parts["preview"] = gr.Button("Predict", elem_id="preview", visible="hidden")
    parts["layer"] = gr.Image(visible=False, type="pil", image_mode="RGBA")
    parts["painted"] = gr.Textbox(visible=False)
    parts["archive"] = by_path(gr.DownloadButton("Archive", elem_id="archive", visible="hidden"))
    parts["link"] = gr.HTML(
        elem_id="link", visible="hidden", js_on_load="asyncdsb.mountLink(element, props, watch)"
    )
    return parts


def heading(number: int, text: str) -> gr.HTML:
    """Create the heading of a pane."""
    return gr.HTML(f"<h2><span>{number}</span>{text}</h2>", elem_classes="heading")


def canvas_pane(parts: dict[str, Any]) -> None:
    """Create the canvas and what fills it."""
    with gr.Row(elem_classes="bar"):
        heading(1, "Paint the hole")
        with gr.Row(elem_id="open-photo"):
            parts["open_photo"] = by_path(
                gr.UploadButton("Open photo", size="sm", file_types=["image"])
            )
    parts["editor"] = gr.ImageEditor(
        elem_id="editor",
        type="pil",
        image_mode="RGBA",
        format="png",
        canvas_size=(canvas.CANVAS, canvas.CANVAS),
        fixed_canvas=True,
        layers=False,
        transforms=(),
        sources=["upload"],
        brush=gr.Brush(
            default_size=14, colors=["#" + bytes(viz.HOLE_COLOUR).hex()], color_mode="fixed"
        ),
        eraser=gr.Eraser(default_size=14),
        show_label=False,
        container=False,
        buttons=[],
        placeholder="# Drop a photo here\nor click to choose one",
        height=524,
    )
    with gr.Row(elem_classes="chips", elem_id="holes"):
        for kind in PRESET_MASKS:
            parts[kind] = gr.Button(kind.capitalize(), size="sm", min_width=0)
        parts["open_mask"] = by_path(gr.UploadButton("Mask file", size="sm", file_types=["image"]))
        for edit in canvas.EDITS:
            parts[edit] = gr.Button(edit.capitalize(), size="sm", min_width=0, elem_id=edit)
    gr.HTML("<span>Examples, five of them with a hole</span>", elem_classes="chip-label")
    examples = handlers.find_examples(EXAMPLES)
    parts["examples"] = gr.HTML(
        payload.example_buttons([(one.path.stem, *one.read()[1:]) for one in examples]),
        elem_id="examples",
        js_on_load="asyncdsb.mountExamples(element, trigger)",
    )


def order_pane(parts: dict[str, Any]) -> None:
    """Create the heatmaps and the range of tau."""
    heading(2, "Order of restoration")
    gr.HTML("<h3>Predicted gradient</h3>", elem_classes="subheading")
    parts["gradient"] = mounted("gradient", "mountGradient", "gradient.html")
    gr.HTML("<h3>Peak time τ of every pixel</h3>", elem_classes="subheading")
    parts["tau"] = mounted("tau", "mountTau", "tau.html")
    parts["strategy"] = gr.Radio(
        [*STRATEGIES, session.PAINTED], value=DEFAULTS.strategy, show_label=False, container=False,
        elem_id="strategy", elem_classes="segments",
    )  # fmt: skip
    with gr.Row(elem_id="range"):
        for name, text in (("tau_min", "τ min"), ("tau_max", "τ max")):
            parts[name] = gr.Slider(
                0, 1, getattr(DEFAULTS, name), step=0.001, label=text,
                elem_id=name.replace("_", "-"),
            )  # fmt: skip
    with gr.Row(elem_classes="chips"):
        for name in RANGES:
            parts[name] = gr.Button(name, size="sm", min_width=0)


def restore_pane(parts: dict[str, Any], names: Sequence[str]) -> None:
    """Create the run's settings and everything it shows."""
    heading(3, "Restore")
    parts["weights"] = gr.Radio(
        [(WEIGHTS.get(name, name), name) for name in names], value=names[0], show_label=False,
        container=False, elem_id="weights", elem_classes="segments", visible=len(names) > 1,
    )  # fmt: skip
    if "portraits" in names:
        gr.HTML(f"<span>{FACES}</span>", elem_classes="chip-label")
    with gr.Row(elem_id="settings"):
        parts["steps"] = gr.Slider(
            1, session.MAX_STEPS, DEFAULTS.steps, step=1, label="Steps", elem_id="steps"
        )
        parts["sampler"] = gr.Dropdown(
            list(SAMPLERS), value=DEFAULTS.sampler, label="Sampler", elem_id="sampler"
        )
        parts["seed"] = gr.Number(
            DEFAULTS.seed, precision=0, minimum=0, maximum=session.MAX_SEED, label="Seed",
            elem_id="seed",
        )  # fmt: skip
        parts["dice"] = gr.Button("🎲", elem_id="dice", size="sm", min_width=0)
    with gr.Accordion("More: I²SB beside it, several seeds, finish", open=False, elem_id="more"):
        parts["beside"] = gr.Checkbox(
            False, label="I²SB (τ = 0.5 everywhere) beside it, with the same seed",
            elem_id="beside", container=False,
        )  # fmt: skip
        with gr.Row(elem_id="more-settings"):
            parts["seeds"] = gr.Slider(
                1, session.MAX_SEEDS, 1, step=1, label="Seeds at once", elem_id="seeds"
            )
            parts["finish"] = gr.Dropdown(
                list(FINISH_NAMES.items()), value="none", label="Finish", elem_id="finish"
            )
            parts["eta"] = gr.Slider(
                0, 1, DEFAULTS.eta, step=0.01, label="η of implicit", elem_id="eta"
            )
            parts["tiles"] = gr.Slider(
                1, session.MAX_TILES, DEFAULTS.tiles, step=1, label="Most tiles", elem_id="tiles"
            )
            parts["grid"] = gr.Dropdown(
                list(GRIDS), value=DEFAULTS.grid, label="Time grid", elem_id="grid"
            )
    with gr.Row(elem_id="actions"):
        parts["restore"] = gr.Button("Restore", variant="primary", elem_id="restore")
        parts["stop"] = gr.Button("Stop", variant="stop", elem_id="stop", interactive=False)
    with gr.Row(elem_id="said"):
        parts["status"] = gr.HTML(payload.message(handlers.WELCOME), elem_id="status")
        gr.HTML('<p class="estimate"></p>', elem_id="estimate")
    parts["view"] = gr.Radio(
        list(updates.VIEWS), value=updates.VIEWS[0], show_label=False, container=False,
        elem_id="view", elem_classes="segments",
    )  # fmt: skip
    with gr.Column(elem_id="views", elem_classes="view-0"):
        parts["frame"] = mounted("frame", "mountFrame", "frame.html")
        parts["compare"] = gr.ImageSlider(
            elem_id="compare", type="pil", format="png", show_label=False, buttons=[],
            max_height=389,
        )  # fmt: skip
        parts["film"] = mounted("film", "mountFilm", "film.html")
        parts["timing"] = gr.Image(
            elem_id="timing", type="filepath", format="png", show_label=False, buttons=[],
            interactive=False,
        )  # fmt: skip
        parts["seeds_view"] = gr.Gallery(
            elem_id="seeds-view", format="png", type="filepath", show_label=False, columns=2,
            height=389, object_fit="contain", buttons=["download"], interactive=False,
        )  # fmt: skip
    with gr.Row(elem_id="downloads"):
        for name, text in (("result", "PNG"), ("animation", "Animation")):
            parts[name] = by_path(gr.DownloadButton(text, elem_id=name, interactive=False))
        parts["files"] = gr.Button("All files", elem_id="files", interactive=False)
        parts["reuse"] = gr.Button("Edit the result", elem_id="reuse", interactive=False)


def mounted(name: str, function: str, template: str) -> gr.HTML:
    """Create a component that one function of ``page.js`` fills in the browser."""
    return gr.HTML(
        elem_id=name,
        html_template=payload.asset(template),
        js_on_load=f"asyncdsb.{function}(element, props, watch)",
    )


def by_path(part: Any) -> Any:
    """Let a part hand over the path of its file alone; return it.

    Its own way opens a temporary file beside it, which is never deleted.
    """
    part.preprocess = lambda file: None if file is None else file.path
    return part


def wire(
    demo: gr.Blocks,
    parts: dict[str, Any],
    model: Model,
    engine: Engine,
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
    examples = handlers.find_examples(EXAMPLES)

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
    told = f"photo sampler {' '.join(LEFT_TO_WEIGHTS)}"
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
    given = [parts[name] for name in session.SETTINGS if name not in LEFT_TO_WEIGHTS]
    # Not the page's control, which has a value before the weights say theirs.
    own = [gr.Textbox(None, visible=False, label=name) for name in ("finish", "weights")]
    inpaint = functools.partial(handlers.inpaint, engine)
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

    on(demo.load, on_load, "", f"model status sampler {' '.join(LEFT_TO_WEIGHTS)}")

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


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say it and end."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Start the server; see the module's first lines for the options."""
    from asyncdsb.pipeline import PRECISIONS

    parser = Parser(description="Restore holes in photographs, in the browser.")
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", default=None, help="port (default GRADIO_SERVER_PORT, or 7860 and up)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--mcp", action="store_true", help="also serve /inpaint as a tool (needs gradio[mcp])"
    )
    parser.add_argument("--share", action="store_true", help="open a public link through gradio")
    parser.add_argument("--weights", default=None, metavar="DIR", help="folder or Hub repository")
    parser.add_argument("--device", default=None, help="cpu, cuda, ... (default: the best one)")
    parser.add_argument(
        "--precision", default="auto", choices=PRECISIONS,
        help="type in which the networks multiply (default: the faster one)",
    )  # fmt: skip
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network: slow to start with every size of window, then faster",
    )
    options = parser.parse_args(arguments)
    keep_freed(arenas=2)

    # A hosted page takes its weights from a variable of its settings.
    source = options.weights or os.environ.get("ASYNCDSB_WEIGHTS")
    names = (source,) if source else tuple(WEIGHTS)

    def load(name: str) -> Any:
        from asyncdsb.pipeline import AsyncDSBPipeline

        return AsyncDSBPipeline.from_pretrained(
            name,
            device=options.device,
            precision=options.precision,
            compiled=options.compile,
        )

    if options.mcp and not importlib.util.find_spec("mcp"):
        parser.error("--mcp needs the package mcp: pip install 'gradio[mcp]'")
    elsewhere = options.share or any(n not in WEIGHTS and not Path(n).is_dir() for n in names)
    if UNUSABLE_PROXIES and elsewhere:
        parser.error(
            f"the proxy {UNUSABLE_PROXIES[0]} cannot be used: expected http:// or https://, or "
            "socks5:// with the package socksio (pip install 'httpx[socks]')"
        )
    try:
        port = options.port and surroundings.port_number(options.port, "--port: ")
        if port:
            surroundings.check_listening(options.host or "127.0.0.1", port)
        if options.host:
            surroundings.bypass_proxies(os.environ, (options.host,))
        # None but their owner may look at photographs that are handed in.
        os.makedirs(os.environ["GRADIO_TEMP_DIR"], mode=0o700, exist_ok=True)
        launch(
            build(load, names),
            server_name=options.host,
            server_port=port,
            share=options.share,
            inbrowser=options.open,
            mcp_server=options.mcp,
        )
    except (ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


def launch(demo: gr.Blocks, **options: Any) -> None:
    """Serve the page with its looks and limits; returns when the server ends."""
    demo.launch(
        theme=theme(),
        head=payload.head(),
        max_file_size=MAX_FILE_SIZE,
        run_history=False,
        # Else what the page library itself refuses comes back without a word.
        show_error=True,
        footer_links=["api"],
        **options,
    )


def theme() -> gr.themes.Base:
    """Return the theme: system fonts only, so that nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
    )


if __name__ == "__main__":
    main()
