"""`danqing show`: what a model or a run is, how it was trained, and its options."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from danqing.cli import output
from danqing.cli.run_output import tokenizer_text
from danqing.errors import ModelError
from danqing.quantities import duration

EXAMPLES = """Examples:

  danqing show runs/photos

  danqing show runs/photos/model --json"""

_LONGEST_LIST = 12


def show(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, the id of a model on the hub, or demo.")
    ],
    as_json: output.JsonOption = False,
) -> None:
    """Show what a model or a run is, and its options."""
    import danqing
    from danqing.training.run_folder import RunFolder

    run = RunFolder(model).facts()
    try:
        info = danqing.load(model).info()
    except ModelError:
        if not run:  # a run that has just begun has no model yet and is shown without one
            raise
        info = {}
    text = output.facts(_model_rows(info)) if info else ""
    if run:
        text += f"\nRun {Path(model)}\n" + output.facts(_run_rows(run))
    output.result({"model": info or None, "run": run or None}, text, as_json=as_json)


def _model_rows(info: Mapping[str, Any]) -> dict[str, Any]:
    from danqing.data.attributes import Attribute

    trained = info.get("trained", {})
    data, attributes = trained.get("data", {}), info["attributes"]
    return {
        "Family": info["family"],
        "Pipeline": trained.get("pipeline"),
        "Images": f"{info['width']} x {info['height']}, {info['channels']} channels",
        "Samples": info.get("sampled_sizes"),
        "Labels": _some(info["labels"]),
        "Attributes": "\n".join(Attribute.model_validate(one).in_words() for one in attributes),
        "Task": trained.get("task"),
        "Reads": _reads(info),
        "Prompts": _some(info["text"]["captions"]) if info["text"] else None,
        "Parameters": f"{info['parameters']:,}",
        "Options": ", ".join(f"{name}={value}" for name, value in info["sample_options"].items()),
        "Seen": f"{trained['images']:,} images" if "images" in trained else None,
        "Time": duration(trained["seconds"]) if "seconds" in trained else None,
        "EMA length": trained.get("ema_length"),
        "Precision": trained.get("precision"),
        "Seed": trained.get("seed"),
        "Data": f"{data.get('name', 'unnamed')}, {data.get('images', 0):,} images" if data else None,
        "Licence": data.get("licence") or trained.get("licence"),
        "Citation": data.get("citation"),
    }


def _reads(info: Mapping[str, Any]) -> str:
    text = info["text"]
    if text is None:
        read = ["source images"] if info["translates"] else []
        read += [name for name in ("labels", "attributes") if info[name]]
        return " and ".join(read) or "nothing"
    tokens = f"{text['length']} tokens at most"
    if text["encoder"] == "bpe":
        return f"text, in {text['vocabulary']:,} word pieces learnt from its captions, {tokens}"
    return f"text, encoded by {text['encoder']}, {tokens}"


def _run_rows(run: Mapping[str, Any]) -> dict[str, Any]:
    progress, plan = run.get("progress", {}), run.get("plan", {})
    alarms = [f"{alarm['text']} (at {alarm['images']:,} images)" for alarm in run.get("alarms", [])]
    speed = progress.get("images_per_second")
    return {
        "Tokenizer": tokenizer_text(run.get("tokenizer")),
        "Status": run.get("status"),
        "Reason": run.get("reason"),
        "Seen": f"{progress.get('images', 0):,} of {plan['images']:,} images" if plan else None,
        "Time": duration(progress["seconds"]) if progress else None,
        "Speed": f"{speed:,.0f} images/s" if speed else None,
        "Source": run.get("data", {}).get("source"),
        "Warnings": "\n".join(alarms),
        "Command": run.get("command"),
    }


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LONGEST_LIST:,} more" if len(names) > _LONGEST_LIST else ""
    return ", ".join(names[:_LONGEST_LIST]) + more
