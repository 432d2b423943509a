"""The public names of danqing: each can be imported, and none has a long list of positional arguments."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import danqing

_MOST_POSITIONAL = 6


def public_callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in danqing.__all__:
        value = getattr(danqing, name)
        if inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value) and not issubclass(value, Exception):
            yield name, value
            for method, function in inspect.getmembers(value, inspect.isroutine):
                if not method.startswith("_"):
                    yield f"{name}.{method}", function


def test_a_long_list_of_arguments_is_named_by_the_caller() -> None:
    checked = dict(public_callables())
    assert {"train", "Model.sample", "Run", "Images.grid"} <= checked.keys()
    for name, function in checked.items():
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        positional = [kind for kind in kinds if kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)]
        assert len(positional) <= _MOST_POSITIONAL, f"Make the later arguments of {name} keyword-only."
