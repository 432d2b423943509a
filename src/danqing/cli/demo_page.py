"""The page of `danqing demo`: images of the user's words, and those of the model that was trained."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from danqing import atomic, page

_STYLE = "figure.shown { margin: 0 0 20px; } figure.shown img { max-width: 100%; border-radius: 12px; }"
_LEAD = (
    "The first images come from a small model that is part of the package. The others come from a model that "
    "was trained on this machine."
)

_AGAIN = 'danqing sample demo --prompt "a pink cat" -n 16 --out cats.png'


def write(out: Path, pictures: Mapping[Path, str], grid: Path | None = None) -> Path:
    """Write `demo.html` into the demo's folder; returns its path.

    pictures: images of the user's words, with the words. grid: images of the model that was trained here;
    None before its training.
    """
    shown = "".join(_figure(path, prompt) for path, prompt in pictures.items())
    trained = (
        f"{_figure(grid, 'Prompts, and what the model generates for them')}"
        "<p><code>run/report.html</code>, beside this page, has the curves, the cost and the settings.</p>"
        if grid is not None
        else "<p>It has not been trained yet: <code>danqing demo</code> does this in about five minutes.</p>"
    )
    sections = [
        f"<section><h2>Your words</h2>{shown}</section>",
        f"<section><h2>Your own model</h2>{trained}</section>",
        f"<section><h2>More images of your words</h2>{page.command(_AGAIN)}</section>",
    ]
    content = page.render(
        kind="the demo", name="Your first images", lead=_LEAD, sections=sections, style=_STYLE
    )
    path = out / "demo.html"
    atomic.write_text(path, content)
    return path


def _figure(picture: Path, text: str) -> str:
    return (
        f'<figure class="shown card"><figcaption>{escape(text)}</figcaption>'
        f'<img alt="{escape(text)}" src="{page.embed(picture)}"></figure>'
    )
