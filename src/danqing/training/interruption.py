"""Ctrl-C and a polite kill, which end a run after its current step."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Whether the user has asked the run to stop."""

    def __init__(self) -> None:
        self.wanted = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Turn the first signal into `wanted`; a second one ends the process at once, as it would have."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def stop(number: int, frame: FrameType | None) -> None:
            self.wanted = True
            signal.signal(number, before[signal.Signals(number)])

        for number in numbers:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
