"""What failures cost a large run: the formula, a simulation, and figures that others have published.

    python benchmarks/goodput.py [--days 540]

First, the formulas and the simulation from 1,000 to 130,000 GPUs. The times between failures are those of
Kokolis et al. 2024 (Revisiting Reliability in Large-Scale Machine Learning Research Clusters) for 1,024,
16,384 and 131,072 GPUs; between them, log-log interpolation. `formula` is Young's and Daly's to first order,
`exact` Daly's expectation. `holds` says where the first order is allowed to be compared: the interval and the
restart together are below a fifth of the time between failures.

Then, published figures. The times between failures are published; how long a checkpoint stops the run and
how long a restart takes are not, so the simulation is run with 5 s and 5 min, and the last column gives the
restart that would explain the published figure.

Last, spare nodes for the run on 16,384 GPUs: a node that failed is repaired in a day.
"""

import argparse
import itertools
import math
from typing import Any

from danqing.cluster.goodput import Cluster, daly, simulate, young_daly

HOUR, DAY = 3600.0, 86400.0
MTTF_HOURS = {1024: 7.9, 16384: 1.8, 131072: 14 / 60}
WAYS: dict[str, dict[str, Any]] = {
    "stop 5 s, restart 5 min": {"stall_seconds": 5.0, "restart_seconds": 300.0},
    "stop 1 s, restart 30 s": {"stall_seconds": 1.0, "restart_seconds": 30.0},
    "stop 0.1 s, write 30 s, restart 60 s": {
        "stall_seconds": 0.1,
        "write_seconds": 30.0,
        "restart_seconds": 60.0,
    },
}
PUBLISHED = {
    # Llama 3 (Grattafiori et al. 2024, section 3.3.4): 419 unplanned stops in 54 days on 16,384 H100.
    "Llama 3, 16,384 H100": (54 * 24 / 419, "> 90%", 0.90),
    # OPT-175B (Zhang et al. 2022 and its log book): 53 restarts in 56 days on 992 A100; 59% after
    # glennklockwood.com/garden/job-reliability.
    "OPT-175B, 992 A100": (56 * 24 / 53, "59%", 0.59),
}


def failure_hours(gpus: int) -> float:
    """Return the hours between failures, interpolated between the published numbers of GPUs."""
    known = sorted(MTTF_HOURS)
    for low, high in itertools.pairwise(known):
        if gpus <= high or high == known[-1]:
            slope = math.log(MTTF_HOURS[high] / MTTF_HOURS[low]) / math.log(high / low)
            return float(MTTF_HOURS[low] * (gpus / low) ** slope)
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--days", type=float, default=540.0)
    args = parser.parse_args()
    for name, way in WAYS.items():
        print(f"{name}\n{'GPUs':>8} {'MTTF':>7} {'every':>6} {'formula':>8} {'exact':>6}", end=" ")
        print(f"{'simulated':>9} {'holds':>6}")
        for gpus in (1000, 1024, 4096, 16384, 65536, 130000, 131072):
            cluster = Cluster(failure_seconds=failure_hours(gpus) * HOUR, **way)
            told = simulate(cluster, args.days * DAY)
            holds = (cluster.interval + cluster.restart_seconds) / cluster.failure_seconds < 0.2
            print(
                f"{gpus:8,} {cluster.failure_seconds / HOUR:5.2f} h {cluster.interval:4.0f} s "
                f"{young_daly(cluster):8.1%} {daly(cluster):6.1%} {told.goodput:9.1%} "
                f"{'yes' if holds else 'no':>6}"
            )
        print()
    print(f"{'published':24} {'MTTF':>8} {'figure':>7} {'simulated':>9}   restart that gives the figure")
    for name, (hours, figure, share) in PUBLISHED.items():
        cluster = Cluster(failure_seconds=hours * HOUR, stall_seconds=5, restart_seconds=300)
        told = simulate(cluster, args.days * DAY)
        restart = hours * HOUR * math.log(daly(cluster) / share) + cluster.restart_seconds
        print(f"{name:24} {hours:6.2f} h {figure:>7} {told.goodput:9.1%}   {restart / 60:.0f} min")
    print(f"\n{'spare nodes':>11} {'simulated':>9} {'without nodes':>13}")
    for spares in (0, 4, 8, 16, 32, None):
        cluster = Cluster(
            failure_seconds=PUBLISHED["Llama 3, 16,384 H100"][0] * HOUR,
            stall_seconds=5,
            restart_seconds=300,
            spare_nodes=spares,
            repair_seconds=DAY,
        )
        told = simulate(cluster, args.days * DAY)
        shown = "always one" if spares is None else spares
        print(f"{shown:>11} {told.goodput:9.1%} {told.without_nodes / told.seconds:13.1%}")


if __name__ == "__main__":
    main()
