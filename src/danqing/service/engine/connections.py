"""The two ends of the connection between the scheduler's process and its worker."""

import asyncio
import json
import select
import socket
from collections.abc import Callable, Sequence
from typing import cast

from danqing.frames import LENGTHS, Buffer, Header, frame


class FrameSocket:
    """The worker's end.

    It blocks when it has nothing to do, and polls between the steps of its work.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._incoming = select.poll()
        self._incoming.register(connection, select.POLLIN)

    def send(self, header: Header, blocks: Sequence[Buffer] = ()) -> None:
        """Write a frame; raises OSError if the other end is closed."""
        parts = frame(header, blocks)
        sent = self._socket.sendmsg(parts)
        for part in parts:  # what did not fit at once
            view = memoryview(part).cast("B")
            if sent < view.nbytes:
                self._socket.sendall(view[sent:])
            sent = max(0, sent - view.nbytes)

    def has_frame(self, seconds: float = 0.0) -> bool:
        """Return whether a frame, or the end, arrives within some seconds."""
        return bool(self._incoming.poll(1000 * seconds))

    def receive(self) -> tuple[Header, memoryview]:
        """Wait for a frame; raises EOFError if the other end is closed."""
        header, block = LENGTHS.unpack(self._exactly(LENGTHS.size))
        content = self._exactly(header + block)
        return json.loads(bytes(content[:header])), content[header:]

    def _exactly(self, count: int) -> memoryview:
        content = memoryview(bytearray(count))
        filled = 0
        while filled < count:
            received = self._socket.recv_into(content[filled:])
            if not received:
                raise EOFError("the service has closed its end")
            filled += received
        return content


class FrameProtocol(asyncio.BufferedProtocol):
    """The scheduler's end.

    on_frame: called with the header and the block of each frame.
    lost: a future that is done when the worker is gone.
    """

    def __init__(self, on_frame: Callable[[Header, memoryview], None]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_frame = on_frame
        self._transport: asyncio.Transport | None = None
        self._begin()

    def _begin(self) -> None:
        self._header: int | None = None  # its length, once that is known
        self._content, self._filled = memoryview(bytearray(LENGTHS.size)), 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class does not inherit from it

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._content[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled < self._content.nbytes:
            return
        if self._header is None:
            self._header, block = LENGTHS.unpack(self._content)
            self._content, self._filled = memoryview(bytearray(self._header + block)), 0
            return
        content, header = self._content, self._header
        self._begin()
        self._on_frame(json.loads(bytes(content[:header])), content[header:])

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, header: Header, blocks: Sequence[Buffer] = ()) -> None:
        """Write a frame; does nothing if the worker is gone."""
        if self._transport is not None:
            self._transport.writelines(frame(header, blocks))

    def close(self) -> None:
        """Close this end; the worker exits when it notices."""
        if self._transport is not None:
            self._transport.close()
