"""AsyncDSB: image inpainting by a Schroedinger bridge with a noise schedule for every pixel."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["AsyncDSBPipeline", "__version__"]


def __getattr__(name: str) -> object:
    # The pipeline pulls in torch; `asyncdsb.__version__` and the command line's help need not.
    if name == "AsyncDSBPipeline":
        from asyncdsb.pipeline import AsyncDSBPipeline

        return AsyncDSBPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
