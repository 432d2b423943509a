"""What the command line says: progress and sentences on stderr, the result alone on stdout."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from danqing.quantities import duration

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout; progress stays on stderr.")
]

_SECONDS_BETWEEN_LINES = 10.0


def console() -> Console:
    """The console for everything that is not the result; made anew, since tests replace stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str, *, style: str = "") -> None:
    """One line on stderr; `message` is plain text, whatever brackets a file name holds."""
    console().print(Text(message, style=style))


def result(payload: Mapping[str, Any], text: str = "", *, as_json: bool) -> None:
    """The verb's result on stdout: `payload` as one JSON object, or `text` for people."""
    if as_json:
        sys.stdout.write(json.dumps(plain(payload), ensure_ascii=False, allow_nan=False) + "\n")
    elif text:
        sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def error(message: str, *, as_json: bool) -> None:
    """One red sentence on stderr, and `{"error": ...}` on stdout where JSON was asked for."""
    console().print(Text.assemble(("Error: ", "bold red"), (message, "red")))
    if as_json:
        result({"error": message}, as_json=True)


def plain(value: Any) -> Any:
    """`value` with only what JSON knows: paths become text, and numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns, as text for stdout; rows without a value are left out."""
    shown = {name: str(value) for name, value in rows.items() if value is not None and value != ""}
    width = max(map(len, shown), default=0)
    bold, normal = ("\033[1m", "\033[0m") if Console().is_terminal else ("", "")
    return "".join(f"{bold}{name:<{width}}{normal}  {value}\n" for name, value in shown.items())


class Bar:
    """A progress bar with the time left; where stderr is no terminal, a line every ten seconds instead.

    Used as a context manager; it appears with the first update, and several stages may follow one another.
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
        """Leave the bar as it stands; the next update starts a new one."""
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
        """Show that `done` of `total` are done; the time left is estimated where it is not given."""
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._started, self._last_line = stage, now, now
        if seconds_left is None and total and done > 0:
            seconds_left = (now - self._started) / done * max(total - done, 0)
        complete = total is not None and done >= total
        left = "" if seconds_left is None or complete else f"{duration(seconds_left)} left"
        if self._console.is_terminal:
            self._draw(done, total, stage, left, detail)
        elif now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            share = f"{done / total:.0%}" if total else f"{done:,.0f}"
            say(", ".join(part for part in (f"{stage}: {share}", detail, left) if part))

    def _draw(self, done: float, total: float | None, stage: str, left: str, detail: str) -> None:
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
        """A line above the bar."""
        (self._live.console if self._live else self._console).print(Text(message, style=style))
