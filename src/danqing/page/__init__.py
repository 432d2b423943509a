"""Pages in a single file: they need no network, run only their own script, and escape all text."""

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
_LARGEST_PNG = 120_000  # bytes; a larger image is embedded as WebP, so that the page can still be mailed
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
    """Return a complete page.

    kind, name, lead, status, version: plain text. head (below the lead), sections: HTML, in which the caller
    has escaped all untrusted text. style, script: additions of this kind of page.
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


def part(name: str) -> str:
    """Return what several kinds of pages share.

    name: `studio.css`, the style of pages that generate images, or `mountains.svg`, the picture in an empty
        one.
    """
    return (_HERE / name).read_text(encoding="utf-8")


def tiles(rows: Iterable[tuple[str, str]]) -> str:
    """Return a few large numbers with their names."""
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    return f'<dl class="tiles">{shown}</dl>'


def facts(rows: Mapping[str, Any]) -> str:
    """Return names and values; rows without a value are left out."""
    shown = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in rows.items()
        if value is not None and value != ""
    )
    return f'<dl class="facts">{shown}</dl>'


def command(text: str, number: int = 1) -> str:
    """Return a command line with a copy button.

    `number` makes its id unique on the page.
    """
    return (
        f'<div class="card command"><pre id="command{number}">{escape(text)}</pre>'
        f'<button type="button" data-copy="command{number}">Copy</button></div>'
    )


def embed(path: Path) -> str:
    """Return an image as a data URL.

    "" if it is missing or incomplete after a kill.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            kind = "png"
            if len(content) > _LARGEST_PNG:
                packed = io.BytesIO()
                picture.save(packed, "WEBP", quality=90, method=2, xmp=picture.info.get("xmp", b""))
                content, kind = packed.getvalue(), "webp"
    except (OSError, ValueError, SyntaxError):
        return ""
    return data_url(content, kind)


def data_url(content: bytes, kind: str = "png") -> str:
    """Return an encoded image as a data URL; kind: png or webp."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
