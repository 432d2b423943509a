"""`danqing data clean`: find wrong labels, copies, outliers and poor images, on one page."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DataArgument, parse_size

EXAMPLES = """Examples:

  danqing data clean photos/ --out clean.html

  danqing data clean fashion-mnist --out clean.html --features pixels

Look at clean.html, decide there what to drop, save the list, then train without it:

  danqing train photos/ --clean clean.csv"""


def clean(
    data: DataArgument,
    out: Annotated[
        Path,
        typer.Option(
            help="Write the page to this file; the list of decisions gets the same name with .csv.",
            metavar="FILE.html",
        ),
    ] = Path("clean.html"),
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height at which images are read.",
            metavar="W[xH]",
            show_default="that of training",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="The network that images are compared by, as for danqing evaluate.", metavar="NAME|PATH"
        ),
    ] = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Find wrong labels, copies, outliers and poor images."""
    of_all = None if size is None else parse_size(size)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # importing torch takes seconds
        from danqing.recognition.clean import clean as find
        from danqing.recognition.cleaning.findings import ABOUT

        found = find(data, out=out, size=of_all, features=features, on_progress=bar.update)
    rows = {ABOUT[kind].title: f"{count:,}" for kind, count in found.counts.items()}
    facts = {
        "Data": found.name,
        "Images": f"{found.images:,} ({', '.join(f'{n:,} {split}' for split, n in found.splits.items())})",
        **rows,
        "Cannot be read": f"{len(found.unreadable):,}" if found.unreadable else None,
        "Found": None if rows else "nothing unusual",
        "Dropped": f"{found.dropped:,} in the list",
        "Page": found.page,
        "List": found.clean_list,
        "Next": shlex.join(["danqing", "train", data, "--clean", str(found.clean_list)]),
    }
    payload = {
        "data": found.name,
        "images": found.images,
        "splits": found.splits,
        "found": found.counts,
        "unreadable": [list(one) for one in found.unreadable],
        "dropped": found.dropped,
        "accuracy": found.accuracy,
        "features": found.features,
        "page": found.page,
        "list": found.clean_list,
        "rows": [row._asdict() for row in found.rows],
    }
    output.result(payload, output.facts(facts), as_json=as_json)
