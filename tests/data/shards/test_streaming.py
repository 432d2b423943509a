"""Images that are read from shards while a model learns: in a folder, and from a server that fails."""

import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from danqing.data import Batches, Dataset, open_dataset
from danqing.data.shards import stores
from danqing.data.shards import stream as streams
from danqing.data.shards.reader import Reader, ShardWarning
from danqing.data.shards.table import NAME
from danqing.data.splits import hold_out, open_held
from danqing.errors import ConfigError, DataError
from tests.data.shards.making import COUNT, Server, contents, folder_of, serving, shards_of

WINDOW = 3
CHANGES = ["missing", "truncated", "longer", "changed", "another", "noise"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    shards_of(folder_of(place / "in"), place / "out")
    return place / "out"


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_PAUSES", (0.01, 0.02))


@pytest.fixture
def server(shards: Path) -> Iterator[Server]:
    with serving(shards) as running:
        yield running


def stream(place: Path | str, **options: object) -> Dataset:
    return open_dataset(place, stream_over=0, window=WINDOW, **options)  # type: ignore[arg-type]


def fresh(server: Server, cache_folder: Path) -> Batches:
    """Batches of a stream without copies of shards: a survey of so few images has fetched all of them."""
    batches = Batches(stream(server.url), 16, seed=1, prefetch=False)
    for copy in cache_folder.rglob("*.dqs"):
        copy.unlink()
    server.requests.clear()
    return batches


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
        return
    path.write_bytes(
        {
            "truncated": content[:-100],
            "longer": content + b"more",
            "changed": bytes([content[0] ^ 1]) + content[1:],
            "another": (path.parent / "train-000001.dqs").read_bytes(),
            "noise": np.random.default_rng(0).bytes(len(content)),
        }[how]
    )


def batch_bytes(batches: Batches, position: int) -> bytes:
    batch = batches.at(position)
    assert batch.condition.label is not None
    return batch.images.numpy().tobytes() + batch.condition.label.numpy().tobytes()


def epoch(batches: Batches) -> None:
    for step in range(8):
        batches.at(16 * step)


def test_a_run_that_begins_anywhere_sees_the_same_batches(shards: Path, server: Server) -> None:
    """In mid-epoch, over the end of an epoch, from a folder and from a server."""
    whole = Batches(stream(shards), 16, seed=3, use_texts=True)
    expected = [batch_bytes(whole, 16 * step) for step in range(12)]
    rows = np.concatenate([whole.indices(16 * step) for step in range(8)])[:COUNT]
    assert sorted(image.numpy().tobytes() for image in whole.dataset.images(rows)) == sorted(
        image for image, _, _ in contents(whole.dataset)
    )
    for begin in (5, 9):
        for place in (shards, server.url):
            resumed = Batches(stream(place), 16, seed=3)
            assert [batch_bytes(resumed, 16 * step) for step in range(begin, 12)] == expected[begin:]
    halves = Batches(stream(shards), 8, seed=3)
    images = torch.cat([halves.at(position).images for position in (32, 40)])
    assert torch.equal(images, whole.at(32).images)


@pytest.mark.parametrize("how", CHANGES)
def test_a_bad_shard_is_left_out_and_reported_once(shards: Path, how: str) -> None:
    good = stream(shards)
    table = Reader(shards).table
    bad = 0
    damage(shards / table.name(bad), how)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dataset = stream(shards)
        batches = Batches(dataset, 16, seed=0)
        seen = [batch_bytes(batches, 16 * step) for step in range(16)]
    mine = [str(one.message) for one in told if one.category is ShardWarning]
    assert len(mine) == 1
    assert "train-000000.dqs" in mine[0]
    assert f"{table.images[bad]} images" in mine[0]
    resumed = Batches(stream(shards), 16, seed=0)
    assert [batch_bytes(resumed, 16 * step) for step in range(9, 16)] == seen[9:]
    # In the place of its image k stands image k of the next shard, and all others are where they were.
    count, following = int(table.images[0]), int(table.images[1])
    rows = np.arange(len(dataset))
    moved = np.where(rows < count, count + rows % following, rows)
    assert contents(dataset) == contents(good, moved) if how == "missing" else len(contents(dataset)) == COUNT


def test_what_stands_for_a_bad_shard_does_not_depend_on_what_was_read_before(
    shards: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_SURVEYED_SHARDS", 1)  # the first one
    starts = np.cumsum(Reader(shards).table.images)
    damage(shards / "train-000002.dqs", "missing")
    damage(shards / "train-000003.dqs", "changed")  # in its first image
    for place in (shards, server.url):
        with pytest.warns(ShardWarning, match=r"train-000002\.dqs"):
            one = stream(place).images(np.array([starts[1] + 1]))
        other = stream(place)
        with pytest.warns(ShardWarning, match=r"train-000003\.dqs"):
            other.images(np.array([starts[2]]))
        assert torch.equal(other.images(np.array([starts[1] + 1])), one)


@pytest.mark.parametrize("how", CHANGES)
def test_a_packed_cache_is_built_without_a_bad_shard(shards: Path, how: str) -> None:
    plain = open_dataset(shards)
    count = int(Reader(shards).table.images[2])
    damage(shards / "train-000002.dqs", how)
    with pytest.warns(ShardWarning, match=r"train-000002\.dqs"):
        dataset = open_dataset(shards, size=(8, 8))  # another cache
    assert len(dataset) == COUNT - count
    assert set(contents(dataset)) < set(contents(plain))
    report = dataset.info.report
    assert report.left_out == {"in shards that are left out": count}
    assert report.found == COUNT == report.images + report.skipped + sum(report.left_out.values())


def test_a_server_that_dies_and_returns_changes_nothing(
    shards: Path, server: Server, cache_folder: Path
) -> None:
    expected = [batch_bytes(Batches(stream(shards), 16, seed=1), 16 * step) for step in range(8)]
    batches = fresh(server, cache_folder)
    seen = [batch_bytes(batches, 0)]
    server.stop()
    before = len(server.requests)
    back = threading.Timer(0.5, server.start)
    back.start()
    seen += [batch_bytes(batches, 16 * step) for step in range(1, 8)]
    back.join()
    assert seen == expected
    assert len(server.requests) > before  # some of them were fetched after it returned


def test_a_shard_that_a_server_does_not_give_is_left_out(server: Server) -> None:
    server.before = lambda path: 500 if path.endswith("train-000003.dqs") else 0
    with pytest.warns(ShardWarning, match=r"train-000003.dqs .* cannot be read \(status 500\)"):
        epoch(Batches(stream(server.url), 16, seed=1))


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_no_more_is_read_than_was_requested_whatever_a_server_sends(
    server: Server, ignores_ranges: bool
) -> None:
    server.ignores_ranges, store, whole = ignores_ranges, stores.open_store(server.url), server.folder / NAME
    content = whole.read_bytes()
    assert store.read(NAME, 0, len(content)) == content
    assert store.read(NAME, 7, 7) == b""
    if ignores_ranges:
        with pytest.raises(DataError, match="does not answer range reads"):
            store.read(NAME, 1, len(content) + 1)  # the whole file would be no longer than that
    else:
        assert store.read(NAME, 1, 9) == content[1:9]
    server.padding = 200
    with pytest.raises(DataError, match="does not answer range reads"):
        store.read(NAME, 0, 10)
    assert server.sent < server.padding


def test_a_store_that_stays_away_ends_the_run_with_what_to_do(
    server: Server, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.3)
    batches = fresh(server, cache_folder)
    batches.at(0)
    server.stop()
    with pytest.raises(DataError, match=r"does not answer .*: run the same command again"):
        epoch(batches)
    with pytest.raises(DataError, match="cannot be read"):
        stream(server.url)


def test_shards_on_disk_stay_within_their_limit(
    server: Server, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Reader(server.folder).table
    limit = int(np.sort(table.sizes)[-WINDOW:].sum()) + 100
    monkeypatch.setenv("DANQING_SHARDS_DISK", str(limit / 2**30))
    batches, most = fresh(server, cache_folder), 0
    for step in range(8):
        batches.at(16 * step)
        copies = [path.stat().st_size for path in cache_folder.rglob("*.dqs")]
        most = max(most, sum(copies))
    assert 0 < most <= limit
    monkeypatch.setenv("DANQING_SHARDS_DISK", str(2000 / 2**30))
    with pytest.raises(DataError, match=r"3 shards of a window take more .* lower data\.window"):
        Batches(stream(server.url), 16, seed=1).at(0)


def test_a_look_at_some_images_reads_only_their_bytes(server: Server, cache_folder: Path) -> None:
    batches = fresh(server, cache_folder)
    batches.dataset.stream.reader.arrivals.want(())  # type: ignore[union-attr]
    assert contents(batches.dataset, np.array([5, 7])) == contents(stream(server.folder), np.array([5, 7]))
    assert not list(cache_folder.rglob("*.dqs"))
    assert len(server.requests) == 2  # each of them; the survey has read the index of their shard
    batches.at(0)
    assert len(list(cache_folder.rglob("*.dqs"))) >= WINDOW


def test_held_out_images_are_the_same_share_of_each_shard_and_never_trained_on(shards: Path) -> None:
    held = open_held(shards, 0.2, stream_over=0, window=WINDOW)
    assert held.split == "held-out"
    assert held.training.is_streamed
    assert not held.judged.is_streamed
    assert (len(held.training), len(held.judged)) == (96, 24)
    whole, judged = stream(shards), contents(held.judged)
    assert sorted([*contents(held.training), *judged]) == sorted(contents(whole))
    batches = Batches(held.training, 16, seed=0)
    trained = {image.tobytes() for step in range(6) for image in _pixels(batches, 16 * step)}
    assert len(trained) == 96
    assert not trained & {image for image, _, _ in judged}
    again = hold_out(stream(shards), 0.2)[1]
    assert again.fingerprint == held.judged.fingerprint


def _pixels(batches: Batches, position: int) -> np.ndarray:
    found: np.ndarray = batches.dataset.full_depth(batches.indices(position)).numpy()
    return found


def test_an_image_that_cannot_be_decoded_is_replaced_with_its_label(tmp_path: Path) -> None:
    """Its header can be read, so it was written; the next image of its shard stands in its place."""
    folder = folder_of(tmp_path / "in", 24)
    whole = (folder / "dog/003.png").read_bytes()
    (folder / "dog/003.png").write_bytes(whole[:60] + bytes(len(whole) - 60))
    shards_of(folder, tmp_path / "out", size=2**20)
    dataset = stream(tmp_path / "out")
    with pytest.warns(ShardWarning, match=r"'dog/003.png' of train-000000.dqs"):
        first = contents(dataset)
    assert contents(stream(tmp_path / "out")) == first
    good = set(contents(open_dataset(tmp_path / "out")))
    assert len(first) == 24
    assert set(first) == good
    assert len(good) == 23


def test_what_streams_cannot_do_is_rejected_in_one_sentence(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need one size"):
        stream(shards, size=(8, 8), buckets=True)
    with pytest.raises(ConfigError, match="no clean list and no domains"):
        stream(shards, domains="cat:dog")
    with pytest.raises(ConfigError, match="no masks, boxes or label sets"):
        stream(shards, boxes="coco")
    with pytest.raises(DataError, match=r"no shards at http://127\.0\.0\.1"), serving(tmp_path) as empty:
        stream(empty.url)
