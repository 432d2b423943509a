"""The log: one JSON object per line on stderr, or plain lines in a terminal.

Clients' text occurs only in values, with its line breaks escaped.
"""

import atexit
import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

Form = Literal["auto", "json", "text"]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that is being answered, for each line that is logged meanwhile."""

_access = logging.getLogger("danqing.access")
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
MOST_WAITING = 20_000
"""Lines that wait to be written; further ones are dropped and counted."""
_SECONDS_BETWEEN_WRITES = 0.1


@contextlib.contextmanager
def configured(form: Form = "auto", level: str = "info", stream: TextIO | None = None) -> Iterator[None]:
    """Send the log of this process to a stream within a block.

    form: "auto" writes plain lines to a terminal, and JSON otherwise.
    level: one of `logging`'s names.
    stream: by default stderr.
    """
    stream = stream or sys.stderr
    plain = form == "text" or (form == "auto" and stream.isatty())
    handler = _Writer(stream)
    handler.setFormatter(_Plain() if plain else _json())
    handler.addFilter(_add_request_id)
    root = logging.getLogger()
    kept, kept_level = root.handlers[:], root.level
    root.handlers, root.level = [handler], getattr(logging, level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # they install their own handlers
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("uvicorn.access").disabled = True  # our log has more facts
    for name in ("uvicorn.error", "alembic"):
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    atexit.register(handler.close)
    try:
        yield
    finally:
        atexit.unregister(handler.close)
        root.handlers, root.level = kept, kept_level
        handler.close()


def access(**facts: Any) -> None:
    """Log an answered request with its facts.

    For example method, path, status, seconds, key and model.
    """
    _access.info("request", extra={"facts": facts})


def event(logger: logging.Logger, message: str, /, level: int = logging.INFO, **facts: Any) -> None:
    """Log a message with facts in fields of their own."""
    logger.log(level, message, extra={"facts": facts})


def _add_request_id(record: logging.LogRecord) -> bool:
    if current := request_id.get():
        record.request_id = current
    return True


def _json() -> logging.Formatter:
    return _Json(
        ["levelname", "name", "message", "exc_info"],
        style=",",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "error"},
        timestamp="time",
        json_ensure_ascii=False,
    )


class _Json(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        facts = log_data.pop("facts", None) or {}
        return {name: value for name, value in {**log_data, **facts}.items() if value is not None}


class _Plain(logging.Formatter):
    """`12:30:05 request method=GET path=/v1/models status=200`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        line = super().formatMessage(record)
        if record.levelno >= logging.WARNING:
            line = f"{line[:8]} {record.levelname}{line[8:]}"
        facts = getattr(record, "facts", None) or {}
        line = " ".join([line, *(f"{name}={value}" for name, value in facts.items() if value is not None)])
        return line.replace("\n", _UNPRINTABLE)

    def format(self, record: logging.LogRecord) -> str:
        """Format a line, and the traceback below it.

        Control characters of clients are replaced.
        """
        return "".join(c if c.isprintable() or c == "\n" else _UNPRINTABLE for c in super().format(record))


class _Writer(logging.Handler):
    """Writes in a thread, so that logging never waits for a slow terminal, pipe or disk."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # a line that cannot be written must not become the client's error
            self.handleError(record)
            return
        if len(self._lines) >= MOST_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        self._wake.set()

    def close(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=2)
        super().close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            self._write()
            self._stopping.wait(_SECONDS_BETWEEN_WRITES)  # many lines are one write
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if self._dropped:
            lines.append(f'{{"level": "WARNING", "message": "log lines dropped", "lines": {self._dropped}}}')
            self._dropped = 0
        if not lines:
            return
        with contextlib.suppress(OSError, ValueError):  # a reader that is gone must not stop the service
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()
