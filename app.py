"""The page: paint a hole into a photograph and watch it being restored.

    python app.py [--host HOST] [--port PORT] [--share] [--weights DIR] [--device DEVICE]
                  [--precision PRECISION] [--compile] [--open]

The page itself is in ``asyncdsb.page``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before the import: gradio asks its server for news otherwise.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from asyncdsb.networks.malloc import keep_freed
from asyncdsb.page import payload, wiring
from asyncdsb.page.layout import WEIGHTS, theme

MAX_FILE_SIZE = "32mb"
EXAMPLES = Path(__file__).parent / "assets" / "examples"


def build(load: Callable[[str], Any], names: Sequence[str] = ("scenes",)) -> gr.Blocks:
    """Lay out the page, with the examples beside this file, and start loading the models.

    Args:
        load: makes the pipeline of named weights; called once for each, in the background.
        names: of the weights that a visitor can choose from.
    """
    return wiring.build(load, names, EXAMPLES)


def main(arguments: list[str] | None = None) -> None:
    """Start the server; see the module's first lines for the options."""
    from asyncdsb.networks.placing import PRECISIONS

    parser = argparse.ArgumentParser(description="Restore holes in photographs, in the browser.")
    parser.add_argument("--host", default=None, help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=None, help="port (default GRADIO_SERVER_PORT, or 7860 and up)"
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
    launch(
        build(load, names),
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        inbrowser=options.open,
        mcp_server=options.mcp,
    )


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


if __name__ == "__main__":
    main()
