"""Which seeds a request means: its own, a mix of several, moved along directions."""

import secrets

from danqing.randomness import derived_seed
from danqing.service.engine.offers import Offer
from danqing.service.errors import invalid
from danqing.service.requests import schemas

_DRAWN_SEEDS = 2**53  # clients in any language can read these as numbers and send them again


def drawn_seed(fields: schemas.Fields) -> int:
    """Return the seed of a request, by default a random one.

    That of a mix is the one with the largest share.
    """
    if isinstance(fields, schemas.Generation) and fields.mix:
        return max(fields.mix, key=lambda one: one.share).seed
    return secrets.randbelow(_DRAWN_SEEDS) if fields.seed is None else fields.seed


def mixes(fields: schemas.Fields, offer: Offer, n: int) -> list[tuple[tuple[int, float], ...]]:
    """Return the seeds and shares of each picture.

    Raises ApiError for a mix that is not possible.
    """
    shared = fields.mix if isinstance(fields, schemas.Generation) else None
    if shared is None:
        return [()] * n
    if fields.seed is not None:
        raise invalid("seed and mix set the same thing: send one of them.", "mix")
    if offer.runtime != "torch":
        message = f"{offer.name} is an export, and does not mix seeds: leave mix out."
        raise invalid(message, "mix", "unsupported_parameter")
    if not any(one.share for one in shared):
        raise invalid("A mix of seeds needs one with a share above 0.", "mix")
    return [tuple((derived_seed(one.seed, "image", k), one.share) for one in shared) for k in range(n)]


def moves(fields: schemas.Fields, offer: Offer) -> tuple[tuple[int, float], ...]:
    """Return the directions along which pictures are moved; raises ApiError."""
    asked = (fields.directions if isinstance(fields, schemas.Generation) else None) or []
    numbers = [one.number for one in asked]
    if len(set(numbers)) < len(numbers):
        raise invalid("A direction has two distances: send each direction once.", "directions")
    if numbers and not offer.directions:
        message = f"{offer.name} has no directions: leave directions out."
        raise invalid(message, "directions", "unsupported_parameter")
    if numbers and max(numbers) > offer.directions:
        message = f"{offer.name} has {offer.directions} directions: there is no direction {max(numbers)}."
        raise invalid(message, "directions")
    return tuple((one.number, one.distance) for one in asked if one.distance)
