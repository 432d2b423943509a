"""The page of an explanation: one file, without anything from elsewhere."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from danqing import page
from danqing.images import encode, to_pil
from danqing.marks import Marks

_CRISP = 96
"""Images up to this side are enlarged to whole squares, not blurred."""
_STYLE = """
.explained { margin: 44px 0 0; } .explained > p { color: var(--soft); max-width: 46em; margin: 0 0 14px; }
.figures { display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 18px; }
.figures figure { margin: 0; width: min(132px, 28vw); font-size: .8rem; overflow-wrap: anywhere; }
.figures img { display: block; width: 100%; border-radius: 6px; border: 1px solid var(--line); }
.figures img.crisp { image-rendering: pixelated; }
.figures figcaption { padding: 4px 2px 0; line-height: 1.35; }
"""


def section(
    title: str,
    words: str,
    rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]],
    marks: Marks | None = None,
) -> str:
    """Return a section: a title, a paragraph, and rows of pictures with captions.

    marks: of the pictures.
    """
    shown = "".join(
        f'<div class="figures">{"".join(_figure(*each, marks) for each in row)}</div>' for row in rows
    )
    return f'<section class="explained"><h2>{escape(title)}</h2><p>{escape(words)}</p>{shown}</section>'


def whole(name: str, lead: str, sections: Sequence[str], notes: Sequence[str]) -> str:
    """Return the page."""
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    head = f'<div class="note"><ul>{said}</ul></div>' if said else ""
    return page.render(kind="explanation", name=name, lead=lead, head=head, sections=sections, style=_STYLE)


def _figure(pixels: NDArray[np.uint8], caption: str, marks: Marks | None) -> str:
    crisp = ' class="crisp"' if max(pixels.shape[:2]) <= _CRISP else ""
    url = page.data_url(encode(to_pil(pixels), "png", marks=marks))
    return (
        f'<figure><img{crisp} src="{url}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
