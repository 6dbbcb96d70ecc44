"""The parts of the page and where they stand.

This and :mod:`asyncdsb.page.wiring` alone know the user interface library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from asyncdsb.page import canvas, handlers, payload, session, updates
from asyncdsb.photo.settings import Settings
from asyncdsb.samplers import GRIDS, SAMPLERS
from asyncdsb.schedule import STRATEGIES
from asyncdsb.show import viz

ABOUT_PHOTO = "colosseum.jpg"
RANGES = {"Regular hole": (0.2, 0.5), "Irregular hole": (0.001, 0.4), "I²SB": (0.5, 0.5)}
PRESET_MASKS = ("center", "half", "wide", "narrow")
DEFAULTS = Settings()
WEIGHTS = {"scenes": "Any photo", "portraits": "Portrait: a head, upright"}
"""What the bundled weights are for, as the page says it."""

FACES = "A restored face is an invention, not the person: do not use it to identify anybody."

FINISH_NAMES = {"Bridge only": "none", "With known patches": "patches"}


def layout(names: Sequence[str], examples: Path) -> dict[str, Any]:
    """Create the parts of the page; their names are those in the handlers' answers.

    Args:
        names: of the weights that a visitor can choose from.
        examples: folder of the photographs that come with the page.
    """
    parts: dict[str, Any] = {name: gr.State(None) for name in ("photo", "seen", "run")}
    parts["drawn"] = gr.State(0)
    with gr.Row(elem_id="header"):
        gr.HTML(payload.asset("header.html"), elem_id="title")
        parts["model"] = gr.HTML(elem_id="model")
    with gr.Row(elem_id="workspace"):
        with gr.Column(elem_classes="pane", elem_id="pane-canvas", min_width=320):
            canvas_pane(parts, examples)
        with gr.Column(elem_classes="pane", elem_id="pane-order", min_width=280):
            order_pane(parts)
        with gr.Column(elem_classes="pane", elem_id="pane-restore", min_width=320):
            restore_pane(parts, names)
    with gr.Accordion("How it works", open=False, elem_id="about"):
        gr.HTML(
            payload.about(examples / ABOUT_PHOTO), elem_id="story",
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


def canvas_pane(parts: dict[str, Any], folder: Path) -> None:
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
    examples = handlers.find_examples(folder)
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
        [*STRATEGIES, session.PAINTED], value=str(DEFAULTS.strategy), show_label=False,
        container=False, elem_id="strategy", elem_classes="segments",
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
