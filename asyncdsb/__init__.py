"""AsyncDSB: image inpainting by a Schroedinger bridge with a noise schedule for every pixel.

>>> from asyncdsb import AsyncDSBPipeline
>>> pipe = AsyncDSBPipeline.from_pretrained()
>>> pipe.samplers
('posterior', 'ode')

Start at :class:`asyncdsb.pipeline.AsyncDSBPipeline`. The parts are usable on their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncdsb.pipeline import AsyncDSBPipeline

__version__ = "0.1.0"
__all__ = ["AsyncDSBPipeline", "__version__"]


def __getattr__(name: str) -> type[AsyncDSBPipeline]:
    # The pipeline pulls in torch; `asyncdsb.__version__` and the command line's help need not.
    if name == "AsyncDSBPipeline":
        from asyncdsb.pipeline import AsyncDSBPipeline

        return AsyncDSBPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
