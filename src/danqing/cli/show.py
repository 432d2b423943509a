"""`danqing show`: what a model or a run is, how it came about, and what it can be asked."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from danqing.cli import output
from danqing.errors import ModelError
from danqing.quantities import duration

EXAMPLES = """Examples:

  danqing show runs/photos

  danqing show runs/photos/model --json"""

_LONGEST_LIST = 12


def show(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or the id of a model on the hub.")
    ],
    as_json: output.JsonOption = False,
) -> None:
    """Show what a model or a run is."""
    import danqing
    from danqing.training.run_folder import RunFolder

    run = RunFolder(model).facts()
    try:
        info = danqing.load(model).info()
    except ModelError:
        if not run:  # a run that has only begun has no model yet, and is shown without one
            raise
        info = {}
    text = output.facts(dict(_rows(info)))
    if run:
        text += f"\nRun {Path(model)}\n" + output.facts(dict(_rows(_main_facts(run))))
    output.result({"model": info or None, "run": run or None}, text, as_json=as_json)


def _main_facts(run: Mapping[str, Any]) -> Mapping[str, Any]:
    progress = run.get("progress", {})
    data = run.get("data", {})
    return {
        "status": run.get("status"),
        "reason": run.get("reason"),
        "images seen": progress.get("images"),
        "time": duration(progress["seconds"]) if "seconds" in progress else None,
        "images/s": progress.get("images_per_second"),
        "data": data.get("source"),
        "data images": data.get("images"),
        "alarms": [f"{alarm['text']} (at {alarm['images']:,} images)" for alarm in run.get("alarms", [])],
        "command": run.get("command"),
    }


def _rows(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in info.items():
        if value is not None and value != [] and value != {}:
            yield name.replace("_", " "), _words(value)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        more = f", and {len(value) - _LONGEST_LIST:,} more" if len(value) > _LONGEST_LIST else ""
        return ", ".join(_words(item) for item in value[:_LONGEST_LIST]) + more
    return str(value)
