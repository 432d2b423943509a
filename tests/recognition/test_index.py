"""The index of vectors: exact whatever the data, and its files never lose or invent a row."""

import json
import os
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from torch import Tensor

from danqing import weights
from danqing.errors import SearchError
from danqing.randomness import generator
from danqing.recognition import index_files, unit_rows
from danqing.recognition.index import Match, VectorIndex


def vectors(n: int, dimensions: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(n, dimensions, generator=generator(seed, "vectors"))


def names(n: int, prefix: str = "v") -> list[str]:
    return [f"{prefix}{number}" for number in range(n)]


def filled(n: int = 200, dimensions: int = 24) -> VectorIndex:
    index = VectorIndex(dimensions, {"encoder": "pixels"})
    index.add(names(n), vectors(n, dimensions), ["even" if n % 2 == 0 else "odd" for n in range(n)])
    return index


def crowded(n: int, dimensions: int) -> Tensor:
    """Rows in tight clusters, with equal ones, zeros, one large number, and subnormal lengths."""
    centres = vectors(5, dimensions, seed=1)
    rows = centres[torch.arange(n) % 5] + 1e-3 * vectors(n, dimensions, seed=2)
    rows[3] = rows[8] = rows[400]
    rows[5] = 0
    rows[6] = 0
    rows[6, 0] = 1e6
    rows[7] *= 1e-30
    return rows


@pytest.mark.parametrize("in_8_bits", [True, False])
@pytest.mark.parametrize("dimensions", [1, 7, 256])
def test_the_best_are_those_of_faiss_however_crowded(
    dimensions: int, in_8_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_8_bits and not unit_rows.has_8_bit_products():
        pytest.skip("this processor does not multiply 8-bit numbers exactly")
    monkeypatch.setattr(unit_rows, "has_8_bit_products", lambda: in_8_bits)
    rows = torch.cat([crowded(900, dimensions), vectors(20_000, dimensions, seed=3)])
    queries = torch.cat([rows[:40] + 1e-4, vectors(60, dimensions, seed=4)])
    index = VectorIndex(dimensions)
    index.add(names(len(rows)), rows)
    exact = faiss.IndexFlatIP(dimensions)
    exact.add(index.vectors.numpy())
    expected, _ = exact.search(unit_rows.normalized(queries, dimensions).numpy(), 10)
    found = index.search(queries, 10)
    similarities = np.array([[match.similarity for match in one] for one in found])
    np.testing.assert_allclose(similarities, expected.clip(-1, 1), atol=1e-6)
    for one, query in zip(found, unit_rows.normalized(queries, dimensions), strict=True):
        places = torch.tensor([int(match.id[1:]) for match in one])
        assert len(places.unique()) == 10
        own = index.vectors[places] @ query
        torch.testing.assert_close(own, torch.tensor([match.similarity for match in one]), atol=1e-6, rtol=0)


def test_a_search_does_not_depend_on_the_other_queries() -> None:
    index, queries = filled(3000), vectors(70, seed=5)
    together = index.search(queries, 7)
    assert together == [index.search(query[None], 7)[0] for query in queries]


def test_equal_entries_come_in_the_order_in_which_they_were_added() -> None:
    index = VectorIndex(4)
    index.add(["z", "a", "m"], torch.ones(3, 4))
    index.add(["b"], 5 * torch.ones(1, 4))
    (found,) = index.search(torch.ones(1, 4), 3)
    assert found == [Match("z", "", 1.0), Match("a", "", 1.0), Match("m", "", 1.0)]


@pytest.mark.parametrize("in_8_bits", [True, False])
def test_deleted_entries_and_other_labels_are_never_found(
    in_8_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_rows, "has_8_bit_products", lambda: in_8_bits)
    index, queries = filled(500), vectors(20, seed=6)
    gone = [match.id for one in index.search(queries, 3) for match in one]
    index.delete(set(gone))
    every = index.search(queries, len(index), labels=["odd"])
    assert {match.label for one in every for match in one} == {"odd"}
    expected = {f"v{n}" for n in range(1, 500, 2)} - set(gone)
    assert all({match.id for match in one} == expected and len(one) == len(expected) for one in every)
    left = index.search(queries, 1000)
    assert all(len(one) == len(index) == 500 - len(set(gone)) for one in left)
    index.delete(index.ids)
    assert index.search(queries) == [[]] * 20


def test_near_duplicates_are_the_linked_groups_of_all_close_pairs() -> None:
    rows = vectors(600, 16)
    rows[100], rows[300] = rows[7] * 2, rows[7] + 0.02  # 7, 100 and 300
    rows[599] = rows[300] + 0.02
    rows[250] = rows[50]
    index = VectorIndex(16)
    index.add(names(600), rows)
    assert index.near_duplicates(0.995) == [["v7", "v100", "v300", "v599"], ["v50", "v250"]]
    exact = index.vectors @ index.vectors.T
    places = (torch.triu(exact, 1) >= 0.8).nonzero().tolist()
    pairs = list(index.near_pairs(0.8))
    assert [[int(pair.first[1:]), int(pair.second[1:])] for pair in pairs] == places
    index.delete(["v300", "v50"])
    assert index.near_duplicates(0.9999) == [["v7", "v100"]]


def test_an_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    index, queries = filled(), vectors(9, seed=7)
    index.save(tmp_path / "index")
    again = VectorIndex.load(tmp_path / "index")
    assert again.search(queries) == index.search(queries)
    assert (again.ids, again.labels, again.facts) == (index.ids, index.labels, {"encoder": "pixels"})
    assert torch.equal(again.vectors, index.vectors)


def test_the_files_hold_what_any_series_of_changes_leaves(tmp_path: Path) -> None:
    index, rng, known = VectorIndex(8), np.random.default_rng(0), dict[str, Tensor]()
    sizes = []
    for step in range(60):
        added, rows = names(int(rng.integers(1, 9)), f"{step}-"), vectors(9, 8, seed=step)
        index.add(added, rows[: len(added)])
        known |= {name: row / row.norm() for name, row in zip(added, rows, strict=False)}
        gone = rng.choice(sorted(known), size=int(rng.integers(0, min(8, len(known)))), replace=False)
        index.delete([str(name) for name in gone])
        for name in gone:
            del known[name]
        index.save(tmp_path)
        if step % 7 == 0:
            index = VectorIndex.load(tmp_path)
        assert index.ids == VectorIndex.load(tmp_path).ids == tuple(known)
        sizes.append(len(index_files.read_head(tmp_path).files))
    torch.testing.assert_close(VectorIndex.load(tmp_path).vectors, torch.stack(list(known.values())))
    assert max(sizes) <= 8
    assert len(list(tmp_path.glob("rows-*.safetensors"))) == sizes[-1]


def test_a_small_addition_writes_little(tmp_path: Path) -> None:
    index = filled(5000, 64)
    index.save(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("rows-*")}
    index.add(["new"], vectors(1, 64, seed=1))
    index.save(tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("rows-*")}
    assert before.items() < after.items()
    written = {path: path.stat().st_size for path in tmp_path.iterdir() if path.name not in before}
    assert sum(written.values()) < 3000


def test_a_writer_that_is_killed_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(50)
    index.save(tmp_path)
    changed = VectorIndex.load(tmp_path)
    changed.add(names(60, "new"), vectors(60, seed=2))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for call in range(3):  # while it replaces the vectors, the ids, and the head
        calls, replace = iter(range(9)), os.replace
        monkeypatch.setattr(
            os, "replace", lambda a, b, c=calls, at=call, f=replace: killed() if next(c) == at else f(a, b)
        )
        with pytest.raises(KeyboardInterrupt):
            changed.save(tmp_path)
        monkeypatch.undo()
        assert VectorIndex.load(tmp_path).ids == index.ids
    changed.save(tmp_path)
    assert len(VectorIndex.load(tmp_path)) == 110


def test_two_writers_do_not_lose_each_others_entries(tmp_path: Path) -> None:
    filled(50).save(tmp_path)
    first, second = VectorIndex.load(tmp_path), VectorIndex.load(tmp_path)
    first.add(["first"], vectors(1))
    first.save(tmp_path)
    second.add(["second"], vectors(1))
    with pytest.raises(SearchError, match="has changed since it was loaded"):
        second.save(tmp_path)
    with pytest.raises(SearchError, match="holds another index"):
        filled(3).save(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.with_name("index.json").unlink(), "There is no index in"),
        (lambda path: path.with_name("index.json").write_text('{"format": 1}'), "is damaged"),
        (lambda path: path.with_name("index.json").write_text("{"), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged .*cut short"),
        (lambda path: path.write_bytes(b"\x80\x04" + bytes(99)), "is damaged"),
        (lambda path: path.unlink(), "is damaged"),
        (lambda path: path.with_suffix(".json").write_text('{"ids": ["a"], "labels": [""]}'), "name each"),
        (lambda path: path.with_suffix(".json").unlink(), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:300] + bytes(960) + b"?" * 9), "is damaged"),
    ],
)
def test_a_damaged_index_is_not_read(spoil, message: str, tmp_path: Path) -> None:
    filled(10).save(tmp_path)
    spoil(tmp_path / "rows-1.safetensors")
    with pytest.raises(SearchError, match=message):
        VectorIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("rows-1.json", lambda words: "[" * 100_000, "is damaged"),
        ("rows-1.json", lambda words: {**words, "ids": [1] * 10}, "does not name each row"),
        ("index.json", lambda head: {**head, "deleted": [2**70]}, "is damaged"),
        ("index.json", lambda head: {**head, "next_serial": 10**400}, "is damaged"),
        ("index.json", lambda head: {**head, "files": [{**head["files"][0], "rows": 2**62}]}, "is damaged"),
    ],
)
def test_an_index_with_impossible_values_is_not_read(name: str, change, message: str, tmp_path: Path) -> None:
    filled(10).save(tmp_path)
    changed = change(json.loads((tmp_path / name).read_text()))
    (tmp_path / name).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(SearchError, match=message):
        VectorIndex.load(tmp_path)


def test_a_graph_of_a_stranger_is_not_followed_out_of_its_file(tmp_path: Path) -> None:
    """Native code that reads it would end the process, or give away what is in memory."""
    index = filled(300, dimensions=4)
    index.accelerate(above=1)
    index.save(tmp_path)
    (path,) = tmp_path.glob("graph-*")
    content, rng = path.read_bytes(), np.random.default_rng(0)
    begin = 8 + 300 * 8 + 64 + 40 + 600  # after the vectors, both heads and the levels
    nowhere = content[: begin + 14] + b"\xff" * 4 + content[begin + 18 :]
    for damaged in (nowhere, content[:begin] + content[begin + 1 :], content[:-4], b""):
        path.write_bytes(damaged)
        with pytest.raises(SearchError, match="is damaged"):
            VectorIndex.load(tmp_path)
    for place in rng.integers(0, len(content), 150):
        path.write_bytes(content[:place] + rng.bytes(2) + content[place + 2 :])
        try:
            found = VectorIndex.load(tmp_path).search(vectors(1, 4), 3)
        except SearchError:
            continue
        assert len(found[0]) <= 3


def test_vectors_that_would_break_the_bounds_are_not_read(tmp_path: Path) -> None:
    index = filled(10)
    index.save(tmp_path)
    tensors = {"vectors": 2 * index.vectors, "serials": torch.arange(10)}
    (tmp_path / "rows-1.safetensors").write_bytes(weights.to_bytes(tensors, {}))
    with pytest.raises(SearchError, match="do not have length 1"):
        VectorIndex.load(tmp_path)


def test_mistakes_are_explained_and_change_nothing() -> None:
    index = filled(10)
    with pytest.raises(SearchError, match="holds vectors of 24 numbers"):
        index.add(["x"], vectors(1, 5))
    with pytest.raises(SearchError, match="holds 'v3' already"):
        index.add(["x", "v3"], vectors(2))
    with pytest.raises(SearchError, match="must differ"):
        index.add(["x", "x"], vectors(2))
    with pytest.raises(SearchError, match="2 ids, 3 vectors"):
        index.add(["x", "y"], vectors(3))
    with pytest.raises(SearchError, match="not finite"):
        index.add(["x"], torch.full((1, 24), torch.nan))
    with pytest.raises(SearchError, match="holds no 'x'"):
        index.delete(["v1", "x"])
    with pytest.raises(SearchError, match="no entry with the label third: its labels are even, odd"):
        index.search(vectors(1), labels=["third"])
    with pytest.raises(SearchError, match="request at least 1"):
        index.search(vectors(1), 0)
    assert index.ids == tuple(names(10))


def test_a_graph_finds_nearly_all_and_what_it_does_not_link(tmp_path: Path) -> None:
    rows, queries = vectors(3000, 32), vectors(50, 32, seed=1)
    index = VectorIndex(32)
    index.add(names(3000), rows)
    index.accelerate(above=1000)
    assert not index.is_exact
    index.delete([f"v{n}" for n in range(0, 3000, 5)])
    index.add(names(100, "new"), queries.repeat(2, 1) + 0.01 * vectors(100, 32, seed=2))
    index.save(tmp_path)
    again = VectorIndex.load(tmp_path)
    found, exact = again.search(queries, 10), again.search(queries, 10, exact=True)
    assert found == index.search(queries, 10)
    assert found[:3] == [again.search(query[None], 10)[0] for query in queries[:3]]
    shared = [len({*one} & {*other}) for one, other in zip(found, exact, strict=True)]
    assert sum(shared) >= 0.97 * 500
    assert all(one[0].id.startswith("new") for one in found)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("graph-*")}
    again.add(["one"], vectors(1, 32))
    again.save(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("graph-*")} == before
    again.search(queries, 2000)  # more than the graph gives: exact
    next(tmp_path.glob("graph-*")).write_bytes(b"?")
    with pytest.raises(SearchError, match="damaged"):
        VectorIndex.load(tmp_path)
