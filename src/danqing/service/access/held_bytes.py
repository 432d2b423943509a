"""The bytes that one request keeps in memory."""

import math

from danqing.service.errors import overloaded
from danqing.service.fairness.fair_share import FairShare


class HeldBytes:
    """Counts the bytes that one request holds.

    They also count among those of all requests.

    share: what all requests may hold together.
    owner: the id of the key that the request came with, "" if it came without one.
    """

    __slots__ = ("_held", "_owner", "_share")

    def __init__(self, share: FairShare, owner: str = "") -> None:
        self._share, self._owner, self._held = share, owner, 0

    @classmethod
    def unlimited(cls) -> "HeldBytes":
        """Return a count without a limit.

        For work whose size is limited elsewhere.
        """
        return cls(FairShare(math.inf))

    def hold(self, count: int) -> None:
        """Count more bytes; raises ApiError 429 if other requests hold too many."""
        if not self._share.take(self._owner, count):
            raise overloaded("Other requests hold too many bytes now")
        self._held += count

    def let_go(self, count: int) -> None:
        """Count fewer bytes: these are no longer in memory."""
        self._share.give_back(self._owner, count)
        self._held -= count

    def release(self) -> None:
        """Release all bytes that are still held."""
        if self._held:
            self.let_go(self._held)
