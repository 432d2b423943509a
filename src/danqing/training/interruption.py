"""Ctrl-C and SIGTERM, which end a run after its current step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Whether the user has requested a stop."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Set `requested` at the first signal; a second ends the process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def stop(number: int, frame: FrameType | None) -> None:
            self.requested = True
            signal.signal(number, before[signal.Signals(number)])

        for number in numbers:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
