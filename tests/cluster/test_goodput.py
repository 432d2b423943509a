"""The simulator agrees with the formulas where they hold, and with itself where they do not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.cluster.goodput import Cluster, best_interval, daly, simulate, young_daly

HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize(
    ("hours", "stall", "restart", "expected"),
    [(7.9, 5, 300, 0.971), (1.8, 5, 300, 0.914), (14 / 60, 5, 300, 0.53), (14 / 60, 1, 30, 0.915)],
)
def test_the_formula_has_known_values(hours: float, stall: float, restart: float, expected: float) -> None:
    cluster = Cluster(failure_seconds=hours * HOUR, stall_seconds=stall, restart_seconds=restart)
    assert young_daly(cluster) == pytest.approx(expected, abs=0.005)


def test_a_free_checkpoint_has_no_best_interval() -> None:
    with pytest.raises(ValueError, match="give interval_seconds"):
        Cluster(failure_seconds=3600, stall_seconds=0, restart_seconds=30)


def test_no_interval_is_better_than_the_best() -> None:
    failure, stall = 3 * HOUR, 5.0
    best = best_interval(stall, failure)

    def at(interval: float) -> float:
        return young_daly(
            Cluster(
                failure_seconds=failure, stall_seconds=stall, restart_seconds=0, interval_seconds=interval
            )
        )

    assert all(at(best) > at(factor * best) for factor in (0.5, 0.9, 1.1, 2))


@pytest.mark.parametrize("hours", [7.9, 1.8, 0.5])
def test_the_simulation_agrees_with_the_formula_where_it_holds(hours: float) -> None:
    cluster = Cluster(failure_seconds=hours * HOUR, stall_seconds=5, restart_seconds=60)
    found = simulate(cluster, 20_000 * cluster.failure_seconds).goodput
    assert found == pytest.approx(young_daly(cluster), rel=0.02)
    assert found == pytest.approx(daly(cluster), rel=0.005)


def test_the_simulation_agrees_with_the_exact_expectation_where_failures_are_frequent() -> None:
    cluster = Cluster(failure_seconds=840, stall_seconds=5, restart_seconds=300)
    assert simulate(cluster, 20_000 * 840).goodput == pytest.approx(daly(cluster), rel=0.01)


def test_a_write_in_the_background_costs_only_the_work_that_it_delays() -> None:
    options = {"failure_seconds": 2 * HOUR, "restart_seconds": 60.0, "interval_seconds": 300.0}
    blocking = Cluster(stall_seconds=30, **options)
    background = Cluster(stall_seconds=0.1, write_seconds=30, **options)
    found = [simulate(each, 2e7).goodput for each in (blocking, background)]
    assert found[1] - found[0] > 0.08
    assert found[1] == pytest.approx(young_daly(background), rel=0.01)


def test_spare_nodes_save_the_time_until_a_repair() -> None:
    options = {"failure_seconds": 2 * HOUR, "stall_seconds": 1, "restart_seconds": 60}
    found = [
        simulate(Cluster(**options, spare_nodes=spares, repair_seconds=DAY), 100 * DAY)
        for spares in (0, 8, 40)
    ]
    goodputs = [each.goodput for each in found]
    assert goodputs == sorted(goodputs)
    assert found[2].without_nodes == 0
    assert goodputs[2] == pytest.approx(simulate(Cluster(**options), 100 * DAY).goodput, rel=0.01)
    # Without spares, each failure waits for the repair.
    assert goodputs[0] == pytest.approx(2 * HOUR / (2 * HOUR + DAY), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(
    failure=st.floats(60, 1e6),
    stall=st.floats(0.01, 60),
    restart=st.floats(0, 600),
    write=st.floats(0, 60),
    spares=st.none() | st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_the_parts_of_a_simulation_are_its_whole(
    failure: float, stall: float, restart: float, write: float, spares: int | None, seed: int
) -> None:
    cluster = Cluster(
        failure_seconds=failure,
        stall_seconds=stall,
        restart_seconds=min(restart, failure),
        write_seconds=write,
        spare_nodes=spares,
        repair_seconds=failure,
    )
    wanted = 300 * failure
    told = simulate(cluster, wanted, seed)
    assert told.seconds >= wanted * 0.999999
    assert 0 <= told.goodput <= 1
    assert min(told.useful, told.stalled, told.repeated, told.restarting, told.without_nodes) >= 0
    assert told.failures > 0
