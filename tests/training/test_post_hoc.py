"""Averages that are computed from snapshots: as good as direct ones, and the same after any kill."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danqing.data import Batches, open_dataset
from danqing.training.config_reading import resolve
from danqing.training.ema import EMA, PowerFunction, exponent
from danqing.training.ema_choice import MOST_ERROR, next_length, usable_lengths
from danqing.training.engine import Engine
from danqing.training.post_hoc import coefficients, error_share, reconstruct
from danqing.training.snapshots import (
    FEWEST_STEPS,
    MOST,
    Averages,
    Snapshot,
    SnapshotFolder,
    most_bytes,
    open_snapshots,
)
from tests.small_run import SMALL

KEPT = (0.05, 0.1)
LENGTHS = (0.02, 0.03, 0.075, 0.15, 0.25)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The distance of two sets of weights, relative to the norm of the second."""
    apart = sum(float((one[name] - other[name]).square().sum()) for name in other)
    return float((apart / sum(float(tensor.square().sum()) for tensor in other.values())) ** 0.5)


def curve(length: float, share: float) -> Tensor:
    """Averages, until a share of a run, of weights that move as t^p for four p; the first never moves."""
    power = exponent(length) + 1
    return torch.tensor([power / (power + p) * share**p for p in (0.0, 0.5, 1.0, 3.0)])


def curved(images: int, end: int) -> Averages:
    return {length: {"weight": curve(length, images / end)} for length in KEPT}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [MOST // 2, MOST])
def test_known_curves_are_averaged_as_by_calculus(count: int, length: float) -> None:
    snapshots = [Snapshot(n, KEPT, lambda n=n: curved(n, count)) for n in range(1, count + 1)]  # type: ignore[misc]
    found = reconstruct(snapshots, length)["weight"]
    assert torch.allclose(found, curve(length, 1.0), rtol=2e-3)
    assert float(found[0]) == pytest.approx(1.0, abs=1e-6)


def test_an_average_that_is_kept_is_returned_as_it_is() -> None:
    snapshots = [Snapshot(n, KEPT, lambda n=n: curved(n, 20)) for n in range(1, 21)]  # type: ignore[misc]
    for length in KEPT:
        assert torch.equal(reconstruct(snapshots, length)["weight"], curve(length, 1.0))
    factors = coefficients([(1000, 0.05), (1000, 0.1)], 1000, 0.0999)
    assert factors == pytest.approx([0, 1], abs=0.01)


def test_what_was_never_negative_stays_so() -> None:
    known = [(n, length) for n in range(1, 17) for length in KEPT]
    factors = coefficients(known, 16, 0.02)
    place = int(factors.argmin())
    assert factors[place] < -1  # a combination of averages may leave their range

    def averages(images: int) -> Averages:
        peak = {length: torch.tensor([float(known[place] == (images, length))]) for length in KEPT}
        return {length: {"variance": value, "weight": value - 0.5} for length, value in peak.items()}

    snapshots = [Snapshot(n, KEPT, lambda n=n: averages(n)) for n in range(1, 17)]  # type: ignore[misc]
    found = reconstruct(snapshots, 0.02)
    assert float(found["variance"]) == 0
    assert float(found["weight"]) == pytest.approx(factors[place] - 0.5, rel=1e-5)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[Snapshot], dict[float, dict[str, Tensor]]]:
    """The snapshots of a small training run, and direct averages beside them."""
    folder = tmp_path_factory.mktemp("snapshots")
    values = SMALL | {"ema_lengths": "[0.05, 0.1]", "learning_rate": "0.003", "schedule.name": "constant"}
    dataset = open_dataset("digits", size=(8, 8), cache_dir=tmp_path_factory.mktemp("cache"))
    config = resolve(preset="vae-32", settings=values, size=(8, 8)).for_data(dataset)
    engine = Engine(config, Batches(dataset, config.batch_size, 0), torch.device("cpu"), "float32")
    direct = {length: EMA(engine.learner, PowerFunction(length)) for length in LENGTHS}
    size, steps = engine.images_per_step, 17 * FEWEST_STEPS + 11
    snapshots = SnapshotFolder(folder, size)
    for step in range(steps):
        engine.step(step * size, step, total=steps * size)
        seen = (step + 1) * size
        for average in direct.values():
            average.update(seen, size)
        if snapshots.is_due(seen):
            snapshots.take(seen, engine.averaged())
    found, complaints = open_snapshots(folder, Snapshot(seen, KEPT, engine.averaged))
    assert (len(found), complaints) == (18, [])
    values_kept = sum(tensor.numel() for named in engine.averaged().values() for tensor in named.values())
    assert most_bytes(values_kept) > sum(file.stat().st_size for file in folder.iterdir())
    return found, {length: average.averaged() for length, average in direct.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_a_training_run_is_averaged_within_half_a_percent(
    trained: tuple[list[Snapshot], dict[float, dict[str, Tensor]]], length: float
) -> None:
    snapshots, direct = trained
    nearest = min(distance(dict(snapshots[-1].read()[kept]), direct[length]) for kept in KEPT)
    error = distance(reconstruct(snapshots, length), direct[length])
    assert error < 0.005
    assert error < nearest / 2


def taken(folder: Path) -> list[int]:
    return sorted(int(path.stem[7:]) for path in folder.iterdir())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 2500), st.lists(st.tuples(st.integers(1, 2500), st.integers(0, 40)), max_size=4))
def test_which_snapshots_exist_follows_from_the_images_seen(
    tmp_path_factory: pytest.TempPathFactory, steps: int, kills: list[tuple[int, int]]
) -> None:
    """Kills throw a run back by some steps, to its last checkpoint."""
    whole, killed = (SnapshotFolder(tmp_path_factory.mktemp(name), 10) for name in ("whole", "killed"))
    averages = {0.05: {"weight": torch.ones(1)}}

    def run(folder: SnapshotFolder, begin: int, end: int) -> None:
        folder.keep_until(begin * 10)
        for step in range(begin + 1, end + 1):
            if folder.is_due(step * 10):
                folder.take(step * 10, averages)

    run(whole, 0, steps)
    position = 0
    for end, back in sorted(kill for kill in kills if kill[0] <= steps):
        run(killed, position, end)
        position = max(end - back, 0)
    run(killed, position, steps)
    found = taken(whole.path)
    spacings = set(np.diff([0, *found]).tolist())
    assert len(found) <= MOST
    assert len(found) >= min(steps // FEWEST_STEPS, MOST // 2)
    assert len(spacings) <= 1
    assert set(taken(killed.path)) <= set(found)
    last = max((end for end, _ in kills if end <= steps), default=0)
    if last <= steps / 2:  # time enough for those that had been thinned out too early
        assert taken(killed.path) == found


def test_weights_of_any_size_survive_a_snapshot(tmp_path: Path) -> None:
    named = {str(n): torch.linspace(-1, 1, 1001) * 10.0**n for n in (-40, -30, -8, 0, 6, 30)}
    named |= {"1": torch.zeros(3), "2": torch.zeros(0)}
    latest = Snapshot(640, KEPT, lambda: dict.fromkeys(KEPT, named))
    folder = SnapshotFolder(tmp_path, 10)
    folder.take(320, latest.read())
    (first, _), complaints = open_snapshots(tmp_path, latest)
    assert complaints == []
    for name, tensor in first.read()[0.1].items():
        assert tensor.dtype == torch.float32
        assert torch.allclose(tensor, named[name], rtol=6e-4, atol=1e-8 * 10.0 ** int(name))


def test_a_damaged_snapshot_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    latest = Snapshot(3200, KEPT, lambda: {length: {"weight": torch.ones(64)} for length in KEPT})
    folder = SnapshotFolder(tmp_path, 10)
    for images in (320, 640, 960, 1280):
        folder.take(images, latest.read())
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-5])
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"\x01")
    files[2].write_bytes(b"")
    found, complaints = open_snapshots(tmp_path, latest)
    assert [snapshot.images for snapshot in found] == [1280, 3200]
    assert [complaint.split()[2] for complaint in complaints] == [file.name for file in files[:3]]
    other = Snapshot(3200, KEPT, lambda: {length: {"weight": torch.ones(65)} for length in KEPT})
    assert len(open_snapshots(tmp_path, other)[0]) == 1


def test_only_lengths_that_the_snapshots_give_are_offered() -> None:
    def after(steps: int) -> list[Snapshot]:
        times = [*range(FEWEST_STEPS, steps, FEWEST_STEPS), steps]
        return [Snapshot(images, KEPT, dict) for images in times]

    assert usable_lengths(after(10)) == [0.05, 0.075, 0.1]
    assert usable_lengths(after(MOST * FEWEST_STEPS))[0] == 0.02
    errors = [
        error_share([(n, of) for n in range(1, count + 1) for of in KEPT], count, 0.02)
        for count in (2, 8, 32)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > MOST_ERROR > errors[-1]


@given(st.integers(0, 7), st.integers(0, 7))
def test_the_best_length_is_found_between_two_that_are_worse(best: int, first: int) -> None:
    lengths = [0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25]
    scored: dict[float, float] = {}
    while (length := next_length(scored, lengths, lengths[first])) is not None:
        assert length not in scored
        scored[length] = abs(lengths.index(length) - best)
    assert min(scored, key=lambda each: scored[each]) == lengths[best]
    assert len(scored) <= abs(best - first) + 3
