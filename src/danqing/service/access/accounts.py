"""The rate limit of a key, in requests per minute, and its quota, in pictures per day."""

import math
import time
from collections.abc import Callable

from danqing.service.errors import FINAL, ApiError

DAY = 86_400  # seconds
_MINUTE = 60
_ROUNDING = 1e-3  # seconds; times since 1970 are exact to 1e-7, and sums add errors


class Account:
    """Counts what one key uses, and rejects what exceeds its limits.

    rate: requests per minute, None for no limit: a token bucket that holds one minute's requests and fills
        evenly, so that as many may arrive at once after a pause.
    quota: pictures per day, None for no limit; a day begins at midnight UTC.
    clock: returns seconds since 1970.
    """

    def __init__(
        self, rate: int | None = None, quota: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.rate, self.quota, self._clock = rate, quota, clock
        self._full_at = -math.inf  # when the bucket is full again: GCRA's theoretical arrival time
        self._day = int(clock() // DAY)
        self._today = 0
        self._unwritten: dict[int, list[int]] = {}

    async def admit_request(self) -> None:
        """Count a request; raises ApiError 429 if the rate limit is reached."""
        self.request()

    async def admit_pictures(self, images: int) -> float:
        """Count pictures before they are painted; see `charge`."""
        return self.charge(images)

    def request(self) -> None:
        """Count a request of this service.

        Raises ApiError 429 if the rate limit is reached.
        """
        now = self._clock()
        if self.rate is not None:
            self._full_at, wait = after_request(self._full_at, self.rate, now)
            check_rate(self.rate, wait)
        self._counted(now)[0] += 1

    def note_request(self, full_at: float, wait: float) -> None:
        """Count a request as the database counted it for all services.

        Arguments are what `after_request` returned. Raises ApiError 429 if the request is too early.
        """
        self._full_at = full_at
        if self.rate is not None:
            check_rate(self.rate, wait)
        self._counted(self._clock())[0] += 1

    def note_pictures(self, images: int, charged: float) -> None:
        """Record pictures that the database counts already; fewer than 0 are refunded.

        charged: when they were counted, in seconds since 1970.
        """
        self._counted(self._clock())
        if int(charged // DAY) >= self._day:
            self._today = max(0, self._today + images)

    def unwritten_images(self) -> int:
        """Return how many of today's pictures the database does not count yet."""
        return self._counted(self._clock())[1]

    def charge(self, images: int) -> float:
        """Count pictures before they are painted.

        Return when they were counted, for `refund`.

        Raises ApiError 429 if the quota has fewer left.
        """
        now = self._clock()
        counted = self._counted(now)
        if self.quota is not None:
            check_quota(self.quota, self._today, images, now)
        self._today += images
        counted[1] += images
        return now

    def refund(self, images: int, charged: float) -> None:
        """Refund pictures that were not painted.

        charged: when they were counted, in seconds since 1970.
        """
        self._counted(self._clock())
        day = int(charged // DAY)
        if day >= self._day:
            images, day = min(images, self._today), self._day
            self._today -= images
        self._unwritten.setdefault(day, [0, 0])[1] -= images

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the current `x-ratelimit-*` headers."""
        if self.rate is None and self.quota is None:
            return []
        now = self._clock()
        headers: list[tuple[bytes, bytes]] = []
        if self.rate is not None:
            to_fill = min(max(0.0, self._full_at - now), _MINUTE)
            left = math.floor(self.rate * (1 - to_fill / _MINUTE) + _ROUNDING)
            headers += _limit_headers(b"requests", self.rate, left, to_fill)
        if self.quota is not None:
            self._counted(now)
            headers += _limit_headers(
                b"images", self.quota, max(0, self.quota - self._today), (self._day + 1) * DAY - now
            )
        return headers

    def unwritten(self) -> dict[int, tuple[int, int]]:
        """Return requests and pictures counted since the last call, by day (days since 1970)."""
        counted = {day: (requests, images) for day, (requests, images) in self._unwritten.items()}
        self._unwritten = {}
        return {day: amounts for day, amounts in counted.items() if any(amounts)}

    def set_used(self, day: int, images: int) -> None:
        """Set what the database has counted on `day` for all servers.

        What is not yet written is added.
        """
        if day >= self._day:
            self._day = day
            self._today = images + self._unwritten.get(day, [0, 0])[1]

    def _counted(self, now: float) -> list[int]:
        """Return today's unwritten counts, a mutable list; a new day starts at zero."""
        day = int(now // DAY)
        if day > self._day:
            self._day, self._today = day, 0
        return self._unwritten.setdefault(self._day, [0, 0])


def after_request(full_at: float, rate: int, now: float) -> tuple[float, float]:
    """Return when a bucket is full again after one more request.

    Also returns the seconds by which the request is too early.

    full_at: when it was full before, in seconds since 1970. rate: requests per minute. A request that is too
    early leaves the bucket as it is.
    """
    if full_at > now + _MINUTE + 1:  # the clock was set back, which must not lock the key out
        full_at = now + _MINUTE
    after = max(full_at, now) + _MINUTE / rate
    wait = after - now - _MINUTE
    return (full_at, wait) if wait > _ROUNDING else (after, 0.0)


def check_rate(rate: int, wait: float) -> None:
    """Raise ApiError 429 if a request is too early by some seconds."""
    if wait > 0:
        raise _rejection(
            f"This key may send {rate:,} requests per minute: retry in {_seconds(wait)} s.",
            "rate_limit_exceeded",
            wait,
        )


def check_quota(quota: int, used: int, images: int, now: float) -> None:
    """Raise ApiError 429 if a quota has too few pictures left.

    used: pictures of this day.
    """
    if used + images <= quota:
        return
    left = max(0, quota - used)
    wait = (now // DAY + 1) * DAY - now
    raise _rejection(
        f"This key may paint {quota:,} pictures per day, {left:,} more until midnight UTC; this "
        f"request needs {images:,}.",
        "insufficient_quota",
        wait,
    )


def _rejection(message: str, code: str, wait: float) -> ApiError:
    headers = {"retry-after": _seconds(wait)}
    if code == "insufficient_quota":  # clients should not wait until midnight
        return ApiError(429, message, type=code, code=code, headers={**headers, **FINAL})
    return ApiError(429, message, code=code, headers=headers)


def _seconds(wait: float) -> str:
    return str(max(1, math.ceil(wait)))


def _limit_headers(what: bytes, limit: int, left: int, reset: float) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % left),
        (b"x-ratelimit-reset-" + what, _duration(reset).encode()),
    ]


def _duration(seconds: float) -> str:
    """Format a duration as the OpenAI API does: `0s`, `350ms`, `6m0s`, `13h2m5s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if whole >= 60 else "") + f"{whole % 60}s"
