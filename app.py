"""Start the page: paint a hole into a photograph and watch it being restored.

``python app.py --help`` lists the options. The page itself is in ``asyncdsb.page``.
"""

import argparse
import os
import sys
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

from asyncdsb.cli.ending import end_on_sigterm
from asyncdsb.networks.device import PRECISIONS, keep_freed
from asyncdsb.page import payload
from asyncdsb.page.layout import WEIGHTS, theme
from asyncdsb.page.wiring import build


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say it and end."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Start the server."""
    parser = Parser(description="Restore holes in photographs, in the browser.")
    add = parser.add_argument
    add("--host", help="address to listen on (default 127.0.0.1)")
    add("--port", help="port (default GRADIO_SERVER_PORT, or 7860 and up)")
    add("--open", action="store_true", help="open the page in the browser")
    add("--mcp", action="store_true", help="also serve /inpaint as a tool (needs gradio[mcp])")
    add("--share", action="store_true", help="open a public link through gradio")
    add("--weights", metavar="DIR", help="folder or Hub repository")
    add("--device", help="cpu, cuda, ... (default: the best one)")
    multiply = "type in which the networks multiply (default: the faster one)"
    add("--precision", default="auto", choices=PRECISIONS, help=multiply)
    compiling = "compile the network: slow to start with every size of window, then faster"
    add("--compile", action="store_true", help=compiling)
    options = parser.parse_args(arguments)
    keep_freed(arenas=2)

    # A hosted page takes its weights from a variable of its settings.
    source = options.weights or os.environ.get("ASYNCDSB_WEIGHTS")
    names = (source,) if source else tuple(WEIGHTS)

    def load(name: str, device: str | None = options.device) -> Any:
        from asyncdsb.pipeline import AsyncDSBPipeline

        return AsyncDSBPipeline.from_pretrained(
            name, device, precision=options.precision, compiled=options.compile
        )

    if options.mcp and (lacking := surroundings.unmet("gradio", "mcp")):
        parser.error(f"--mcp needs {' and '.join(lacking)}: pip install 'gradio[mcp]'")
    elsewhere = options.share or any(n not in WEIGHTS and not Path(n).is_dir() for n in names)
    if UNUSABLE_PROXIES and elsewhere:
        parser.error(
            f"the proxy {UNUSABLE_PROXIES[0]} cannot be used: expected http:// or https://, or "
            "socks5:// with the package socksio (pip install 'httpx[socks]')"
        )
    end_on_sigterm()
    try:
        port = options.port and surroundings.port_number(options.port, "--port: ")
        if port or options.host:
            surroundings.check_listening(options.host or "127.0.0.1", port or 0)
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
        max_file_size="32mb",
        run_history=False,
        # Else what the page library itself refuses comes back without a word.
        show_error=True,
        # The library keeps what each page shows, about 2 MB after a run, as long as there is room.
        state_session_capacity=300,
        footer_links=["api"],
        **options,
    )


if __name__ == "__main__":
    main()
