"""The options that a family takes for each verb, read from the signatures of its methods."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from danqing import options as rules
from danqing.errors import ConfigError
from danqing.families.base import Family
from danqing.options import Verb

STRENGTH = 0.5
"""The default of `vary`: half way between the image and one that has nothing of it."""


_ARGUMENTS = ("on_step", "size", "noise")
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
    return {**own, **sampling} if passes_on else own


def check(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ConfigError for an unknown option or an invalid value.

    defaults: all options that there are, as `options_of` returns them.
    """
    for name, value in options.items():
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise ConfigError(f"This model does not know the option {name!r}; it has: {known}.", name)
        default = defaults[name]
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        wrong = not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        if default is not None and wrong:
            raise ConfigError(
                f"The option {name} cannot be {value!r}: give a value such as {default!r}.", name
            )
    rules.check(**options)


def _in_signature(method: Callable[..., Any]) -> dict[str, Any]:
    """Return the options in a method's signature with their defaults."""
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in _ARGUMENTS}
