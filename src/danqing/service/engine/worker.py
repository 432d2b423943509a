"""The process that paints: `python -m danqing.service.engine.worker`, started by the engine.

It is told of batches by frames (`engine.connections`) and answers chunk by chunk. It does one thing at a
time, and looks between the steps of a painting whether somebody has changed their mind. It has no state that
matters: whatever it holds when it dies, the engine holds too.
"""

import collections
import contextlib
import ctypes
import dataclasses
import math
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.errors import ConfigError
from danqing.images import Images
from danqing.machine import resident_memory
from danqing.model import Model
from danqing.service.engine.connections import Header, Link
from danqing.service.engine.model_cache import Shelf, describe
from danqing.service.engine.orders import ModelUnavailableError, Pixels

STEP_SECONDS = 0.05
"""How often the engine is told of the steps of a chunk at most, after the first."""
IDLE_SECONDS = 1.0
"""After so long without work, memory that is free goes back to the system."""


class _Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Nobody waits any more for what is being painted."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A picture of a batch; order: the number of the order that it belongs to."""

    order: int
    seed: int
    label: str | int | None
    prompt: str | None
    negative_prompt: str | None
    previews: int


@dataclass(frozen=True, slots=True)
class _Batch:
    number: int
    model: str
    verb: str
    options: dict[str, Any]
    rows: list[_Row]
    images: memoryview
    """Of all rows, then their masks, one byte per pixel; empty for `sample`."""

    @classmethod
    def read(cls, header: Header, block: memoryview) -> "_Batch":
        rows = [_Row(*row) for row in header["rows"]]
        return cls(header["batch"], header["model"], header["verb"], header["options"], rows, block)


class Worker:
    """Paints what its link tells it to, until the link is closed."""

    def __init__(self, link: Link, told: Header) -> None:
        self._link = link
        self._shelf = Shelf(told["models"], device=told["device"], budget=told["memory"])
        self._batches: collections.deque[_Batch] = collections.deque()  # the one that is painted comes first
        self._cancelled: set[int] = set()
        for name in told["describe"]:
            link.send({"kind": "offer", **dataclasses.asdict(describe(name, told["models"][name]))})
        link.send({"kind": "ready", "memory": resident_memory()})

    def run(self) -> None:
        """Paint batch after batch; raises EOFError when the engine is gone."""
        while True:
            if not self._batches and not self._link.has_frame(IDLE_SECONDS):
                _give_memory_back()
            self._look_up(wait=not self._batches)
            if self._batches:
                self._paint(self._batches[0])
                self._batches.popleft()
                self._cancelled &= self._orders()

    def _look_up(self, *, wait: bool = False) -> None:
        """Read what has come by now; wait: until something has."""
        while wait or self._link.has_frame():
            wait = False
            header, block = self._link.receive()
            if header["kind"] == "cancel":
                self._cancelled |= self._orders().intersection(header["orders"])
            else:
                self._batches.append(_Batch.read(header, block))

    def _orders(self) -> set[int]:
        """Numbers of the orders that are painted, or wait here."""
        return {row.order for batch in self._batches for row in batch.rows}

    def _paint(self, batch: _Batch) -> None:
        try:
            model = self._model(batch.model)
        except ModelUnavailableError as error:
            self._tell("failed", batch, 0, len(batch.rows), error="model", message=str(error))
            return
        for start in range(0, len(batch.rows), model.family.chunk):
            rows = batch.rows[start : start + model.family.chunk]
            told = batch, start, len(rows)
            began = time.perf_counter()
            try:
                self._refuse_what_is_not_read(model, rows)
                self._go_on(rows)
                pixels = self._chunk(model, batch, start, rows)
            except _Stopped:
                self._tell("stopped", *told)
            except (ConfigError, ModelUnavailableError) as error:
                option = error.option if isinstance(error, ConfigError) else None
                self._tell("failed", *told, error="order", message=str(error), option=option)
            except Exception as error:
                # Whatever a model does wrong: the others that it paints for must not suffer.
                message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
                self._tell("failed", *told, error="painting", message=message, trace=trace)
            else:
                self._tell("painted", *told, pixels=pixels, seconds=time.perf_counter() - began)

    def _model(self, name: str) -> Model:
        if self._shelf.has(name):
            return self._shelf.get(name)
        self._link.send({"kind": "loading", "model": name})
        try:
            return self._shelf.get(name)
        finally:
            self._link.send({"kind": "loaded", "models": self._shelf.loaded})

    def _refuse_what_is_not_read(self, model: Model, rows: Sequence[_Row]) -> None:
        """Say which of the orders have texts that are too long; the others beside them are painted."""
        for row in {row.order: row for row in rows if row.order not in self._cancelled}.values():
            try:
                for name in ("prompt", "negative_prompt"):
                    model.check_prompt(getattr(row, name) or "", name)
            except ConfigError as error:
                self._cancelled.add(row.order)
                told = {"order": row.order, "message": str(error), "option": error.option}
                self._link.send({"kind": "refused", **told})

    def _go_on(self, rows: Sequence[_Row]) -> None:
        """Look up; raises _Stopped where nobody waits for these rows any more."""
        self._look_up()
        if self._cancelled and all(row.order in self._cancelled for row in rows):
            raise _Stopped

    def _chunk(self, model: Model, batch: _Batch, start: int, rows: list[_Row]) -> Pixels:
        seeds = [row.seed for row in rows]
        told: dict[str, Any] = _asked(model, rows, draws=batch.verb == "sample")
        told |= {"seeds": seeds, "on_step": self._teller(batch, start, rows)}
        if batch.verb == "sample":
            return model.sample(len(rows), **told, **batch.options).array
        images, masks = _given(model, batch, start, len(rows))
        if batch.verb == "fill":
            return model.fill(images, masks, **told, **batch.options).array
        return model.vary(images, **told, **batch.options).array

    def _teller(
        self, batch: _Batch, start: int, rows: list[_Row]
    ) -> Callable[[int, int, Callable[[], Images]], None]:
        """What is told of each step of a chunk: it stops, shows and counts."""
        wanted = {row.previews for row in rows if row.previews}
        last = -math.inf

        def on_step(done: int, total: int, preview: Callable[[], Images]) -> None:
            nonlocal last
            self._go_on(rows)
            due = [
                [count, done * (count + 1) // total - 1] for count in wanted if _is_due(done, total, count)
            ]
            if due and done < total:
                pixels = preview().array
                self._tell("preview", batch, start, len(rows), pixels=pixels, due=due)
            now = time.monotonic()
            if total > 1 and done < total and now - last >= STEP_SECONDS:
                last = now
                self._tell("step", batch, start, len(rows), done=done, total=total)

        return on_step

    def _tell(
        self, kind: str, batch: _Batch, start: int, count: int, *, pixels: Pixels | None = None, **facts: Any
    ) -> None:
        """Say something of some rows of a batch."""
        header = {"kind": kind, "batch": batch.number, "start": start, "count": count, **facts}
        if pixels is None:
            self._link.send(header)
        else:
            header |= {"shape": pixels.shape, "memory": resident_memory()}
            self._link.send(header, [np.ascontiguousarray(pixels).data])


def _give_memory_back() -> None:
    """Let the system have what freed tensors leave: glibc would keep it between those that stay."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _is_due(done: int, total: int, count: int) -> bool:
    """Whether one of `count` previews, evenly spread over the steps, belongs to this step."""
    return done * (count + 1) // total > (done - 1) * (count + 1) // total


def _asked(model: Model, rows: Sequence[_Row], *, draws: bool) -> dict[str, Any]:
    """The labels and prompts of some rows; draws: whether what a row does not say is drawn by its seed."""
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
    return asked


def _given(model: Model, batch: _Batch, start: int, count: int) -> tuple[Images, NDArray[np.bool_]]:
    """The images of some rows, and their masks, which `vary` has none of."""
    config, rows = model.family.config, len(batch.rows)
    shape = (rows, config.height, config.width)
    end = rows * config.dimensions
    images = np.frombuffer(batch.images[:end], np.uint8).reshape(*shape, config.channels)
    masks = np.zeros(shape, bool)
    if batch.images[end:].nbytes:
        masks = np.frombuffer(batch.images[end:], np.bool_).reshape(shape)
    return Images(images[start : start + count]), masks[start : start + count]


def main() -> None:
    """Serve the engine at the other end of the socket whose number is the only argument."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        # Sent to the whole group where the service is stopped: the engine lets its orders end first.
        signal.signal(ending, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        link = Link(connection)
        told, _ = link.receive()
        if told["threads"]:
            torch.set_num_threads(told["threads"])
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            Worker(link, told).run()


if __name__ == "__main__":
    main()
