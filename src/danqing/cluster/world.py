"""The processes that compute one run together. Only this module imports `torch.distributed`.

They exchange tensors and plain values, which travel as JSON. Nothing is pickled.
"""

import contextlib
import datetime
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from danqing.cluster.ledger import RESTART
from danqing.cluster.place import Place
from danqing.errors import LostProcessError, first_line

PATIENCE = datetime.timedelta(days=7)
"""How long a process waits for another one. The first process may prepare data or score for hours. A process
that ends is noticed at once."""
_MEETING_PATIENCE = datetime.timedelta(minutes=30)
_BRIEF = 1024
"""Bytes of a plain value that travel in one message with their number."""
_NUMBER = 8
_AT_ONCE = 2**26


class World:
    """The processes of a run, as one of them sees them.

    place: which one this is.
    nccl: whether tensors on GPUs travel by NCCL. Otherwise they travel through the memory of the CPU.
    """

    def __init__(self, place: Place = Place(), *, nccl: bool = False) -> None:  # noqa: B008 (immutable)
        self.place, self._nccl = place, nccl

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """Return the number of processes, a power of two."""
        return self.place.size

    def agreed(self, value: Any = None) -> Any:
        """Return the value that the first process gives.

        It is a plain value; those of others are ignored.
        """
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.rank == 0 else b""
        message = torch.zeros(_BRIEF, dtype=torch.uint8)
        if self.rank == 0:
            head = len(content).to_bytes(_NUMBER, "big") + content[: _BRIEF - _NUMBER]
            message[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._broadcast(message)
        received = message.numpy().tobytes()
        length = int.from_bytes(received[:_NUMBER], "big")
        received = received[_NUMBER : _NUMBER + length]
        if length > len(received):
            rest = torch.zeros(length - len(received), dtype=torch.uint8)
            if self.rank == 0:
                rest = torch.frombuffer(bytearray(content[len(received) :]), dtype=torch.uint8)
            self._broadcast(rest)
            received += rest.numpy().tobytes()
        return value if self.rank == 0 else json.loads(received)

    def gathered(self, value: Any) -> list[Any]:
        """Return the plain values of all processes, by rank."""
        if self.size == 1:
            return [value]
        content = json.dumps(value).encode()
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(content)
        with _explained():
            distributed.all_reduce(lengths)
        longest = int(lengths.max())
        own = torch.frombuffer(bytearray(content.ljust(longest)), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _explained():
            distributed.all_gather(parts, own)
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.gathered(None)

    def spread(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Copy the tensors of one process, by default the first, to the others, in place.

        All processes give tensors of the same shapes. Small ones of one type travel together.
        """
        if self.size == 1:
            return
        for alike in _together(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            carried = self._carried(flat.view(torch.uint8))
            self._broadcast(carried, source)
            if self.rank != source:
                received = (
                    carried.to(flat.device).view(flat.dtype).split([tensor.numel() for tensor in alike])
                )
                with torch.no_grad():
                    for tensor, part in zip(alike, received, strict=True):
                        tensor.copy_(part.view(tensor.shape))

    def plain_sum(self, values: Tensor) -> Tensor:
        """Return the sum of vectors `[n]` over all processes, in any order.

        values: they may be overwritten.
        """
        if self.size == 1:
            return values
        carried = self._carried(values)
        with _explained():
            distributed.all_reduce(carried)
        return carried.to(values.device)

    def tree_sum(self, values: Tensor) -> Tensor:
        """Return the sum of vectors `[n]` over all processes, along a tree.

        The tree is the complete binary tree over their ranks.

        Processes 0 and 1 are added, 2 and 3, and so on; then these sums, until one is left. It is the same on
        all processes, bit for bit, and the same as if one process had added all in this order.

        values: they may be overwritten.
        Each process adds a part of the vectors and sends it to the others (recursive halving and doubling;
        Thakur, Rabenseifner and Gropp 2005), so 2 n (1 - 1 / size) numbers are sent.
        """
        if self.size == 1:
            return values
        carried = self._carried(values)
        padding = -len(carried) % self.size
        whole = torch.cat([carried, carried.new_zeros(padding)]) if padding else carried
        start, length, distance = 0, len(whole), 1
        while distance < self.size:  # the partner's part is added to the half that is kept
            length //= 2
            is_upper = bool(self.rank & distance)
            given = whole[start + (0 if is_upper else length) :][:length]
            start += length if is_upper else 0
            whole[start : start + length].add_(self._exchanged(given, self.rank ^ distance))
            distance *= 2
        while distance > 1:  # the partner has the other half
            distance //= 2
            is_upper = bool(self.rank & distance)
            received = self._exchanged(whole[start : start + length], self.rank ^ distance)
            other = start - length if is_upper else start + length
            whole[other : other + length] = received
            start, length = min(start, other), 2 * length
        return whole[: len(values)].to(values.device)

    def _exchanged(self, given: Tensor, partner: int) -> Tensor:
        """Send a vector to a process and return the one that it sends."""
        received = torch.empty_like(given)
        with _explained():
            work = distributed.batch_isend_irecv(
                [
                    distributed.P2POp(distributed.isend, given, partner),
                    distributed.P2POp(distributed.irecv, received, partner),
                ]
            )
            for part in work:
                part.wait()
        return received

    def _broadcast(self, tensor: Tensor, source: int = 0) -> None:
        with _explained():
            distributed.broadcast(tensor, src=source)

    def _carried(self, values: Tensor) -> Tensor:
        """Values where they can be sent from."""
        return values if self._nccl else values.cpu()


def _together(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type and place, in parts of about `_AT_ONCE` bytes."""
    for kind in dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors):
        part, size = list[Tensor](), 0
        for tensor in tensors:
            if (tensor.dtype, tensor.device) == kind:
                part.append(tensor)
                size += tensor.nbytes
            if size > _AT_ONCE:
                yield part
                part, size = [], 0
        if part:
            yield part


_current = World()
_store: Any = None
_meetings = 0
_waited = 0.0


def world() -> World:
    """Return the world of this process.

    Outside of `joined`, it has one process.
    """
    return _current


@contextlib.contextmanager
def joined(place: Place | None) -> Iterator[World]:
    """Meet the other processes of a run for a block.

    place: which of them this process is; None if it is the only one.
    Where a block is within another one, the processes have met already.
    Raises LostProcessError if they cannot meet.
    """
    global _current, _store, _meetings
    if place is None or place.size == 1 or _current.size > 1:
        yield _current
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nccl = gpus >= place.local_size and distributed.is_nccl_available()
    with _explained():
        if _store is None:
            where = os.environ.get("DANQING_MEETING", "env://")
            _store, _, _ = next(rendezvous(where, place.rank, place.size, timeout=_MEETING_PATIENCE))
        _meetings += 1
        # A program may train twice, and the store of torchrun remembers processes that have died.
        meeting = f"danqing/{os.environ.get(RESTART, '0')}/{_meetings}"
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=PrefixStore(meeting, _store),
            rank=place.rank,
            world_size=place.size,
            timeout=PATIENCE,
        )
    _current = World(place, nccl=nccl)
    try:
        yield _current
    finally:
        _current = World()
        distributed.destroy_process_group()


def waited() -> float:
    """Return for how many seconds this process has exchanged values with others, or waited for them."""
    return _waited


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    global _waited
    started = time.perf_counter()
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise LostProcessError(
            "Another process of this run has ended or cannot be reached: the same command resumes the run "
            f"from its last checkpoint ({first_line(error)})."
        ) from error
    finally:
        _waited += time.perf_counter() - started
