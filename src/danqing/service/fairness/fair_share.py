"""Admission: how much of a limited resource each owner may take."""

GREED = 4
"""How many times the amount that is left for all others one owner may hold."""


class FairShare:
    """Counts what owners hold of a limited resource.

    For example bytes, pixels or queued pictures.

    The more an owner holds, the less is left for it to take. When nothing is held, any one request is
    admitted, however large.

    most: that all owners may hold together.
    each: that one owner may hold, instead of `GREED` times what is left.
    """

    def __init__(self, most: float, each: float | None = None) -> None:
        self._most, self._each = most, each
        self.held = 0
        self._held_by: dict[str, int] = {}

    def has_room(self, owner: str, amount: int) -> bool:
        """Return whether an owner may take an amount now."""
        if not self.held:
            return True
        free, held = self._most - self.held, self._held_by.get(owner, 0)
        return amount <= free and held + amount <= (GREED * free if self._each is None else self._each)

    def take(self, owner: str, amount: int) -> bool:
        """Take an amount for an owner.

        Returns False, and takes nothing, if there is no room.
        """
        if not self.has_room(owner, amount):
            return False
        self.add(owner, amount)
        return True

    def add(self, owner: str, amount: int) -> None:
        """Count an amount for an owner, even beyond the limit.

        amount: negative for less.
        """
        self.held += amount
        held = self._held_by[owner] = self._held_by.get(owner, 0) + amount
        if not held:
            del self._held_by[owner]

    def give_back(self, owner: str, amount: int) -> None:
        """Release an amount of an owner."""
        self.add(owner, -amount)
