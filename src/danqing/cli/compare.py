"""`danqing compare`: families under one budget on your images."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import (
    CpusOption,
    DeviceOption,
    IgnoreReservationsOption,
    RayOption,
    TrainingSizeOption,
    size_and_settings,
)
from danqing.cli.exit_codes import INTERRUPTED
from danqing.errors import TrainingError

if TYPE_CHECKING:
    from danqing.studies.results import Comparison

EXAMPLES = """Examples:

  danqing compare photos/ --families gan,vae --minutes 10 --out runs/compared

  danqing compare fashion-mnist --presets gan-32,vae-32 --images 500000 --out runs/fashion

Ctrl-C saves; run the same command again to continue."""

_MARKS = {"best": "*", "tie": "="}


def compare(
    data: Annotated[str, typer.Argument(help="The images, as for danqing train.")],
    out: Annotated[Path, typer.Option(help="The folder of the comparison; use it again to continue.")],
    families: Annotated[
        str, typer.Option(help="Which families, each by its preset for about this size.", metavar="gan,vae")
    ] = "",
    presets: Annotated[
        str, typer.Option(help="Which presets, instead of families.", metavar="gan-32,vae-32")
    ] = "",
    minutes: Annotated[float | None, typer.Option(help="How long to train each.")] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images each sees, instead of --minutes.")
    ] = None,
    size: TrainingSizeOption = None,
    seed: Annotated[int, typer.Option(help="The seed of all runs and of their samples.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting for all; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    features: Annotated[
        str, typer.Option(help="The network that images are compared by, as for danqing evaluate.")
    ] = "auto",
    second_features: Annotated[
        str,
        typer.Option(
            help="A second network: auto (hed where it is installed, else classifier), none, or a name.",
            metavar="NAME",
        ),
    ] = "auto",
    n: Annotated[
        int | None,
        typer.Option(
            "-n", help="How many images each samples to be measured.", min=2, show_default="1000 to 10000"
        ),
    ] = None,
    ignore_reservations: IgnoreReservationsOption = False,
    ray: RayOption = None,
    cpus: CpusOption = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Compare families on your images, under the same budget and measured alike."""
    of_all, given = size_and_settings(size, settings, ignore_reservations=ignore_reservations)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")
        import danqing
        from danqing.training.display import show_report

        found = danqing.compare(
            data,
            families=_names(families),
            presets=_names(presets),
            minutes=minutes,
            images=images,
            size=of_all,
            seed=seed,
            settings=given,
            features=features,
            second_features=second_features,
            n=n,
            out=out,
            ray=ray,
            cpus=cpus,
            device=device,
            on_progress=bar.update,
            on_dataset=lambda report: show_report(bar, report),
        )
    if all(one.status == "failed" for one in found.contestants):
        raise TrainingError(f"None could be compared; the first failed with: {found.contestants[0].error}")
    output.result(_payload(found, out), _text(found, out), as_json=as_json)
    if found.interrupted:
        command = shlex.join(["danqing", *sys.argv[1:]])
        progress.say(f"Interrupted and saved; run this to continue: {command}", style="yellow")
        raise typer.Exit(INTERRUPTED)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _payload(found: "Comparison", out: Path) -> Mapping[str, Any]:
    return {**found.to_json(), "folder": out, "page": out / "compare.html"}


def _text(found: "Comparison", out: Path) -> str:
    from danqing.studies.results import rows

    table = [["", *(one.name for one in found.contestants)]]
    for row in rows(found):
        cells = [
            "–"
            if cell is None
            else " ".join(filter(None, (cell.text, _MARKS.get(mark, ""), "!" if cell.flattered else "")))
            for cell, mark in zip(row.cells, row.marks, strict=True)
        ]
        table.append([row.title, *cells])
    failures = "".join(f"{one.name} failed: {one.error}\n" for one in found.contestants if one.error)
    legend = "* the best; = cannot be told from the best"
    if any(score.flattered for one in found.contestants for score in one.scores):
        legend += "; ! trained with this network: flattering"
    text = f"{output.table(table)}{legend}\n" if len(table) > 1 else ""
    words = " ".join((*found.verdict, *found.cautions))
    return f"{text}\n{failures}{words}\n\n" + output.facts({"Page": out / "compare.html"})
