"""Decoding on all cores, in order: by threads if there is little to do, otherwise by our own processes.

Threads alone leave cores idle on small files, whose headers Pillow reads in Python. The processes are
`python -m danqing.data.decode_worker`, not multiprocessing's: nothing is pickled, a user's script needs no
`__main__` guard, and a decoder that crashes on a hostile file affects nothing else.
"""

import contextlib
import json
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from danqing import frames, interpreter, threads
from danqing.data.decode_worker import Decoded, decoded_or_reason, packed
from danqing.data.headers import described
from danqing.data.raw_targets import FittedTargets, fit_targets
from danqing.data.records import ImageSpec, Loaded, Record
from danqing.data.terms import NO_TERMS, terms_of
from danqing.errors import DataError
from danqing.image_files import DeepPixels, Frame
from danqing.images import Pixels

CHUNK = 64
FEW = 4000
"""Up to this many images, starting processes takes longer than it saves."""
RESERVED = "reserved: their owners do not allow training on them"
"""The reason why an image is left out."""
_AHEAD_BYTES = 64 * 2**20
"""Pixels that may wait to be written: enough to continue decoding while the disk confirms a commit."""


class Decoder:
    """Decodes records to a size and channels.

    As a context manager, it ends its processes.
    """

    def __init__(self, spec: ImageSpec, count: int) -> None:
        self.spec = spec
        self._options = spec.decode_options()
        self._cores = threads.cores()
        self._workers: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(self._cores):
            self._workers.put(None)
        fit = _AHEAD_BYTES // (CHUNK * spec.bytes_per_image)
        self._ahead = max(2 * self._cores, min(fit, 64))
        self._use_processes = count > FEW and bool(sys.executable)
        self._started: list[_Worker] = []
        self._is_over = False
        self._pool = ThreadPoolExecutor(self._cores, thread_name_prefix="danqing-decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True  # after an interruption, threads must not start new processes
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        for worker in self._started:
            worker.end()
        # A thread that is just starting a process will end it itself: wait for that.
        self._pool.shutdown(wait=self._use_processes)

    def __call__(self, records: Iterator[Record]) -> Iterator[tuple[list[Record], Decoded]]:
        """Yield chunks of records with their pixels, in order."""
        waiting: deque[tuple[list[Record], Future[Decoded]]] = deque()
        while chunk := list(islice(records, CHUNK)):
            waiting.append((chunk, self._pool.submit(self._decode, chunk)))
            if len(waiting) > self._ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()

    def _decode(self, chunk: list[Record]) -> Decoded:
        loaded = [_load(record) for record in chunk]
        told = [("", None) if isinstance(item, DataError) else described(item) for item in loaded]
        terms = [NO_TERMS if isinstance(item, DataError) else terms_of(item) for item in loaded]
        if not self.spec.ignore_reservations:
            loaded = [
                DataError(RESERVED) if found.is_reserved else item
                for item, found in zip(loaded, terms, strict=True)
            ]
        targets = [self._fitted(record, item) for record, item in zip(chunk, loaded, strict=True)]
        loaded = [
            found if isinstance(found, DataError) else item
            for item, found in zip(loaded, targets, strict=True)
        ]
        known = [None if isinstance(found, DataError) else found for found in targets]
        return self._decoded(loaded)._replace(headers=told, targets=known, terms=terms)

    def _fitted(self, record: Record, item: Loaded | DataError) -> FittedTargets | DataError | None:
        """Return the targets of a record, or why they cannot be read."""
        if record.targets is None or isinstance(item, DataError):
            return None
        assert self.spec.size is not None
        try:
            return fit_targets(record.targets, item, self.spec.size, self.spec.fit)
        except DataError as error:
            return error

    def _decoded(self, loaded: "list[Loaded | DataError]") -> Decoded:
        encoded = [item for item in loaded if isinstance(item, bytes | Path | Frame)]
        if self._use_processes and len(encoded) == len(loaded):
            return self._by_process(encoded)
        return self._packed(self._prepared(item) for item in loaded)

    def _packed(self, outcomes: Iterable[Pixels | DeepPixels | str]) -> Decoded:
        return packed(outcomes, self.spec.bytes_per_image)

    def _prepared(self, item: Loaded | DataError) -> Pixels | DeepPixels | str:
        if isinstance(item, DataError):
            return str(item)
        if isinstance(item, bytes | Path | Frame):
            return decoded_or_reason(item, self._options)
        try:
            return self.spec.prepared(item)
        except DataError as error:
            return str(error)

    def _by_process(self, items: list[bytes | Path | Frame]) -> Decoded:
        worker = self._workers.get()
        try:
            worker = worker or self._start()
            if worker is None:
                return self._packed(decoded_or_reason(item, self._options) for item in items)
            try:
                return worker.decode(items)
            except (EOFError, OSError):
                worker.end()
                worker = None
        finally:
            self._workers.put(worker)
        if len(items) == 1 or self._is_over:
            return self._packed(["The decoder crashed on it."] * len(items))
        parts = [self._by_process([item]) for item in items]
        return Decoded(
            [reason for part in parts for reason in part.reasons],
            [digest for part in parts for digest in part.digests],
            b"".join(part.pixels for part in parts),
            [size for part in parts for size in part.sizes],
        )

    def _start(self) -> "_Worker | None":
        """Start a process; return None if the system cannot, and threads then do the work."""
        if self._is_over:
            return None
        try:
            worker = _Worker(self._options, self.spec.bytes_per_image)
        except (OSError, EOFError, ValueError):
            self._use_processes = False
            return None
        self._started.append(worker)
        if self._is_over:  # while it was starting
            worker.end()
            return None
        return worker


class _Worker:
    """A decoding process, owned by one thread at a time."""

    def __init__(self, options: dict[str, object], bytes_per_image: int) -> None:
        arguments = [json.dumps(options), str(bytes_per_image)]
        self._process = subprocess.Popen(
            interpreter.command("danqing.data.decode_worker", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**interpreter.environment(), "PYTHONWARNINGS": "ignore"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            frames.read(self._answers)
        except BaseException:
            self.end()
            raise

    def decode(self, items: list[bytes | Path | Frame]) -> Decoded:
        """Decode encoded files; raise EOFError or OSError if the process has died."""
        header = list[Any]()
        blocks = list[bytes]()
        for item in items:
            source, number = item if isinstance(item, Frame) else (item, None)
            if isinstance(source, bytes):
                blocks.append(source)
            place = len(source) if isinstance(source, bytes) else str(source)
            header.append(place if number is None else [place, number])
        frames.write(self._requests, header, b"".join(blocks))
        (reasons, digests, sizes), pixels = frames.read(self._answers)
        return Decoded(reasons, digests, pixels, [(width, height) for width, height in sizes])

    def end(self) -> None:
        """Stop the process and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()


def _load(record: Record) -> Loaded | DataError:
    try:
        return record.load()
    except DataError as error:
        return error
