"""Exact search among unit vectors: 8-bit products exclude most rows, float32 decides between the others.

A search spends most of its time on reading rows. Each row is therefore also kept as 8-bit codes. The product
of a query with the codes lies within a known distance of the exact product, so that rows which cannot be
among the best are excluded without reading their float32 values. The result is exact.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from danqing.errors import SearchError

GROUP = 32
"""Rows that share one scale. Where none of them can be good enough, none of them is looked at."""
_BLOCK = 8192
"""Rows per product: their codes stay in the processor's cache."""
_ENCODED = 1024
"""Rows whose codes are computed at once: their float32 values stay in the cache."""
_PRODUCTS = 1 << 25
_QUERIES = 64
"""At most so many products, and so many queries, are held at once."""
_RESCORED = 1 << 14
_LEVELS = 127
_TINY = torch.finfo(torch.float32).tiny
_ROUNDING = 1e-5
"""More than what rounding in float32 adds to a bound."""
_EXCLUDED = -(2**30)
"""Less than any product of codes, and exact in float32."""


class Hits(NamedTuple):
    """The best rows for each query, best first; of equals the earlier.

    rows: int64 `[q, k]`. similarities: float32 `[q, k]`, cosines in [-1, 1].
    """

    rows: Tensor
    similarities: Tensor


class Pairs(NamedTuple):
    """Pairs of queries and rows, ordered by query, then by row.

    queries, rows: int64 `[n]`. similarities: float32 `[n]`, cosines in [-1, 1].
    """

    queries: Tensor
    rows: Tensor
    similarities: Tensor


class UnitRows:
    """Vectors of length 1, to search and to append to.

    Zero vectors stay zero. Products are computed in 8 bits where the processor has instructions for them,
    and otherwise in float32. The results are the same.
    """

    def __init__(self, dimensions: int) -> None:
        self.count, self.dimensions = 0, dimensions
        self._vectors = torch.empty(0, dimensions)
        self._codes = torch.empty(0, dimensions, dtype=torch.int8)
        self._scales, self._slacks = torch.empty(0), torch.empty(0)
        self._coded = 0

    @property
    def vectors(self) -> Tensor:
        """Return all rows, `[n, d]`: a view, not to be changed."""
        return self._vectors[: self.count]

    def append(self, vectors: Tensor) -> None:
        """Add rows at the end.

        vectors: `[m, d]` as `normalized` returns them.
        """
        needed = self.count + len(vectors)
        if needed > len(self._vectors):
            room = _whole_groups(max(needed, self.count + self.count // 2))
            self._vectors = _grown(self.vectors, room)
        self._vectors[self.count : needed] = vectors
        self._coded = min(self._coded, self.count // GROUP * GROUP)
        self.count = needed

    def best(self, queries: Tensor, k: int, allowed: Tensor | None = None, first_row: int = 0) -> Hits:
        """Find the `k` rows with the highest cosine similarity to each query.

        There are fewer where fewer rows are allowed.

        queries: `[q, d]` as `normalized` returns them. allowed: the rows to search, bool `[n]`; None is all.
        first_row: the rows before it are not searched.
        """
        k = min(k, self.count - first_row if allowed is None else int(allowed[first_row:].sum()))
        if k < 1 or not len(queries):
            return Hits(torch.empty(len(queries), 0, dtype=torch.int64), torch.empty(len(queries), 0))

        def kth_highest(bounds: Tensor) -> Tensor:
            if k > bounds.shape[1]:  # too few groups to know that k rows are as good
                return torch.full((len(bounds),), -torch.inf)
            return bounds.topk(k).values[:, -1]

        parts = [
            _first(self._candidates(part, kth_highest, allowed, first_row), len(part), k)
            for part in torch.split(queries, self._queries_at_once(first_row))
        ]
        return Hits(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def best_of(self, queries: Tensor, query: Tensor, row: Tensor, k: int) -> Hits | None:
        """Find the `k` best candidates of each query; None if too few.

        queries: `[q, d]` as `normalized` returns them. query, row: the candidates, int64 `[m]` each.
        """
        query, row = torch.stack([query, row]).unique(dim=1)
        if int(query.bincount(minlength=len(queries)).min()) < k:
            return None
        return _first(Pairs(query, row, self._similarities(queries, query, row)), len(queries), k)

    def pairs(self, least: float, allowed: Tensor | None = None) -> Iterator[Pairs]:
        """Yield all pairs of rows whose similarity is at least `least`.

        The first row of a pair is the earlier one; there are no pairs of a row and itself.
        """
        start = 0
        while start < self.count:
            part = self.vectors[start : start + self._queries_at_once(start)]
            found = self._candidates(part, lambda bounds: torch.full((len(bounds),), least), allowed, start)
            queries = found.queries + start
            kept = (found.rows > queries) & (found.similarities >= least)
            if allowed is not None:
                kept &= allowed[queries]
            yield Pairs(queries[kept], found.rows[kept], found.similarities[kept])
            start += len(part)

    def _queries_at_once(self, first_row: int) -> int:
        return max(1, min(_QUERIES, _PRODUCTS // (self.count - first_row)))

    def _candidates(
        self,
        queries: Tensor,
        threshold: Callable[[Tensor], Tensor],
        allowed: Tensor | None,
        first_row: int = 0,
    ) -> Pairs:
        """All rows from the group of `first_row` on that may reach a threshold, with their similarities.

        threshold: from what the best row of each group reaches at least, `[q, groups]`, to one number per
        query.
        """
        rows = slice(first_row // GROUP * GROUP, _whole_groups(self.count))
        if has_8_bit_products() and self.dimensions > 1:  # `_int_mm` does not compute vectors of one number
            self._encode()
            groups = slice(rows.start // GROUP, rows.stop // GROUP)
            table, slacks = self._codes, self._slacks[groups]
            codes, scales, errors = _in_8_bits(queries, 1)
            factors = scales[:, None] * self._scales[groups]
            # For x = x' + r and q = q' + u, where x' and q' have 8 bits: |qx - q'x'| <= |q||r| + |u||x'|.
            bounds = slacks + errors[:, None] * (1 + slacks) + _ROUNDING
        else:
            table, codes = self._vectors, queries
            factors = torch.ones(len(queries), (rows.stop - rows.start) // GROUP)
            bounds = torch.full_like(factors, self.dimensions * 2.0**-23 + _ROUNDING)
        products = _products(codes, table, rows, self._excluded(allowed, rows, first_row))
        highest = products.amax(2)
        reached = torch.where(highest > _EXCLUDED, highest * factors, -torch.inf)
        least = threshold(reached - bounds)
        query, group = (reached + bounds >= least[:, None]).nonzero(as_tuple=True)
        inside = products[query, group]
        factor, bound = factors[query, group, None], bounds[query, group, None]
        good = (inside * factor + bound >= least[query, None]) & (inside > _EXCLUDED)
        place, offset = good.nonzero(as_tuple=True)
        query, row = query[place], group[place] * GROUP + offset + rows.start
        return Pairs(query, row, self._similarities(queries, query, row))

    def _similarities(self, queries: Tensor, query: Tensor, row: Tensor) -> Tensor:
        """The similarities of pairs, `[m]`; each is the same whatever the other pairs are."""
        found = [
            (queries[some] * self._vectors[others]).sum(1)
            for some, others in zip(query.split(_RESCORED), row.split(_RESCORED), strict=True)
        ]
        return torch.cat(found).clamp_(-1, 1)

    def _excluded(self, allowed: Tensor | None, rows: slice, first_row: int) -> Tensor | None:
        """The rows that are not searched, with those that only fill up the last group; None for no row."""
        if allowed is None and rows == slice(first_row, self.count):
            return None
        excluded = torch.ones(rows.stop, dtype=torch.bool)
        excluded[first_row : self.count] = False if allowed is None else ~allowed[first_row:]
        return excluded[rows]

    def _encode(self) -> None:
        """Bring the codes up to date with the vectors."""
        if len(self._codes) < len(self._vectors):
            room = len(self._vectors)
            self._codes = _grown(self._codes, room)
            self._scales, self._slacks = (_grown(one, room // GROUP) for one in (self._scales, self._slacks))
        end = _whole_groups(self.count)
        for start in range(self._coded, end, _ENCODED):
            rows = slice(start, min(start + _ENCODED, end))
            groups = slice(rows.start // GROUP, rows.stop // GROUP)
            self._codes[rows], self._scales[groups], self._slacks[groups] = _in_8_bits(
                self._vectors[rows], GROUP
            )
        self._coded = end


def normalized(vectors: Tensor, dimensions: int) -> Tensor:
    """Scale vectors to length 1; zero vectors stay zero.

    vectors: `[n, d]`. Raises SearchError where d is not `dimensions`, or a number is not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimensions:
        raise SearchError(
            f"The index holds vectors of {dimensions} numbers, and these have the shape "
            f"{list(vectors.shape)}: take both from one encoder."
        )
    values = vectors.detach().to("cpu", torch.float32)
    if not len(values):
        return values
    largest = values.abs().amax(1, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise SearchError("Some vectors hold numbers that are not finite: check the images and the encoder.")
    values = values / largest.clamp_min(_TINY)  # otherwise the squares of small numbers would be zero
    return values.div_(values.norm(dim=1, keepdim=True).clamp_min_(_TINY))


@cache
def has_8_bit_products() -> bool:
    """Return whether this processor multiplies 8-bit numbers fast and exactly.

    Without VNNI, sums of two products are cut off at 16 bits. oneDNN may be kept from using it
    (ONEDNN_MAX_CPU_ISA), so that the largest products are tried.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        return False
    largest = torch.full((2, 64), _LEVELS, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.T) == 64 * _LEVELS**2).all())


def _in_8_bits(rows: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes int8 `[n, d]`, and of each group its scale and the length of its largest rest, `[n / group]`."""
    grouped = rows.view(-1, group, rows.shape[1])
    scales = grouped.abs().amax((1, 2)).div_(_LEVELS).clamp_min_(_TINY)
    codes = (grouped / scales[:, None, None]).round_()
    rests = torch.addcmul(grouped, codes, scales[:, None, None], value=-1).norm(dim=2).amax(1)
    return codes.to(torch.int8).view(rows.shape), scales, rests


def _products(codes: Tensor, table: Tensor, rows: slice, excluded: Tensor | None) -> Tensor:
    """Products of queries with some rows, `[q, groups, GROUP]`; `_EXCLUDED` for excluded rows."""
    in_8_bits = codes.dtype == torch.int8
    width = rows.stop - rows.start
    products = torch.empty(len(codes), width, dtype=torch.int32 if in_8_bits else torch.float32)
    for start in range(0, width, _BLOCK):
        some = slice(start, min(start + _BLOCK, width))
        part = table[rows.start + some.start : rows.start + some.stop].T
        found = torch._int_mm(codes, part) if in_8_bits else codes @ part
        if excluded is not None:
            found.masked_fill_(excluded[some], _EXCLUDED)
        products[:, some] = found
    return products.view(len(codes), -1, GROUP)


def _first(pairs: Pairs, queries: int, k: int) -> Hits:
    """The best `k` rows of each query; every query has at least so many."""
    order = pairs.similarities.argsort(descending=True, stable=True)
    order = order[pairs.queries[order].argsort(stable=True)]
    counts = pairs.queries.bincount(minlength=queries)
    places = (counts.cumsum(0) - counts)[:, None] + torch.arange(k)
    chosen = order[places]
    return Hits(pairs.rows[chosen], pairs.similarities[chosen])


def _whole_groups(count: int) -> int:
    return -(-count // GROUP) * GROUP


def _grown(old: Tensor, room: int) -> Tensor:
    new = old.new_zeros(room, *old.shape[1:])
    new[: len(old)] = old
    return new
