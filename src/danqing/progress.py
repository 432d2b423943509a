"""Progress and messages on stderr: how much is printed, sentences, and a bar."""

import enum
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from danqing.locale import translate, translate_exactly
from danqing.quantities import duration

if TYPE_CHECKING:  # imported where it is used: it would delay every command
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

_SECONDS_BETWEEN_LINES = 10.0

ProgressCallback = Callable[[int, int, str], None]
"""Called with how many parts of a task are done, how many there are, and what is being done in words."""
FractionalProgressCallback = Callable[[float, float | None, str], None]
"""The same where parts can be partly done; the total is None while it is not known."""


class Verbosity(enum.Enum):
    """How much is printed besides errors and results."""

    QUIET = enum.auto()
    """Nothing."""
    NORMAL = enum.auto()
    VERBOSE = enum.auto()
    """More: versions, and the traceback of an error."""


_verbosity = Verbosity.NORMAL


def set_verbosity(verbosity: Verbosity) -> None:
    """Choose how much this process prints from now on."""
    global _verbosity
    _verbosity = verbosity


def verbosity() -> Verbosity:
    """Return how much this process prints."""
    return _verbosity


def console() -> "Console":
    """Return a console for everything but the result."""
    from rich.console import Console

    # A new one each time, since tests replace stderr.
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str, *, style: str = "") -> None:
    """Print one line on stderr in the chosen language, unless quiet.

    message: plain text in English; brackets in it are not markup.
    """
    if _verbosity is Verbosity.QUIET:
        return
    console().print(_text(translate(message), style))


def _text(text: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(text, style=style)


class Bar:
    """A progress bar with the time left.

    If stderr is not a terminal, it prints a line every ten seconds instead. Use it as a context manager. It
    appears at the first update; several stages may follow one another.
    """

    def __init__(self) -> None:
        self._console = console()
        self._live: Progress | None = None
        self._stage = ""
        self._started = 0.0
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is; an update starts a new one."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._stage = ""

    def update(
        self,
        done: float,
        total: float | None,
        stage: str,
        *,
        seconds_left: float | None = None,
        detail: str = "",
    ) -> None:
        """Show that `done` of `total` parts are done.

        total: None if not known.
        seconds_left: estimated if not given.
        """
        if _verbosity is Verbosity.QUIET:
            return
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._started, self._last_line = stage, now, now
        if seconds_left is None and total and done > 0:
            seconds_left = (now - self._started) / done * max(total - done, 0)
        complete = total is not None and done >= total
        left = "" if seconds_left is None or complete else translate(f"{duration(seconds_left)} left")
        detail = translate(detail)
        if self._console.is_terminal:
            self._draw(done, total, translate(stage), left, detail)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = f"{done / total:.0%}" if total else f"{done:,.0f}"
            parts = (translate(f"{stage}: {share}"), detail, left)
            console().print(_text(translate_exactly(", ").join(part for part in parts if part)))

    def _draw(self, done: float, total: float | None, stage: str, left: str, detail: str) -> None:
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        if self._live is None:
            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}", style="cyan"),
                TextColumn("{task.fields[left]}", style="green"),
                console=self._console,
                expand=True,
                transient=total is None,
            )
            self._live.add_task(escape(stage), total=total, detail="", left="")
            self._live.start()
        task = self._live.task_ids[0]
        self._live.update(task, completed=done, total=total, detail=escape(detail), left=left)

    def say(self, message: str, *, style: str = "") -> None:
        """Print a line above the bar, unless quiet."""
        if _verbosity is Verbosity.QUIET:
            return
        (self._live.console if self._live else self._console).print(_text(translate(message), style))
