"""One owner cannot take all of a resource, and owners take turns."""

import asyncio

from danqing.service.fairness.fair_share import GREED, FairShare
from danqing.service.fairness.turns import FairOrder, TurnTaker


def test_an_owner_may_hold_a_multiple_of_what_is_left_for_others() -> None:
    share = FairShare(100)
    assert share.take("alone", 1000)  # nothing is held: any one request is admitted
    assert not share.take("other", 1)
    share.give_back("alone", 1000)
    while share.take("greedy", 1):
        pass
    assert share.held == 100 * GREED // (GREED + 1)
    assert share.take("modest", 10)
    assert not share.take("modest", 100)
    for owner, held in (("greedy", share.held - 10), ("modest", 10)):
        share.give_back(owner, held)
    assert share.held == 0


def test_a_fixed_limit_for_each_owner_replaces_the_multiple() -> None:
    share = FairShare(8, each=2)
    assert [share.take("one", 1) for _ in range(3)] == [True, True, False]
    assert [share.take(str(number), 1) for number in range(7)] == [True] * 6 + [False]


def test_an_owner_that_comes_late_is_served_next_and_one_that_withdraws_loses_nothing() -> None:
    order = FairOrder()
    tags = [order.tag("greedy", 10) for _ in range(3)]
    assert tags == [0, 10, 20]
    order.serve(tags[1])
    assert order.tag("modest", 1) == tags[1]  # before the third of the greedy owner
    order.withdraw("greedy", 10)
    assert order.tag("greedy", 10) == 20
    assert order.tag("job", 1, delay=5) == tags[1] + 5


def test_requests_of_one_owner_are_served_first_come_first_served_whatever_their_size() -> None:
    served: list[str] = []

    async def ask(line: TurnTaker, name: str, amount: int) -> None:
        async with line.turn("", amount):
            served.append(name)
            assert line.in_use <= 10 or line.in_use == amount
            for _ in range(5):
                await asyncio.sleep(0)

    async def walk() -> None:
        line = TurnTaker(10)
        small = [asyncio.create_task(ask(line, "small", 2)) for _ in range(20)]
        await asyncio.sleep(0)
        left = asyncio.create_task(ask(line, "left", 99))  # more than there is, and nobody waits for it
        large = asyncio.create_task(ask(line, "large", 10))
        huge = asyncio.create_task(ask(line, "huge", 99))
        later = [asyncio.create_task(ask(line, "later", 2)) for _ in range(20)]
        while served != ["small"] * 20:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait_for(asyncio.gather(*small, large, huge, *later), 30)
        assert served == ["small"] * 20 + ["large", "huge"] + ["later"] * 20
        assert line.in_use == 0

    asyncio.run(walk())
