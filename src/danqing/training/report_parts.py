"""What a report is built from: a run's files as far as they can be read, pictures, tables of facts."""

import base64
import io
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

_LARGEST_PNG = 120_000  # bytes; a larger grid goes in as WebP, so that the report can still be mailed


def fact_list(rows: Mapping[str, Any]) -> str:
    """Names and values as a list; rows without a value are left out."""
    shown = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in rows.items()
        if value is not None and value != ""
    )
    return f'<dl class="facts">{shown}</dl>'


def embed(path: Path) -> str:
    """A picture as a data URL; "" where there is none, or only part of one after a kill."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            kind = "png"
            if len(content) > _LARGEST_PNG:
                packed = io.BytesIO()
                picture.save(packed, "WEBP", quality=90, method=2)
                content, kind = packed.getvalue(), "webp"
    except (OSError, ValueError, SyntaxError):
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def read_text(path: Path) -> str:
    """The text of a file; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        content = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a kill cut short is left out."""
    lines = []
    for text in read_text(path).splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
