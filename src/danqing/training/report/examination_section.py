"""The report's section on what a learner recognizes: by class, with confusion, calibration and pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from danqing.page import embed
from danqing.training.report.curves import Series, chart
from danqing.training.run_files import read_json

_PICTURES = {
    "mistakes": "The most confident mistakes",
    "found": "Objects that were found",
    "nearest": "Some images, and the others whose vectors are most alike",
}
"""The titles of pictures that have one of their own."""
_MOST_LABELS = 40
"""A larger confusion matrix is not shown."""


def examination_section(folder: Path) -> str:
    """Return what was found about a learner at the end of its run; "" if there is nothing.

    folder: the part of the run folder that holds it.
    """
    details = read_json(folder / "details.json")
    parts = []
    if isinstance(found := details.get("classification"), dict):
        parts += _classification(found, "Images")
    if isinstance(found := details.get("segmentation"), dict):
        parts += _classification(found, "Pixels")
    if isinstance(found := details.get("detection"), dict):
        parts.append(_detection(found))
    parts += [_picture(path) for path in sorted(folder.glob("*.png"))]
    body = "".join(parts)
    return f"<section><h2>On held-out images</h2>{body}</section>" if body else ""


def _classification(found: Mapping[str, Any], unit: str) -> list[str]:
    """How well classes are told apart. unit: what is counted."""
    classes = [str(name) for name in found.get("classes", [])]
    return [
        _labels(classes, found.get("labels") or [], unit),
        _confusion(classes, found.get("confusion") or []),
        _reliability(found.get("reliability") or []),
    ]


def _detection(found: Mapping[str, Any]) -> str:
    """How well the objects of each class are found: those that are found worst come first."""
    classes, values = found.get("classes") or [], found.get("by_class") or []
    if len(classes) != len(values):
        return ""
    rows = [
        f'<tr><th scope="row">{escape(str(name))}</th><td class="number">{count:,}</td>'
        f'<td class="number">{value:.3f}</td></tr>'
        for name, (count, value) in sorted(zip(classes, values, strict=True), key=lambda one: one[1][1])
        if count
    ]
    more = f"<p>And {len(rows) - _MOST_LABELS:,} more.</p>" if len(rows) > _MOST_LABELS else ""
    return (
        '<h3>Classes, the worst first</h3><div class="card"><div class="scroll"><table><thead><tr>'
        '<th>Class</th><td class="number">Objects</td><td class="number">AP50</td></tr></thead><tbody>'
        f"{''.join(rows[:_MOST_LABELS])}</tbody></table></div>{more}</div>"
    )


def _labels(classes: Sequence[str], counts: Sequence[Sequence[int]], unit: str) -> str:
    """How well each label is recognized: those that are recognized worst come first."""
    if len(counts) != 3 or any(len(row) != len(classes) for row in counts):
        return ""
    rows = []
    for name, has, said, both in zip(classes, *counts, strict=True):
        recall, precision = both / max(has, 1), both / max(said, 1)
        f1 = 2 * both / max(has + said, 1)
        cells = "".join(f'<td class="number">{value:.3f}</td>' for value in (recall, precision, f1))
        row = f'<tr><th scope="row">{escape(name)}</th><td class="number">{has:,}</td>{cells}</tr>'
        rows.append((f1, row))
    body = "".join(row for _, row in sorted(rows, key=lambda one: one[0])[:_MOST_LABELS])
    heads = "".join(f'<td class="number">{name}</td>' for name in (unit, "Recall", "Precision", "F1"))
    more = f"<p>And {len(rows) - _MOST_LABELS:,} more.</p>" if len(rows) > _MOST_LABELS else ""
    return (
        '<h3>Labels, the worst first</h3><div class="card"><div class="scroll"><table><thead><tr>'
        f"<th>Label</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>{more}</div>"
    )


def _confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """The confusion matrix: a row for each true label, a column for each that was said."""
    if not 0 < len(counts) == len(classes) <= _MOST_LABELS:
        return ""
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    rows = []
    for number, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td class="{"hit" if column == number else "miss"}" style="--share:{value / total:.3f}" '
            f'title="{escape(name)}, called {escape(classes[column])}: {value:,}">{value or ""}</td>'
            for column, value in enumerate(row)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<h3>Confusion</h3><p class="said">A row for each true label, a column for what the model calls it.'
        f'</p><div class="card"><div class="scroll"><table class="confusion"><thead><tr><th></th>{heads}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div></div>"
    )


def _reliability(groups: Sequence[Sequence[float]]) -> str:
    """Accuracy over confidence, which are the same where probabilities are calibrated."""
    if len(groups) < 2:
        return ""
    confidence, accuracy = [group[0] for group in groups], [group[1] for group in groups]
    curves = [Series("accuracy", confidence, accuracy), Series("calibrated", confidence, confidence)]
    figure = chart("accuracy over confidence", curves, exact=True)
    return f'<h3>Calibration</h3><div class="charts">{figure}</div>'


def _picture(path: Path) -> str:
    picture = embed(path)
    if not picture:
        return ""
    title = escape(_PICTURES.get(path.stem, path.stem.replace("-", " ").capitalize()))
    return (
        f'<h3>{title}</h3><div class="card"><figure class="natural"><img alt="{title}" src="{picture}">'
        "</figure></div>"
    )
