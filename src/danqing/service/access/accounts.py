"""What a key may still take: requests of a minute, pictures of a day."""

import math
import time
from collections.abc import Callable

from danqing.service.errors import FINAL, ApiError

_DAY = 86_400
_MINUTE = 60
_ROUNDING = 1e-3  # seconds since 1970 have 1e-7 of it, each sum of them adds some


class Account:
    """Counts what one key takes, and refuses what goes beyond; None: without end.

    rate: requests per minute, as a bucket that holds those of one minute and fills evenly (after a pause, as
    many may come at once). quota: pictures per day, which begins at midnight UTC. clock: seconds since 1970.
    """

    def __init__(
        self, rate: int | None = None, quota: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.rate, self.quota, self._clock = rate, quota, clock
        self._full_at = -math.inf  # when the bucket is full again: GCRA's theoretical arrival time
        self._day = int(clock() // _DAY)
        self._today = 0
        self._unwritten: dict[int, list[int]] = {}

    def request(self) -> None:
        """Count a request; raises ApiError 429 where the minute has no more."""
        now = self._clock()
        if self.rate is not None:
            if self._full_at > now + _MINUTE + 1:  # the clock was set back: that locks nobody out
                self._full_at = now + _MINUTE
            full_at = max(self._full_at, now) + _MINUTE / self.rate
            wait = full_at - now - _MINUTE
            if wait > _ROUNDING:
                raise _refusal(
                    f"This key may make {self.rate:,} requests per minute: ask again in {_seconds(wait)} s.",
                    "rate_limit_exceeded",
                    wait,
                )
            self._full_at = full_at
        self._counted(now)[0] += 1

    def charge(self, images: int) -> float:
        """Count pictures that are to be painted; returns when they were counted, for `refund`.

        Raises ApiError 429 where the day has not that many left.
        """
        now = self._clock()
        counted = self._counted(now)
        if self.quota is not None and self._today + images > self.quota:
            left = max(0, self.quota - self._today)
            wait = (self._day + 1) * _DAY - now
            raise _refusal(
                f"This key may paint {self.quota:,} pictures per day, {left:,} more until midnight UTC; this "
                f"request asks for {images:,}.",
                "insufficient_quota",
                wait,
            )
        self._today += images
        counted[1] += images
        return now

    def refund(self, images: int, charged: float) -> None:
        """Give pictures that were not painted back to the day of `charged`, seconds since 1970."""
        self._counted(self._clock())
        day = int(charged // _DAY)
        if day >= self._day:
            images, day = min(images, self._today), self._day
            self._today -= images
        self._unwritten.setdefault(day, [0, 0])[1] -= images

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The `x-ratelimit-*` headers, as they stand now."""
        if self.rate is None and self.quota is None:
            return []
        now = self._clock()
        told: list[tuple[bytes, bytes]] = []
        if self.rate is not None:
            to_fill = min(max(0.0, self._full_at - now), _MINUTE)
            left = math.floor(self.rate * (1 - to_fill / _MINUTE) + _ROUNDING)
            told += _told(b"requests", self.rate, left, to_fill)
        if self.quota is not None:
            self._counted(now)
            told += _told(
                b"images", self.quota, max(0, self.quota - self._today), (self._day + 1) * _DAY - now
            )
        return told

    def unwritten(self) -> dict[int, tuple[int, int]]:
        """Requests and pictures by day (days since 1970) that were counted since this was last asked."""
        counted = {day: (requests, images) for day, (requests, images) in self._unwritten.items()}
        self._unwritten = {}
        return {day: amounts for day, amounts in counted.items() if any(amounts)}

    def known(self, day: int, images: int) -> None:
        """What the database says was taken on `day`, by this process and others; not yet written is added."""
        if day >= self._day:
            self._day = day
            self._today = images + self._unwritten.get(day, [0, 0])[1]

    def _counted(self, now: float) -> list[int]:
        """The amounts of today that are to be written; a new day begins with nothing taken."""
        day = int(now // _DAY)
        if day > self._day:
            self._day, self._today = day, 0
        return self._unwritten.setdefault(self._day, [0, 0])


def _refusal(message: str, code: str, wait: float) -> ApiError:
    headers = {"retry-after": _seconds(wait)}
    if code == "insufficient_quota":  # no client should hold its breath until midnight
        return ApiError(429, message, type=code, code=code, headers={**headers, **FINAL})
    return ApiError(429, message, code=code, headers=headers)


def _seconds(wait: float) -> str:
    return str(max(1, math.ceil(wait)))


def _told(what: bytes, limit: int, left: int, reset: float) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % left),
        (b"x-ratelimit-reset-" + what, _duration(reset).encode()),
    ]


def _duration(seconds: float) -> str:
    """As the OpenAI API writes it: `0s`, `350ms`, `6m0s`, `13h2m5s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if whole >= 60 else "") + f"{whole % 60}s"
