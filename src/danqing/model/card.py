"""The model card, the README.md of a model folder: it says what was measured and nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from danqing import families
from danqing.data.attributes import Attribute
from danqing.data.card import plain
from danqing.data.consent import in_words, read_consent
from danqing.families.base import Learner
from danqing.learners.abilities import Classifies, Detects, Segments
from danqing.model import conditions
from danqing.quantities import memory, number, privacy

_MAX_LABELS = 40
_PIPELINES: dict[type, str] = {
    Classifies: "image-classification",
    Detects: "object-detection",
    Segments: "image-segmentation",
}
"""What the hub calls the task of a learner that recognizes images, by what it can do."""
NOT_MEDICAL = (
    "This model is not a medical device. It changes images and may add or remove what matters in them: do "
    "not diagnose from its results."
)


def describe(learner: Learner, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a learner as plain values.

    trained: what is known of its training; its domain, numbers that nobody reads, is left out.
    """
    config = learner.config
    classes = getattr(learner, "classes", ())
    return {
        "family": config.family,
        "width": config.width,
        "height": config.height,
        "channels": config.channels,
        "sizes": [list(size) for size in config.sizes],
        "labels": list(config.labels),
        **({"classes": list(classes)} if classes else {}),
        "text": conditions.describe_text(config),
        "attributes": [one.model_dump(mode="json", exclude_defaults=True) for one in config.attributes],
        "parameters": sum(parameter.numel() for parameter in learner.parameters()),
        "trained": {name: value for name, value in trained.items() if name != "domain"},
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
    pipeline = pipeline if can_sample else _pipeline_of_learner(info)
    lines = [
        "---",
        "library_name: danqing",
        *([f"pipeline_tag: {pipeline}"] if pipeline else []),
        f"tags: [danqing, {info['family']}{', image-generation' if can_sample else ''}]",
        "---",
        "",
        f"# {name[0].upper()}{name[1:]} for {size} images of {plain(data.get('name', 'unnamed data'))}",
        "",
        *(_how_to_use(info, prompts, samples) if can_sample else _how_to_recognize(info)),
        "## Model",
        f"- Family: {info['family']}, {info['parameters']:,} parameters",
        f"- Images: {size}, {info['channels']} channel{'s' if info['channels'] > 1 else ''}",
    ]
    if info.get("sizes"):
        lines.append(f"- Sizes that it learned: {', '.join(f'{w}×{h}' for w, h in info['sizes'])}")
    if can_sample:
        others = "resampled from these" if info.get("other_sizes", True) else "refused"
        lines.append(f"- Other sizes: {others}")
    options = info.get("sample_options", {})
    if options.get("sampler") == "consistency":
        lines.append(f"- Steps: {options['num_steps']}, which it learned to sample in; it has no likelihood")
    if trained.get("task"):
        lines.append(f"- Task: {plain(trained['task'])}")
    if degrade := data.get("prepared", {}).get("degrade"):
        lines.append(f"- Steps that made its source images: {plain(degrade)}")
    if labels := info.get("classes") or info["labels"]:
        shown = ", ".join(plain(label) for label in labels[:_MAX_LABELS])
        lines.append(f"- Labels: {shown}{', …' if len(labels) > _MAX_LABELS else ''}")
    lines += [f"- Attribute: {plain(Attribute.model_validate(one).in_words())}" for one in attributes]
    if text:
        lines.append(f"- Reads: text through {plain(text['encoder'])}, {text['length']} tokens at most")
    if prompts:
        lines += ["", "## Prompts", "", "Captions that it learned from, and others like them:", ""]
        lines += [f"- {plain(prompt)}" for prompt in prompts]
    lines += ["", "## Training"]
    rows = {
        "Data": data.get("name"),
        "Images in the data": data.get("images"),
        "Fingerprint of the data": data.get("fingerprint"),
        "Licence of the data": data.get("licence"),
        "Source of the data": data.get("citation"),
        **_consent(data.get("consent")),
        "Images seen": trained.get("images"),
        "Seconds": trained.get("seconds"),
        "Images seen by its tokenizer before": tokenizer.get("images"),
        "Seconds of that": tokenizer.get("seconds"),
        "Started from": trained.get("init"),
        "Adapters in its weights": trained.get("adapters"),
        "Generated images": trained.get("generated"),
        "Unlabelled images": trained.get("unlabelled"),
        "EMA length": trained.get("ema_length"),
        "Temperature that calibrates its probabilities": trained.get("temperature"),
        "Precision": trained.get("precision"),
        "Precision of sampling": trained.get("sampling_precision"),
        "Seed": trained.get("seed"),
    }
    lines += [f"- {name}: {plain(value)}" for name, value in rows.items() if value not in (None, "")]
    if told := trained.get("privacy"):
        lines += ["", "## Privacy", "", *_privacy(told)]
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
    risk = "may repeat some of them" if can_sample else "gives an answer for images of anything else too"
    lines.append(
        f"The model knows only what its training images show, {risk}, and carries the terms of their licence."
    )
    return "\n".join(lines) + "\n"


def _consent(told: Any) -> dict[str, str]:
    """Return what the files of the training images say of the rights in them, by title."""
    consent = read_consent(told)
    lines = {
        "Licences in the files": in_words(consent.licences),
        "Creators in the files": in_words(consent.creators),
        "Copyright notices in the files": in_words(consent.notices),
        "Reservations in the files": in_words(consent.reservations),
    }
    if consent.reserved:
        done = "used anyway" if consent.ignored else "left out"
        lines["Images whose owners reserve training"] = f"{consent.reserved:,}, {done}"
    return lines


def _privacy(told: Mapping[str, Any]) -> list[str]:
    """Return what a private run guarantees, how it was computed, and what it does not cover."""
    how = f"{told['steps']:,} steps of DP-SGD"
    if told["steps"]:
        how += (
            f" with noise multiplier {told['noise_multiplier']:.4g} and sample rate "
            f"{told['sample_rate']:.4g}, by the {plain(told['accountant'])}"
        )
    return [
        f"- Differential privacy: {privacy(told)}",
        f"- Computed from: {how}",
        "- It hides whether any one image is in the data; a person in several images is hidden less.",
        "- Not hidden: how many images there are, their size and channels, and the names of the labels.",
        "- Not covered: settings that were chosen by trials on the same images.",
    ]


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
            value = f"{number(score['value'])} {plain(score.get('unit') or '')}".strip()
            lines.append(f"| {mark}{plain(score['name'])}{mark} | {value} | {interval} | {better} |")
    lines = lines if len(lines) > 2 else []
    how = [f"- {plain(score.get('text') or json.dumps(score, ensure_ascii=False))}" for score in scores]
    return [*lines, *(["", "How each was made:", ""] if lines else []), *how]


def measured_forms(told: Mapping[str, Any]) -> list[str]:
    """Return a section with the forms of a model that were measured.

    told: the content of `shrink.json`; empty where it has none.
    """
    forms = [form for form in told.get("forms", ()) if isinstance(form, dict) and form.get("bytes")]
    if not forms:
        return []
    lines = [
        "## Forms that were measured",
        "",
        f"| form | images per second | times as fast | size | {plain(told.get('score', 'score'))} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for form in forms:
        mark = "**" if form.get("name") == told.get("chosen") else ""
        found = (form.get(key) for key in ("images_per_second", "speedup", "bytes", "score"))
        figures = [float(figure) for figure in found if isinstance(figure, int | float)]
        if len(figures) == 4:
            speed, ratio, size, score = figures
            ends = [end for end in form.get("interval") or () if isinstance(end, int | float)]
            interval = f" ({' to '.join(map(number, ends))})" if ends else ""
            cells = (number(speed), f"{ratio:.2f}", memory(size), f"{number(score)}{interval}")
            lines.append(f"| {mark}{plain(form.get('name', ''))}{mark} | {' | '.join(cells)} |")
    machine = told.get("machine")
    processor = machine.get("processor") if isinstance(machine, dict) else None
    on = f" On {plain(processor)}." if processor else ""
    return [*lines, "", f"{plain(told.get('verdict', ''))}{on}"]


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


def _how_to_recognize(info: Mapping[str, Any]) -> list[str]:
    """Return an example for a learner that `predict` accepts."""
    if not _pipeline_of_learner(info):
        return []
    return [
        "```python",
        "import danqing as dq",
        "",
        'model = dq.load_recognizer("path/of/this/folder")',
        'dq.predict(model, "photos/")',
        "```",
        "",
    ]


def _pipeline_of_learner(info: Mapping[str, Any]) -> str:
    """Return what the hub calls the task of a learner that recognizes images; "" if it has no name."""
    found = (name for ability, name in _PIPELINES.items() if families.implements(info["family"], ability))
    return next(found, "")


def _example(labels: Sequence[str], prompts: Sequence[str]) -> str:
    if prompts:
        return f", prompt={json.dumps(prompts[0], ensure_ascii=False)}"
    return f", label={labels[0]!r}" if labels else ""
