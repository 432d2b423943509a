"""A key takes what it may and not more, whatever the clock does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danqing.service.access.accounts import Account
from danqing.service.errors import ApiError

NOON = 20_000 * 86_400 + 43_200.0


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def told(account: Account) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in account.headers()}


def refusal(account: Account) -> ApiError | None:
    try:
        account.request()
    except ApiError as error:
        return error
    return None


def accepted(account: Account) -> bool:
    return refusal(account) is None


@given(rate=st.integers(1, 200), pauses=st.lists(st.floats(0, 90), min_size=1, max_size=300))
def test_no_stretch_of_time_has_more_requests_than_its_bucket_and_what_flows_in(
    rate: int, pauses: list[float]
) -> None:
    clock = Clock()
    account = Account(rate=rate, clock=clock)
    times: list[float] = []
    for pause in pauses:
        clock.now += pause
        if accepted(account):
            times.append(clock.now)
        for first in range(len(times)):
            assert len(times) - first <= rate + (times[-1] - times[first]) * rate / 60 + 1e-3
    assert times  # the first is always taken


@given(rate=st.integers(1, 500), patient=st.integers(1, 100))
def test_who_waits_as_long_as_retry_after_says_is_served(rate: int, patient: int) -> None:
    clock = Clock()
    account = Account(rate=rate, clock=clock)
    assert [accepted(account) for _ in range(rate + 1)] == [True] * rate + [False]
    for _ in range(patient):
        while (refused := refusal(account)) is None:
            pass
        assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
        wait = int(refused.headers["retry-after"])
        assert 1 <= wait <= math.ceil(60 / rate)
        clock.now += wait
        assert accepted(account)


def test_the_headers_tell_what_is_left() -> None:
    clock = Clock()
    account = Account(rate=60, quota=100, clock=clock)
    account.request()
    account.charge(30)
    assert told(account) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-images": "100",
        "x-ratelimit-remaining-images": "70",
        "x-ratelimit-reset-images": "12h0m0s",
    }
    clock.now += 0.5
    assert told(account)["x-ratelimit-reset-requests"] == "500ms"
    clock.now += 60
    assert told(account)["x-ratelimit-remaining-requests"] == "60"
    assert told(account)["x-ratelimit-reset-requests"] == "0s"
    assert Account().headers() == []


@given(takes=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=60))
def test_the_quota_is_never_passed_and_what_is_given_back_can_be_taken_again(
    takes: list[tuple[int, bool]],
) -> None:
    account, taken = Account(quota=100, clock=Clock()), 0
    for images, given_back in takes:
        if taken + images > 100:
            with pytest.raises(ApiError) as refused:
                account.charge(images)
            assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")
            assert refused.value.headers["x-should-retry"] == "false"
            continue
        charged = account.charge(images)
        taken += images
        if given_back:
            account.refund(images, charged)
            taken -= images
        assert told(account)["x-ratelimit-remaining-images"] == str(100 - taken)
    assert sum(images for _, images in account.unwritten().values()) == taken
    assert account.unwritten() == {}


def test_a_day_begins_anew_at_midnight_utc() -> None:
    clock = Clock()
    account = Account(quota=10, clock=clock)
    yesterday = account.charge(10)
    clock.now = NOON + 43_199
    with pytest.raises(ApiError) as refused:
        account.charge(1)
    assert refused.value.headers["retry-after"] == "1"
    clock.now += 1
    account.refund(4, yesterday)
    today = account.charge(10)
    account.refund(6, yesterday)  # nothing of today's is given away
    with pytest.raises(ApiError):
        account.charge(1)
    account.refund(10, today)
    account.charge(10)
    with pytest.raises(ApiError):
        account.charge(1)
    assert account.unwritten() == {20_001: (0, 10)}
    account.refund(3, yesterday)  # what was charged may have been written long since
    assert account.unwritten() == {20_000: (0, -3)}


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    clock = Clock()
    account = Account(rate=2, clock=clock)
    assert [accepted(account) for _ in range(3)] == [True, True, False]
    clock.now -= 86_400
    assert not accepted(account)
    clock.now += 30
    assert accepted(account)


def test_what_other_processes_took_is_counted_too() -> None:
    account = Account(quota=100, clock=Clock())
    account.charge(10)
    assert account.unwritten() == {20_000: (0, 10)}
    account.charge(5)  # while the ten are being written
    account.set_used(20_000, 70)
    assert told(account)["x-ratelimit-remaining-images"] == "25"
    account.set_used(19_999, 0)  # late news of yesterday
    assert told(account)["x-ratelimit-remaining-images"] == "25"
