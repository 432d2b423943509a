"""`danqing data`: check images, write shards, and list or download the built-in data sets."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from danqing import atomic, progress
from danqing.cli import data_shard, output
from danqing.cli.arguments import (
    AttributesOption,
    BoxesOption,
    DataArgument,
    IgnoreReservationsOption,
    LabelSetsOption,
    MasksOption,
    PairsOption,
    parse_range,
    parse_size_or_auto,
    split_names,
)
from danqing.cli.data_clean import EXAMPLES, clean
from danqing.cli.data_rights import FACES, faces_text, rights_rows, search_faces
from danqing.errors import DanqingError
from danqing.quantities import memory

if TYPE_CHECKING:
    from danqing.data import Dataset

_CHECK = """Examples:

  danqing data check photos/

  danqing data check sprites.zip --size 48x32 --alpha keep --grid sprites.png

  danqing data check emoji:faces --size 32

  danqing data check street/ --masks images:masks --boxes coco

  danqing data check photos/ --faces 500 --card card.md"""
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
    help="Check images before training on them; write shards; list and download the built-in data sets.",
    no_args_is_help=True,
)
app.command("clean", epilog=EXAMPLES)(clean)
app.command("shard", epilog=data_shard.EXAMPLES)(data_shard.shard)


@app.command("check", epilog=_CHECK)
def check(
    data: DataArgument,
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
    pairs: PairsOption = None,
    attributes: AttributesOption = None,
    masks: MasksOption = "",
    boxes: BoxesOption = "",
    label_sets: LabelSetsOption = "",
    ignore_reservations: IgnoreReservationsOption = False,
    faces: Annotated[
        int,
        typer.Option(
            help="How many images to search for faces, evenly spaced (extra faces); 0 is none.",
            metavar="COUNT",
            min=0,
        ),
    ] = FACES,
    card: Annotated[
        Path | None,
        typer.Option(help="Write what was found as a data card in Markdown.", metavar="FILE.md"),
    ] = None,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Save a grid of 64 images and their targets, as training would see them, to this file."
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Read every image once and report what was found.

    Training then starts at once.
    """
    import numpy as np

    from danqing.data import open_dataset
    from danqing.evaluation.target_drawing import draw_targets

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
            pairs=pairs or "",
            attributes=split_names(attributes or ""),
            masks=masks,
            boxes=boxes,
            label_sets=label_sets,
            ignore_reservations=ignore_reservations,
            on_progress=bar.update,
        )
        found = search_faces(data, split, faces, bar.update)
    if grid is not None:
        shown = np.unique(np.linspace(0, len(dataset) - 1, 64).round().astype(np.int64))
        try:
            grid.parent.mkdir(parents=True, exist_ok=True)
            draw_targets(dataset, shown).save(grid)
        except OSError as error:
            raise DanqingError(
                f"{grid} cannot be written ({error.strerror or error}): choose another --grid."
            ) from error
    rows = {**_facts(dataset), **rights_rows(dataset.info.report.consent), "Faces": faces_text(found)}
    if card is not None:
        _write_card(card, dataset.info.name, rows)
    text = output.facts({**rows, "Card": card, "Grid": grid})
    payload = {**_payload(dataset), "faces": found and found._asdict(), "card": card, "grid": grid}
    output.result(payload, text, as_json=as_json)


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
        "Label sets": report.understood.get("Label sets"),
        "Boxes": _with_classes(report.understood.get("Boxes"), dataset.target_classes.boxes),
        "Masks": _with_classes(report.understood.get("Masks"), dataset.target_classes.mask),
        "Attributes": ", ".join(one.in_words() for one in dataset.attributes),
        "Duplicates": f"{report.duplicates:,}" if report.duplicates else "none",
        "Label conflicts": f"{report.contradicted:,} equal to one with another label"
        if report.contradicted
        else None,
        "Not used": "\n".join([f"{count:,}", *skipped, *more]) if count else "none",
        "Not read": report.understood.get("Not read"),
        "Notes": "\n".join(report.notes),
        "Augmentation": (", ".join(f"{name} {value}" for name, value in advice.items()) or "none")
        + (" (no flip where captions are read)" if dataset.has_texts and info.augment.flip else ""),
        "Licence": info.licence,
        "Citation": info.citation,
        "Cache": f"{dataset.cache} ({memory(len(dataset) * dataset.image_bytes)})",
        "Fingerprint": dataset.fingerprint,
    }


def _write_card(path: Path, name: str, rows: Mapping[str, Any]) -> None:
    """Write a data card, without what is about this machine."""
    from danqing.data.card import data_card

    told = {title: value for title, value in rows.items() if title != "Cache"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, data_card(name, told))
    except OSError as error:
        raise DanqingError(
            f"{path} cannot be written ({error.strerror or error}): choose another --card."
        ) from error


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


def _with_classes(text: str | None, classes: Sequence[str]) -> str | None:
    """Add the names of classes to what was found."""
    more = f", and {len(classes) - _LABELS_SHOWN:,} more" if len(classes) > _LABELS_SHOWN else ""
    return text and f"{text}: {', '.join(classes[:_LABELS_SHOWN])}{more}"


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
        "targets": dataset.target_classes.model_dump(mode="json"),
        "attributes": [one.model_dump(mode="json") for one in dataset.attributes],
        "cache": dataset.cache,
        "fingerprint": dataset.fingerprint,
    }
