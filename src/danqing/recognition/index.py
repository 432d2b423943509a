"""An index of vectors with ids and labels: exact search, near-duplicates, and files that grow as it grows."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from danqing.errors import SearchError
from danqing.progress import ProgressCallback
from danqing.recognition import graph, index_files
from danqing.recognition.graph import Graph
from danqing.recognition.index_files import Entries, GraphFile, Head
from danqing.recognition.unit_rows import Hits, UnitRows, normalized

EXACT_UP_TO = 1_000_000
"""Above this many entries, `accelerate` builds a graph."""
_MOST_UNLINKED = 0.1
"""Above this share of entries that are not in the graph, it is built again."""
_MOST_DELETED = 0.25
"""Above this share of deleted rows, they are dropped from memory."""
_NORM_ERROR = 1e-3
_MASKS = 16
"""Filters by label whose rows are remembered."""
_NAMED = 20
_CANDIDATES = 64
"""At least so many candidates of the graph are compared exactly."""


class Match(NamedTuple):
    """An entry that was found.

    similarity: the cosine of the angle to the query, in [-1, 1]. label: "" for none.
    """

    id: str
    label: str
    similarity: float


class NearPair(NamedTuple):
    """Two similar entries; the first was added earlier.

    similarity: the cosine of the angle between them.
    """

    first: str
    second: str
    similarity: float


class VectorIndex:
    """Vectors with ids and labels, searched by cosine similarity.

    It does not know what the vectors stand for. facts: values for JSON that are stored with it, for its user.
    Searching and changing it at once, from several threads, needs a lock of the user's.
    """

    def __init__(self, dimensions: int, facts: dict[str, Any] | None = None) -> None:
        if dimensions < 1:
            raise SearchError(f"Vectors of {dimensions} numbers cannot be searched: give at least 1.")
        self.facts: dict[str, Any] = facts or {}
        self._rows = UnitRows(dimensions)
        self._ids, self._labels = list[str](), list[str]()
        self._serials = torch.empty(0, dtype=torch.int64)
        self._places: dict[str, int] = {}
        self._deleted: list[int] = []
        self._next_serial = 0
        self._home: tuple[Path, Head] | None = None
        self._masks: dict[frozenset[str] | None, Tensor] = {}
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, entry: object) -> bool:
        return entry in self._places

    def __repr__(self) -> str:
        return f"VectorIndex({len(self):,} vectors of {self.dimensions} numbers)"

    @property
    def dimensions(self) -> int:
        """Return the length of a vector."""
        return self._rows.dimensions

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all entries, the earliest first."""
        return tuple(self._places)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return each entry's label in the order of `ids`; "" for none."""
        return tuple(self._labels[place] for place in self._places.values())

    @property
    def vectors(self) -> Tensor:
        """Return the vectors in the order of `ids`, float32 `[n, d]`, length 1."""
        return self._rows.vectors[self._alive()]

    def add(self, ids: Sequence[str], vectors: Tensor, labels: Sequence[str] | None = None) -> None:
        """Add entries.

        vectors: `[n, d]`, of any length. labels: "" for none.
        Raises SearchError, and adds nothing, where an id is empty or not new, where the counts differ, or
        where the vectors do not fit.
        """
        rows, names = normalized(vectors, self.dimensions), list(labels or [""] * len(ids))
        if not len(ids) == len(rows) == len(names):
            raise SearchError(
                f"There are {len(ids)} ids, {len(rows)} vectors and {len(names)} labels: give one each."
            )
        known = next((entry for entry in ids if entry in self._places), None)
        if known is not None:
            raise SearchError(f"The index holds {known!r} already: delete it first.")
        if "" in ids or len(set(ids)) < len(ids):
            raise SearchError("The ids of new entries must differ and not be empty.")
        self._append(Entries(rows, torch.arange(len(rows)) + self._next_serial, list(ids), names))
        self._next_serial += len(rows)

    def delete(self, ids: Collection[str]) -> None:
        """Delete entries; raise SearchError, and delete nothing, where an id is unknown."""
        unknown = next((entry for entry in ids if entry not in self._places), None)
        if unknown is not None:
            raise SearchError(f"The index holds no {unknown!r}.")
        places = [self._places.pop(entry) for entry in dict.fromkeys(ids)]
        self._deleted += self._serials[places].tolist()
        self._masks.clear()
        if len(self) < (1 - _MOST_DELETED) * self._rows.count:
            entries = self._entries()
            self._rows = UnitRows(self.dimensions)
            self._ids, self._labels, self._places = [], [], {}
            self._serials = self._serials[:0]
            self._append(entries)

    def search(
        self,
        queries: Tensor,
        k: int = 10,
        labels: Collection[str] | None = None,
        *,
        exact: bool = False,
    ) -> list[list[Match]]:
        """Find the `k` most similar entries for each query, best first.

        There are fewer where the index has fewer. Of equally similar entries, the earlier one comes first.
        The result is exact where `is_exact` is true, or labels are given.

        queries: `[q, d]`, of any length. labels: only entries with one of these labels; None is all. exact:
        be exact in any case.
        Raises SearchError where the queries or labels do not fit.
        """
        if k < 1:
            raise SearchError(f"{k} results cannot be found: request at least 1.")
        rows, hits = normalized(queries, self.dimensions), None
        if self._graph is not None and labels is None and not exact and len(rows):
            hits = self._by_graph(self._graph, rows, min(k, len(self)))
        if hits is None:
            hits = self._rows.best(rows, k, self._mask(labels))
        return [
            [
                Match(self._ids[row], self._labels[row], similarity)
                for row, similarity in zip(*each, strict=True)
            ]
            for each in zip(hits.rows.tolist(), hits.similarities.tolist(), strict=True)
        ]

    @property
    def is_exact(self) -> bool:
        """Return whether all searches are exact."""
        return self._graph is None

    def accelerate(self, *, above: int = EXACT_UP_TO, on_progress: ProgressCallback | None = None) -> None:
        """Build a graph of neighbours where there are many entries.

        Searches then no longer read all vectors, but may miss some. Does nothing where there are no more than
        `above` entries, where most entries are in a graph already, or where usearch is not installed. Entries
        that are added later are searched exactly.
        """
        linked = 0 if self._graph is None else int((self._serials < self._graph.covers).sum())
        if len(self) <= above or not graph.is_installed():
            return
        if self._graph is None or self._rows.count - linked > _MOST_UNLINKED * self._rows.count:
            entries = self._entries()
            self._graph = Graph.build(entries.vectors, entries.serials, on_progress)

    def _by_graph(self, graph: Graph, queries: Tensor, k: int) -> Hits | None:
        """The best of the graph's candidates and of the rows behind it; None where these are too few."""
        serials = self._serials
        query, wanted = graph.candidates(queries, max(_CANDIDATES, 4 * k))
        row = torch.searchsorted(serials, wanted).clamp_max(len(serials) - 1)
        alive = self._mask(None)
        known = serials[row] == wanted if alive is None else (serials[row] == wanted) & alive[row]
        behind = int(torch.searchsorted(serials, graph.covers))
        fresh = self._rows.best(queries, k, alive, behind)
        numbers = torch.arange(len(queries)).repeat_interleave(fresh.rows.shape[1])
        return self._rows.best_of(
            queries, torch.cat([query[known], numbers]), torch.cat([row[known], fresh.rows.flatten()]), k
        )

    def near_pairs(self, least: float) -> Iterator[NearPair]:
        """Yield all pairs of at least some similarity; takes O(n²) products."""
        for found in self._rows.pairs(least, self._mask(None)):
            for first, second, similarity in zip(*(part.tolist() for part in found), strict=True):
                yield NearPair(self._ids[first], self._ids[second], similarity)

    def near_duplicates(self, least: float) -> list[list[str]]:
        """Find groups of entries that pairs with a similarity of `least` link.

        Groups and their entries are in the order in which the entries were added. Entries without such a pair
        are left out.
        """
        roots = torch.arange(self._rows.count)
        for found in self._rows.pairs(least, self._mask(None)):
            _link(roots, found.queries, found.rows)
        shared = roots.bincount(minlength=len(roots))[roots] > 1
        groups: dict[int, list[str]] = {}
        for row in shared.nonzero()[:, 0].tolist():
            groups.setdefault(int(roots[row]), []).append(self._ids[row])
        return list(groups.values())

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder: only what has changed there since.

        Raises SearchError where the folder holds another index, where someone has changed this one since it
        was loaded, or where it cannot be written.
        """
        folder = Path(folder)
        home = folder.resolve()
        before = self._home[1] if self._home is not None and self._home[0] == home else None
        if before is None and index_files.exists(folder):
            raise SearchError(f"{folder} holds another index: choose another folder, or delete that one.")
        head = Head(
            dimensions=self.dimensions,
            next_serial=self._next_serial,
            deleted=tuple(sorted({*(before.deleted if before else ()), *self._deleted})),
            facts=self.facts,
            graph=self._write_graph(folder),
        )
        self._home = home, index_files.write(folder, before, self._entries(), head)
        self._deleted = []

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an index; raise SearchError where it is missing or damaged."""
        folder = Path(folder)
        head, entries = index_files.read(folder)
        lengths = entries.vectors.norm(dim=1)
        if not bool((((lengths - 1).abs() < _NORM_ERROR) | (lengths == 0)).all()):
            raise SearchError(f"The index {folder} holds vectors that do not have length 1: build it again.")
        index = cls(head.dimensions, head.facts)
        index._append(entries)
        if len(index) < len(entries.ids):
            raise SearchError(f"The index {folder} holds an id twice: build it again.")
        index._next_serial, index._home = head.next_serial, (folder.resolve(), head)
        if head.graph is not None:
            path = folder / f"{head.graph.name}.usearch"
            index._graph = Graph.read(path, head.dimensions, head.graph.covers)
        return index

    def _write_graph(self, folder: Path) -> GraphFile | None:
        """Write the graph, unless it is there: its name says which rows it links."""
        if self._graph is None:
            return None
        file = GraphFile(name=f"graph-{self._graph.covers}", covers=self._graph.covers)
        path = folder / f"{file.name}.usearch"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._graph.write(path)
        return file

    def _append(self, entries: Entries) -> None:
        first = self._rows.count
        self._places.update(zip(entries.ids, range(first, first + len(entries.ids)), strict=True))
        self._rows.append(entries.vectors)
        self._ids += entries.ids
        self._labels += entries.labels
        self._serials = torch.cat([self._serials, entries.serials])
        self._masks.clear()

    def _alive(self) -> Tensor:
        """The rows that are not deleted, int64, ascending."""
        return torch.tensor(list(self._places.values()), dtype=torch.int64)

    def _entries(self) -> Entries:
        every = Entries(self._rows.vectors, self._serials, self._ids, self._labels)
        return every if len(self) == self._rows.count else every.chosen(self._alive())

    def _mask(self, labels: Collection[str] | None) -> Tensor | None:
        """The rows to search, bool `[n]`; None for all."""
        if labels is None and len(self) == self._rows.count:
            return None
        wanted = None if labels is None else frozenset(labels)
        if wanted not in self._masks:
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            alive = self._alive()
            if wanted is not None:
                kept = [self._labels[row] in wanted for row in alive.tolist()]
                if not any(kept):
                    raise SearchError(self._no_entry(wanted))
                alive = alive[torch.tensor(kept)]
            mask = torch.zeros(self._rows.count, dtype=torch.bool)
            mask[alive] = True
            self._masks[wanted] = mask
        return self._masks[wanted]

    def _no_entry(self, labels: Collection[str]) -> str:
        known = sorted({*self.labels} - {""})
        shown = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
        choice = f"its labels are {shown}" if known else "its entries have no labels"
        return f"The index has no entry with the label {' or '.join(sorted(labels))}: {choice}."


def _link(roots: Tensor, first: Tensor, second: Tensor) -> None:
    """Give linked rows one root, the earliest row of their group."""
    while True:
        apart = roots[first] != roots[second]
        if not bool(apart.any()):
            return
        first, second = first[apart], second[apart]
        one, other = roots[first], roots[second]
        roots.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(above := roots[roots], roots):
            roots.copy_(above)
