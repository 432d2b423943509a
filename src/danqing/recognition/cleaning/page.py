"""The page of a cleaning: what was found, with pictures, and what to do about each image."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from danqing import images, page
from danqing.data.clean_list import CleanRow
from danqing.images import Pixels
from danqing.recognition.cleaning.findings import ABOUT, Finding, Kind
from danqing.recognition.cleaning.inputs import Inputs, Shown
from danqing.recognition.cleaning.result import Cleaning

_HERE = Path(__file__).parent
_CRISP = 96
"""Images up to this side are enlarged to whole squares, not blurred."""
_SHORT = 2
"""Sections with so few images stand beside one another, below the others."""
_CONFUSIONS = 8
_UNREADABLE = 20


def clean_page(
    cleaning: Cleaning,
    data: str,
    inputs: Inputs,
    pictured: Sequence[Finding],
    shown: Mapping[int, Shown],
    rows: Mapping[int, CleanRow],
) -> str:
    """Return the page.

    data: as the user named it. pictured: the findings that the page shows. shown: their images, by row of the
    inputs. rows: the lines of the clean list, by row of the inputs.
    """
    of_kind: dict[Kind, list[Finding]] = {}
    for one in pictured:
        of_kind.setdefault(one.kind, []).append(one)
    wide, narrow = list[str](), list[str]()
    for kind, found in of_kind.items():
        is_short = len(found) <= _SHORT and found[0].like is None
        section = _section(kind, found, cleaning, inputs, shown, rows)
        (narrow if is_short else wide).append(section)
    beside = f'<div class="beside">{"".join(narrow)}</div>' if narrow else ""
    return page.render(
        kind="cleaning",
        name=f"What is unusual in {cleaning.name}",
        lead=_lead(cleaning),
        head=_head(cleaning),
        sections=[*wide, beside, _unreadable(cleaning), _use(cleaning, data, rows)],
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
    )


def _lead(cleaning: Cleaning) -> str:
    splits = ", ".join(f"{count:,} {split}" for split, count in cleaning.splits.items())
    of_splits = f" ({splits})" if len(cleaning.splits) > 1 else ""
    judged = (
        f" Labels are judged by a model that never saw the image and agrees with {cleaning.accuracy:.1%}."
        if cleaning.accuracy is not None
        else ""
    )
    return f"{cleaning.images:,} images{of_splits}, compared by {cleaning.features}.{judged}"


def _head(cleaning: Cleaning) -> str:
    tiles = [(ABOUT[kind].title, f"{count:,}") for kind, count in cleaning.counts.items()]
    if cleaning.unreadable:
        tiles.append(("Cannot be read", f"{len(cleaning.unreadable):,}"))
    if not tiles:
        return '<div class="note"><p>Nothing unusual was found.</p></div>'
    return page.tiles(tiles)


def _section(
    kind: Kind,
    found: Sequence[Finding],
    cleaning: Cleaning,
    inputs: Inputs,
    shown: Mapping[int, Shown],
    rows: Mapping[int, CleanRow],
) -> str:
    total, about = cleaning.counts[kind], ABOUT[kind]
    some = f"the first {len(found):,} of {total:,}" if total > len(found) else f"{total:,}"
    cards = "".join(_card(one, inputs, shown, rows[one.row]) for one in found)
    pairs = " pairs" if kind in ("leak", "copy") else ""
    buttons = "".join(
        f'<button type="button" data-all="{decision}">{title} these</button>'
        for decision, title in (("drop", "Drop"), ("keep", "Keep"))
    )
    extra = _confusions(cleaning) if kind == "label" else ""
    return (
        f'<section class="found"><div class="above"><h2>{escape(about.title)} <small>{some}</small></h2>'
        f'<div class="bulk">{buttons}</div></div>'
        f'<p class="why">{escape(about.explanation)}</p>{extra}'
        f'<div class="cards{pairs}">{cards}</div></section>'
    )


def _card(one: Finding, inputs: Inputs, shown: Mapping[int, Shown], row: CleanRow) -> str:
    pictures = _picture(shown[one.row].pixels, inputs.names[one.row])
    words = ""
    if one.like is not None:
        kept = shown[one.like].pixels
        pictures += _picture(kept, inputs.names[one.like])
        name, like = escape(inputs.names[one.like]), inputs.splits[one.like]
        split = f" ({like})" if one.kind == "leak" and not name.startswith(f"{like}/") else ""
        words = f'<p class="name" title="{name}">kept: {name}{split}</p>'
    if one.kind == "label":
        words = (
            f'<p class="labels"><s>{escape(row.label)}</s> <span aria-hidden="true">→</span> '
            f"<b>{escape(one.suggested)}</b></p>"
        )
    split = "" if len(inputs.opened) == 1 or row.name.startswith(f"{row.split}/") else f" ({row.split})"
    choices = "".join(
        f'<button type="button" data-set="{decision}" aria-pressed="{str(row.decision == decision).lower()}">'
        f"{decision}</button>"
        for decision in ("keep", "drop", *(("relabel",) if row.suggested and one.kind == "label" else ()))
    )
    return (
        f'<figure class="card {row.decision}" data-row="{one.row}"><div class="pictures">{pictures}</div>'
        f'<figcaption><p class="name" title="{escape(row.name)}">{escape(row.name)}{split}</p>{words}'
        f'<p class="detail">{escape(one.detail)}</p>'
        f'<div class="choices" role="group" aria-label="Decision">{choices}</div></figcaption></figure>'
    )


def _picture(pixels: Pixels | None, name: str) -> str:
    if pixels is None:
        return '<span class="missing">cannot be shown</span>'
    height, width = pixels.shape[:2]
    is_small = max(height, width) <= _CRISP
    format = "png" if is_small else "webp"
    url = page.data_url(images.encode(pixels, format, quality=82), format)
    crisp = ' class="crisp"' if is_small else ""
    return f'<img{crisp} src="{url}" width="{width}" height="{height}" alt="{escape(name)}" loading="lazy">'


def _confusions(cleaning: Cleaning) -> str:
    """Return which labels are taken for which, if several are."""
    by_name = {(row.label, row.suggested) for row in cleaning.rows if row.suggested}
    counts = Counter((row.label, row.suggested) for row in cleaning.rows if row.suggested)
    if len(by_name) < 2:
        return ""
    most = max(counts.values())
    lines = "".join(
        f"<tr><th>{escape(given)} <span aria-hidden='true'>→</span> {escape(suggested)}</th>"
        f'<td><i style="width:{100 * count / most:.0f}%"></i></td><td>{count:,}</td></tr>'
        for (given, suggested), count in counts.most_common(_CONFUSIONS)
    )
    return f'<div class="card confusions"><table>{lines}</table></div>'


def _unreadable(cleaning: Cleaning) -> str:
    if not cleaning.unreadable:
        return ""
    lines = "".join(
        f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in cleaning.unreadable[:_UNREADABLE]
    )
    rest = len(cleaning.unreadable) - _UNREADABLE
    more = f"<p>And {rest:,} more.</p>" if rest > 0 else ""
    title = f"<h2>Cannot be read <small>{len(cleaning.unreadable):,}</small></h2>"
    return f'{title}<div class="card"><ul>{lines}</ul>{more}</div>'


def _use(cleaning: Cleaning, data: str, rows: Mapping[int, CleanRow]) -> str:
    """Return how to apply the list, and the list itself for the script."""
    if cleaning.clean_list is None or not rows:
        return ""
    name = cleaning.clean_list.name
    lines = [[row, *line] for row, line in rows.items()]
    table = escape(json.dumps({"columns": CleanRow._fields, "rows": lines}, ensure_ascii=False))
    command = page.command(shlex.join(["danqing", "train", data, "--clean", str(cleaning.clean_list)]))
    return (
        f"<h2>Train without them</h2><p class='why'>The list {escape(name)} next to this page has a line for "
        "each image with a finding. A run that applies it says so in the account of its images. "
        f"Changes on this page are saved with the button below.</p>{command}"
        f'<div class="bar" id="list" data-name="{escape(name)}" data-list="{table}"><span></span>'
        f'<button type="button">Save {escape(name)}</button></div>'
    )
