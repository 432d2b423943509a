"""The pictures that wait for the worker: bounded, fair to whoever asks, and taken by what can be painted
together.

Each picture has a start tag, by start-time fair queueing (Goyal et al. 1996): when it would begin if its
owner had a fair share of the worker. Whoever asks for much has later tags; whoever asks for little is let
through. Where many owners come, no share is large, and a tag may be far away: jobs are owed a share of the
work together, however many others there are.
"""

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from danqing.service.engine.orders import Priority

Item = TypeVar("Item")

JOB_DELAY = 5.0
"""Seconds of work that jobs let others go before them: then they have a turn too, however many come."""
JOB_WEIGHT = 4.0
"""How many times as much as somebody who waits a job is charged: as many seconds of others go before one."""
GREED = 4
"""Somebody may have so many times as many pictures in the queue as there is room left for all others."""
_MANY = 1024


@dataclass(slots=True, eq=False)
class Entry(Generic[Item]):
    """Pictures `start` to `stop` of an item, which wait. kind: of those that may be painted together."""

    item: Item
    kind: Hashable
    owner: str
    priority: Priority
    start: int
    stop: int
    seconds: float
    """A picture's share of the work."""
    chunk: int = 1
    """So many are computed in the time of one."""
    tag: float = 0.0
    number: int = 0
    """Of its place in the heap, which it may change."""
    arrived: float = 0.0
    waits: bool = True

    @property
    def pictures(self) -> int:
        return self.stop - self.start


@dataclass(slots=True, eq=False)
class Lane(Generic[Item]):
    """Pictures of a kind, by tag. seconds: that a chunk of them takes. jobs: how many of them are of jobs."""

    kind: Hashable
    chunk: int
    seconds: float
    heap: list[tuple[float, int, Entry[Item]]] = field(default_factory=list)
    pictures: int = 0
    jobs: int = 0
    gone: int = 0

    def head(self) -> tuple[float, int, Entry[Item]]:
        """The first entry that still waits: there must be one."""
        while not _waits(self.heap[0]):
            heapq.heappop(self.heap)
            self.gone -= 1
        return self.heap[0]

    def work(self) -> float:
        """Seconds that all of them take."""
        return -(-self.pictures // self.chunk) * self.seconds

    def wanted(self) -> float:
        """Seconds that those take which somebody waits for."""
        return -(-(self.pictures - self.jobs) // self.chunk) * self.seconds

    def forget_the_gone(self) -> None:
        """Keep what was cancelled from gathering."""
        if self.gone > len(self.heap) // 2:
            self.heap = [element for element in self.heap if _waits(element)]
            heapq.heapify(self.heap)
            self.gone = 0


def _waits(element: tuple[float, int, Entry[Item]]) -> bool:
    """Whether this is where an entry waits: it may have been cancelled, or have another place."""
    return element[2].waits and element[2].number == element[1]


class Queue(Generic[Item]):
    """At most `limit` pictures that somebody waits for. Jobs let these go before them, and take no room of
    theirs: they are few at a time, and their own line is in the database.

    pictures: how many wait; seconds: how long the worker needs for them all. wanted, wanted_seconds: of those
    that are of no job.
    """

    def __init__(self, limit: int) -> None:
        self.pictures, self.seconds = 0, 0.0
        self.wanted, self.wanted_seconds = 0, 0.0
        self._limit = limit
        self._lanes: dict[Hashable, Lane[Item]] = {}
        self._clock = 0.0
        self._tags: dict[tuple[str, Priority], float] = {}
        self._many = _MANY
        self._owed = 0.0  # seconds of work that went before them
        self._held: dict[str, int] = {}
        self._number = 0

    def has_room(self, owner: str, pictures: int) -> bool:
        """Whether somebody may add so many: an empty queue takes any one order."""
        held, free = self._held.get(owner, 0), self._limit - self.wanted
        return not self.wanted or (pictures <= free and held + pictures <= GREED * free)

    def add(self, entry: Entry[Item], chunk_seconds: float) -> None:
        """Let pictures wait behind those with an earlier claim; chunk_seconds: of a chunk of their kind."""
        job = entry.priority == Priority.JOB
        who = (entry.owner, entry.priority)
        begin = max(self._clock + (JOB_DELAY if job else 0.0), self._tags.get(who, 0.0))
        if job:
            entry.seconds *= JOB_WEIGHT
        entry.tag = begin
        self._tags[who] = begin + entry.pictures * entry.seconds
        if len(self._tags) > self._many:
            self._tags = {who: tag for who, tag in self._tags.items() if tag > self._clock}
            self._many = max(_MANY, 2 * len(self._tags))
        self._push(entry, chunk_seconds)

    def put_back(self, entry: Entry[Item], chunk_seconds: float) -> None:
        """Let pictures that had their turn already go before all others."""
        entry.tag = -math.inf
        self._push(entry, chunk_seconds)

    def head(self) -> tuple[Entry[Item], int]:
        """What is next, and how many pictures of its kind wait; there must be some."""
        lane = self._next()
        return lane.head()[2], lane.pictures

    def take(self, room: int) -> list[tuple[Item, int, int]]:
        """Items whose pictures `start` to `stop` are next: `room` at most, all of one kind."""
        taken: list[tuple[Item, int, int]] = []
        lane, before, job = self._next(), self.seconds, False
        while room and lane.pictures:
            tag, number, entry = lane.head()
            count = min(room, entry.pictures)
            self._clock = max(self._clock, tag)
            job = job or entry.priority == Priority.JOB
            start, entry.start = entry.start, entry.start + count
            taken.append((entry.item, start, entry.start))
            room -= count
            heapq.heappop(lane.heap)
            if entry.start < entry.stop:
                entry.tag += count * entry.seconds
                heapq.heappush(lane.heap, (entry.tag, number, entry))
            else:
                entry.waits = False
            self._count(lane, entry, -count)
        work = before - self.seconds
        owed = self._owed - JOB_WEIGHT * work if job else self._owed + work
        self._owed = max(0.0, owed) if self.wanted < self.pictures else 0.0
        return taken

    def cancel(self, entry: Entry[Item]) -> None:
        """Let what still waits of an entry wait no more."""
        if entry.waits:
            entry.waits = False
            who = (entry.owner, entry.priority)
            if (tag := self._tags.get(who, 0.0) - entry.pictures * entry.seconds) > self._clock:
                self._tags[who] = tag
            else:
                self._tags.pop(who, None)
            lane = self._lanes[entry.kind]
            lane.gone += 1
            lane.forget_the_gone()
            self._count(lane, entry, -entry.pictures)

    def price(self, kind: Hashable, chunk_seconds: float) -> None:
        """Say anew how long a chunk of a kind takes."""
        if lane := self._lanes.get(kind):
            work, wanted, lane.seconds = lane.work(), lane.wanted(), chunk_seconds
            self.seconds += lane.work() - work
            self.wanted_seconds += lane.wanted() - wanted

    def _push(self, entry: Entry[Item], chunk_seconds: float) -> None:
        lane = self._lanes.get(entry.kind)
        if lane is None:
            lane = self._lanes[entry.kind] = Lane(entry.kind, entry.chunk, chunk_seconds)
        self._place(lane, entry)
        self._count(lane, entry, entry.pictures)

    def _place(self, lane: Lane[Item], entry: Entry[Item]) -> None:
        self._number += 1
        entry.number = self._number
        heapq.heappush(lane.heap, (entry.tag, entry.number, entry))

    def _next(self) -> Lane[Item]:
        lane = self._first()
        if self.wanted < self.pictures and self._owed >= JOB_DELAY:
            tag, _, entry = lane.head()
            if entry.priority != Priority.JOB and tag > -math.inf:
                return self._prefer_a_job(tag)
        return lane

    def _first(self) -> Lane[Item]:
        return min(self._lanes.values(), key=lambda lane: lane.head()[:2])

    def _prefer_a_job(self, tag: float) -> Lane[Item]:
        """Let the first of the jobs that wait go before whoever has this tag; returns its lane."""
        waiting = (element for lane in self._lanes.values() for element in lane.heap if _waits(element))
        *_, entry = min(element for element in waiting if element[2].priority == Priority.JOB)
        entry.tag = math.nextafter(tag, -math.inf)
        lane = self._lanes[entry.kind]
        self._place(lane, entry)
        lane.gone += 1
        lane.forget_the_gone()
        return lane

    def _count(self, lane: Lane[Item], entry: Entry[Item], change: int) -> None:
        work, wanted = lane.work(), lane.wanted()
        lane.pictures += change
        self.pictures += change
        if entry.priority == Priority.JOB:
            lane.jobs += change
        else:
            self.wanted += change
            self._held[entry.owner] = self._held.get(entry.owner, 0) + change
            if not self._held[entry.owner]:
                del self._held[entry.owner]
        self.seconds += lane.work() - work
        self.wanted_seconds += lane.wanted() - wanted
        if not lane.pictures:
            del self._lanes[lane.kind]
        if not self.pictures:
            self.seconds = 0.0
        if not self.wanted:
            self.wanted_seconds = 0.0
