"""`danqing data`: check images, and list or download the built-in data sets."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import parse_range, parse_size_or_auto, split_names
from danqing.errors import DanqingError
from danqing.quantities import memory

if TYPE_CHECKING:
    from danqing.data import Dataset

_CHECK = """Examples:

  danqing data check photos/

  danqing data check sprites.zip --size 48x32 --alpha keep --grid sprites.png

  danqing data check emoji:faces --size 32"""
_LIST = """Examples:

  danqing data list

  danqing data list --json"""
_FETCH = """Examples:

  danqing data fetch fashion-mnist

  DANQING_DATA=/srv/images danqing data fetch cifar10"""
_LABELS_SHOWN = 20
_SKIPPED_SHOWN = 5
_CAPTIONS_READ, _LONGEST = 1000, 60

app = typer.Typer(
    name="data",
    help="Check images before training on them; list and download the built-in data sets.",
    no_args_is_help=True,
)


@app.command("check", epilog=_CHECK)
def check(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder, zip, Parquet, tar or IDX file of images, or a built-in name (danqing data list)."
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            help="Width x height in pixels: 32, or 48x32; auto:32 for several sizes of that area.",
            metavar="W[xH]|auto[:W]",
            show_default="their own",
        ),
    ] = None,
    channels: Annotated[
        int, typer.Option(help="1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha; 0 the images' own.")
    ] = 0,
    alpha: Annotated[
        Literal["flatten", "keep"],
        typer.Option(help="Put transparent images on the background, or keep their transparency."),
    ] = "flatten",
    background: Annotated[str, typer.Option(help="The colour behind transparent pixels.")] = "#ffffff",
    fit: Annotated[
        Literal["crop", "pad", "stretch"],
        typer.Option(help="How images of another aspect ratio reach the size."),
    ] = "crop",
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            help="The values that become black and white, for more than 8 bits; for example -1000:400.",
            metavar="LOW:HIGH",
            show_default="one that suits the data",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, test, validation or all.")] = "train",
    pairs: Annotated[
        str,
        typer.Option(
            help="Source and target folder, side-by-side, or the column that names the source image.",
            metavar="A:B",
        ),
    ] = "",
    attributes: Annotated[
        str, typer.Option(help="Columns of numbers, categories or vectors.", metavar="NAME,NAME")
    ] = "",
    grid: Annotated[
        Path | None, typer.Option(help="Save a grid of 64 images, as training would see them, to this file.")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Read every image once and report what was found.

    Training then starts at once.
    """
    import numpy as np

    from danqing.data import open_dataset
    from danqing.images import Images

    of_all, buckets = (None, False) if size is None else parse_size_or_auto(size)
    with progress.Bar() as bar:
        dataset = open_dataset(
            data,
            size=of_all,
            buckets=buckets,
            channels=channels,
            alpha=alpha,
            background=background,
            fit=fit,
            range=None if value_range is None else parse_range(value_range),
            split=split,
            pairs=pairs,
            attributes=split_names(attributes),
            on_progress=bar.update,
        )
    if grid is not None:
        shown = np.unique(np.linspace(0, len(dataset) - 1, 64).round().astype(np.int64))
        try:
            grid.parent.mkdir(parents=True, exist_ok=True)
            Images(dataset.images(shown)).save(grid)
        except OSError as error:
            raise DanqingError(
                f"{grid} cannot be written ({error.strerror or error}): choose another --grid."
            ) from error
    text = output.facts({**_facts(dataset), "Grid": grid})
    output.result({**_payload(dataset), "grid": grid}, text, as_json=as_json)


@app.command("list", epilog=_LIST)
def list_builtin(as_json: output.JsonOption = False) -> None:
    """List the built-in data sets with their licences."""
    from danqing.data import builtin

    sets = {name: builtin.load(name) for name in builtin.names()}
    payload = {
        name: {"summary": each.SUMMARY, "licence": each.ABOUT.licence, "citation": each.ABOUT.citation}
        for name, each in sets.items()
    }
    text = output.facts({name: f"{each.SUMMARY}; {each.ABOUT.licence}" for name, each in sets.items()})
    output.result({"sets": payload}, text, as_json=as_json)


@app.command("fetch", epilog=_FETCH)
def fetch(
    name: Annotated[str, typer.Argument(help="A built-in name (danqing data list).")],
    as_json: output.JsonOption = False,
) -> None:
    """Download a built-in data set, unless it is already there."""
    from danqing.data import builtin

    with progress.Bar() as bar:
        place = builtin.load(name).fetch(bar.update)
    text = output.facts(
        {"Data": name, "Folder": place, "Next": shlex.join(["danqing", "data", "check", name])}
    )
    output.result({"name": name, "folder": place}, text, as_json=as_json)


def _facts(dataset: "Dataset") -> dict[str, Any]:
    info, report = dataset.info, dataset.info.report
    width, height = dataset.size
    kinds = {1: "grey", 2: "grey and alpha", 3: "colour", 4: "colour and alpha"}
    unused = (*report.skipped_files, *report.left_out_files)
    skipped = [f"{file.name}: {file.reason}" for file in unused[:_SKIPPED_SHOWN]]
    count = report.found - report.images
    more = [f"and {count - len(skipped):,} more"] if count > len(skipped) else []
    advice = {name: value for name, value in info.augment.model_dump().items() if value}
    return {
        "Data": info.name,
        "Images": f"{len(dataset):,} of {width}x{height}, {kinds[dataset.channels]}",
        "Buckets": ", ".join(f"{w}x{h} {count:,}" for (w, h), count in _bucket_counts(dataset)),
        "Depth": _depth(dataset),
        "Found": report.account(),
        "Layout": report.understood.get("Layout"),
        "Split": report.understood.get("Split"),
        "Labels": _with_source(_labels(dataset), report.understood.get("Labels")),
        "Captions": _with_source(_captions(dataset), report.understood.get("Captions")),
        "Pairs": report.understood.get("Pairs"),
        "Attributes": ", ".join(one.in_words() for one in dataset.attributes),
        "Duplicates": f"{report.duplicates:,}" if report.duplicates else "none",
        "Not used": "\n  ".join([f"{count:,}", *skipped, *more]) if count else "none",
        "Not read": report.understood.get("Not read"),
        "Notes": "\n  ".join(report.notes),
        "Augmentation": (", ".join(f"{name} {value}" for name, value in advice.items()) or "none")
        + (" (no flip where captions are read)" if dataset.has_texts and info.augment.flip else ""),
        "Licence": info.licence,
        "Citation": info.citation,
        "Cache": f"{dataset.cache} ({memory(len(dataset) * dataset.image_bytes)})",
        "Fingerprint": dataset.fingerprint,
    }


def _bucket_counts(dataset: "Dataset") -> list[tuple[tuple[int, int], int]]:
    """Return each bucket and how many images it has; nothing if all images have one size."""
    import numpy as np

    if len(dataset.sizes) == 1:
        return []
    counts = np.bincount(dataset.buckets_at(np.arange(len(dataset))), minlength=len(dataset.sizes))
    return list(zip(dataset.sizes, counts.tolist(), strict=True))


def _with_source(text: str, source: str | None) -> str:
    """Say what was found and where, or where it was looked for if nothing was found."""
    if text == "none":
        return source or text
    return f"{text} (from {source})" if source else text


def _depth(dataset: "Dataset") -> str | None:
    """Say how many bits are kept, and of which range; None for 8 bits."""
    if dataset.range is None:
        return None
    low, high = dataset.range
    return f"{dataset.depth} bits, from {low:g} (black) to {high:g} (white)"


def _labels(dataset: "Dataset") -> str:
    names, shares = dataset.label_names, dataset.label_frequencies
    shown = [f"{name} {share:.1%}" for name, share in zip(names[:_LABELS_SHOWN], shares, strict=False)]
    more = f", and {len(names) - _LABELS_SHOWN:,} more" if len(names) > _LABELS_SHOWN else ""
    return f"{len(names):,}: {', '.join(shown)}{more}" if names else "none"


def _captions(dataset: "Dataset") -> str:
    """Say whether there are captions, and show those of the first image that has some."""
    from danqing.data.captions import captions_of

    for text in dataset.texts(range(min(len(dataset), _CAPTIONS_READ))) or ():
        if lines := captions_of(text):
            shown = " / ".join(
                line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..." for line in lines[:4]
            )
            return f"yes, the first {'is' if len(lines) == 1 else 'image has'} {shown}"
    return "yes" if dataset.has_texts else "none"


def _payload(dataset: "Dataset") -> dict[str, Any]:
    return {
        **dataset.info.model_dump(mode="json"),
        "images": len(dataset),
        "size": list(dataset.size),
        "buckets": [{"size": list(size), "images": count} for size, count in _bucket_counts(dataset)],
        "channels": dataset.channels,
        "depth": dataset.depth,
        "labels": dict(zip(dataset.label_names, dataset.label_frequencies, strict=True)),
        "captions": dataset.has_texts,
        "attributes": [one.model_dump(mode="json") for one in dataset.attributes],
        "cache": dataset.cache,
        "fingerprint": dataset.fingerprint,
    }
