"""Time of an exact search, and of the same search with faiss (IndexFlatIP) and usearch (exact=True).

All three run in one process, in turns, on the same vectors and one number of threads; the best time of each
counts. `batch_ratio` and `single_ratio` divide our time by that of the faster peer. `recall` compares with
faiss; two rows whose similarities differ by less than 1e-6 count as equal. `write` and `load` are the times
of an index in a folder, with ids, labels and the synced file system; `first` is that of the first search
after loading.

--graph also builds the graph that is used beyond a million vectors: its recall is the share of the exact
results that it finds.

--data clusters draws rows around 1,000 centres, so that thousands of rows are nearly as similar as the best.

    pip install faiss-cpu usearch
    python benchmarks/search_speed.py [--count 100000] [--dimensions 256] [--queries 200] [--threads 1]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import torch
from torch import Tensor
from torch.nn import functional as F
from usearch.index import search as usearch_search

from danqing.recognition.index import VectorIndex
from danqing.recognition.unit_rows import has_8_bit_products

_K = 10
_SINGLE = 20
_TIE = 1e-6


def drawn(kind: str, count: int, dimensions: int, seed: int) -> Tensor:
    """Draw unit vectors."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dimensions, generator=rng)
    if kind == "clusters":
        centres = torch.randn(1000, dimensions, generator=torch.Generator().manual_seed(0))
        rows = centres[torch.randint(1000, (count,), generator=rng)] + 0.3 * rows
    return F.normalize(rows, dim=1)


def seconds(call: Callable[..., object], *given: object, **options: object) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call(*given, **options)
    return time.perf_counter() - start


def by_graph(index: VectorIndex, queries: Tensor, singles: Sequence[Tensor]) -> dict[str, float]:
    """Measure a search with the graph of neighbours."""
    exact = index.search(queries, _K)
    build = seconds(index.accelerate, above=0)
    found = index.search(queries, _K)
    shared = sum(len({*one} & {*other}) for one, other in zip(found, exact, strict=True))
    return {
        "graph_build_seconds": round(build, 1),
        "graph_recall": round(shared / (len(queries) * _K), 4),
        "graph_batch_ms": round(1000 * seconds(index.search, queries, _K) / len(queries), 3),
        "graph_single_ms": round(1000 * min(seconds(index.search, one, _K) for one in singles), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200, help="in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graph", action="store_true", help="also measure the graph of neighbours")
    parser.add_argument("--data", choices=["random", "clusters"], default="random")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    rows = drawn(arguments.data, arguments.count, arguments.dimensions, 1)
    queries = drawn(arguments.data, arguments.queries, arguments.dimensions, 2)
    singles = [queries[n : n + 1] for n in range(min(_SINGLE, len(queries)))]

    ours = VectorIndex(arguments.dimensions)
    ours.add([f"images/{n:08d}.png" for n in range(len(rows))], rows, [str(n % 10) for n in range(len(rows))])
    flat = faiss.IndexFlatIP(arguments.dimensions)
    flat.add(rows.numpy())

    def by_usearch(wanted: Tensor) -> object:
        return usearch_search(rows.numpy(), wanted.numpy(), _K, "ip", exact=True, threads=arguments.threads)

    searches: dict[str, Callable[[Tensor], object]] = {
        "ours": lambda wanted: ours.search(wanted, _K),
        "faiss": lambda wanted: flat.search(wanted.numpy(), _K),
        "usearch": by_usearch,
    }
    batch: dict[str, list[float]] = {name: [] for name in searches}
    single: dict[str, list[float]] = {name: [] for name in searches}
    for search in searches.values():  # starts the threads, and computes our codes
        search(singles[0])
    for _ in range(arguments.rounds):
        for name, search in searches.items():
            batch[name].append(seconds(search, queries) / len(queries))
            single[name] += [seconds(search, one) for one in singles]

    expected, _ = flat.search(queries.numpy(), _K)
    found = ours.search(queries, _K)
    right = [
        match.similarity >= float(least) - _TIE
        for matches, least in zip(found, expected[:, -1], strict=True)
        for match in matches
    ]
    with tempfile.TemporaryDirectory() as folder:
        write = seconds(ours.save, Path(folder) / "index")
        start = time.perf_counter()
        again = VectorIndex.load(Path(folder) / "index")
        load = time.perf_counter() - start
        first = seconds(again.search, singles[0], _K)
        assert again.search(queries, _K) == found
    graph = by_graph(ours, queries, singles) if arguments.graph else {}
    milliseconds = {
        kind: {name: round(1000 * min(times), 3) for name, times in measured.items()}
        for kind, measured in (("batch", batch), ("single", single))
    }
    print(
        json.dumps(
            {
                **vars(arguments),
                "products": "8 bits" if has_8_bit_products() else "float32",
                "ms_per_query": milliseconds,
                "batch_ratio": round(min(batch["ours"]) / min(*batch["faiss"], *batch["usearch"]), 3),
                "single_ratio": round(min(single["ours"]) / min(*single["faiss"], *single["usearch"]), 3),
                "recall": sum(right) / len(right),
                "write_seconds": round(write, 3),
                "load_seconds": round(load, 3),
                "first_search_seconds": round(first, 3),
                **graph,
            }
        )
    )


if __name__ == "__main__":
    main()
