"""The report's section on scores: over the run, and as last measured on the model."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from danqing.evaluation.scores import FLATTERED
from danqing.page import embed
from danqing.quantities import duration
from danqing.training.report.curves import Series, chart, number_text
from danqing.training.run_files import read_lines, read_text

_ARROWS: dict[Any, str] = {True: " ↑", False: " ↓"}


def scores_section(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return held-out scores as a curve and the model's as a table."""
    parts = [
        _over_images(read_lines(folder / "scores.jsonl"), facts),
        _over_lengths(facts),
        _table(_scores(folder / "model" / "scores.json")),
        _neighbours(folder / "model" / "neighbours.png"),
    ]
    body = "".join(parts)
    return f"<section><h2>Scores</h2>{body}</section>" if body else ""


def evaluation_share(facts: Mapping[str, Any]) -> float:
    """Return the share of time that evaluation took, in [0, 1]."""
    progress = facts.get("progress") or {}
    evaluation = progress.get("evaluation_seconds") or 0.0
    spent = (progress.get("seconds") or 0.0) + evaluation
    return float(evaluation / spent) if spent else 0.0


def _over_images(lines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    known = [
        (line["images"], score, line.get("is_best"), line.get("ema_length"))
        for line in lines
        if isinstance(score := line.get("score"), dict)
        and isinstance(score.get("value"), int | float)
        and isinstance(line.get("images"), int)
    ]
    if not known:
        return ""
    last = known[-1][1]
    name = str(last.get("name", "score"))
    firsts: dict[int, float] = {}  # other EMA lengths of the same weights follow
    for images, score, _, _ in known:
        firsts.setdefault(images, float(score["value"]))
    curve = Series(name, list(firsts), list(firsts.values()))
    text = f"{name} of the moving average on held-out images"
    judged = last.get("reference")
    if isinstance(judged, dict) and isinstance(judged.get("count"), int):
        text += f" ({judged['count']:,}, {judged.get('split')})"
    text += "."
    best = [line for line in known if line[2]]
    if best:
        images, score, _, length = best[-1]
        of_length = f" with the EMA length {length:g}" if isinstance(length, int | float) else ""
        kept = "" if facts.get("best", True) is None else "; that model is kept"
        text += f" The best is {number_text(score['value'])}, after {images:,} images{of_length}{kept}."
    if last.get("flattered"):
        text += (
            " The model is trained with the network that scores it: the scores flatter it, and say only how "
            "its own snapshots compare."
        )
    if share := evaluation_share(facts):
        spent = facts["progress"]["evaluation_seconds"]
        text += f" Evaluation took {duration(spent)}, {share:.0%} of the run\u2019s time."
    figure = chart(f"{name} held out, over images seen", [curve], exact=True)
    return f'<p class="said">{escape(text)}</p><div class="charts">{figure}</div>'


def _over_lengths(facts: Mapping[str, Any]) -> str:
    """What other averages of the same weights scored."""
    ema = facts.get("ema") or {}
    scores = ema.get("scores") or []
    if len(scores) < 2:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{length:g}</th><td class="number">{number_text(value)}</td></tr>'
        for length, value in scores
    )
    return (
        f'<h3>EMA lengths</h3><p class="said">{escape(str(ema.get("text")))}</p><div class="card"><table>'
        "<thead><tr><th>Width of the moving average, as a share of the run</th>"
        f'<td class="number">Score</td></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _scores(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(read_text(path) or "[]")
    except (ValueError, RecursionError):
        return []
    return [
        score
        for score in (found if isinstance(found, list) else [])
        if isinstance(score, dict) and isinstance(score.get("value"), int | float)
    ]


def _table(scores: Sequence[Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    rows = []
    for score in scores:
        name = f"{score.get('name', score.get('metric'))}{_ARROWS.get(score.get('higher_is_better'), '')}"
        unit = f" {score['unit']}" if score.get("unit") else ""
        flattered = f"<small>{FLATTERED}</small>" if score.get("flattered") else ""
        rows.append(
            f'<tr><th scope="row">{escape(name)}{flattered}</th>'
            f'<td class="number">{"<b>" if score.get("headline") else ""}{number_text(score["value"])}'
            f"{escape(unit)}{'</b>' if score.get('headline') else ''}</td>"
            f'<td class="number">{_interval(score.get("interval"))}</td></tr>'
        )
    stories = "".join(
        f"<li>{escape(' '.join((str(score['text']), str(score.get('note') or ''))))}</li>"
        for score in scores
        if score.get("text")
    )
    details = f"<details><summary>How each was measured</summary><ul>{stories}</ul></details>"
    return (
        '<h3>The model in the model folder</h3><div class="card"><table><thead><tr><th>Score</th>'
        '<td class="number">Value</td><td class="number">95% interval</td></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{details if stories else ''}</div>"
    )


def _interval(interval: Any) -> str:
    if not isinstance(interval, list) or len(interval) != 2:
        return ""
    if not all(isinstance(end, int | float) for end in interval):
        return ""
    return f"{number_text(interval[0])} to {number_text(interval[1])}"


def _neighbours(path: Path) -> str:
    picture = embed(path)
    if not picture:
        return ""
    return (
        "<h3>Samples beside the training images nearest to them</h3>"
        '<div class="card"><figure class="natural">'
        '<img alt="Samples, each beside its nearest training images" '
        f'src="{picture}"></figure></div>'
    )
