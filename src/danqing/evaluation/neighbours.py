"""Exact nearest neighbours in tiles, and what is measured with them: precision, recall, density, coverage."""

import torch
from torch import Tensor

from danqing.evaluation.contract import Rows
from danqing.evaluation.estimate import Estimate, mean_of
from danqing.evaluation.feature_rows import check_comparable, tile_rows, tiles

_SPARE = 5
_PAIR_NUMBERS = 1 << 16  # what a core's cache holds
_ROWS = 512
_TIE = 1e-12


def nearest(points: Rows, support: Rows, k: int, *, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest rows of `support` for each of `points`.

    points, support: `[n, d]` and `[m, d]`, float32 or uint8.

    Returns Euclidean distances `[n, k]` float32, ascending, and row numbers `[n, k]` int64. `skip_self`
    leaves out the row of the same number: for the neighbours within one set. Exact: equal rows, and only
    they, are at 0. Raises EvaluationError where `support` has too few rows.
    """
    squares, indices = _nearest(points, support, k, skip_self)
    return squares.sqrt().float(), indices


def manifold_scores(generated: Rows, reference: Rows, *, k_pr: int = 3, k_dc: int = 5) -> dict[str, Estimate]:
    """Precision, recall, density and coverage of features `[n, d]` and `[m, d]`.

    With the ball around each image that reaches to its k-th nearest other image of its own set: precision
    is the share of generated images in some ball of a reference image, recall the reverse (Kynkäänniemi et
    al. 2019, equations 1 and 2; `k_pr`); density counts the reference balls that a generated image is in,
    over k, and coverage is the share of reference balls that hold a generated image (Naeem et al. 2020,
    equations 3 and 4; `k_dc`). Each interval is over the images that are counted, with the other set as it
    is. Raises EvaluationError where either side has no more than k rows.
    """
    most = max(k_pr, k_dc)
    check_comparable(generated, reference, most + 1)
    real_radii = _nearest(reference, reference, most, True)[0]
    own_radii = _nearest(generated, generated, k_pr, True)[0][:, k_pr - 1]
    limits = (real_radii[:, k_pr - 1], real_radii[:, k_dc - 1])
    n, m = generated.shape[0], reference.shape[0]
    balls = torch.zeros(n, dtype=torch.float64)
    precise, recalled, covered = (torch.zeros(size, dtype=torch.bool) for size in (n, m, m))
    centre = _centre(reference)
    for start, tile in tiles(generated):
        here = slice(start, start + len(tile))
        for other, against in tiles(reference):
            there = slice(other, other + len(against))
            compare = _Comparison(tile, against, centre, torch.float32)
            precise[here] |= compare.within(limits[0][there][None]).any(1)
            recalled[there] |= compare.within(own_radii[here][:, None]).any(0)
            inside = compare.within(limits[1][there][None])
            balls[here] += inside.sum(1, dtype=torch.int32)
            covered[there] |= inside.any(0)
    return {
        "precision": mean_of(precise),
        "recall": mean_of(recalled),
        "density": mean_of(balls / k_dc),
        "coverage": mean_of(covered),
    }


class _Comparison:
    """The squared distances `[p, s]` of two tiles by one matrix product, and how far they may be off.

    |a|² + |b|² - 2 a·b loses what |a - b|² has below the rounding of |a|² + |b|², so whatever hangs on less
    than that is computed again, directly. `centre` is taken off both, which makes the norms small.
    """

    def __init__(self, points: Tensor, support: Tensor, centre: Tensor, dtype: torch.dtype) -> None:
        self.points, self.support = points, support
        a, b = points.to(dtype) - centre.to(dtype), support.to(dtype) - centre.to(dtype)
        norms_a, norms_b = a.square().sum(1), b.square().sum(1)
        self.squares = torch.addmm(norms_a[:, None] + norms_b, a, b.T, alpha=-2)
        # a sum of d products is off by less than a few √d ε |a||b| (Higham and Mary 2019, theorem 2.4)
        share = 8 * points.shape[1] ** 0.5 * torch.finfo(dtype).eps
        self.slack_points, self.slack_support = share * norms_a, share * norms_b

    def within(self, limits: Tensor) -> Tensor:
        """Whether each distance is at most its limit: squared, float64, of shape `[1, s]` or `[p, 1]`."""
        parts = torch.split(self.squares, _ROWS)
        inside = [self._within(number * _ROWS, part, limits) for number, part in enumerate(parts)]
        return torch.cat(inside)

    def _within(self, first: int, squares: Tensor, limits: Tensor) -> Tensor:
        limits = limits if len(limits) == 1 else limits[first : first + len(squares)]
        slack = self.slack_points[first : first + len(squares)]
        most = float(slack.max() + self.slack_support.max())
        inside = squares <= (limits - most).to(squares.dtype)
        perhaps = squares <= (limits + most).to(squares.dtype)
        rows, columns = perhaps.logical_xor_(inside).nonzero(as_tuple=True)
        if len(rows):
            limits = limits.expand(squares.shape)
            margin = squares[rows, columns] - limits[rows, columns]
            inside[rows, columns] = margin <= 0
            close = margin.abs() <= slack[rows] + self.slack_support[columns]
            rows, columns = rows[close], columns[close]
            exact = _squares(self.points, rows + first, self.support, columns)
            inside[rows, columns] = exact <= limits[rows, columns] * (1 + _TIE)
        return inside


def _nearest(points: Rows, support: Rows, k: int, skip_self: bool) -> tuple[Tensor, Tensor]:
    """Squared distances float64 and row numbers, `[n, k]` each."""
    check_comparable(points, support, 1)
    check_comparable(support, support, k + skip_self)
    centre = _centre(support)
    squares, numbers = [], []
    for start, tile in tiles(points):
        own = torch.arange(start, start + len(tile)) if skip_self else None
        found, at, sure = _search(tile, own, support, k, centre, torch.float32)
        again = (~sure).nonzero()[:, 0]
        if len(again):
            own = None if own is None else own[again]
            found[again], at[again], _ = _search(tile[again], own, support, k, centre, torch.float64)
        squares.append(found)
        numbers.append(at)
    return torch.cat(squares), torch.cat(numbers)


def _search(
    points: Tensor, own: Tensor | None, support: Rows, k: int, centre: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest of one tile of points, `[p, k]`, and whether they surely are the nearest, `[p]`.

    By the fast distances a few more candidates than `k` are kept, which direct ones then put in order. They
    hold the nearest for sure when the k-th of them is nearer than anything that was let go can be.
    """
    others = support.shape[0] - (own is not None)
    count = min(k + _SPARE, others)
    best = torch.empty(len(points), 0, dtype=dtype)
    numbers = torch.empty(len(points), 0, dtype=torch.int64)
    for start, tile in tiles(support):
        compare = _Comparison(points, tile, centre, dtype)
        compare.squares -= compare.slack_support
        if own is not None:
            inside = ((own >= start) & (own < start + len(tile))).nonzero()[:, 0]
            compare.squares[inside, own[inside] - start] = torch.inf
        values, columns = compare.squares.topk(min(count, len(tile)), largest=False)
        best, order = torch.cat([best, values], 1).topk(
            min(count, best.shape[1] + values.shape[1]), largest=False
        )
        numbers = torch.cat([numbers, columns + start], 1).gather(1, order)
    numbers = numbers.sort(1).values
    squares = torch.empty(numbers.shape, dtype=torch.float64)
    for start, tile in tiles(support):
        rows, columns = ((numbers >= start) & (numbers < start + len(tile))).nonzero(as_tuple=True)
        squares[rows, columns] = _squares(points, rows, tile, numbers[rows, columns] - start)
    squares, order = squares.sort(dim=1, stable=True)
    sure = squares[:, k - 1] < best.max(1).values.double() - compare.slack_points
    if count == others:
        sure.fill_(True)
    return squares[:, :k].contiguous(), numbers.gather(1, order[:, :k]), sure


def _squares(points: Tensor, rows: Tensor, support: Tensor, columns: Tensor) -> Tensor:
    """The squared distances of pairs of rows, by their differences, float64 `[pairs]`."""
    at_once = max(1, _PAIR_NUMBERS // points.shape[1])
    parts = [
        (points[one].double() - support[other].double()).square_().sum(1)
        for one, other in zip(torch.split(rows, at_once), torch.split(columns, at_once), strict=True)
    ]
    return torch.cat(parts)


def _centre(rows: Rows) -> Tensor:
    """About the middle of the rows, `[d]`."""
    return rows[: tile_rows(rows.shape[1])].double().mean(0)
