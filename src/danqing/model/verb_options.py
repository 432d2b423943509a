"""The options that a family takes for each verb, read from the signatures of its methods."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from danqing.families.base import Family
from danqing.options import Verb

STRENGTH = 0.5
"""The default of `vary`: half way between the image and one that has nothing of it."""


_ARGUMENTS = ("on_step", "size", "noise", "mark")
"""Arguments of a family's methods that are not options of it."""


def options_of(family: Family, verb: Verb) -> dict[str, Any]:
    """Return the options of a verb with their defaults.

    Images and conditions are not among them. verb: one that the family has.
    """
    sampling = {**_in_signature(family.sample), **family.sample_defaults()}
    if verb == "sample":
        return sampling
    method = getattr(family, verb)
    own = {**({"strength": STRENGTH} if verb == "vary" else {}), **_in_signature(method)}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(method).parameters.values())
    defaults: Mapping[str, Any] = getattr(family, f"{verb}_defaults", dict)()
    return {**own, **sampling, **defaults} if passes_on else own


def _in_signature(method: Callable[..., Any]) -> dict[str, Any]:
    """Return the options in a method's signature with their defaults."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in _ARGUMENTS}
