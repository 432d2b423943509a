"""`danqing index`: make the images of a data set searchable."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DataArgument, DeviceOption, parse_size

EXAMPLES = """Examples:

  danqing index photos/ --out photos.index

  danqing index photos/ --out photos.index --encoder runs/looks

  danqing index emoji --out emoji.index --text"""
_SKIPPED_SHOWN = 5


def index(
    data: DataArgument,
    out: Annotated[
        Path,
        typer.Option(help="The folder of the index; one that exists is brought up to date.", metavar="DIR"),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            help="What turns images into vectors: a trained model, or auto, inception, "
            "efficientnet-lite0, hed, dinov2, clip, pixels, or an ONNX file.",
            metavar="MODEL|NAME",
        ),
    ] = "auto",
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height at which images are read.",
            metavar="W[xH]",
            show_default="the model's, or their own up to 128",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Which part of the data: train, test, validation or all.")
    ] = "train",
    text: Annotated[
        bool, typer.Option("--text", help="Also learn from the captions of the data, to search by words.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Build an index of images, or bring one up to date."""
    of_all = None if size is None else parse_size(size)

    from danqing.machine import use_free_cores
    from danqing.precision import choose_device
    from danqing.recognition.image_index import index as build

    use_free_cores()
    with progress.Bar() as bar:
        built = build(
            data,
            out,
            encoder=encoder,
            size=of_all,
            split=split,
            text=text,
            device=choose_device(device),
            on_progress=bar.update,
        )
    change, facts = built.changed, built.facts
    skipped = [f"{one.name}: {one.reason}" for one in change.skipped[:_SKIPPED_SHOWN]]
    more = len(change.skipped) - len(skipped)
    lines = [f"{len(change.skipped):,}", *skipped, *([f"and {more:,} more"] if more else [])]
    shown = output.facts(
        {
            "Index": out,
            "Images": f"{len(built):,}: {change.added:,} added, {change.removed:,} removed",
            "Not read": "\n".join(lines) if change.skipped else None,
            "Encoder": f"{facts.encoder}, vectors of {built.looks.dimensions} numbers",
            "Words": "yes" if built.reads_words else "no",
            "Search": "exact" if built.looks.is_exact else "by a graph of neighbours, which may miss some",
            "Next": shlex.join(["danqing", "search", str(out), *(["--text", "..."] if text else ["IMAGE"])]),
        }
    )
    payload = {
        "index": out,
        "images": len(built),
        "added": change.added,
        "removed": change.removed,
        "skipped": {one.name: one.reason for one in change.skipped},
        "encoder": facts.encoder,
        "dimensions": built.looks.dimensions,
        "text": built.reads_words,
        "exact": built.looks.is_exact,
    }
    output.result(payload, shown, as_json=as_json)
