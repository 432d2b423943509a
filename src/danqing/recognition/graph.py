"""Approximate search among millions of vectors, by a graph of neighbours (HNSW) from the package usearch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from danqing import atomic
from danqing.errors import SearchError
from danqing.progress import ProgressCallback
from danqing.recognition import graph_file

_NEIGHBOURS, _BUILD_WIDTH, _LEAST_WIDTH = 16, 128, 128
"""Links of a vector, and how many vectors are looked at when it is linked, and when one is searched for."""
_AT_ONCE = 20_000


def is_installed() -> bool:
    """Return whether the package usearch is there."""
    return find_spec("usearch") is not None


class Graph:
    """Vectors in bfloat16, linked to their neighbours.

    Each is known by its serial. Nothing is added later.

    covers: all serials in it are lower. Raises SearchError where usearch is not installed.
    """

    def __init__(self, dimensions: int, covers: int) -> None:
        if not is_installed():
            raise SearchError("Approximate search needs usearch: run pip install 'danqing[search]'.")
        from usearch.index import Index

        self.covers = covers
        self._index: Any = Index(
            ndim=dimensions,
            metric="ip",
            dtype="bf16",
            connectivity=_NEIGHBOURS,
            expansion_add=_BUILD_WIDTH,
            expansion_search=_LEAST_WIDTH,
        )

    @classmethod
    def build(cls, vectors: Tensor, serials: Tensor, on_progress: ProgressCallback | None = None) -> Self:
        """Build a graph, at about 5,000 vectors a second and core.

        vectors: `[n, d]` of length 1. serials: int64 `[n]`, ascending.
        """
        graph = cls(vectors.shape[1], int(serials[-1]) + 1)
        for start in range(0, len(vectors), _AT_ONCE):
            keys = serials[start : start + _AT_ONCE].numpy().astype(np.uint64)
            graph._index.add(keys, vectors[start : start + _AT_ONCE].numpy(), threads=torch.get_num_threads())
            if on_progress:
                on_progress(min(start + _AT_ONCE, len(vectors)), len(vectors), "Linking neighbours")
        return graph

    def candidates(self, queries: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Find about `n` near vectors for each query.

        Returns the numbers of queries, and serials, int64 `[m]` each.
        """
        self._index.expansion_search = max(_LEAST_WIDTH, 2 * n)
        found = self._index.search(queries.numpy(), n, threads=torch.get_num_threads(), exact=False)
        keys = np.atleast_2d(found.keys)
        # For a single query, usearch returns only what it has found, and no count.
        counts = np.atleast_1d(found.counts if len(queries) > 1 else keys.shape[1])
        query, place = np.nonzero(np.arange(keys.shape[1]) < counts[:, None])
        return torch.from_numpy(query), torch.from_numpy(keys[query, place].astype(np.int64))

    def write(self, path: Path) -> None:
        """Write the graph to a file."""
        atomic.write_bytes(path, bytes(self._index.save()))

    @classmethod
    def read(cls, path: Path, dimensions: int, covers: int) -> Self:
        """Read a graph; raise SearchError where it is damaged."""
        graph = cls(dimensions, covers)
        try:
            content = path.read_bytes()
            graph_file.check(content, dimensions, covers, _NEIGHBOURS)
            graph._index.load(content)
        except (OSError, ValueError, RuntimeError) as error:
            raise SearchError(f"{path} is damaged ({error}): build the index again.") from error
        return graph
