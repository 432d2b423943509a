"""The adapters of a request: whether the model has them, and whether the key may use them."""

import re
from collections.abc import Sequence
from typing import Any

from danqing.service.access.caller import Caller
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import ADAPTERS
from danqing.service.errors import ApiError, invalid
from danqing.service.requests import prompts

MOST_WEIGHT = 4.0
_WEIGHT = re.compile(r"[-+]?(?:[0-9]{1,3}\.?[0-9]{0,6}|\.[0-9]{1,6})")


def options(offer: Offer, wanted: Sequence[str] | None, caller: Caller) -> dict[str, Any]:
    """Return the option of an order that names adapters.

    It is empty without any.

    wanted: each as NAME or NAME:WEIGHT.
    Raises ApiError 400 for an adapter that the model does not have, and 403 for one that the key may not use.
    """
    if not wanted:
        return {}
    parsed = [_parsed(each) for each in wanted]
    if repeated := [name for number, (name, _) in enumerate(parsed) if name in dict(parsed[:number])]:
        raise invalid(f"The adapter {repeated[0][:100]} is requested twice: name it once.", ADAPTERS)
    for name, _ in parsed:
        allowed = [one for one in offer.adapters if caller.may_use(one)]
        if name not in offer.adapters:
            advice = f"choose {prompts.some(allowed)}" if allowed else "leave adapters out"
            message = f"{offer.name} has no adapter {name[:100]!r} here: {advice}."
            raise invalid(message, ADAPTERS, "adapter_not_found")
        if name not in allowed:
            message = f"This key may not use the adapter {name}: leave it out."
            raise ApiError(403, message, param=ADAPTERS, code="adapter_not_found")
    return {ADAPTERS: ",".join(f"{name}:{weight:g}" for name, weight in parsed)}


def licence(offer: Offer, wanted: Sequence[str] | None) -> str:
    """Return the licences of a model's data and its adapters', each once."""
    told = [offer.licence, *(offer.adapters[_parsed(one)[0]].get("licence", "") for one in wanted or ())]
    return "; ".join(dict.fromkeys(filter(None, told)))


def _parsed(text: str) -> tuple[str, float]:
    """Return the name and the weight of "cats:0.8"; raises ApiError."""
    name, colon, after = text.partition(":")
    if not colon:
        return name, 1.0
    if not _WEIGHT.fullmatch(after) or abs(float(after)) > MOST_WEIGHT:
        message = (
            f"The weight of an adapter is a number between -4 and 4, such as {name[:100] or 'cats'}:0.8."
        )
        raise invalid(message, ADAPTERS)
    return name, float(after)
