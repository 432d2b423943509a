"""`compare.html`: which family to choose for what, on one page that is a single file."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from danqing import atomic, page
from danqing.evaluation.second_network import second_in_words
from danqing.quantities import duration, memory
from danqing.studies import plots
from danqing.studies.plots import Line, Measured, Spot
from danqing.studies.recommendations import picks, recognizes
from danqing.studies.results import GROUPS, SECOND, Cell, Comparison, Contestant, Row, row, rows

_STYLE = Path(__file__).with_name("compare.css")
_ARROWS = {"higher": "↑", "lower": "↓"}
_MARKS = {
    "best": "the best, and its interval overlaps no other's",
    "tie": "cannot be told from the best: the intervals overlap",
    "flattered": "trained with this network: flattering, so not ranked beside others",
}


def write(comparison: Comparison, folder: Path) -> Path:
    """Write `compare.html` into the folder of a comparison; returns its path.

    A picture that is missing or unreadable is left out. All text is escaped.
    """
    sections = [
        _verdict(comparison),
        _table(comparison),
        _plots(comparison),
        _grids(comparison, folder),
        _neighbours(comparison, folder),
        _making(comparison),
    ]
    content = page.render(
        kind="a comparison",
        name=comparison.name,
        status="unfinished" if comparison.interrupted else "",
        lead=_lead(comparison),
        head=page.tiles(_tiles(comparison)),
        sections=sections,
        style=_STYLE.read_text(encoding="utf-8"),
        version=comparison.danqing,
    )
    path = folder / "compare.html"
    atomic.write_text(path, content)
    return path


def _lead(comparison: Comparison) -> str:
    names = [one.name for one in comparison.contestants]
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    words = [f"{listed}, trained on the same images under the same budget and measured alike."]
    if account := comparison.data.get("account"):
        words.append(f"Images: {account}.")
    return " ".join([*words, *map(str, comparison.data.get("notes") or [])])


def _tiles(comparison: Comparison) -> Iterator[tuple[str, str]]:
    data, reference = comparison.data, comparison.reference
    yield "Budget each", comparison.budget_text
    if isinstance(data.get("images"), int):
        yield "Learnt from", f"{data['images']:,}"
    if reference is not None:
        yield f"ComparisonData by ({reference.split})", f"{reference.count:,}"
    if sizes := data.get("sizes"):
        yield "Pixels", ", ".join(f"{width} × {height}" for width, height in sizes)
    elif data.get("width"):
        yield "Pixels", f"{data['width']} × {data['height']}"
    if not recognizes(comparison):
        yield "Samples of each", f"{comparison.samples:,}"


def _verdict(comparison: Comparison) -> str:
    if not comparison.verdict:
        return ""
    text = _picks(comparison) + f"<p>{escape(' '.join(comparison.verdict))}</p>"
    if comparison.cautions:
        text += f'<p class="caution">{escape(" ".join(comparison.cautions))}</p>'
    failed = "".join(
        '<div class="note failed"><p>'
        f"<strong>{escape(one.name)} failed.</strong> {escape(one.error)}</p></div>"
        for one in comparison.contestants
        if one.status == "failed"
    )
    return f'<section><h2>Which to choose</h2><div class="card verdict">{text}</div>{failed}</section>'


def _picks(comparison: Comparison) -> str:
    """The leaders at a glance: for each purpose one, or those that cannot be told apart."""
    shown = []
    for purpose, found in picks(comparison):
        leading = [place for place, mark in enumerate(found.marks) if mark]
        names = "".join(plots.key(comparison.contestants[place].name, place) for place in leading)
        tied = '<span class="tied">a tie: </span>' if "tie" in found.marks else ""
        shown.append(f"<div><dt>{escape(purpose)}</dt><dd>{tied}{names}</dd></div>")
    return f'<dl class="picks">{"".join(shown)}</dl>' if shown else ""


def _table(comparison: Comparison) -> str:
    table = rows(comparison)
    if not table:
        return ""
    heads = "".join(
        f'<th scope="col">{plots.key(one.name, place)}<small>{escape(one.family)}</small></th>'
        for place, one in enumerate(comparison.contestants)
    )
    body = []
    for group in GROUPS:
        of_group = [row for row in table if row.group == group]
        if of_group:
            width = len(comparison.contestants) + 1
            heading = f'<th scope="rowgroup" colspan="{width}">{escape(group)}</th>'
            body.append(f'<tbody><tr class="group">{heading}</tr>{"".join(map(_row, of_group))}</tbody>')
    legend = "; ".join(f"<b>{mark}</b>: {escape(meaning)}" for mark, meaning in _MARKS.items())
    return (
        '<section><h2>Measured</h2><div class="card scroll" tabindex="0" role="region" aria-label="Measured">'
        f'<table class="compared"><caption>↑ higher is better, ↓ lower; small: the 95% interval. {legend}.'
        "</caption>"
        f'<thead><tr><th scope="col"></th>{heads}</tr></thead>{"".join(body)}</table></div>'
        f"{_how(comparison)}</section>"
    )


def _row(row: Row) -> str:
    arrow = _ARROWS[row.better] if row.better else ""
    direction = f' <span role="img" aria-label="{row.better} is better">{arrow}</span>' if arrow else ""
    cells = "".join(_cell(cell, mark) for cell, mark in zip(row.cells, row.marks, strict=True))
    head = f'<th scope="row">{escape(row.title)}{direction}<small>{escape(row.detail)}</small></th>'
    return f"<tr>{head}{cells}</tr>"


def _cell(cell: Cell | None, mark: str) -> str:
    if cell is None:
        return '<td class="missing"><span aria-label="not measured">–</span></td>'
    value = f"<b>{escape(cell.text)}</b>" if mark == "best" else escape(cell.text)
    badges = [*([mark] if mark else []), *(["flattered"] if cell.flattered else [])]
    badge = "".join(f'<span class="badge {name}">{name}</span>' for name in badges)
    interval = f"<small>{escape(cell.interval_text)}</small>" if cell.interval_text else ""
    return f"<td>{value}{badge}{interval}</td>"


def _how(comparison: Comparison) -> str:
    first = next((one for one in comparison.finished if one.scores), None)
    lines = [] if first is None else [str(score) + _note(score.note) for score in first.scores]
    lines += [
        "training: images seen per second of training, without the time for scoring",
        "recognizing: images per second, after a warm-up"
        if recognizes(comparison)
        else "sampling: images sampled per second by the finished model, after a warm-up, in its own chunks",
        "peak memory: the most that the training process held, including its libraries",
    ]
    score = None if first is None else first.score(f"{SECOND}kernel")
    if first is not None and not recognizes(comparison):
        second = None if score is None or score.features is None else score.features.name
        lines.append(second_in_words(second))
    if all(one.measured.get("energy_wh") is None for one in comparison.finished):
        lines.append("energy: this machine does not report it")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    whose = "" if first is None else f" (scores as of {escape(first.name)})"
    return (
        f'<details><summary>How each was measured{whose}</summary><ul class="measured">{items}</ul></details>'
    )


def _note(note: str) -> str:
    return f" ({note})" if note else ""


def _plots(comparison: Comparison) -> str:
    lines, spots, name = [], [], ""
    precisions, recalls = row(comparison, "precision"), row(comparison, "recall")
    for place, one in enumerate(comparison.contestants):
        scores = [Measured(point.value, point.interval) for point in one.curve]
        lines.append(Line(one.name, place, [point.seconds for point in one.curve], scores))
        name = name or one.curve_name
        precision, recall = (found.cells[place] if found else None for found in (precisions, recalls))
        if precision is not None and recall is not None:
            across = Measured(recall.value, recall.interval)
            spots.append(Spot(one.name, place, across, Measured(precision.value, precision.interval)))
    body = plots.over_time(name or "Held-out score", lines)
    body += plots.against("precision", "recall", spots)
    return f'<section><h2>Plots</h2><div class="charts">{body}</div></section>' if body else ""


def _grids(comparison: Comparison, folder: Path) -> str:
    figures = []
    real = page.embed(folder / "pictures" / "real.png")
    if real:
        figures.append(
            "<figure><figcaption>Real images <small>to compare with</small></figcaption>"
            f'<img alt="A grid of real images" src="{real}"></figure>'
        )
    for place, one in enumerate(comparison.contestants):
        samples = page.embed(folder / one.pictures["grid"]) if "grid" in one.pictures else ""
        if samples:
            figures.append(
                f"<figure><figcaption>{plots.key(one.name, place)}</figcaption>"
                f'<img alt="A grid of samples of {escape(one.name)}" src="{samples}"></figure>'
            )
    if not figures:
        return ""
    told = "the same seeds, labels and captions for all, none selected"
    if recognizes(comparison):
        told = "the most confident mistakes of each"
    return (
        f"<section><h2>Pictures <small>{told}</small></h2>"
        f'<div class="card grids">{"".join(figures)}</div></section>'
    )


def _neighbours(comparison: Comparison, folder: Path) -> str:
    figures = []
    for place, one in enumerate(comparison.contestants):
        picture = page.embed(folder / one.pictures["neighbours"]) if "neighbours" in one.pictures else ""
        if picture:
            figures.append(
                f'<figure><figcaption>{plots.key(one.name, place)}</figcaption><img alt="Samples of '
                f'{escape(one.name)}, each beside its nearest training images" src="{picture}"></figure>'
            )
    if not figures:
        return ""
    return (
        '<section class="after"><div class="card"><details>'
        "<summary>Samples beside the training images nearest to them</summary>"
        f'<div class="near">{"".join(figures)}</div></details></div></section>'
    )


def _making(comparison: Comparison) -> str:
    data, reference, machine = comparison.data, comparison.reference, comparison.machine
    about_data = {
        "Name": data.get("name"),
        "Source": data.get("source"),
        "Learnt from": f"{data['images']:,} images" if isinstance(data.get("images"), int) else None,
        "Fingerprint": data.get("fingerprint"),
        "ComparisonData by": f"{reference.count:,} images, split {reference.split}" if reference else None,
        "Its fingerprint": reference.fingerprint if reference else None,
        "Licence": data.get("licence"),
        "Citation": data.get("citation"),
        "Seed": comparison.seed,
    }
    cores = f"{machine['cores']} ({machine.get('threads')} threads used)" if machine.get("cores") else None
    about_machine = {
        "Device": machine.get("device"),
        "Processor": machine.get("processor"),
        "Cores": cores,
        "Memory": memory(machine["memory_bytes"]) if machine.get("memory_bytes") else None,
        "System": machine.get("system"),
        "Python": machine.get("python"),
        "PyTorch": machine.get("torch"),
        "Danqing": comparison.danqing,
    }
    configs = "".join(map(_config, comparison.contestants))
    return (
        f"<section><h2>How it was made</h2><h3>To repeat it</h3>{page.command(comparison.command)}"
        f'<h3>Data and machine</h3><div class="columns"><div class="card">{page.facts(about_data)}</div>'
        f'<div class="card">{page.facts(about_machine)}</div></div>'
        f'<h3>Configurations</h3><div class="card">{configs}</div></section>'
    )


def _config(one: Contestant) -> str:
    seen = one.measured.get("images")
    spent = one.measured.get("seconds")
    told = [
        f"{seen:,.0f} images seen" if seen else "",
        f"in {duration(spent)}" if spent else "",
        one.precision,
    ]
    summary = f"{one.name}: {one.preset}, {', '.join(filter(None, told)) or 'not trained'}"
    return (
        f"<details><summary>{escape(summary)}</summary><p>Run folder: {escape(one.run)}</p>"
        f"<pre>{escape(one.config)}</pre></details>"
    )
