"""`danqing data shard`: write images or their codes as shards."""

import shlex
from typing import Annotated, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DataArgument, split_names
from danqing.quantities import memory, parse_memory

EXAMPLES = """Examples:

  danqing data shard photos/ shards/

  danqing data shard photos/ s3://bucket/photos --size 256MiB

  danqing data shard photos/ codes/ --what codes --tokenizer runs/vqvae

A pass over shards writes other shards; --clean, --smallest and --captions decide what it changes:

  danqing data shard shards/ large/ --smallest 64 --captions captions.jsonl"""


def shard(
    data: DataArgument,
    out: Annotated[str, typer.Argument(help="A folder, or a URL such as s3://bucket/photos (extra stores).")],
    size: Annotated[
        str, typer.Option(help="The size of a shard, about: 256MiB, 1GiB.", metavar="SIZE")
    ] = "256MiB",
    what: Annotated[
        Literal["files", "codes"], typer.Option(help="Write the original files, or a tokenizer's codes.")
    ] = "files",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The run, model folder or hub id that makes the codes.", metavar="MODEL"),
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(
            help="Source and target folder, side-by-side, or the column that names the source image.",
            metavar="A:B",
        ),
    ] = "",
    attributes: Annotated[
        str, typer.Option(help="Columns of numbers, categories or vectors to keep.", metavar="NAME,NAME")
    ] = "",
    clean: Annotated[
        str, typer.Option(help="A clean list: leave out the images that it drops.", metavar="FILE.csv")
    ] = "",
    smallest: Annotated[
        int, typer.Option(help="Leave out images with a side of fewer pixels.", metavar="PIXELS", min=0)
    ] = 0,
    captions: Annotated[
        str,
        typer.Option(
            help="A table with the columns file_name and text, which replaces captions.",
            metavar="FILE.jsonl|FILE.csv",
        ),
    ] = "",
    ignore_reservations: Annotated[
        bool,
        typer.Option(
            "--ignore-reservations", help="Keep images whose owners reserve training on them in their files."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="What makes the codes: auto, cpu, cuda, mps.")] = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Write images as shards: large files with an index, for stores and for data beyond one machine.

    The same command again continues where it was stopped.
    """
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # importing torch takes seconds
        from danqing.training.sharding import shard as write

        found = write(
            data,
            out,
            size=parse_memory(size),
            what=what,
            tokenizer=tokenizer,
            pairs=pairs,
            attributes=split_names(attributes),
            clean=clean,
            smallest=smallest,
            captions=captions,
            ignore_reservations=ignore_reservations,
            device=device,
            on_progress=bar.update,
        )
    facts = {
        "Shards": f"{found.shards:,} at {found.place}",
        "Images": ", ".join(f"{count:,} {split}" for split, count in found.images.items()),
        **{f"Found ({split})": report.account() for split, report in found.reports.items()},
        "Bytes": memory(found.bytes),
        "Digest": found.digest,
        "Next": shlex.join(["danqing", "data", "check", out]),
    }
    payload = found._asdict() | {
        "reports": {split: report.model_dump(mode="json") for split, report in found.reports.items()}
    }
    output.result(payload, output.facts(facts), as_json=as_json)
