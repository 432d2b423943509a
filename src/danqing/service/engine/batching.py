"""What the worker is given at once, and what may be."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from danqing.errors import ConfigError
from danqing.service.engine.connections import Header
from danqing.service.engine.orders import Offer, Order
from danqing.service.engine.pending_order import Ticket

_encode = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


class Kind(NamedTuple):
    """Pictures of a kind may be painted together. alone: the number of an order that is painted by itself."""

    model: str
    verb: str
    options: str
    negative: bool
    alone: int


@dataclass(slots=True)
class Piece:
    """Rows `start` to `stop` of an order, which begin at row `at` of a batch."""

    ticket: Ticket
    start: int
    stop: int
    at: int


@dataclass(slots=True)
class Batch:
    """answered: how many of its rows the worker has answered for; it does so in their order."""

    number: int
    kind: Kind
    pieces: list[Piece]
    rows: int
    answered: int = 0

    @classmethod
    def of(cls, number: int, kind: Kind, taken: Sequence[tuple[Ticket, int, int]]) -> Self:
        """Rows of some orders, one after another."""
        pieces, rows = list[Piece](), 0
        for ticket, start, stop in taken:
            pieces.append(Piece(ticket, start, stop, rows))
            rows += stop - start
        return cls(number, kind, pieces, rows)

    def paints(self, ticket: Ticket) -> bool:
        """Whether rows of an order are in it."""
        return any(piece.ticket is ticket for piece in self.pieces)

    def within(self, start: int, count: int) -> Iterator[tuple[Ticket, int, int, int]]:
        """Whose rows are among these: ticket, its row from which on, and where they stand among these."""
        for piece in self.pieces:
            first, last = max(piece.at, start), min(piece.at + piece.stop - piece.start, start + count)
            if first < last:
                yield piece.ticket, piece.start + first - piece.at, first - start, last - start

    def header(self) -> Header:
        """What the worker is told of it."""
        return {
            "kind": "paint",
            "batch": self.number,
            "model": self.kind.model,
            "verb": self.kind.verb,
            "options": json.loads(self.kind.options),
            "rows": [
                (p.ticket.number, r.seed, r.label, r.prompt, r.negative_prompt, p.ticket.order.previews)
                for p in self.pieces
                for r in p.ticket.order.rows[p.start : p.stop]
            ],
        }

    def blocks(self) -> list[memoryview]:
        """The images of all rows, then their masks."""
        given = [
            pixels[piece.start : piece.stop]
            for name in ("images", "masks")
            for piece in self.pieces
            if (pixels := getattr(piece.ticket.order, name)) is not None
        ]
        return [np.ascontiguousarray(pixels).data for pixels in given]


def kind_of(order: Order) -> Kind:
    """Of the pictures of an order; raises ConfigError for options that are no plain values."""
    negative = any(row.negative_prompt is not None for row in order.rows)
    try:
        options = _encode(dict(order.options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The options of an order must be plain values: {error}.") from error
    return Kind(order.model, order.verb, options, negative, 0)


def check_images(order: Order, offer: Offer) -> None:
    """Raise ConfigError where the pictures of an order are not such as its verb needs."""
    if order.verb not in offer.verbs:
        raise ConfigError(f"The model {offer.name} cannot {order.verb}: it can {', '.join(offer.verbs)}.")
    shape = (len(order.rows), offer.height, offer.width)
    images = None if order.verb == "sample" else (*shape, offer.channels)
    masks = shape if order.verb == "fill" else None
    for name, given, wanted in (("images", order.images, images), ("masks", order.masks, masks)):
        if (None if given is None else given.shape) != wanted:
            got = "none" if given is None else "x".join(map(str, given.shape))
            want = "none" if wanted is None else "x".join(map(str, wanted))
            raise ConfigError(f"To {order.verb}, {offer.name} takes {name} {want}, not {got}.")
