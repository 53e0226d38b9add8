"""Ctrl-C and SIGTERM: the first cancels the run properly, the second leaves at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowmason_ray.cli.errors import CANCELLED

if TYPE_CHECKING:
    from types import FrameType

    from flowmason_ray.api import PreparedRun

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def cancel_on_signals(
    prepared: PreparedRun, *, say: Callable[[str], None], before_exit: Callable[[], None] | None = None
) -> Generator[None]:
    """Cancel the run on a signal.

    A plain handler, not one of the event loop: it also answers while the loop is busy or not there yet.

    Args:
        prepared: The run.
        say: Shows a line.
        before_exit: Puts the terminal right before the process leaves at once.
    """
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            if before_exit is not None:
                before_exit()
            os._exit(CANCELLED)
        asked = True
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        say(f"{name}: cancelling the run; once more to leave at once.")
        prepared.cancel(f"The run was cancelled ({name}).")

    before = {number: signal.signal(number, on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
