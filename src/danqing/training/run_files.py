"""Tolerant reading of a run's files: a run may be killed at any moment, or still be training."""

import json
from pathlib import Path
from typing import Any

from danqing.text_encoding import lines_of


def read_text(path: Path) -> str:
    """Return the text of a file; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        content = json.loads(read_text(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, without broken lines."""
    return parse_lines(read_text(path))


def parse_lines(content: str) -> list[dict[str, Any]]:
    """Return the objects in JSON lines, without broken lines."""
    lines = []
    for text in lines_of(content):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
