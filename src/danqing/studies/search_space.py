"""The settings that a search may choose and their values: a TOML file, checked before the search."""

import copy
import difflib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard

from danqing.errors import ConfigError
from danqing.training import config_reading
from danqing.training.config import RunConfig

Scalar = str | int | float | bool
_KEYS = ("low", "high", "log", "step", "choices")
_NOT_SEARCHED = {"family", "source", "size", "seed", "images", "minutes", "description", "evaluation", "data"}
_EXAMPLE = "for instance [optimizer.learning_rate] with low = 1e-4, high = 1e-2 and log = true"


class Suggests(Protocol):
    """What chooses values, as a trial of Optuna does."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Dimension:
    """One setting and its values: a range of numbers, or `choices`."""

    name: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Suggests) -> Any:
        """Return the value that `trial` chooses."""
        if self.kind == "float":
            return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        if self.kind == "int":
            step = int(self.step or 1)
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log)
        return self.value(trial.suggest_categorical(self.name, [_as_scalar(each) for each in self.choices]))

    def value(self, stored: Any) -> Any:
        """Return a setting's value from what Optuna stores, which has no lists."""
        return next((each for each in self.choices if _as_scalar(each) == stored), stored)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The values between which all others lie."""
        if self.kind == "choice":
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)


def read(path: str | Path, config: RunConfig) -> tuple[Dimension, ...]:
    """Read the search space in a TOML file.

    config: the configuration that the search starts from.

    Raises ConfigError.
    """
    path, values = Path(path), config.model_dump(mode="json")
    dimensions = [
        _dimension(name, table, values) for name, table in _leaves(config_reading.read_toml(path), ())
    ]
    if not dimensions:
        raise ConfigError(f"{path} names no setting to search: write {_EXAMPLE}.")
    for name in {dimension.name for dimension in dimensions}:
        if sum(dimension.name == name for dimension in dimensions) > 1:
            raise ConfigError(f"{path} names {name} twice: keep one of the two.")
    for dimension in dimensions:
        _check_values(dimension, values)
    return tuple(dimensions)


def _leaves(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The tables that describe a setting, under its dotted name."""
    for key, value in table.items():
        name = ".".join((*path, key))
        if not isinstance(value, dict):
            raise ConfigError(
                f"{name} = {value!r} does not say what to search: give each setting a table, {_EXAMPLE}."
            )
        if not value:
            raise ConfigError(f"[{name}] is empty: give it low and high, or choices.")
        if all(isinstance(inner, dict) for inner in value.values()):
            yield from _leaves(value, (*path, key))
        else:
            yield name, value


def _dimension(name: str, table: Mapping[str, Any], values: Mapping[str, Any]) -> Dimension:
    full = _full_name(name, values)
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(_KEYS)}."
            raise ConfigError(f"[{name}] has an unknown key {key!r}: {hint}")
    if "choices" in table:
        return _choice(name, full, table)
    low, high = table.get("low"), table.get("high")
    if not _is_number(low) or not _is_number(high):
        raise ConfigError(f"[{name}] needs low and high as numbers, or choices as a list.")
    if low >= high:
        raise ConfigError(f"[{name}] has low = {low} and high = {high}: low must be the smaller one.")
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"[{name}] has log = {log!r}: write true or false.")
    if log and low <= 0:
        raise ConfigError(f"[{name}] has log = true and low = {low}: a logarithm needs low above 0.")
    if step is not None and (not _is_number(step) or step <= 0):
        raise ConfigError(f"[{name}] has step = {step!r}: give a number above 0.")
    if log and step is not None:
        raise ConfigError(f"[{name}] has both log and step: keep one of the two.")
    whole = all(isinstance(number, int) for number in (low, high, step or 1))
    kind: Literal["int", "float"] = "int" if whole and not _is_fraction(full, values) else "float"
    return Dimension(full, kind, float(low), float(high), log, None if step is None else float(step))


def _choice(name: str, full: str, table: Mapping[str, Any]) -> Dimension:
    choices = table["choices"]
    extra = [key for key in table if key != "choices"]
    if extra:
        raise ConfigError(f"[{name}] has both choices and {extra[0]}: keep one of the two.")
    if not isinstance(choices, list) or len(choices) < 2:
        raise ConfigError(f"[{name}] needs at least two choices, as a list.")
    if any(isinstance(choice, dict) for choice in choices):
        raise ConfigError(f"[{name}] has a table among its choices: search its settings one by one.")
    if len({json.dumps(choice) for choice in choices}) < len(choices):
        raise ConfigError(f"[{name}] has the same choice twice: keep one of the two.")
    return Dimension(full, "choice", choices=tuple(choices))


def _check_values(dimension: Dimension, values: Mapping[str, Any]) -> None:
    """Reject a setting if none of its values fits; one that fits only beside others is left to the trials."""
    problem: ConfigError | None = None
    for value in dimension.extremes:
        try:
            changed = copy.deepcopy(dict(values))
            config_reading.apply_setting(changed, dimension.name, value)
            config_reading.parse(changed)
            return
        except ConfigError as error:
            problem = problem or error
    raise ConfigError(f"No value of [{dimension.name}] can be used: {problem}") from problem


def _full_name(name: str, values: Mapping[str, Any]) -> str:
    """The dotted path of the setting that `name` means; raises ConfigError for one that is not there."""
    full = config_reading.full_name(name, str(values.get("family", "")))
    if full.partition(".")[0] in _NOT_SEARCHED:
        raise ConfigError(f"[{name}] cannot be searched: {full} must be the same for all trials.")
    return full


def _is_fraction(name: str, values: Mapping[str, Any]) -> bool:
    """Whether the setting called `name` is a number with a fraction, as its value before the search is."""
    node: Any = values
    for part in name.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return isinstance(node, float)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _as_scalar(choice: Any) -> Scalar:
    return choice if isinstance(choice, str | int | float | bool) else json.dumps(choice)
