"""What there is only so much of: shared by whoever asks, or for one after the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

GREED = 4
"""Somebody may have so many times as much as is left for all others."""


class Shares:
    """Counts what is taken of `most` (bytes, pixels): the more somebody has, the less is left to take."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.taken = 0
        self._held: dict[str, int] = {}

    def take(self, owner: str, amount: int) -> bool:
        """Take so much for somebody; False, and nothing is taken, where that is more than a fair share."""
        held, free = self._held.get(owner, 0), self._most - self.taken
        if amount > free or held + amount > GREED * free:
            return False
        self.add(owner, amount)
        return True

    def add(self, owner: str, amount: int) -> None:
        """Count what somebody has, whether there is room for it or not."""
        self.taken += amount
        self._held[owner] = self._held.get(owner, 0) + amount

    def give_back(self, owner: str, amount: int) -> None:
        """Somebody has so much less."""
        self.add(owner, -amount)
        if not self._held[owner]:
            del self._held[owner]


class Line:
    """Lets those wait who want some of `most`: whoever came first is served first, however much it is."""

    def __init__(self, most: float) -> None:
        self._most = most
        self.taken = 0
        self._first = asyncio.Lock()  # lets those who wait for it in as they came
        self._left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self, amount: int) -> AsyncIterator[None]:
        """Wait, and have so much while the block lasts; more than there is, whoever is alone."""
        async with self._first:
            while self.taken and self.taken + amount > self._most:
                self._left.clear()
                await self._left.wait()
            self.taken += amount
        try:
            yield
        finally:
            self.taken -= amount
            self._left.set()
