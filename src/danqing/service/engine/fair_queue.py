"""The pictures that wait for the worker: bounded, fair to their owners, and taken by kind.

Pictures are served in a fair order (`fairness.turns`), by the seconds of work that they take. With many
owners, each share is small, and an owner's turn may be far away. So all jobs together have a share of their
own, however many owners there are.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from danqing.service.engine.orders import Priority
from danqing.service.fairness.fair_share import FairShare
from danqing.service.fairness.turns import FairOrder

Item = TypeVar("Item")

JOB_DELAY = 5.0
"""Seconds of interactive work that may go before a job; then the job has its turn."""
JOB_WEIGHT = 4.0
"""Seconds of interactive work for each second of jobs."""


@dataclass(slots=True, eq=False)
class QueueEntry(Generic[Item]):
    """Pictures `start` to `stop` of an item, which are queued.

    kind: pictures of the same kind may be painted together.
    """

    item: Item
    kind: Hashable
    owner: str
    priority: Priority
    start: int
    stop: int
    seconds: float
    """Of work per picture."""
    chunk: int = 1
    """How many pictures are computed in the time of one."""
    tag: float = 0.0
    number: int = 0
    """Identifies its current place in the heap; earlier places are ignored."""
    arrived: float = 0.0
    queued: bool = True

    @property
    def pictures(self) -> int:
        return self.stop - self.start


@dataclass(slots=True, eq=False)
class Lane(Generic[Item]):
    """The queued pictures of a kind, by tag.

    seconds: that a chunk of them takes.
    jobs: how many of the pictures belong to jobs.
    gone: heap elements that are ignored.
    """

    kind: Hashable
    chunk: int
    seconds: float
    heap: list[tuple[float, int, QueueEntry[Item]]] = field(default_factory=list)
    pictures: int = 0
    jobs: int = 0
    gone: int = 0

    def head(self) -> tuple[float, int, QueueEntry[Item]]:
        """Return the first entry that is queued; there must be one."""
        while not _is_queued(self.heap[0]):
            heapq.heappop(self.heap)
            self.gone -= 1
        return self.heap[0]

    def work(self) -> float:
        """Return the seconds that all of them take."""
        return -(-self.pictures // self.chunk) * self.seconds

    def interactive_work(self) -> float:
        """Return the seconds that those take which do not belong to jobs."""
        return -(-(self.pictures - self.jobs) // self.chunk) * self.seconds

    def drop_gone(self) -> None:
        """Drop cancelled elements before they pile up."""
        if self.gone > len(self.heap) // 2:
            self.heap = [element for element in self.heap if _is_queued(element)]
            heapq.heapify(self.heap)
            self.gone = 0


def _is_queued(element: tuple[float, int, QueueEntry[Item]]) -> bool:
    """Return whether an entry is queued at this place: it may be cancelled, or have another place."""
    return element[2].queued and element[2].number == element[1]


def _any_kind(kind: Hashable) -> bool:
    return True


class FairQueue(Generic[Item]):
    """A queue of at most `limit` interactive pictures, and those of jobs.

    Jobs yield to interactive pictures and do not count towards their limit: few jobs are here at a time, most
    are queued in the database.

    pictures: how many are queued.
    seconds: how long the worker needs for them all.
    interactive, interactive_seconds: the same without jobs.
    """

    def __init__(self, limit: int) -> None:
        self.pictures, self.seconds = 0, 0.0
        self.interactive_seconds = 0.0
        self._share = FairShare(limit)
        self._order = FairOrder()
        self._lanes: dict[Hashable, Lane[Item]] = {}
        self._job_credit = 0.0  # seconds of interactive work that went before jobs
        self._number = 0

    @property
    def interactive(self) -> int:
        """Return how many pictures are queued that do not belong to jobs."""
        return self._share.held

    @property
    def remembered(self) -> int:
        """Return how many owners and heap elements are in memory."""
        return self._order.owners + sum(len(lane.heap) for lane in self._lanes.values())

    def has_room(self, owner: str, pictures: int) -> bool:
        """Return whether an owner may add this many interactive pictures."""
        return self._share.has_room(owner, pictures)

    def add(self, entry: QueueEntry[Item], chunk_seconds: float) -> None:
        """Queue pictures; chunk_seconds: that a chunk of their kind takes."""
        is_job = entry.priority == Priority.JOB
        if is_job:
            entry.seconds *= JOB_WEIGHT
        cost, delay = entry.pictures * entry.seconds, JOB_DELAY if is_job else 0.0
        entry.tag = self._order.tag((entry.owner, entry.priority), cost, delay)
        self._push(entry, chunk_seconds)

    def put_back(self, entry: QueueEntry[Item], chunk_seconds: float) -> None:
        """Queue pictures that had their turn again, before all others."""
        entry.tag = -math.inf
        self._push(entry, chunk_seconds)

    def head(self, suits: Callable[[Any], bool] = _any_kind) -> tuple[QueueEntry[Item], int] | None:
        """Return the next entry, and how many of its kind are queued.

        suits: whether a kind counts; the answer is None if no such entry is queued.
        """
        lane = self._next(suits)
        return None if lane is None else (lane.head()[2], lane.pictures)

    def take(self, room: int, suits: Callable[[Any], bool] = _any_kind) -> list[tuple[Item, int, int]]:
        """Take the next pictures, at most `room`, all of one kind.

        Return items with `start` and `stop`. suits: see `head`; some must be queued.
        """
        taken: list[tuple[Item, int, int]] = []
        lane, before, job = self._next(suits), self.seconds, False
        assert lane is not None
        while room and lane.pictures:
            tag, number, entry = lane.head()
            count = min(room, entry.pictures)
            self._order.serve(tag)
            job = job or entry.priority == Priority.JOB
            start, entry.start = entry.start, entry.start + count
            taken.append((entry.item, start, entry.start))
            room -= count
            heapq.heappop(lane.heap)
            if entry.start < entry.stop:
                entry.tag += count * entry.seconds
                heapq.heappush(lane.heap, (entry.tag, number, entry))
            else:
                entry.queued = False
            self._count(lane, entry, -count)
        work = before - self.seconds
        credit = self._job_credit - JOB_WEIGHT * work if job else self._job_credit + work
        self._job_credit = max(0.0, credit) if self.interactive < self.pictures else 0.0
        return taken

    def interactive_work(self) -> Iterator[tuple[Hashable, float]]:
        """Yield each kind, and the seconds that its pictures take.

        Those of jobs do not count.
        """
        for lane in self._lanes.values():
            yield lane.kind, lane.interactive_work()

    def cancel(self, entry: QueueEntry[Item]) -> None:
        """Remove what is still queued of an entry."""
        if entry.queued:
            entry.queued = False
            self._order.withdraw((entry.owner, entry.priority), entry.pictures * entry.seconds)
            lane = self._lanes[entry.kind]
            lane.gone += 1
            lane.drop_gone()
            self._count(lane, entry, -entry.pictures)

    def set_chunk_seconds(self, kind: Hashable, chunk_seconds: float) -> None:
        """Update how long a chunk of a kind takes."""
        if lane := self._lanes.get(kind):
            work, interactive, lane.seconds = lane.work(), lane.interactive_work(), chunk_seconds
            self.seconds += lane.work() - work
            self.interactive_seconds += lane.interactive_work() - interactive

    def _push(self, entry: QueueEntry[Item], chunk_seconds: float) -> None:
        lane = self._lanes.get(entry.kind)
        if lane is None:
            lane = self._lanes[entry.kind] = Lane(entry.kind, entry.chunk, chunk_seconds)
        self._place(lane, entry)
        self._count(lane, entry, entry.pictures)

    def _place(self, lane: Lane[Item], entry: QueueEntry[Item]) -> None:
        self._number += 1
        entry.number = self._number
        heapq.heappush(lane.heap, (entry.tag, entry.number, entry))

    def _next(self, suits: Callable[[Any], bool]) -> Lane[Item] | None:
        """Return the lane of the entry whose turn is next among those of suitable kinds."""
        lanes = [lane for lane in self._lanes.values() if suits(lane.kind)]
        if not lanes:
            return None
        first = min(lanes, key=lambda lane: lane.head()[:2])
        if self.interactive < self.pictures and self._job_credit >= JOB_DELAY:
            tag, _, entry = first.head()
            if entry.priority != Priority.JOB and tag > -math.inf:
                return self._prefer_a_job(tag, lanes) or first
        return first

    def _prefer_a_job(self, tag: float, lanes: list[Lane[Item]]) -> Lane[Item] | None:
        """Move the first job of some lanes before the entry with this tag; return its lane."""
        waiting = (element for lane in lanes for element in lane.heap if _is_queued(element))
        jobs = [element for element in waiting if element[2].priority == Priority.JOB]
        if not jobs:
            return None
        *_, entry = min(jobs)
        entry.tag = math.nextafter(tag, -math.inf)
        lane = self._lanes[entry.kind]
        self._place(lane, entry)
        lane.gone += 1
        lane.drop_gone()
        return lane

    def _count(self, lane: Lane[Item], entry: QueueEntry[Item], change: int) -> None:
        work, interactive = lane.work(), lane.interactive_work()
        lane.pictures += change
        self.pictures += change
        if entry.priority == Priority.JOB:
            lane.jobs += change
        else:
            self._share.add(entry.owner, change)
        self.seconds += lane.work() - work
        self.interactive_seconds += lane.interactive_work() - interactive
        if not lane.pictures:
            del self._lanes[lane.kind]
        if not self.pictures:
            self.seconds = 0.0
        if not self.interactive:
            self.interactive_seconds = 0.0
