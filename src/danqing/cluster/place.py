"""Which of the processes of a run this one is, from the environment that `torchrun` and `launch` set."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from danqing.errors import ConfigError


class Place(NamedTuple):
    """One of the processes that compute a run together.

    rank: its number, from 0, of `size` processes.
    local_rank: its number among the `local_size` processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Place | None":
        """Return the place that the environment names, or None; raises ConfigError."""
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults = dict(zip(names, ("0", "1", environment["RANK"], environment["WORLD_SIZE"]), strict=True))
        try:
            place = cls(*(int(environment.get(name, defaults[name])) for name in names))
        except ValueError:
            place = cls(rank=-1)
        if not (0 <= place.rank < place.size and 0 <= place.local_rank < place.local_size):
            given = ", ".join(f"{name}={environment.get(name)}" for name in names)
            raise ConfigError(f"The environment names no process of a run ({given}): unset RANK.")
        check_power_of_two(place.size, "WORLD_SIZE")
        return place


def check_power_of_two(count: int, name: str) -> None:
    """Raise ConfigError unless a number of processes is a power of two."""
    if count < 1 or count & (count - 1):
        raise ConfigError(
            f"{name} is {count}, and a run needs 1, 2, 4, 8 or another power of two of processes: choose one."
        )
