"""The parts of the page and where they stand.

This and :mod:`asyncdsb.page.wiring` alone know the user interface library.
"""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from asyncdsb.names import GRIDS, SAMPLERS, SOLVER_ORDERS, STRATEGIES
from asyncdsb.page import canvas, handlers, payload, session
from asyncdsb.page.payload import Update
from asyncdsb.photo.decoding import readable_suffixes
from asyncdsb.photo.settings import Settings
from asyncdsb.show.film import h264_encoder

ABOUT_PHOTO = "colosseum.jpg"
RANGES = {
    "Paper": (0.2, 0.5),
    "Strokes": (0.001, 0.4),
    "Full": (0.0, 1.0),
    "I²SB": (0.5, 0.5),
}
PRESET_MASKS = ("center", "half", "wide", "narrow")
DEFAULTS = Settings()
WEIGHTS = {"scenes": "Any photo", "portraits": "Portrait: a head, upright"}  # Bundled.
NO_MP4 = "<span>For films as MP4 too, the machine of this page needs imageio-ffmpeg (pip).</span>"
# By suffix as well: for some kinds the browser knows no type.
PICTURES = ["image", *sorted(readable_suffixes())]
FINISH_NAMES = {"Bridge only": "none", "With known patches": "patches"}


def layout(names: Sequence[str], opening: Update) -> dict[str, Any]:
    """Create the parts of the page; their names are those in the handlers' answers.

    Args:
        names: of the weights that a visitor can choose from.
        opening: what the parts show at first, see :mod:`asyncdsb.page.opening`.
    """
    parts: dict[str, Any] = {name: gr.State(opening.get(name)) for name in ("photo", "seen")}
    parts["drawn"] = gr.State(0)
    parts["results"] = gr.State([], time_to_live=86400, delete_callback=session.forget)
    parts["chosen"] = gr.State(-1)
    with gr.Row(elem_id="header"):
        gr.HTML(
            payload.asset("header.html"), elem_id="title",
            js_on_load="asyncdsb.mountHeader(element)",
        )  # fmt: skip
        parts["model"] = gr.HTML(elem_id="model")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Inpaint", id="inpaint"), gr.Row(elem_id="workspace"):
            # On a narrow screen the cards follow one another in an order of their own.
            with gr.Column(elem_classes="pane", elem_id="pane-canvas", min_width=320):
                with gr.Column(elem_classes="card", elem_id="card-canvas", min_width=0):
                    canvas_pane(parts, opening)
                with gr.Column(elem_classes="card", elem_id="card-results", min_width=0):
                    results_pane(parts)
                with gr.Column(elem_classes="card", elem_id="card-settings", min_width=0):
                    settings_pane(parts, names, opening)
            with gr.Column(elem_classes="pane", elem_id="pane-stage", min_width=320):
                with gr.Column(elem_classes="card", elem_id="card-stage", min_width=0):
                    heading(2, "Watch how it comes back")
                    parts["frame"] = mounted("frame", "mountStage", "stage.html", opening)
                with gr.Column(elem_classes="card", elem_id="card-maps", min_width=0):
                    maps_pane(parts, opening)
        with gr.Tab("How it works", id="story"):
            gr.HTML(
                payload.about(handlers.EXAMPLES / ABOUT_PHOTO), elem_id="story",
                js_on_load="asyncdsb.mountAbout(element)",
            )  # fmt: skip
    parts["preview"] = gr.Button("Predict", elem_id="preview", visible="hidden")
    # What is painted is read in the browser when an event comes.
    for name in ("hole", "painted"):
        parts[name] = gr.Textbox(visible=False)
    parts["archive"] = by_path(gr.DownloadButton("Archive", elem_id="archive", visible="hidden"))
    return parts


def heading(number: int, text: str) -> gr.HTML:
    """Create the heading of a pane."""
    return gr.HTML(f"<h2><span>{number}</span>{text}</h2>", elem_classes="heading")


def canvas_pane(parts: dict[str, Any], opening: Update) -> None:
    """Create the canvas, what fills it, what starts a run, and what it says."""
    with gr.Row(elem_classes="bar"):
        heading(1, "Paint the hole")
        with gr.Row(elem_id="open-photo"):
            parts["close_photo"] = gr.Button("Close photo", size="sm", elem_id="close-photo")
            parts["open_photo"] = by_path(
                gr.UploadButton("Open photo", size="sm", file_types=PICTURES)
            )
    parts["editor"] = mounted("editor", "canvas.mount", "canvas.html", opening)
    with gr.Row(elem_classes="chips", elem_id="holes"):
        for kind in PRESET_MASKS:
            parts[kind] = gr.Button(kind.capitalize(), size="sm", min_width=0)
        parts["open_mask"] = by_path(gr.UploadButton("Mask file", size="sm", file_types=PICTURES))
        for edit in canvas.EDITS:
            parts[edit] = gr.Button(edit.capitalize(), size="sm", min_width=0, elem_id=edit)
    with gr.Column(elem_id="run-bar"):
        with gr.Row(elem_id="actions"):
            parts["restore"] = gr.Button("Restore", variant="primary", elem_id="restore")
            parts["stop"] = gr.Button("Stop", variant="stop", elem_id="stop", interactive=False)
        with gr.Row(elem_id="said"):
            parts["status"] = gr.HTML(
                payload.message(opening.get("status", handlers.WELCOME)), elem_id="status"
            )
            gr.HTML('<p class="estimate"></p>', elem_id="estimate")


def results_pane(parts: dict[str, Any]) -> None:
    """Create what shows the results of runs and offers their files."""
    parts["compare"] = mounted("compare", "mountCompare", "compare.html", {})
    with gr.Row(elem_id="downloads"):
        parts["finish"] = segments("finish", list(FINISH_NAMES.items()), "none")
        parts["result"] = by_path(gr.DownloadButton("PNG", elem_id="result", interactive=False))
        mp4 = h264_encoder() is not None
        parts["animation"] = gr.Button("Film: WebP", elem_id="animation", interactive=False)
        parts["movie"] = gr.Button("Film: MP4", elem_id="movie", interactive=False, visible=mp4)
        parts["files"] = gr.Button("All files", elem_id="files", interactive=False)
        parts["reuse"] = gr.Button("Edit the result", elem_id="reuse", interactive=False)
        gr.HTML(NO_MP4, elem_id="about-mp4", elem_classes="chip-label", visible=not mp4)
    parts["strip"] = gr.HTML(
        elem_id="strip", js_on_load="asyncdsb.mountStrip(element, props, watch, trigger)"
    )


def settings_pane(parts: dict[str, Any], names: Sequence[str], opening: Update) -> None:
    """Create the controls of the next run, but for those of its order, and the examples."""
    value = opening.get("weights", names[0])
    choices = [(WEIGHTS.get(name, name), name) for name in names]
    parts["weights"] = segments("weights", choices, value, visible=len(names) > 1)
    gr.HTML(payload.asset("weights.html"), elem_id="about-weights")
    with gr.Row(elem_id="settings"):
        parts["steps"] = gr.Slider(
            1, session.MAX_STEPS, DEFAULTS.steps, step=1, label="Steps", elem_id="steps"
        )
        parts["seed"] = gr.Number(
            opening.get("seed", DEFAULTS.seed), precision=0, minimum=0, maximum=session.MAX_SEED,
            label="Seed", elem_id="seed",
        )  # fmt: skip
        parts["dice"] = gr.Button("New seed", elem_id="dice", size="sm", min_width=0)
    parts["beside"] = gr.Checkbox(
        False, label="Run I²SB beside it (τ = 0.5 everywhere, the same seed)",
        elem_id="beside", container=False,
    )  # fmt: skip
    with gr.Column(elem_id="more", min_width=0):
        # Not the library's accordion: that gives its parts their first values again, one frame
        # after it was unfolded, and what was set meanwhile is lost.
        gr.HTML(
            payload.asset("more.html"), elem_id="more-title",
            js_on_load="asyncdsb.mountMore(element)",
        )  # fmt: skip
        with gr.Row(elem_id="more-settings"):
            for name, text, most, value in (
                ("seeds", "Seeds at once", session.MAX_SEEDS, 1),
                ("tiles", "Most tiles", session.MAX_TILES, DEFAULTS.tiles),
            ):
                parts[name] = gr.Slider(1, most, value, step=1, label=text, elem_id=name)
            for name, text, known in (
                ("sampler", "Sampler", SAMPLERS),
                ("grid", "Time grid", GRIDS),
                ("solver_order", "Order of the steps", SOLVER_ORDERS),
            ):
                value = getattr(DEFAULTS, name) or known[-1]
                parts[name] = gr.Dropdown(list(known), value=value, label=text, elem_id=name)
            for name, text, most, value in (
                ("eta", "η of implicit", 1, DEFAULTS.eta),
                ("guidance", "Guidance", session.MAX_GUIDANCE, opening.get("guidance", 0)),
            ):
                parts[name] = gr.Slider(0, most, value, step=0.01, label=text, elem_id=name)
    gr.HTML("<span>Examples, five of them with a hole</span>", elem_classes="chip-label")
    examples = [(one.path.stem, *one.read()[1:]) for one in handlers.find_examples()]
    parts["examples"] = gr.HTML(
        payload.example_buttons(examples),
        elem_id="examples",
        js_on_load="asyncdsb.mountExamples(element, trigger)",
    )


def maps_pane(parts: dict[str, Any], opening: Update) -> None:
    """Create the maps with the range of tau, and the chart."""
    with gr.Row(elem_id="maps"):
        with gr.Column(min_width=0):
            gr.HTML("<h3>Predicted gradient</h3>", elem_classes="subheading")
            parts["gradient"] = mounted("gradient", "mountGradient", "gradient.html", opening)
        with gr.Column(min_width=0):
            gr.HTML("<h3>Peak time τ <span>of every pixel</span></h3>", elem_classes="subheading")
            parts["tau"] = mounted("tau", "mountTau", "tau.html", opening)
        with gr.Column(min_width=0, elem_id="order"):
            gr.HTML("<h3>Order of restoration</h3>", elem_classes="subheading")
            choices = [*STRATEGIES, session.PAINTED]
            parts["strategy"] = segments("strategy", choices, DEFAULTS.strategy)
            for name, text in (("tau_min", "τ min"), ("tau_max", "τ max")):
                parts[name] = gr.Slider(
                    0, 1, opening.get(name, getattr(DEFAULTS, name)), step=0.001, label=text,
                    elem_id=name.replace("_", "-"),
                )  # fmt: skip
            with gr.Row(elem_classes="chips"):
                for name in RANGES:
                    parts[name] = gr.Button(name, size="sm", min_width=0)
            gr.HTML(payload.asset("order.html"), elem_id="about-order")
    parts["timing"] = mounted("timing", "mountTiming", "timing.html", opening)


def segments(name: str, choices: list, value: Any, visible: bool = True) -> gr.Radio:
    """Create a row of buttons, one of which is pressed."""
    return gr.Radio(
        choices, value=value, show_label=False, container=False, visible=visible, elem_id=name,
        elem_classes="segments",
    )  # fmt: skip


def mounted(name: str, function: str, template: str, opening: Update) -> gr.HTML:
    """Create a component that one function of the page's script fills in the browser."""
    return gr.HTML(
        opening.get(name),
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
