"""From presets, files and `key=value` settings to one checked configuration."""

import contextlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from danqing import presets
from danqing.errors import ConfigError, explain, nearest
from danqing.families import config_class
from danqing.text_encoding import decode_toml, why_unreadable
from danqing.training.config import RunConfig, flat
from danqing.training.config_sections import (
    SHARED,
    AdapterConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    PrivateConfig,
    ScheduleConfig,
    TokenizerConfig,
    TrainingConfig,
)

DEFAULT_PRESET = "gan-32"
_OF_A_TOKENIZER = ("family", "batch_size", "seed", "model", "optimizer", "schedule", "training")
"""What `tokenizer.settings` may hold; everything else is the run's."""


def resolve(
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> RunConfig:
    """Combine a preset or a file, then settings, then `overrides`.

    A setting's key is a dotted path (`optimizer.learning_rate`), a bare name that only one section has
    (`net`, `learning_rate`), or a section that is chosen by name (`optimizer=sgd`). Its value is TOML or
    text.
    values: plain values instead of a preset, if there is no file.

    Raises ConfigError.
    """
    if preset is not None and config is not None:
        raise ConfigError("Give a preset or a configuration file, not both.")
    if config is not None:
        values = read_toml(Path(config))
    else:
        values = presets.read(preset or DEFAULT_PRESET) if values is None else dict(values)
    given = {key: value for key, value in overrides.items() if value is not None}
    budget = {"images", "minutes"} & {*given, *(settings or {})}
    if len(budget) == 2:
        raise ConfigError("Give --images or --minutes, not both.")
    if budget:
        values.pop("images", None)
        values.pop("minutes", None)
    for key, text in (settings or {}).items():
        apply_setting(values, key, text)
    return parse({**values, **given})


def overlaid(
    name: str, settings: Mapping[str, Any], budget: Mapping[str, Any], family: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return settings and a budget with those of an overlay where the user gives no others.

    name: of a file in `presets/overlays`. family: of the model whose training it changes.
    """
    values, chosen = presets.read_overlay(name), {full_name(key, family) for key in settings}
    own: dict[str, Any] = {key: values.pop(key) for key in ("minutes", "images") if key in values}
    if any(value is not None for value in budget.values()) or chosen & budget.keys():
        own = {}
    new = {key: value for key, value in flat(values).items() if key not in chosen}
    return {**new, **settings}, {**budget, **own}


def without_auto(
    size: tuple[int, int] | Literal["auto"] | None, settings: Mapping[str, Any] | None
) -> tuple[tuple[int, int] | None, dict[str, Any]]:
    """Return a size and settings in which the size "auto" is the setting `data.buckets`."""
    if isinstance(size, str):
        return None, {**(settings or {}), "data.buckets": True}
    return size, dict(settings or {})


def from_toml(path: Path) -> RunConfig:
    """Read a configuration file; raises ConfigError."""
    return parse(read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the plain values of a TOML file; raises ConfigError."""
    try:
        return decode_toml(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file at {path}.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {why_unreadable(error)}.") from error


def parse(values: Mapping[str, Any]) -> RunConfig:
    """Check plain values; raises ConfigError with every mistake found.

    The tokenizer's preset is replaced by all of its settings.
    """
    values = dict(values)
    if isinstance(values.get("tokenizer"), dict):
        values["tokenizer"] = _with_whole_settings(values["tokenizer"])
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, _known(values))) from error


def _known(values: Mapping[str, Any]) -> list[str]:
    """The dotted paths of all settings, none where the family is not known."""
    with contextlib.suppress(ConfigError):
        return list(_keys(str(values.get("family", ""))))
    return []


def apply_setting(values: dict[str, Any], key: str, value: Any) -> None:
    """Set one `key=value` in plain values, in place.

    Raises ConfigError for a key that does not exist.
    """
    *sections, name = full_name(key, str(values.get("family", ""))).split(".")
    for section in sections:
        values = values.setdefault(section, {})
    values[name] = _parse_value(value) if isinstance(value, str) else value


def full_name(key: str, family: str) -> str:
    """Return the dotted path of a family's setting; raises ConfigError for others."""
    keys = list(_keys(family))
    matches = [k for k in keys if key == k or key == k.rpartition(".")[2] or f"{key}.name" == k]
    exact = [k for k in matches if k in (key, f"{key}.name")]
    # A bare name means a setting of the model first: `features` is the model's, not the evaluation's. The
    # names of the tokenizer and of an adapter (`model`, `alpha`) are too general to stand alone.
    meant = [k for k in matches if k.startswith(("tokenizer.", "adapter."))]
    matches = exact or [k for k in matches if k not in meant]
    matches = [k for k in matches if not k.startswith(("evaluation.", "adapter."))] or matches
    if not matches:
        nested = [k for k in keys if key.startswith(f"{k}.")]  # data.augment.flip
        matches = [key] if nested else []
    if len(matches) != 1:
        names = keys + [k.rpartition(".")[2] for k in keys]
        several = matches or meant
        hint = f" Did you mean {' or '.join(several)}?" if several else nearest(key, names)
        hint = hint or " `danqing presets NAME` shows them all."
        raise ConfigError(f"There is no setting called {key!r}.{hint}")
    return matches[0]


def _with_whole_settings(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The table `tokenizer` with its preset written out, unless a trained model is given.

    A table of the wrong types is returned as it is, for `RunConfig` to say what is wrong.
    """
    settings = tokenizer.get("settings", {})
    if tokenizer.get("model") or not isinstance(settings, dict):
        return tokenizer
    default = "" if "family" in settings else TokenizerConfig.model_fields["preset"].default
    preset = tokenizer.get("preset", default)
    if not isinstance(preset, str):
        return tokenizer
    return {**tokenizer, "preset": "", "settings": _whole(preset, settings)}


def _whole(preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting that a tokenizer is trained with: those of a preset, changed by `settings`.

    With the preset "", `settings` alone. Raises ConfigError for settings that belong to the run.
    """
    if preset and "family" in settings:
        raise ConfigError(
            "tokenizer.settings is complete, with the family: change it there, or remove "
            f"[tokenizer.settings] to take the preset {preset}."
        )
    values = presets.read(preset) if preset else {"family": settings.get("family", "")}
    values.pop("tokenizer", None)
    named = {full_name(key, str(values["family"])): value for key, value in flat(settings).items()}
    for name, value in named.items():
        if name in ("images", "minutes"):
            raise ConfigError(
                f"tokenizer.settings has no {name}: the tokenizer gets tokenizer.share of the run's budget."
            )
        if name.split(".")[0] not in _OF_A_TOKENIZER:
            raise ConfigError(f"tokenizer.settings has no {name}: set {name} of the run, for both stages.")
        apply_setting(values, name, value)
    whole = {key: value for key, value in parse(values).plain().items() if key in _OF_A_TOKENIZER}
    if "seed" not in named:
        del whole["seed"]
    for name in SHARED - {name.removeprefix("training.") for name in named}:
        del whole["training"][name]
    return whole


def _keys(family: str) -> Iterator[str]:
    """The dotted paths of all settings; what a model takes from the data cannot be set."""
    hidden = config_class(family).from_data
    sections: dict[str, type[BaseModel]] = {
        "model": config_class(family),
        "optimizer": OptimizerConfig,
        "schedule": ScheduleConfig,
        "data": DataConfig,
        "training": TrainingConfig,
        "evaluation": EvaluationConfig,
        "tokenizer": TokenizerConfig,
        "private": PrivateConfig,
        "adapter": AdapterConfig,
    }
    for name in RunConfig.model_fields:
        if name not in sections:
            yield name
            continue
        taken = hidden if name == "model" else {"family"}
        yield from (f"{name}.{field}" for field in sections[name].model_fields if field not in taken)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
