"""Which marks images get: the settings, their text form, and the folder with keys and the registry."""

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, get_args

from danqing.errors import ConfigError, TrustError

Credentials = Literal["embedded", "sidecar", "off"]
Language = Literal["zh", "en"]

VARIABLE, FOLDER_VARIABLE = "DANQING_MARKS", "DANQING_TRUST"
_SWITCHES = {"on": True, "off": False}


class Regime(StrEnum):
    """A set of marks."""

    EU = "eu"
    """Metadata labels, invisible watermark, Content Credentials and registry."""
    CN = "cn"
    """Metadata labels, invisible watermark and the visible label."""


@dataclass(frozen=True, slots=True)
class MarkSettings:
    """Which marks images get; without a regime, none.

    credentials: where Content Credentials go, of the regime `eu`: into the file, or into a file beside it
        that ends in `.c2pa`.
    watermark, registry: whether the invisible watermark is embedded, and the image registered.
    codes: whether a transformer marks the codes that it samples, which changes its images.
    language: of the visible label.
    prompt: whether the metadata contain the prompt, up to a length that every format has room for.
    producer: who is named as the producer in the metadata.
    """

    regimes: frozenset[Regime] = frozenset({Regime.EU})
    credentials: Credentials = "embedded"
    watermark: bool = True
    registry: bool = True
    codes: bool = False
    language: Language = "zh"
    prompt: bool = False
    producer: str = "Danqing"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read settings such as `eu,cn`, `none` or `eu,credentials=sidecar`.

        text: regimes and `name=value` pairs of the other fields, separated by commas. Pairs alone keep the
            default regime.
        Raises ConfigError for unknown words and values.
        """
        regimes: set[Regime] = set()
        fields: dict[str, Any] = {}
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = [word for word in words if "=" not in word]
        for name in names:
            if name in tuple(Regime):
                regimes.add(Regime(name))
            elif name != "none":
                raise ConfigError(f"There are no marks called {name!r}: choose {_CHOICES}.", "marks")
        if "none" in names and regimes:
            raise ConfigError(f"Marks cannot be none and {min(regimes)} at once: {text!r}.", "marks")
        for word in words:
            name, is_pair, value = (part.strip() for part in word.partition("="))
            if is_pair:
                fields[name] = _value(name, value)
        if names:
            fields["regimes"] = frozenset(regimes)
        return cls(**fields)

    @classmethod
    def from_environment(cls) -> Self:
        """Read `DANQING_MARKS`; without it, return the default. Raises ConfigError as `from_text`."""
        text = os.environ.get(VARIABLE, "").strip()
        return cls.from_text(text) if text else cls()

    @classmethod
    def of(cls, marks: "str | MarkSettings | None") -> "MarkSettings":
        """Return settings that a caller gave in any form.

        marks: None reads the environment.
        """
        if marks is None:
            return cls.from_environment()
        return cls.from_text(marks) if isinstance(marks, str) else marks

    @property
    def signs(self) -> bool:
        """Return whether images get Content Credentials."""
        return Regime.EU in self.regimes and self.credentials != "off"

    @property
    def registers(self) -> bool:
        """Return whether images are added to the registry."""
        return Regime.EU in self.regimes and self.registry

    @property
    def labels(self) -> bool:
        """Return whether images get the visible label."""
        return Regime.CN in self.regimes

    def metadata_only(self) -> "MarkSettings":
        """Return settings for overviews, such as sample grids of a run.

        They get metadata labels and nothing else.
        """
        some = frozenset({Regime.EU}) if self.regimes else self.regimes
        return replace(self, regimes=some, credentials="off", watermark=False, registry=False)

    def __str__(self) -> str:
        """Return the text form, without fields that have their default."""
        default = MarkSettings()
        words = [str(regime) for regime in sorted(self.regimes)] or ["none"]
        for name in _VALUES:
            if (value := getattr(self, name)) != getattr(default, name):
                shown = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
                words.append(f"{name}={shown}")
        return ",".join(words)


_CHOICES = "eu, cn, both as eu,cn, or none"
_VALUES: dict[str, tuple[str, ...] | None] = {
    "credentials": get_args(Credentials),
    "watermark": tuple(_SWITCHES),
    "registry": tuple(_SWITCHES),
    "codes": tuple(_SWITCHES),
    "language": get_args(Language),
    "prompt": tuple(_SWITCHES),
    "producer": None,
}
"""The words that each field may be; None for any text."""


def _value(name: str, value: str) -> Any:
    if name not in _VALUES:
        raise ConfigError(f"Marks have no setting {name!r}: choose among {', '.join(_VALUES)}.", "marks")
    allowed = _VALUES[name]
    if allowed is None:
        return value
    if value not in allowed:
        raise ConfigError(f"The marks' {name} cannot be {value!r}: choose {' or '.join(allowed)}.", "marks")
    return _SWITCHES.get(value, value) if allowed == tuple(_SWITCHES) else value


def trust_path() -> Path:
    """Return where the folder with the keys and the registry is.

    It is `$DANQING_TRUST`, by default `~/.local/share/danqing/trust`, and may not exist.
    """
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(given) if given else Path.home() / ".local" / "share" / "danqing" / "trust"


def trust_folder() -> Path:
    """Return the folder of `trust_path`; create it for its owner alone.

    Raises TrustError if it cannot be created.
    """
    folder = trust_path()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TrustError(
            f"The folder {folder} for keys and the registry cannot be created ({error.strerror or error}): "
            f"name another one in {FOLDER_VARIABLE}."
        ) from error
    return folder
