"""`danqing search`: find images by an image or by words, near-duplicates, and groups."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing.cli import output
from danqing.errors import ConfigError

if TYPE_CHECKING:
    from danqing.recognition.image_index import ImageIndex

EXAMPLES = """Examples:

  danqing search photos.index holiday.jpg --out found.png

  danqing search photos.index 'new/*.jpg' -k 5 --label cat --json

  danqing search emoji.index --text 'a red heart' --out found.html

  danqing search photos.index --duplicates 0.97

  danqing search photos.index --clusters 20"""
_SHOWN = 20


def search(
    index: Annotated[Path, typer.Argument(help="The folder of an index, as danqing index builds it.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images: files, a folder, a zip, or a pattern such as 'photos/*.jpg'.", metavar="IMAGE"
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Search by these words instead of by images.", metavar="TEXT")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many images to find for each query.")] = 10,
    label: Annotated[
        list[str] | None, typer.Option(help="Only images with this label; may be repeated.", metavar="LABEL")
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(
            help="List groups of images that are at least this similar, from -1 to 1.",
            metavar="SIMILARITY",
            min=-1,
            max=1,
        ),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Divide all images into this many groups.", metavar="NUMBER")
    ] = None,
    seed: Annotated[int, typer.Option(help="For --clusters: the same seed gives the same groups.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write what was found as a picture (.png), or as a page (.html).", metavar="FILE"),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Find images by an image or by words, near-duplicates, and groups."""
    modes = [bool(images), text is not None, duplicates is not None, clusters is not None]
    if sum(modes) != 1:
        raise ConfigError("Give images, --text, --duplicates or --clusters: exactly one of them.")
    for option, value in (("--out", out), ("--label", label)):
        if value and (duplicates is not None or clusters is not None):
            raise ConfigError(f"{option} belongs to a search with images or --text: leave it out.")

    from danqing.machine import use_free_cores
    from danqing.recognition.image_index import ImageIndex

    use_free_cores()
    opened = ImageIndex.load(index)
    if duplicates is not None:
        payload, shown = _duplicates(opened, duplicates)
    elif clusters is not None:
        payload, shown = _clusters(opened, clusters, seed)
    else:
        payload, shown = _matches(opened, images or [], text, k, label, out)
    output.result(payload, shown, as_json=as_json)


def _matches(
    index: "ImageIndex",
    images: list[str],
    text: str | None,
    k: int,
    labels: list[str] | None,
    out: Path | None,
) -> tuple[dict[str, Any], str]:
    from danqing.editing import inputs
    from danqing.recognition import result_sheet

    queries = None
    if text is not None:
        titles, found = [text], index.search_text([text], k, labels)
    else:
        titles, queries = list(inputs.find(images).names), index.prepared(images)
        found = index.looks.search(index.encode(queries), k, labels)
    written = None
    if out is not None:
        pixels = None if queries is None else queries.numpy()
        written = result_sheet.write(out, index, found, titles=titles, queries=pixels)
    rows = [("query", "similarity", "label", "image")]
    payload = []
    for title, matches in zip(titles, found, strict=True):
        rows += [
            (title if not n else "", f"{one.similarity:.3f}", one.label, one.id)
            for n, one in enumerate(matches)
        ]
        payload.append({"query": title, "matches": [one._asdict() for one in matches]})
    shown = output.table(rows) + output.facts({"Written": written})
    return {"results": payload, "written": written}, shown


def _duplicates(index: "ImageIndex", least: float) -> tuple[dict[str, Any], str]:
    groups = index.looks.near_duplicates(least)
    lines = [", ".join(group) for group in groups[:_SHOWN]]
    more = len(groups) - len(lines)
    count = sum(map(len, groups))
    facts = {
        "Groups": f"{len(groups):,}, of {count:,} images",
        "Images": "\n".join([*lines, *([f"and {more:,} more groups (--json lists all)"] if more else [])]),
    }
    return {"groups": groups}, output.facts(facts if groups else {"Groups": "none"})


def _clusters(index: "ImageIndex", count: int, seed: int) -> tuple[dict[str, Any], str]:
    from danqing.recognition.clusters import find_clusters

    found = find_clusters(index.looks.vectors, count, seed=seed)
    ids, labels = index.looks.ids, index.looks.labels
    rows, payload = [("group", "images", "labels", "in the middle")], []
    for number in range(count):
        places = (found.members == number).nonzero()[:, 0]
        middle = places[found.similarities[places].argsort(descending=True, stable=True)].tolist()
        common = Counter(labels[place] for place in middle if labels[place]).most_common(2)
        said = ", ".join(f"{name} {share / len(middle):.0%}" for name, share in common)
        rows.append((str(number), f"{len(middle):,}", said, ", ".join(ids[place] for place in middle[:3])))
        payload.append({"images": [ids[place] for place in middle], "labels": dict(common)})
    return {"clusters": payload}, output.table(rows)
