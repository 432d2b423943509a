"""Whose pictures are next, and how many may wait."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.service.engine.fair_queue import JOB_DELAY, JOB_WEIGHT, FairQueue, QueueEntry
from danqing.service.engine.orders import Priority
from danqing.service.fairness.fair_share import GREED

SECOND = 1.0


def entry(
    item: str, pictures: int = 1, *, owner: str = "", kind: str = "k", job: bool = False
) -> QueueEntry[str]:
    priority = Priority.JOB if job else Priority.INTERACTIVE
    return QueueEntry(item, kind, owner, priority, 0, pictures, SECOND)


def taken(queue: FairQueue[str], room: int = 1) -> list[str]:
    """Items in the order in which they are taken, one per picture."""
    items = []
    while queue.pictures:
        items += [item for item, start, stop in queue.take(room) for _ in range(start, stop)]
    return items


def test_who_asks_for_little_is_served_between_the_pictures_of_who_asks_for_much() -> None:
    queue = FairQueue[str](limit=1000)
    for number in range(50):
        queue.add(entry(f"greedy {number}", 10, owner="greedy"), SECOND)
    queue.take(5)
    queue.add(entry("modest", owner="modest"), SECOND)
    assert taken(queue).index("modest") <= 1


def test_two_who_ask_for_much_have_equal_shares() -> None:
    queue = FairQueue[str](limit=1000)
    for owner in ("one", "other"):
        for _ in range(100):
            queue.add(entry(owner, owner=owner), SECOND)
    half = Counter(taken(queue)[:100])
    assert abs(half["one"] - half["other"]) <= 1


def test_pictures_of_the_kind_that_was_next_are_taken_after_others_have_looked_too() -> None:
    queue = FairQueue[str](limit=1000)
    for _ in range(2 * int(JOB_DELAY)):  # so that a job has its turn
        queue.add(entry("before", kind="c"), SECOND)
    queue.add(entry("job of a", job=True, owner="one", kind="a"), SECOND)
    queue.add(entry("job of b", 9, job=True, owner="other", kind="b"), SECOND)
    for _ in range(int(JOB_DELAY)):
        queue.take(1, "c".__eq__)
    found = queue.head({"a", "b"}.__contains__)
    assert found is not None
    queue.head({"b", "c"}.__contains__)  # moves the job of b before that of a
    assert queue.take(1, found[0].kind.__eq__) == [(found[0].item, 0, 1)]


def test_a_job_lets_those_go_first_who_wait_and_has_its_turn_however_many_come() -> None:
    queue = FairQueue[str](limit=1000)
    queue.add(entry("job", job=True, owner="somebody"), SECOND)
    queue.add(entry("somebody who waits"), SECOND)
    assert queue.take(1)[0][0] == "somebody who waits"
    served = []
    while "job" not in served:
        queue.add(entry("another who waits"), SECOND)
        served += [item for item, *_ in queue.take(1)]
        assert len(served) < 20
    assert len(served) > 3


@pytest.mark.parametrize("kind", ["k", "another"])
def test_a_job_is_painted_among_many_owners_who_all_ask_for_more(kind: str) -> None:
    queue, owners, work, begun, left = FairQueue[str](limit=10_000), range(100), 0.0, 0.0, 10
    for owner in owners:
        queue.add(entry("waits", 3, owner=str(owner)), SECOND)
    queue.add(entry("job", left, owner="a job's", kind=kind, job=True), SECOND)
    while left:
        ((item, *_),) = queue.take(1)
        work += SECOND
        if item == "job":
            left, begun = left - 1, begun or work
        else:
            queue.add(entry("waits", owner=str(int(work) % len(owners))), SECOND)
    assert JOB_DELAY <= begun <= JOB_DELAY + 2 * SECOND
    assert work <= JOB_DELAY + 10 * (JOB_WEIGHT + 1) * SECOND
    queue.add(entry("job", owner="a job's", kind=kind, job=True), SECOND)
    assert queue.take(1)[0][0] == "waits"


def test_only_pictures_of_a_kind_are_taken_together_and_an_order_may_be_parted() -> None:
    queue = FairQueue[str](limit=1000)
    for item, pictures, kind in (("a", 10, "x"), ("b", 3, "y"), ("c", 10, "x")):
        queue.add(entry(item, pictures, kind=kind, owner=item), SECOND)
    assert queue.take(16) == [("a", 0, 10), ("c", 0, 6)]
    assert queue.take(16) == [("b", 0, 3)]
    assert queue.take(16) == [("c", 6, 10)]


def test_nobody_fills_the_queue_alone_and_an_empty_one_takes_any_order() -> None:
    queue = FairQueue[str](limit=100)
    assert queue.has_room("anybody", 1000)
    while queue.has_room("greedy", 1):
        queue.add(entry("much", owner="greedy"), SECOND)
    assert queue.pictures <= 100 * GREED / (GREED + 1) + 1
    assert queue.has_room("modest", 10)
    while any(queue.has_room(owner, 1) for owner in map(str, range(100))):
        for owner in map(str, range(100)):
            if queue.has_room(owner, 1):
                queue.add(entry("one of many", owner=owner), SECOND)
    assert 90 <= queue.pictures <= 100


def test_jobs_take_no_room_of_those_who_wait() -> None:
    queue = FairQueue[str](limit=10)
    for _ in range(5):
        queue.add(entry("job", 10, job=True), SECOND)
    assert (queue.interactive, queue.interactive_seconds) == (0, 0)
    queue.add(entry("waits", 2), SECOND)
    assert queue.has_room("", 2)
    assert (queue.interactive, queue.interactive_seconds) == (2, 2 * SECOND)
    assert queue.take(2) == [("waits", 0, 2)]
    assert (queue.interactive, queue.interactive_seconds, queue.pictures) == (0, 0, 50)


def test_what_was_put_back_goes_before_all_others() -> None:
    queue = FairQueue[str](limit=100)
    queue.add(entry("waits"), SECOND)
    queue.put_back(entry("again", 2, kind="alone"), SECOND)
    assert taken(queue, 16) == ["again", "again", "waits"]


def test_only_suitable_kinds_are_taken_in_their_own_order() -> None:
    queue = FairQueue[str](limit=1000)
    for item, kind, job in (("a", "x", False), ("b", "y", False), ("c", "y", True), ("d", "x", True)):
        queue.add(entry(item, kind=kind, owner=item, job=job), SECOND)

    def is_y(kind: object) -> bool:
        return kind == "y"

    assert queue.head(lambda kind: False) is None
    assert [queue.take(1, is_y)[0][0] for _ in range(2)] == ["b", "c"]
    assert queue.head(is_y) is None
    for number in range(20):
        queue.add(entry(f"e{number}", kind="y"), SECOND)
        assert queue.take(1, is_y)[0][0] == f"e{number}"  # the job of another kind cannot have a turn here
    assert [queue.take(1)[0][0] for _ in range(2)] == ["d", "a"]  # it has waited for long enough


def test_who_asks_and_leaves_again_takes_no_memory() -> None:
    queue = FairQueue[str](limit=100)
    queue.add(entry("stays"), SECOND)
    for number in range(5000):
        leaves = entry("leaves", owner=str(number))
        queue.add(leaves, SECOND)
        queue.cancel(leaves)
    assert queue.remembered <= 2000
    assert taken(queue) == ["stays"]


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_each_picture_is_taken_once_or_cancelled_and_the_counts_are_right(seed: int, chunk: int) -> None:
    chance = random.Random(seed)
    queue, waiting, seen = FairQueue[int](limit=10**6), dict[int, QueueEntry[int]](), Counter[int]()
    sizes, expected = {}, Counter[int]()
    for number in range(chance.randrange(1, 60)):
        sizes[number] = chance.randrange(1, 30)
        waiting[number] = QueueEntry(
            number,
            chance.randrange(3),
            str(chance.randrange(4)),
            Priority(chance.randrange(2)),
            0,
            sizes[number],
            1,
            chunk,
        )
        (queue.put_back if chance.random() < 0.1 else queue.add)(waiting[number], 2.0)
        if chance.random() < 0.3:
            chosen = chance.choice(list(waiting))
            queue.cancel(waiting[chosen])
        if chance.random() < 0.5 and queue.pictures:
            for item, start, stop in queue.take(chance.randrange(1, 20)):
                assert start == seen[item]
                seen[item] = stop
    left = [entry for entry in waiting.values() if entry.queued]
    assert queue.pictures == sum(entry.pictures for entry in left)
    lanes = Counter[object]()
    for one in left:
        lanes[one.kind] += one.pictures
    assert abs(queue.seconds - 2.0 * sum(-(-count // chunk) for count in lanes.values())) < 1e-6
    wanted = Counter[object]()
    for one in left:
        wanted[one.kind] += one.pictures * (one.priority != Priority.JOB)
    assert queue.interactive == wanted.total()
    assert abs(queue.interactive_seconds - 2.0 * sum(-(-count // chunk) for count in wanted.values())) < 1e-6
    expected.update({entry.item: sizes[entry.item] for entry in left})
    while queue.pictures:
        for item, start, stop in queue.take(7):
            assert start == seen[item]
            seen[item] = stop
    assert all(seen[item] == size for item, size in expected.items())
    assert (queue.interactive, queue.seconds, queue.interactive_seconds) == (0, 0.0, 0.0)
    assert queue.remembered <= 8  # four owners, with and without jobs
