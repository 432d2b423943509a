"""Batches of pictures for the worker, and which pictures may share one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from danqing.errors import ConfigError
from danqing.frames import Header
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import WHOLE, Order, Query
from danqing.service.engine.pending_order import PendingOrder

_encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


class BatchKind(NamedTuple):
    """Pictures of one kind may be painted together.

    negative: whether there are negative prompts.
    alone: the number of an order that is painted by itself, else 0.
    size: of the whole pictures that are edited, (width, height); None for pictures of the model's size.
    """

    model: str
    verb: str
    options: str
    negative: bool
    alone: int
    size: tuple[int, int] | None = None


@dataclass(slots=True)
class BatchPiece:
    """Rows of an order within a batch.

    Rows `start` to `stop` of the order, from row `at` of the batch on.
    """

    pending: PendingOrder
    start: int
    stop: int
    at: int


@dataclass(slots=True)
class WorkerBatch:
    """What the worker is sent at once.

    answered: how many of its rows the worker has answered; it does so in order.
    """

    number: int
    kind: BatchKind
    pieces: list[BatchPiece]
    rows: int
    answered: int = 0

    @classmethod
    def from_entries(
        cls, number: int, kind: BatchKind, taken: Sequence[tuple[PendingOrder, int, int]]
    ) -> Self:
        """Make a batch of rows of some orders, one after another."""
        pieces, rows = list[BatchPiece](), 0
        for pending, start, stop in taken:
            pieces.append(BatchPiece(pending, start, stop, rows))
            rows += stop - start
        return cls(number, kind, pieces, rows)

    def paints(self, pending: PendingOrder) -> bool:
        """Return whether it has rows of an order."""
        return any(piece.pending is pending for piece in self.pieces)

    def within(self, start: int, count: int) -> Iterator[tuple[PendingOrder, int, int, int]]:
        """Yield the orders of some rows.

        Order, its first row, and first and last place among these rows.
        """
        for piece in self.pieces:
            first, last = max(piece.at, start), min(piece.at + piece.stop - piece.start, start + count)
            if first < last:
                yield piece.pending, piece.start + first - piece.at, first - start, last - start

    def header(self) -> Header:
        """Return the header of the frame that the worker receives."""
        whole = self.pieces[0].pending.order.whole
        return {
            "queries": [[len(one.content), one.is_text] for one in self._queries()],
            "whole": whole
            and [
                len(whole.content),
                whole.size,
                whole.keeps_file,
                whole.is_fine,
                whole.expand,
                whole.feather,
            ],
            "kind": "paint",
            "batch": self.number,
            "model": self.kind.model,
            "verb": self.kind.verb,
            "options": json.loads(self.kind.options),
            "rows": [
                (
                    p.pending.number,
                    r.seed,
                    r.label,
                    r.prompt,
                    r.negative_prompt,
                    p.pending.order.previews,
                    r.attributes and dict(r.attributes),
                    r.mix,
                    r.moves,
                )
                for p in self.pieces
                for r in p.pending.order.rows[p.start : p.stop]
            ],
        }

    def blocks(self) -> list[memoryview]:
        """Return the images of all rows, then their masks.

        For a whole picture, its file and its mask. For recognition, the content of each query.
        """
        if queries := self._queries():
            return [memoryview(one.content) for one in queries]
        if (whole := self.pieces[0].pending.order.whole) is not None:
            return [memoryview(whole.content), memoryview(whole.mask or b"")]
        given = [
            pixels[piece.start : piece.stop]
            for name in ("images", "masks")
            for piece in self.pieces
            if (pixels := getattr(piece.pending.order, name)) is not None
        ]
        return [np.ascontiguousarray(pixels).data for pixels in given]

    def _queries(self) -> list[Query]:
        """Return the queries of all rows; empty for batches that are painted."""
        return [one for p in self.pieces for one in p.pending.order.queries[p.start : p.stop]]


def kind_of(order: Order) -> BatchKind:
    """Return the kind of an order's pictures.

    Raises ConfigError for options that are not plain values.
    """
    negative = any(row.negative_prompt is not None for row in order.rows)
    try:
        options = _encode(dict(order.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The options of an order must be plain values: {error}.") from error
    size = None if order.whole is None else order.whole.size
    return BatchKind(order.model, order.verb, options, negative, 0, size)


def check_images(order: Order, offer: Offer) -> None:
    """Raise ConfigError if an order's images, masks or queries are unsuitable."""
    if order.queries:
        if ("classify" if order.verb == "judge" else order.verb) not in offer.recognizes:
            raise ConfigError(f"{offer.name} does not {order.verb}: choose another model.")
        assert len(order.queries) == len(order.rows)
        return
    if order.verb not in offer.verbs:
        raise ConfigError(
            f"The model {offer.name} does not support {order.verb}: it supports {', '.join(offer.verbs)}."
        )
    if order.verb in WHOLE and order.whole is None:
        raise ConfigError(f"To {order.verb}, {offer.name} takes a whole image.")
    shape = (len(order.rows), offer.height, offer.width)
    images = None if order.verb == "sample" or order.whole is not None else (*shape, offer.channels)
    masks = shape if order.verb == "fill" and order.whole is None else None
    for name, given, wanted in (("images", order.images, images), ("masks", order.masks, masks)):
        if (None if given is None else given.shape) != wanted:
            got = "none" if given is None else "x".join(map(str, given.shape))
            want = "none" if wanted is None else "x".join(map(str, wanted))
            raise ConfigError(f"To {order.verb}, {offer.name} takes {name} {want}, not {got}.")
