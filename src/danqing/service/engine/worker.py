"""The process that paints and recognizes: `python -m danqing.service.engine.worker`.

The supervisor starts it. It receives batches as frames (`danqing.frames`) and answers chunk by chunk. It does
one thing at a time, and checks for cancelled orders between the steps of a painting. Nothing is lost when it
dies: the scheduler has everything that it holds.
"""

import collections
import contextlib
import ctypes
import dataclasses
import math
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from danqing.errors import ConfigError, DataError, SearchError
from danqing.frames import Header
from danqing.images import Images
from danqing.machine import resident_memory
from danqing.requested_attributes import OutsideTrainingWarning
from danqing.service.engine.connections import FrameSocket
from danqing.service.engine.libraries import Libraries
from danqing.service.engine.model_cache import ModelCache
from danqing.service.engine.orders import Finding, ModelUnavailableError, Painting
from danqing.service.engine.received_batch import Batch, Row
from danqing.service.engine.served import Served, Watch

STEP_SECONDS = 0.05
"""The shortest time between two progress messages of a chunk."""
ALIVE_SECONDS = 0.1
"""The shortest time between two signs of life while a whole picture is edited."""
IDLE_SECONDS = 1.0
"""Seconds without work after which free memory is returned to the system."""


class _Stopped(Exception):  # noqa: N818 - not an error
    """All orders of a chunk were cancelled while it was painted."""


class Worker:
    """Paints the batches that it receives, until its connection is closed."""

    def __init__(self, connection: FrameSocket, setup: Header) -> None:
        self._connection = connection
        self._libraries = Libraries(setup)
        self._cache = ModelCache(setup["models"], self._libraries.of, budget=setup["memory"])
        self._added: collections.deque[Header] = collections.deque()  # models, until a batch is done
        self._batches: collections.deque[Batch] = collections.deque()  # the first one is being painted
        self._cancelled: set[int] = set()
        for name in setup["describe"]:
            self._describe(name, setup["models"][name])
        connection.send({"kind": "ready", "memory": resident_memory()})

    def run(self) -> None:
        """Paint batch after batch; raises EOFError when the scheduler is gone."""
        while True:
            if not self._batches and not self._connection.has_frame(IDLE_SECONDS):
                _release_memory()
            self._read_frames(wait=not self._batches)
            while self._added:
                self._add(self._added.popleft())
            if self._batches:
                self._paint(self._batches[0])
                self._batches.popleft()
                self._cancelled &= self._orders()

    def _describe(self, name: str, source: str) -> None:
        offer = self._libraries.of(source).describe(name, source)
        self._connection.send({"kind": "offer", **dataclasses.asdict(offer)})

    def _add(self, added: Header) -> None:
        """Hold another model from now on."""
        self._cache.add(added["model"], added["source"])
        if added["describe"]:
            self._describe(added["model"], added["source"])

    def _read_frames(self, *, wait: bool = False) -> None:
        """Read the frames that have arrived; wait: for one, if there is none."""
        while wait or self._connection.has_frame():
            wait = False
            header, block = self._connection.receive()
            if header["kind"] == "cancel":
                self._cancelled |= self._orders().intersection(header["orders"])
            elif header["kind"] == "add":
                self._added.append(header)
            else:
                self._batches.append(Batch.read(header, block))

    def _orders(self) -> set[int]:
        """Return the numbers of the orders that are painted or waiting here."""
        return {row.order for batch in self._batches for row in batch.rows}

    def _paint(self, batch: Batch) -> None:
        try:
            model = self._model(batch.model)
        except ModelUnavailableError as error:
            self._send("failed", batch, 0, len(batch.rows), error="model", message=str(error))
            return
        chunk = model.chunk_of(batch)
        for start in range(0, len(batch.rows), chunk):
            rows = batch.rows[start : start + chunk]
            where = batch, start, len(rows)
            began = time.perf_counter()
            try:
                self._check_cancelled(rows)
                self._reject_long_texts(model, rows)
                self._check_cancelled(rows)
                found = model.computed(batch, start, rows, self._watch(batch, start, rows))
            except _Stopped:
                self._send("stopped", *where)
            except (ConfigError, ModelUnavailableError) as error:
                option = error.option if isinstance(error, ConfigError) else None
                self._send("failed", *where, error="order", message=str(error), option=option)
            except SearchError as error:  # such as a label that no entry has
                self._send("failed", *where, error="order", message=str(error), option=None)
            except DataError as error:
                self._send("failed", *where, error="image", message=str(error))
            except Exception as error:
                # Whatever a model does wrong: orders of other models must not fail with it.
                message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
                self._send("failed", *where, error="painting", message=message, trace=trace)
            else:
                seconds = time.perf_counter() - began
                if isinstance(found, np.ndarray):
                    self._send("painted", *where, pixels=found, seconds=seconds)
                else:
                    self._send_findings(*where, found, seconds)

    def _model(self, name: str) -> Served:
        if self._cache.has(name):
            return self._cache.get(name)
        self._connection.send({"kind": "loading", "model": name})
        try:
            return self._cache.get(name)
        finally:
            self._connection.send({"kind": "loaded", "models": self._cache.loaded})

    def _reject_long_texts(self, model: Served, rows: Sequence[Row]) -> None:
        """Reject orders whose texts are too long; the others of the batch are painted."""
        for row in {row.order: row for row in rows if row.order not in self._cancelled}.values():
            try:
                for name in ("prompt", "negative_prompt"):
                    model.check_prompt(getattr(row, name) or "", name)
            except ConfigError as error:
                self._cancelled.add(row.order)
                rejected = {"order": row.order, "message": str(error), "option": error.option}
                self._connection.send({"kind": "refused", **rejected})

    def _check_cancelled(self, rows: Sequence[Row]) -> None:
        """Read frames; raises _Stopped if all orders of these rows are cancelled."""
        self._read_frames()
        if self._cancelled and all(row.order in self._cancelled for row in rows):
            raise _Stopped

    def _watch(self, batch: Batch, start: int, rows: Sequence[Row]) -> Watch:
        """Return what is done while some rows are computed.

        Work without steps shows that it goes on, and all work is stopped if it is cancelled.
        """
        last = time.monotonic()

        def look() -> None:
            nonlocal last
            if (now := time.monotonic()) - last >= ALIVE_SECONDS:
                last = now
                self._check_cancelled(rows)
                self._connection.send({"kind": "alive"})

        return Watch(look, self._step_callback(batch, start, rows))

    def _step_callback(
        self, batch: Batch, start: int, rows: Sequence[Row]
    ) -> Callable[[int, int, Callable[[], Images]], None]:
        """Return the callback for each step of a chunk: it stops, sends previews and progress."""
        wanted = {row.previews for row in rows if row.previews}
        last = -math.inf

        def on_step(done: int, total: int, preview: Callable[[], Images]) -> None:
            nonlocal last
            self._check_cancelled(rows)
            due = [
                [count, done * (count + 1) // total - 1] for count in wanted if _is_due(done, total, count)
            ]
            if due and done < total:
                pixels = preview().array
                self._send("preview", batch, start, len(rows), pixels=pixels, due=due)
            now = time.monotonic()
            if total > 1 and done < total and now - last >= STEP_SECONDS:
                last = now
                self._send("step", batch, start, len(rows), done=done, total=total)

        return on_step

    def _send_findings(
        self, batch: Batch, start: int, count: int, found: Sequence[Finding], seconds: float
    ) -> None:
        """Send what was found for some rows of a batch."""
        header = {
            "kind": "recognized",
            "batch": batch.number,
            "start": start,
            "count": count,
            "seconds": seconds,
            "memory": resident_memory(),
            "values": [dict(one.values) for one in found],
            "lengths": [len(one.content) for one in found],
        }
        self._connection.send(header, [one.content for one in found])

    def _send(
        self,
        kind: str,
        batch: Batch,
        start: int,
        count: int,
        *,
        pixels: Painting | None = None,
        **facts: Any,
    ) -> None:
        """Send a frame about some rows of a batch."""
        header = {"kind": kind, "batch": batch.number, "start": start, "count": count, **facts}
        if pixels is None:
            self._connection.send(header)
        else:
            header |= {"shape": pixels.shape, "type": str(pixels.dtype), "memory": resident_memory()}
            self._connection.send(header, [np.ascontiguousarray(pixels).data])


def _release_memory() -> None:
    """Return the memory of freed tensors to the system: glibc would keep it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _is_due(done: int, total: int, count: int) -> bool:
    """Return whether one of `count` previews, evenly spread over the steps, is due at this step."""
    return done * (count + 1) // total > (done - 1) * (count + 1) // total


def main() -> None:
    """Serve the scheduler at the other end of a socket.

    The number of the socket is the only argument.
    """
    for ending in (signal.SIGINT, signal.SIGTERM):
        # The whole process group receives these when the service stops: the scheduler finishes orders first.
        signal.signal(ending, signal.SIG_IGN)
    warnings.simplefilter("ignore", OutsideTrainingWarning)  # each text would be kept for ever
    with socket.socket(fileno=int(sys.argv[1])) as end:
        connection = FrameSocket(end)
        setup, _ = connection.receive()
        if setup.get("processors"):
            with contextlib.suppress(AttributeError, OSError):  # they may have been taken away meanwhile
                os.sched_setaffinity(0, setup["processors"])
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            Worker(connection, setup).run()


if __name__ == "__main__":
    main()
