"""The share of time in which a large run makes progress: a formula, and a simulation of failures.

A run saves its state at intervals. A failure costs the work since the last state, and a restart.
"""

import heapq
import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A run on many GPUs, one of which stops it when it fails. All times are in seconds.

    failure_seconds: the mean time between failures of the run.
    stall_seconds: how long a checkpoint stops the run.
    write_seconds: how much later it is on disk, while the run goes on.
    restart_seconds: from a failure, with a node in the place of one that failed, to the next step.
    interval_seconds: of training between checkpoints; None is the best one by the formula.
    spare_nodes: that wait to replace one; None means that there is always one more.
    repair_seconds: how long a node that failed is away.
    """

    failure_seconds: float
    stall_seconds: float
    restart_seconds: float
    write_seconds: float = 0.0
    interval_seconds: float | None = None
    spare_nodes: int | None = None
    repair_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.interval <= 0:
            raise ValueError("A checkpoint that costs nothing has no best interval: give interval_seconds.")

    @property
    def interval(self) -> float:
        """Return the seconds of training between checkpoints; one write ends before the next begins."""
        wanted = self.interval_seconds or best_interval(self.stall_seconds, self.failure_seconds)
        return max(wanted, self.write_seconds)


@dataclass(slots=True)
class Simulated:
    """Seconds of a simulated run, by what they were spent on.

    useful: steps whose result was kept.
    stalled: by the checkpoints of these steps.
    repeated: steps that a failure undid.
    restarting: after failures, also restarts that failed.
    without_nodes: until a node was repaired.
    failures: how many there were.
    """

    useful: float = 0.0
    stalled: float = 0.0
    repeated: float = 0.0
    restarting: float = 0.0
    without_nodes: float = 0.0
    failures: int = 0

    @property
    def seconds(self) -> float:
        """Return the length of the run."""
        return self.useful + self.stalled + self.repeated + self.restarting + self.without_nodes

    @property
    def goodput(self) -> float:
        """Return the share of useful seconds, in [0, 1]."""
        return self.useful / self.seconds if self.seconds else 0.0


def best_interval(stall_seconds: float, failure_seconds: float) -> float:
    """Return the best time between checkpoints (Young 1974, equation 1).

    It is sqrt(2 δ M): longer ones lose more work in a failure, shorter ones stall more often.
    """
    return math.sqrt(2 * stall_seconds * failure_seconds)


def young_daly(cluster: Cluster) -> float:
    """Return the goodput to first order: 1 - δ/τ - τ/2M - R/M (Young 1974; Daly 2006, section 2).

    It holds where the interval and the restart are short beside the time between failures.
    """
    tau, mean = cluster.interval, cluster.failure_seconds
    lost = cluster.stall_seconds / tau + (tau / 2 + cluster.write_seconds + cluster.restart_seconds) / mean
    return max(0.0, 1 - lost)


def daly(cluster: Cluster) -> float:
    """Return the expected goodput for exponential times between failures (Daly 2006, equation 13).

    It is τ / (M exp(R/M) (exp((τ + δ)/M) - 1)): restarts may fail as well. Writes in the background are not
    part of it.
    """
    tau, mean = cluster.interval, cluster.failure_seconds
    cycle = mean * math.expm1((tau + cluster.stall_seconds) / mean)
    return tau / (cycle * math.exp(cluster.restart_seconds / mean))


def simulate(cluster: Cluster, seconds: float, seed: int = 0) -> Simulated:
    """Simulate a run from failure to failure until it has lasted `seconds`.

    Times between failures are exponential. What happens between two of them follows without further events.
    """
    rng, told = Random(seed), Simulated()
    interval, stall = cluster.interval, cluster.stall_seconds
    spares, in_repair = cluster.spare_nodes, list[float]()
    while told.seconds < seconds:
        running = min(rng.expovariate(1 / cluster.failure_seconds), seconds - told.seconds)
        saved = max(0, int((running - cluster.write_seconds) // (interval + stall)))
        told.useful += saved * interval
        told.stalled += saved * stall
        rest = running - saved * (interval + stall)
        if told.seconds + rest >= seconds:  # the run ends here, and saves its last state
            told.useful += rest
            break
        told.repeated += rest
        told.failures += 1
        if spares is not None:
            spares = _replace_node(cluster, told, spares, in_repair)
        while (until := rng.expovariate(1 / cluster.failure_seconds)) < cluster.restart_seconds:
            told.restarting += until
            told.failures += 1
            if spares is not None:
                spares = _replace_node(cluster, told, spares, in_repair)
        told.restarting += cluster.restart_seconds
    return told


def _replace_node(cluster: Cluster, told: Simulated, spares: int, in_repair: list[float]) -> int:
    """Put a spare node in the place of one that failed, and wait for one if there is none.

    Returns how many spare nodes are left.
    """
    heapq.heappush(in_repair, told.seconds + cluster.repair_seconds)
    while in_repair and in_repair[0] <= told.seconds:
        heapq.heappop(in_repair)
        spares += 1
    if spares:
        return spares - 1
    told.without_nodes += max(0.0, heapq.heappop(in_repair) - told.seconds)
    return 0
