"""Pages that are one file: they need no network, let no script but their own run, and escape all text."""

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from danqing.version import __version__

_HERE = Path(__file__).parent
_LARGEST_PNG = 120_000  # bytes; a larger picture goes in as WebP, so that the page can still be mailed
_BRAND = (
    '<svg width="30" height="20" viewBox="0 0 30 20" aria-hidden="true"><circle cx="10" cy="10" r="9" '
    'fill="#b93a25"/><circle cx="20" cy="10" r="9" fill="#1f6690" fill-opacity=".85"/></svg>'
)


def render(
    *,
    kind: str,
    name: str,
    lead: str,
    sections: Iterable[str],
    status: str = "",
    head: str = "",
    style: str = "",
    script: str = "",
    version: str = __version__,
) -> str:
    """A whole page. `kind`, `name`, `lead`, `status` and `version` are plain text; `head` (below the lead)
    and `sections` are HTML, in which the caller has escaped what is not his own.

    style, script: what this kind of page adds to what all have.
    """
    program = (_HERE / "script.js").read_text(encoding="utf-8") + script
    badge = f'<span class="status {escape(status)}">{escape(status)}</span>' if status else ""
    shown = escape(name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src '{_hash(program)}'">
<title>{shown} · Danqing</title>
<style>
{(_HERE / "style.css").read_text(encoding="utf-8")}{style}</style>
</head>
<body>
<header>
<div class="brand">{_BRAND}Danqing {escape(version)} · {escape(kind)}</div>
<div class="title"><h1>{shown}</h1>{badge}</div>
<p class="lead">{escape(lead)}</p>
{head}
</header>
<main>
{chr(10).join(section for section in sections if section)}
</main>
<footer>Written {datetime.now():%Y-%m-%d %H:%M} by Danqing {escape(version)}. This page is one file and \
needs no network.</footer>
<script>{program}</script>
</body>
</html>
"""


def tiles(rows: Iterable[tuple[str, str]]) -> str:
    """A few numbers, large."""
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<dl class="tiles">{shown}</dl>'


def facts(rows: Mapping[str, Any]) -> str:
    """Names and values; rows without a value are left out."""
    shown = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in rows.items()
        if value is not None and value != ""
    )
    return f'<dl class="facts">{shown}</dl>'


def command(text: str, number: int = 1) -> str:
    """A command line with a button that copies it; `number` tells several of a page apart."""
    return (
        f'<div class="card command"><pre id="command{number}">{escape(text)}</pre>'
        f'<button type="button" data-copy="command{number}">Copy</button></div>'
    )


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


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
