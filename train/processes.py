"""Several processes that share one evaluation, started with ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Processes:
    """This process among all.

    Attributes:
        index: which it is, from 0.
        count: how many there are.
        device: where it computes.
        wait: returns once every process has come here.
    """

    index: int
    count: int
    device: str
    wait: Callable[[], None]

    @classmethod
    def started(cls, device: str) -> Processes:
        """Find out how the program was started.

        Args:
            device: of the command line; "cuda" becomes each process's own GPU.

        Raises:
            ValueError: several processes without accelerate.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(0, 1, device, lambda: None)
        try:
            from accelerate import PartialState
        except ImportError:
            raise ValueError(
                "expected accelerate for several processes; run `pip install accelerate`"
            ) from None
        # The first one done waits for the last, which may have many batches left.
        state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
        chosen = str(state.device) if device == "cuda" else device
        return cls(state.process_index, state.num_processes, chosen, state.wait_for_everyone)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.index == 0
