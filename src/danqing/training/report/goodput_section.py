"""The report's section on time: how much of it was useful, lost to failures, or spent waiting."""

from pathlib import Path
from typing import Any

from danqing import page
from danqing.cluster import ledger
from danqing.quantities import duration

_WAITING = {
    "start": "Starting",
    "checkpoint": "Checkpoints",
    "data": "Waiting for images",
    "ranks": "Waiting for other processes",
    "evaluation": "Scores",
    "samples": "Sample grids",
    "end": "Writing records",
}


def goodput_section(path: Path) -> str:
    """Return what the seconds of a run were spent on, from its ledger."""
    try:
        told = ledger.summary(ledger.read(path))
    except OSError:
        return ""
    if not told["wall"]:
        return ""
    wall = told["wall"]

    def row(seconds: float) -> str | None:
        return f"{duration(seconds)} ({seconds / wall:.1%})" if seconds else None

    rows: dict[str, Any] = {
        "Useful training steps": row(told["useful"]),
        "Steps that were repeated": row(told["lost"]["repeated"]),
        "Restarts after failures": row(told["lost"]["restart"]),
        **{name: row(told["waiting"].get(key, 0.0)) for key, name in _WAITING.items()},
        "All": row(wall),
        "Failures": told["failures"] or None,
    }
    return f'<section><h2>Time</h2><div class="card">{page.facts(rows)}</div></section>'
