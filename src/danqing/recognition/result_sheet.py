"""What a search has found, to look at: a picture, or a page in one file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danqing import page
from danqing.editing.outputs import write_file
from danqing.errors import SearchError, not_writable
from danqing.images import Images, encode, to_pil
from danqing.recognition.image_index import ImageIndex
from danqing.recognition.index import Match
from danqing.sheet import Sheet

_STYLE = """
.hits { display: flex; flex-wrap: wrap; gap: 14px; margin: 0 0 28px; padding: 0; list-style: none; }
.hits li { width: 128px; font-size: 13px; overflow-wrap: anywhere; }
.hits img { width: 128px; image-rendering: pixelated; border-radius: 4px; }
.hits .query img { outline: 3px solid #b93a25; outline-offset: 2px; }
"""


def write(
    path: str | Path,
    index: ImageIndex,
    found: Sequence[Sequence[Match]],
    *,
    titles: Sequence[str],
    queries: NDArray[np.uint8] | None = None,
) -> Path:
    """Write the matches of each query as a picture or page.

    path: its ending is the format; .html is a page. found: as a search returns them. titles: the name or the
    text of each query. queries: their images, uint8 `[q, h, w, c]`, in the form of the index. Raises
    SearchError where nothing was found, DataError where the images are not there, and DanqingError where the
    file cannot be written.
    """
    path = Path(path)
    pictures = index.pictures({match.id for matches in found for match in matches})
    missing = np.full(_shape(index), 200, np.uint8)
    rows = []
    for number, matches in enumerate(found):
        cells = [] if queries is None else [(queries[number], titles[number])]
        cells += [(pictures.get(match.id, missing), _caption(match)) for match in matches]
        rows.append(cells)
    if not any(rows):
        raise SearchError("Nothing was found, so there is nothing to show.")
    lead = f"The most similar of {len(index):,} images of {index.facts.data}, by {index.facts.encoder}."
    if path.suffix.lower() in (".html", ".htm"):
        sections = [
            _section(title, cells, has_query=queries is not None)
            for title, cells in zip(titles, rows, strict=True)
        ]
        text = page.render(kind="search", name="Search results", lead=lead, sections=sections, style=_STYLE)
        write_file(path, text.encode())
        return path
    columns = max(map(len, rows))
    blank = np.full_like(missing, 255)
    padded = [[*cells, *[(blank, "")] * (columns - len(cells))] for cells in rows]
    images = Images(np.stack([pixels for cells in padded for pixels, _ in cells]))
    captions = [caption for cells in padded for _, caption in cells]
    note = lead if queries is not None else f"{'; '.join(titles)}. {lead}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Sheet(images, captions, columns=columns, note=note).save(path)
    except OSError as error:
        raise not_writable(path, error) from error


def _caption(match: Match) -> str:
    label = f" {match.label}" if match.label else ""
    return f"{match.similarity:.3f}{label} {match.id}"


def _shape(index: ImageIndex) -> tuple[int, int, int]:
    spec = index.facts.spec
    assert spec.size is not None
    width, height = spec.size
    return height, width, spec.channels


def _section(title: str, cells: Sequence[tuple[NDArray[np.uint8], str]], *, has_query: bool) -> str:
    shown = "".join(
        _item(pixels, caption, is_query=has_query and not place)
        for place, (pixels, caption) in enumerate(cells)
    )
    return f'<section><h2>{escape(title)}</h2><ul class="hits">{shown}</ul></section>'


def _item(pixels: NDArray[np.uint8], caption: str, *, is_query: bool) -> str:
    url = page.data_url(encode(to_pil(pixels), "png"))
    kind = " class=query" if is_query else ""
    return f'<li{kind}><img alt="" src="{url}"><div>{escape(caption)}</div></li>'
