"""Named, complete configurations, one TOML file each; a user copies one to start."""

import tomllib
from pathlib import Path
from typing import Any

from danqing.errors import ConfigError, nearest

_FOLDER = Path(__file__).parent
_OVERLAYS = _FOLDER / "overlays"


def names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(file.stem for file in _FOLDER.glob("*.toml"))


def path(name: str) -> Path:
    """Return the path of a preset's TOML file; raises ConfigError."""
    if name not in names():
        known = [*names(), *overlays()]
        near = nearest(name, known) or f" Choose one of {', '.join(known)}."
        raise ConfigError(f"There is no preset called {name!r}.{near}")
    return _FOLDER / f"{name}.toml"


def read(name: str) -> dict[str, Any]:
    """Read a preset's settings, as plain values."""
    return tomllib.loads(path(name).read_text(encoding="utf-8"))


def overlays() -> list[str]:
    """Return the names of presets for whatever model a run starts from.

    They change how it is trained.
    """
    return sorted(file.stem for file in _OVERLAYS.glob("*.toml"))


def read_overlay(name: str) -> dict[str, Any]:
    """Read the settings of such a preset, as plain values."""
    return tomllib.loads(overlay_text(name))


def overlay_text(name: str) -> str:
    """Return the TOML of such a preset."""
    return (_OVERLAYS / f"{name}.toml").read_text(encoding="utf-8")


def describe(name: str) -> dict[str, Any]:
    """Describe a preset, for `danqing presets`.

    Returns its name, description, family, size and network.
    """
    values = read(name)
    return {
        "name": name,
        "description": values.get("description", ""),
        "family": values["family"],
        "size": values.get("size"),
        "net": values.get("model", {}).get("net"),
    }
