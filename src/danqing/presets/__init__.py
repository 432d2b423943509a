"""Named configurations, one TOML file each; users copy one as a starting point."""

import tomllib
from pathlib import Path
from typing import Any

from danqing.errors import ConfigError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def path(name: str) -> Path:
    """Return the path of a preset's TOML file; raise ConfigError for an unknown name."""
    if name not in names():
        raise ConfigError(f"There is no preset called {name!r}: choose one of {', '.join(names())}.")
    return _FOLDER / f"{name}.toml"


def read(name: str) -> dict[str, Any]:
    """Return a preset's settings as plain values."""
    return tomllib.loads(path(name).read_text(encoding="utf-8"))


def describe(name: str) -> dict[str, Any]:
    """Return a preset's name, description, family, size and network for `danqing presets`."""
    values = read(name)
    return {
        "name": name,
        "description": values.get("description", ""),
        "family": values["family"],
        "size": values.get("size"),
        "net": values.get("model", {}).get("net"),
    }
