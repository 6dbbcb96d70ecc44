"""How a program of this package ends when it is told to."""

import contextlib
import signal
import sys
from typing import NoReturn


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, with exit code 143, so that temporary files are removed.

    Further SIGTERMs are ignored: a process group often gets two, which would cut that short.
    """

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    with contextlib.suppress(ValueError):  # Only the main thread may do this.
        signal.signal(signal.SIGTERM, end)
