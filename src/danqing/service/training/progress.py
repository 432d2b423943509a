"""How far a run is, from the files of its folder, which may be written at this moment."""

import json
import re
from pathlib import Path
from typing import Any

from danqing.training.run_files import read_json, read_lines

POINTS = 300
"""At most so many points of a curve are returned."""
_SAMPLES = re.compile(r"[0-9]{1,15}\.png")
_MOST_CURVES = 12


def progress(run: Path) -> dict[str, Any]:
    """Return curves, samples, plan and scores of a run folder.

    curves: by name, lists of (images, value), thinned evenly.
    stage: "tokenizer" while a first stage is trained.
    """
    stage = ""
    if not (run / "log.jsonl").exists() and (run / "tokenizer" / "run.json").exists():
        stage, run = "tokenizer", run / "tokenizer"
    facts = read_json(run / "run.json")
    done, plan, budget = (facts.get(name) or {} for name in ("progress", "plan", "budget"))
    total, seconds = budget.get("images") or plan.get("images"), float(done.get("seconds") or 0)
    speed = done.get("images_per_second") or plan.get("images_per_second")
    latest = int(done.get("images") or 0)
    lines = read_lines(run / "log.jsonl")
    if lines:
        latest = max(latest, int(lines[-1].get("images", 0)))
    left = max(0.0, (total - latest) / speed) if total and speed else None
    return {
        "stage": stage,
        "images": latest,
        "total": total,
        "seconds": seconds,
        "seconds_left": left,
        "images_per_second": speed,
        "plan": {key: plan.get(key) for key in ("seconds", "memory_bytes", "nearest", "warning")}
        if plan
        else None,
        "alarms": [str(one.get("message", one.get("kind", ""))) for one in facts.get("alarms") or []][:10],
        "curves": _curves(lines, read_lines(run / "scores.jsonl")),
        "samples": samples(run),
        "report": (run / "report.html").is_file(),
        "scores": _scores(run / "model" / "scores.json"),
    }


def samples(run: Path) -> list[str]:
    """Return the names of the grids of samples, the first first."""
    folder = run / "samples"
    names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
    return sorted(name for name in names if _SAMPLES.fullmatch(name))


def sample_file(run: Path, name: str) -> Path | None:
    """Return the file of a grid of samples.

    None if there is none of this name.
    """
    path = run / "samples" / name
    return path if _SAMPLES.fullmatch(name) and path.is_file() and not path.is_symlink() else None


def _curves(lines: list[dict[str, Any]], scores: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name.rpartition("/")[2] == "loss" and isinstance(value, int | float):
                curves.setdefault(name, []).append((int(line.get("images", 0)), round(float(value), 5)))
    for line in scores:
        score = line.get("score") or {}
        if isinstance(value := score.get("value"), int | float):
            name = f"score/{score.get('name')}"
            curves.setdefault(name, []).append((int(line.get("images", 0)), round(float(value), 5)))
    return {name: _thinned(curves[name]) for name in list(curves)[:_MOST_CURVES]}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(points) <= POINTS:
        return points
    last = len(points) - 1
    return [points[round(number * last / (POINTS - 1))] for number in range(POINTS)]


def _scores(path: Path) -> list[dict[str, Any]]:
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    rows = [one for one in read if isinstance(one, dict) and "name" in one] if isinstance(read, list) else []
    return [{key: one.get(key) for key in ("name", "value", "unit", "headline")} for one in rows][:20]
