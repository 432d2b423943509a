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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.module import register_module_forward_pre_hook

from danqing.editing.batch import edited
from danqing.editing.contract import ImageToEdit
from danqing.editing.window_model import Request
from danqing.errors import ConfigError, DataError, SearchError
from danqing.frames import Header
from danqing.images import Images
from danqing.machine import resident_memory
from danqing.model.files import Access
from danqing.model.model import Model
from danqing.requested_attributes import OutsideTrainingWarning
from danqing.service.engine import edits, recognition
from danqing.service.engine.connections import FrameSocket
from danqing.service.engine.model_cache import ModelCache, Served
from danqing.service.engine.model_description import describe
from danqing.service.engine.orders import (
    Finding,
    ModelUnavailableError,
    Painting,
    Pixels,
    Query,
    WholeImage,
)

STEP_SECONDS = 0.05
"""The shortest time between two progress messages of a chunk."""
ALIVE_SECONDS = 0.1
"""The shortest time between two signs of life while a whole picture is edited."""
IDLE_SECONDS = 1.0
"""Seconds without work after which free memory is returned to the system."""


class _Stopped(Exception):  # noqa: N818 - not an error
    """All orders of a chunk were cancelled while it was painted."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A picture of a batch; order: the number of its order."""

    order: int
    seed: int
    label: str | int | None
    prompt: str | None
    negative_prompt: str | None
    previews: int
    attributes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    model: str
    verb: Any
    """A `Verb`, or an `Ability` where there are queries."""
    options: dict[str, Any]
    rows: list[_Row]
    images: memoryview
    """Of all rows, then their masks, one byte per pixel; empty for `sample` and `queries`."""
    whole: WholeImage | None
    """The picture that all rows edit at its own size."""
    queries: list[Query]
    """Of all rows, if they are recognized."""

    @classmethod
    def read(cls, header: Header, block: memoryview) -> "_Batch":
        rows, whole = [_Row(*row) for row in header["rows"]], None
        if header["whole"] is not None:
            length, (width, height), keeps_file, is_fine = header["whole"]
            content, mask = bytes(block[:length]), bytes(block[length:]) or None
            whole, block = WholeImage(content, (width, height), mask, keeps_file, is_fine), block[:0]
        queries = list[Query]()
        for length, is_text in header["queries"]:
            queries.append(Query(bytes(block[:length]), is_text))
            block = block[length:]
        return cls(
            header["batch"], header["model"], header["verb"], header["options"], rows, block, whole, queries
        )


class Worker:
    """Paints the batches that it receives, until its connection is closed."""

    def __init__(self, connection: FrameSocket, setup: Header) -> None:
        self._connection = connection
        access = Access(tuple(map(Path, setup["require_signature"])))
        self._cache = ModelCache(
            setup["models"],
            device=setup["device"],
            budget=setup["memory"],
            access=access,
            marks=setup["marks"],
        )
        self._batches: collections.deque[_Batch] = collections.deque()  # the first one is being painted
        self._cancelled: set[int] = set()
        for name in setup["describe"]:
            offer = describe(name, setup["models"][name], access)
            connection.send({"kind": "offer", **dataclasses.asdict(offer)})
        connection.send({"kind": "ready", "memory": resident_memory()})

    def run(self) -> None:
        """Paint batch after batch; raises EOFError when the scheduler is gone."""
        while True:
            if not self._batches and not self._connection.has_frame(IDLE_SECONDS):
                _release_memory()
            self._read_frames(wait=not self._batches)
            if self._batches:
                self._paint(self._batches[0])
                self._batches.popleft()
                self._cancelled &= self._orders()

    def _read_frames(self, *, wait: bool = False) -> None:
        """Read the frames that have arrived; wait: for one, if there is none."""
        while wait or self._connection.has_frame():
            wait = False
            header, block = self._connection.receive()
            if header["kind"] == "cancel":
                self._cancelled |= self._orders().intersection(header["orders"])
            else:
                self._batches.append(_Batch.read(header, block))

    def _orders(self) -> set[int]:
        """Return the numbers of the orders that are painted or waiting here."""
        return {row.order for batch in self._batches for row in batch.rows}

    def _paint(self, batch: _Batch) -> None:
        try:
            model = self._model(batch.model)
        except ModelUnavailableError as error:
            self._send("failed", batch, 0, len(batch.rows), error="model", message=str(error))
            return
        chunk = _chunk_of(model, batch)
        for start in range(0, len(batch.rows), chunk):
            rows = batch.rows[start : start + chunk]
            where = batch, start, len(rows)
            began = time.perf_counter()
            try:
                self._check_cancelled(rows)
                found = self._computed(model, batch, start, rows)
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

    def _computed(
        self, model: Served, batch: _Batch, start: int, rows: list[_Row]
    ) -> Painting | list[Finding]:
        """Return the pictures of some rows, or what is found for them."""
        if not isinstance(model, Model):
            with self._signs_of_life(rows):
                queries = batch.queries[start : start + len(rows)]
                return recognition.recognize(model, batch.verb, queries, batch.options)
        self._reject_long_texts(model, rows)
        self._check_cancelled(rows)
        if batch.whole is None:
            return self._chunk(model, batch, start, rows)
        return self._edited(model, batch, batch.whole, rows[0])

    def _model(self, name: str) -> Served:
        if self._cache.has(name):
            return self._cache.get(name)
        self._connection.send({"kind": "loading", "model": name})
        try:
            return self._cache.get(name)
        finally:
            self._connection.send({"kind": "loaded", "models": self._cache.loaded})

    def _reject_long_texts(self, model: Model, rows: Sequence[_Row]) -> None:
        """Reject orders whose texts are too long; the others of the batch are painted."""
        for row in {row.order: row for row in rows if row.order not in self._cancelled}.values():
            try:
                for name in ("prompt", "negative_prompt"):
                    model.check_prompt(getattr(row, name) or "", name)
            except ConfigError as error:
                self._cancelled.add(row.order)
                rejected = {"order": row.order, "message": str(error), "option": error.option}
                self._connection.send({"kind": "refused", **rejected})

    def _check_cancelled(self, rows: Sequence[_Row]) -> None:
        """Read frames; raises _Stopped if all orders of these rows are cancelled."""
        self._read_frames()
        if self._cancelled and all(row.order in self._cancelled for row in rows):
            raise _Stopped

    def _chunk(self, model: Model, batch: _Batch, start: int, rows: list[_Row]) -> Pixels:
        seeds = [row.seed for row in rows]
        arguments: dict[str, Any] = _conditions(model, rows, draws=batch.verb == "sample")
        arguments |= {"seeds": seeds, "on_step": self._step_callback(batch, start, rows)}
        if batch.verb == "sample":
            return model.sample(len(rows), **arguments, **batch.options).array
        images, masks = _given(model, batch, start, len(rows))
        if batch.verb == "fill":
            return model.fill(images, masks, **arguments, **batch.options).array
        return model.vary(images, **arguments, **batch.options).array

    def _edited(self, model: Model, batch: _Batch, whole: WholeImage, row: _Row) -> Painting:
        """Edit a whole picture; returns `[1, h, w, c]`."""
        request = Request(row.label, row.prompt, row.negative_prompt, row.attributes)
        edit = edits.build(model, batch.verb, request, batch.options, whole)
        image = ImageToEdit(edits.values_of(whole, model.value_range), row.seed)
        with self._signs_of_life([row]):
            return edited(edit, image)[None]

    @contextlib.contextmanager
    def _signs_of_life(self, rows: Sequence[_Row]) -> Iterator[None]:
        """Show that work without steps of its own goes on, and stop it if it is cancelled.

        Both happen before each network of the work.
        """
        last = time.monotonic()

        def look(*_: Any) -> None:
            nonlocal last
            if (now := time.monotonic()) - last >= ALIVE_SECONDS:
                last = now
                self._check_cancelled(rows)
                self._connection.send({"kind": "alive"})

        hook = register_module_forward_pre_hook(look)
        try:
            yield
        finally:
            hook.remove()

    def _step_callback(
        self, batch: _Batch, start: int, rows: list[_Row]
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
        self, batch: _Batch, start: int, count: int, found: Sequence[Finding], seconds: float
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
        batch: _Batch,
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


def _chunk_of(model: Served, batch: _Batch) -> int:
    """Return how many rows of a batch are computed at once."""
    if isinstance(model, Model):
        return model.family.chunk if batch.whole is None else 1
    return recognition.chunk_of(model)


def _release_memory() -> None:
    """Return the memory of freed tensors to the system: glibc would keep it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _is_due(done: int, total: int, count: int) -> bool:
    """Return whether one of `count` previews, evenly spread over the steps, is due at this step."""
    return done * (count + 1) // total > (done - 1) * (count + 1) // total


def _conditions(model: Model, rows: Sequence[_Row], *, draws: bool) -> dict[str, Any]:
    """Return the labels, prompts and attributes of some rows.

    draws: whether missing ones are drawn from the seed.
    """
    seeds = [row.seed for row in rows]
    labels: list[str | int | None] = [row.label for row in rows]
    prompts = [row.prompt for row in rows]
    negative = [row.negative_prompt for row in rows]
    asked: dict[str, Any] = {}
    if any(label is not None for label in labels):
        drawn = model.drawn_labels(seeds).tolist() if draws else labels
        asked["label"] = [own if label is None else label for label, own in zip(labels, drawn, strict=True)]
    if any(prompt is not None for prompt in prompts):
        texts = (model.drawn_prompts(seeds) if draws else None) or [""] * len(rows)
        asked["prompt"] = [own if text is None else text for text, own in zip(prompts, texts, strict=True)]
    if any(text is not None for text in negative):
        asked["negative_prompt"] = [text or "" for text in negative]
    if any(row.attributes for row in rows):
        asked["attributes"] = [row.attributes or {} for row in rows]
    return asked


def _given(model: Model, batch: _Batch, start: int, count: int) -> tuple[Images, NDArray[np.bool_]]:
    """Return the images of some rows, and their masks (empty for `vary`)."""
    config, rows = model.family.config, len(batch.rows)
    shape = (rows, config.height, config.width)
    end = rows * config.dimensions
    images = np.frombuffer(batch.images[:end], np.uint8).reshape(*shape, config.channels)
    masks = np.zeros(shape, bool)
    if batch.images[end:].nbytes:
        masks = np.frombuffer(batch.images[end:], np.bool_).reshape(shape)
    return Images(images[start : start + count]), masks[start : start + count]


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
        if setup["threads"]:
            torch.set_num_threads(setup["threads"])
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            Worker(connection, setup).run()


if __name__ == "__main__":
    main()
