"""The model card, the README.md of a model folder: it says what was measured and nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from danqing import families
from danqing.data.attributes import Attribute
from danqing.families.base import Learner
from danqing.model import conditions
from danqing.quantities import number

_MAX_LABELS = 40
NOT_MEDICAL = (
    "This model is not a medical device. It changes images and may add or remove what matters in them: do "
    "not diagnose from its results."
)


def describe(learner: Learner, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a learner as plain values.

    trained: what is known of its training.
    """
    config = learner.config
    return {
        "family": config.family,
        "width": config.width,
        "height": config.height,
        "channels": config.channels,
        "sizes": [list(size) for size in config.sizes],
        "labels": list(config.labels),
        "text": conditions.describe_text(config),
        "attributes": [one.model_dump(mode="json", exclude_defaults=True) for one in config.attributes],
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
        "trained": dict(trained),
    }


def card(
    info: Mapping[str, Any],
    scores: Sequence[Mapping[str, Any]],
    *,
    samples: str | None = "samples.png",
    neighbours: str | None = None,
) -> str:
    """Write the model card in Markdown, with metadata for the hub.

    info: as `Model.info` returns it; without `sample_options`, of a learner that does not sample images.
    scores: those of `scores.json`.
    samples: the name of a picture of samples.
    neighbours: the name of a picture of samples beside training images.
    """
    trained = info.get("trained", {})
    data, tokenizer = trained.get("data", {}), trained.get("tokenizer", {})
    size, name = f"{info['width']}×{info['height']}", families.display_name(info["family"])
    text = info.get("text") or {}
    prompts, can_sample = text.get("captions", []), "sample_options" in info
    attributes = info.get("attributes", [])
    pipeline = "text-to-image" if text else "unconditional-image-generation"
    pipeline = "image-to-image" if info.get("translates") else pipeline
    lines = [
        "---",
        "library_name: danqing",
        *([f"pipeline_tag: {pipeline}"] if can_sample else []),
        f"tags: [danqing, {info['family']}{', image-generation' if can_sample else ''}]",
        "---",
        "",
        f"# {name[0].upper()}{name[1:]} for {size} images of {_plain(data.get('name', 'unnamed data'))}",
        "",
        *(_how_to_use(info, prompts, samples) if can_sample else []),
        "## Model",
        f"- Family: {info['family']}, {info['parameters']:,} parameters",
        f"- Images: {size}, {info['channels']} channel{'s' if info['channels'] > 1 else ''}",
    ]
    if info.get("sizes"):
        lines.append(f"- Sizes that it learned: {', '.join(f'{w}×{h}' for w, h in info['sizes'])}")
    if can_sample:
        others = "resampled from these" if info.get("other_sizes", True) else "refused"
        lines.append(f"- Other sizes: {others}")
    if trained.get("task"):
        lines.append(f"- Task: {_plain(trained['task'])}")
    if degrade := data.get("prepared", {}).get("degrade"):
        lines.append(f"- Steps that made its source images: {_plain(degrade)}")
    if info["labels"]:
        shown = ", ".join(_plain(label) for label in info["labels"][:_MAX_LABELS])
        lines.append(f"- Labels: {shown}{', …' if len(info['labels']) > _MAX_LABELS else ''}")
    lines += [f"- Attribute: {_plain(Attribute.model_validate(one).in_words())}" for one in attributes]
    if text:
        lines.append(f"- Reads: text through {_plain(text['encoder'])}, {text['length']} tokens at most")
    if prompts:
        lines += ["", "## Prompts", "", "Captions that it learned from, and others like them:", ""]
        lines += [f"- {_plain(prompt)}" for prompt in prompts]
    lines += ["", "## Training"]
    rows = {
        "Data": data.get("name"),
        "Images in the data": data.get("images"),
        "Fingerprint of the data": data.get("fingerprint"),
        "Licence of the data": data.get("licence"),
        "Source of the data": data.get("citation"),
        "Images seen": trained.get("images"),
        "Seconds": trained.get("seconds"),
        "Images seen by its tokenizer before": tokenizer.get("images"),
        "Seconds of that": tokenizer.get("seconds"),
        "EMA length": trained.get("ema_length"),
        "Precision": trained.get("precision"),
        "Seed": trained.get("seed"),
    }
    lines += [f"- {name}: {_plain(value)}" for name, value in rows.items() if value not in (None, "")]
    lines += ["", "## Scores", ""]
    lines += _scores(scores) if scores else ["None measured yet."]
    if neighbours is not None:
        lines += [
            "",
            "## Samples beside the training images nearest to them",
            "",
            f"![Samples, each with the training images nearest to it]({neighbours})",
        ]
    lines += ["", "## Limits", ""]
    if trained.get("task") == "enhance":
        lines += [NOT_MEDICAL, ""]
    lines.append(
        "The model knows only what its training images show, may repeat some of them, and carries the "
        "terms of their licence."
    )
    return "\n".join(lines) + "\n"


def _scores(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table with one line per score, the headline in bold, and how each score was made."""
    lines = ["| score | value | interval | better |", "| --- | --- | --- | --- |"]
    for score in scores:
        if "name" in score and isinstance(score.get("value"), int | float):
            mark = "**" if score.get("headline") else ""
            ends = score.get("interval") if isinstance(score.get("interval"), list) else []
            interval = " to ".join(number(end) for end in ends or () if isinstance(end, int | float))
            higher = score.get("higher_is_better")
            better = "" if not isinstance(higher, bool) else "higher" if higher else "lower"
            better += " (trained with this network: flattering)" if score.get("flattered") else ""
            value = f"{number(score['value'])} {_plain(score.get('unit') or '')}".strip()
            lines.append(f"| {mark}{_plain(score['name'])}{mark} | {value} | {interval} | {better} |")
    lines = lines if len(lines) > 2 else []
    how = [f"- {_plain(score.get('text') or json.dumps(score, ensure_ascii=False))}" for score in scores]
    return [*lines, *(["", "How each was made:", ""] if lines else []), *how]


def _how_to_use(info: Mapping[str, Any], prompts: Sequence[str], samples: str | None) -> list[str]:
    translates = info.get("translates")
    shown = "Samples"
    if translates:
        shown = "Each source image, what the model makes of it, and its target"
    if info.get("unpaired"):
        shown = "Each source image, and what the model makes of it"
    call = "translate(images" if translates else f"sample(16{_example(info['labels'], prompts)}"
    return [
        *([f"![{shown}]({samples})", ""] if samples else []),
        "```python",
        "import danqing as dq",
        "",
        'model = dq.load("path/of/this/folder")',
        f"model.{call}, seed=1)",
        "```",
        "",
    ]


def _example(labels: Sequence[str], prompts: Sequence[str]) -> str:
    if prompts:
        return f", prompt={json.dumps(prompts[0], ensure_ascii=False)}"
    return f", label={labels[0]!r}" if labels else ""


def _plain(value: Any) -> str:
    """Return a value as one line of text that Markdown and HTML leave as it is."""
    text = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\`*_[]#|" else {"<": "&lt;", ">": "&gt;"}.get(c, c) for c in text)
