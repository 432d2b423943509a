"""Quantities as people write them: lengths of time, bytes, counts."""

import math
import re
from collections.abc import Mapping
from typing import Any

from danqing.errors import ConfigError


def duration(seconds: float) -> str:
    """Write a length of time, such as 4 min 05 s.

    Others are 0.8 s, 42 s and 2 h 10 min.
    """
    if not math.isfinite(seconds):
        return "unknown"
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(max(seconds, 0.0))
    if whole < 60:
        return f"{whole:d} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(size: float) -> str:
    """Write a number of bytes in decimal units: 812 kB, 1.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def parse_memory(text: str) -> int:
    """Read an amount of memory, such as 1.5G or 256MiB, in bytes.

    Units are decimal (k, M, G, T) or binary (MiB). Raises ConfigError for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None:
        raise ConfigError(f"{text} is not an amount of memory: write for example 1.5G, 800M or 256MiB.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))


def number(value: float) -> str:
    """Write a value with four significant digits: 138.0, 0.0312, 1,009."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def count(number: float) -> str:
    """Write a large number with three digits: 950, 12.4 k, 3.57 M."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:,.3g} T"


def privacy(told: Mapping[str, Any]) -> str:
    """Write what a private run has spent.

    told: the facts `privacy` of its model.
    """
    text = f"epsilon = {told['epsilon']:.3g}, delta = {told['delta']:g} for each training image"
    return text if told.get("secret") else f"{text}, for those who do not know or guess the seed of the run"
