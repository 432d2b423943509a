"""Averages of what a run logs."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Meter:
    """Averages of scalars between two lines of the log.

    They are kept as sums on the device, so that no step waits for it.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, prefix: str, logged: Mapping[str, Tensor]) -> None:
        """Add the scalars of one loss, under names that begin with `prefix`."""
        for name, value in logged.items():
            key = f"{prefix}/{name}"
            value = value.detach().to(torch.float32)
            self.sums[key] = self.sums[key] + value if key in self.sums else value
            self.counts[key] = self.counts.get(key, 0) + 1

    def drain(self) -> dict[str, float]:
        """Return the averages since the last call, sorted by name."""
        # Sorted, since a resumed run must write its lines in the same order.
        averages = {key: float(self.sums[key]) / self.counts[key] for key in sorted(self.sums)}
        self.sums, self.counts = {}, {}
        return averages
