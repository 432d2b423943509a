"""A listener that remembers the messages of a run, and can stop it."""

from typing import Any

from danqing.training.listener import Listener


class Heard(Listener):
    """stop_at: the run stops after so many images."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.stop_at, self.messages = stop_at, list[str]()

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_progress(self, progress: Any) -> None:
        if progress.images >= self.stop_at:
            raise RuntimeError("stopped")
