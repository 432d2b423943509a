"""`danqing predict`: what a model recognizes in images, as a table or as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, ModelArgument
from danqing.errors import ConfigError, DanqingError

EXAMPLES = """Examples:

  danqing predict runs/kinds photo.jpg

  danqing predict runs/kinds new-photos/ --out answers.csv

  danqing predict runs/kinds new-photos.zip --top 3 --out answers.json

  danqing predict runs/kinds 'new-photos/*.jpg' --json

  danqing predict runs/street new-photos/ --out objects.csv --drawn drawn/

  danqing predict runs/cells new-scans/ --masks found/"""


def predict(
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(help="Images: files, a folder, a zip, or a pattern such as 'photos/*.jpg'.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write all predictions to this file.", metavar="FILE.csv|FILE.json"),
    ] = None,
    drawn: Annotated[
        Path | None,
        typer.Option(help="For a detector: write the images with their boxes to this folder.", metavar="DIR"),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="For a segmenter: write masks and overlays to this folder.", metavar="DIR"),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="For a segmenter: see images at the scale of training (model), or as they are (own).",
            metavar="model|own",
        ),
    ] = "model",
    top: Annotated[
        int, typer.Option(min=1, help="How many labels to give each image, the most probable first.")
    ] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="The lowest probability of each of several labels, or the lowest score of an object.",
            show_default="0.5; 0.3 for objects",
        ),
    ] = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Recognize images: labels with calibrated probabilities, objects or masks."""
    from danqing.recognition.drawings import write_drawings
    from danqing.recognition.mask_files import write_masks
    from danqing.recognition.predict import format_of
    from danqing.recognition.prediction import Prediction
    from danqing.recognition.segment import checked_scale

    known_scale = checked_scale(scale)
    source = images if len(images) > 1 else images[0]
    if masks is not None and (top != 1 or threshold is not None or drawn is not None):
        raise ConfigError("--masks writes the mask of each image: leave --top, --threshold and --drawn out.")
    if out is not None:
        format_of(out)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")
        import danqing

        recognizer = danqing.load_recognizer(model, device=device)
        if masks is not None:
            found = write_masks(recognizer, source, masks, scale=known_scale, on_progress=bar.update)
        else:
            found = danqing.predict(
                recognizer,
                source,
                top=top,
                threshold=threshold,
                scale=known_scale,
                on_progress=bar.update,
            )
    place: Path | None = None
    undrawn: dict[str, str] = {}
    try:
        if out is not None:
            place = out
            out.parent.mkdir(parents=True, exist_ok=True)
            found.save(out)
        if drawn is not None:
            place = drawn
            undrawn = write_drawings(found, source, drawn)
    except OSError as error:
        raise DanqingError(
            f"{place} cannot be written ({error.strerror or error}): choose another path."
        ) from error
    for name, why in found.failed.items():
        progress.say(f"{output.printable(name)} was skipped: {output.printable(why)}", style="yellow")
    for name, why in undrawn.items():
        progress.say(f"{output.printable(name)} was not drawn: {output.printable(why)}", style="yellow")
    has_objects = any(item.objects is not None for item in found)
    has_masks = any(item.shares is not None for item in found)
    if (cost := getattr(recognizer.learner, "cost", None)) is not None:
        progress.say(
            f"This generative model compares labels by likelihood: {cost}. Its probabilities are not "
            "calibrated.",
            style="yellow",
        )
    elif not (found.is_calibrated or has_objects or has_masks):
        progress.say(
            "The probabilities are not calibrated, because the run held out no images.", style="yellow"
        )

    def line(item: Prediction) -> list[str]:
        return [item.name, *(f"{each.name} {each.probability:.1%}" for each in item.labels)]

    def lines(item: Prediction) -> list[list[str]]:
        rows = [
            [item.name, each.name, f"{each.score:.1%}", ", ".join(f"{side:.0f}" for side in each.box)]
            for each in item.objects or ()
        ]
        return rows or [[item.name, "none", "", ""]]

    if out is not None or masks is not None:
        written = {"out": out, "drawn": drawn, "masks": masks}
        payload = {**written, "images": len(found), "failed": dict(found.failed)}
        text = output.facts({"Written": out, "Drawn": drawn, "Masks": masks, "Images": f"{len(found):,}"})
        output.result(payload, text, as_json=as_json)
        return
    if has_objects:
        head = ["image", "object", "score", "left, top, right, bottom"]
        text = output.table([head, *(row for item in found for row in lines(item))])
        output.result(found.plain(), text, as_json=as_json)
        return
    if has_masks:
        table = [["image", "share of pixels"], *([item.name, _shares(item.shares or {})] for item in found)]
        output.result(found.plain(), output.table(table), as_json=as_json)
        return
    most = max(len(item.labels) for item in found)
    rows = [line(item) + [""] * (most - len(item.labels)) for item in found]
    output.result(found.plain(), output.table([["image", *["label"] * most], *rows]), as_json=as_json)


def _shares(shares: Mapping[str, float]) -> str:
    """The classes of a mask, the most frequent first, without those below 0.05%."""
    order = sorted(shares.items(), key=lambda one: -one[1])
    return ", ".join(f"{output.printable(name)} {share:.1%}" for name, share in order if share >= 0.0005)
