"""What a run costs: core-hours, energy and memory."""

from collections.abc import Mapping

import torch

from danqing import machine
from danqing.cluster.world import world
from danqing.training.position import Position


class CostMeter:
    """Counts the energy and memory that this process uses, the first one of its run."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._energy = machine.EnergyMeter.open(device)

    def count(self, position: Position) -> None:
        """Add to `position` what was used since the last call.

        Call it at least once an hour, since counters of energy start again at zero about as often.
        """
        if self._energy is not None:
            position.energy_joules += self._energy.spent()
        peak = machine.peak_memory(self._device) or 0
        position.peak_memory_bytes = max(position.peak_memory_bytes, peak)

    def cost(self, position: Position) -> dict[str, float | None]:
        """Return the cost of a run, over all its processes.

        core_hours: of as many processes as compute the run now.
        energy_wh: of the whole machine; None if it does not report its energy.
        evaluation_seconds: they are part of the core-hours, but not of the training time.
        """
        cores = machine.cores_used(self._device) * world().size
        joules, evaluation = position.energy_joules, position.evaluation_seconds
        return {
            "core_hours": (position.seconds + evaluation) * cores / 3600,
            "energy_wh": joules / 3600 if joules or self._energy is not None else None,
            "peak_memory_bytes": position.peak_memory_bytes or None,
            "evaluation_seconds": evaluation,
        }


def total_cost(
    first: Mapping[str, float | None], second: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Return the cost of two stages: sums, and the larger peak.

    A value is None if neither stage knows it.
    """
    total = {}
    for name in second:
        known = [value for cost in (first, second) if (value := cost.get(name)) is not None]
        total[name] = (max if name == "peak_memory_bytes" else sum)(known) if known else None
    return total
