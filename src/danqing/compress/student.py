"""A model of half the width that learns from a trained one, in a run of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from danqing.families.base import Learner
from danqing.training.listener import Listener, Progress
from danqing.training.run import train
from danqing.training.teacher import taught
from danqing.training.transfer import Source, decided


def half_width(learner: Learner) -> dict[str, Any]:
    """Return the settings of a student of half the width, by their dotted names.

    Raises ConfigError where the family teaches no student.
    """
    halves: dict[str, Any] = {}
    for name in taught(learner).widths:
        width = getattr(learner.config, name)
        halves[f"model.{name}"] = [side // 2 for side in width] if isinstance(width, tuple) else width // 2
    return halves


def train_student(
    model: Path,
    data: str | Path,
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    is_alone: bool = False,
    tell: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Train a model of half the width that learns from a trained one.

    Returns its model folder.
    model: a run folder, whose settings are used, or a model folder. out: a new run folder.
    minutes: of training. is_alone: leave the teacher out, to compare with.
    tell: receives (done, total, what).
    Raises ConfigError where the family teaches no student, and what `danqing.train` raises.
    """
    source = Source(str(model.resolve()))
    given = {**half_width(source.learner), **held_out(source), "init": "", "teacher": ""}
    if not is_alone:
        given["teacher"] = json.dumps(source.model, ensure_ascii=False)
    run = next((file for each in (model, model.parent) if (file := each / "config.toml").is_file()), None)
    chosen: dict[str, Any] = {"preset": source.preset()} if run is None else {"config": run}
    size, settings = decided(source, given, **{"preset": None, "config": None, **chosen}, size=None)
    found = train(
        data,
        **chosen,
        out=out,
        size=size,
        settings=settings,
        minutes=minutes,
        seed=seed,
        listener=_Told(minutes, tell),
    )
    if found.status != "finished":  # Ctrl-C ends a run like its budget does
        raise KeyboardInterrupt
    return found.model


def held_out(source: Source) -> dict[str, Any]:
    """Return settings that keep images from a student on which its teacher is scored."""
    share = source.facts.get("data", {}).get("held_out")
    return {} if not share else {"evaluation.every_images": "tenth", "evaluation.held_out": share}


class _Told(Listener):
    """Tells how much of a run is over."""

    def __init__(self, minutes: float, tell: Callable[[int, int, str], None] | None) -> None:
        self._total, self._tell = round(60 * minutes), tell

    def on_progress(self, progress: Progress) -> None:
        if self._tell is not None:
            seconds = min(round(progress.seconds), self._total)
            self._tell(seconds, self._total, "Training a student")
