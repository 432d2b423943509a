"""`danqing translate`: turn images into others, with a model that learned from pairs, domains or labels."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from danqing import atomic, progress
from danqing.cli import output
from danqing.cli.arguments import (
    AttributeOption,
    GuidanceOption,
    NegativeOption,
    SampleSettings,
    SeedOption,
    parse_attributes,
    picked_seed,
    sample_options,
)
from danqing.cli.sample import format_of
from danqing.errors import ConfigError, DanqingError, DataError

if TYPE_CHECKING:
    from danqing.data.records import ImageSpec, Record
    from danqing.images import Pixels
    from danqing.model.model import Model

EXAMPLES = """Examples:

  danqing translate runs/colours outline.png --out coloured.png

  danqing translate runs/colours outline.png -n 8 --seed 3 --out versions.png

  danqing translate runs/colours outlines/ --out coloured/

  danqing translate runs/animals cat.png --from cat --to dog --out dog.png"""


def translate(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or the id of a model on the hub.")
    ],
    images: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="An image, or a folder or zip of images; each is resized to the model's size.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Where to save the result: a file for one image, a folder for several.", metavar="FILE|DIR"
        ),
    ],
    n: Annotated[
        int, typer.Option("-n", min=1, help="How many versions of one image; they become a grid.")
    ] = 1,
    label: Annotated[
        str | None, typer.Option("--label", "--to", help="What the results show, for a model with labels.")
    ] = None,
    source_label: Annotated[
        str | None,
        typer.Option(
            "--from", help="What the images show, for a model that learned labels and not source images."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the images show, for a model that reads text.", metavar="TEXT")
    ] = None,
    negative_prompt: NegativeOption = None,
    guidance: GuidanceOption = None,
    attribute: AttributeOption = None,
    seed: SeedOption = 0,
    settings: SampleSettings = None,
    as_json: output.JsonOption = False,
) -> None:
    """Turn images into others, as a model has learned it."""
    if not images.exists():
        raise ConfigError(f"{images} does not exist: give an image, or a folder or zip of images.")
    is_single = images.is_file() and images.suffix.lower() != ".zip"
    if is_single:
        format_of(out)  # before the work, not after it
    if n > 1 and not is_single:
        raise ConfigError("-n makes several versions of one image: leave it out for a folder.")
    if not is_single and out.is_file():
        raise ConfigError(f"{out} is a file: several images need a folder, so name another --out.")
    if out.resolve() == images.resolve():
        raise ConfigError(f"--out {out} is the input, which would be overwritten: choose another --out.")
    options, is_picked, seed = sample_options(settings, guidance), seed == -1, picked_seed(seed)
    given: dict[str, Any] = {"label": label, "prompt": prompt, "negative_prompt": negative_prompt}
    given |= {"source_label": source_label, "attributes": parse_attributes(attribute), **options}

    import danqing
    from danqing.machine import use_free_cores

    use_free_cores()
    trained = danqing.load(model)
    try:
        if is_single:
            done = _Done([_translate_one(trained, images, out, n, seed, given)], {})
        else:
            done = _translate_all(trained, images, out, seed, given)
    except OSError as error:
        raise DanqingError(
            f"The images cannot be written ({error.strerror or error}): choose another --out."
        ) from error
    skipped = [f"{name}: {reason}" for name, reason in done.skipped.items()]
    payload = {
        "images": len(done.files) * n,
        "seed": seed,
        "out": out,
        "files": done.files,
        "skipped": done.skipped,
    }
    shown = {
        "Picture" if is_single else "Images": out if is_single else f"{len(done.files):,} in {out}",
        "Skipped": "\n".join(skipped),
        "Seed": seed if is_picked else None,
    }
    output.result(payload, output.facts(shown), as_json=as_json)


class _Done(NamedTuple):
    """The files that were written, and why others were not, by the names of the inputs."""

    files: list[Path]
    skipped: dict[str, str]


def _translate_one(
    model: "Model", path: Path, out: Path, n: int, seed: int, given: Mapping[str, Any]
) -> Path:
    """Translate one image `n` times and save the versions; returns the file."""
    import numpy as np

    from danqing.images import Images

    pixels = _spec(model).prepared(path).astype(np.uint8, copy=False)
    versions = model.translate(Images(np.repeat(pixels[None], n, axis=0)), seed=seed, **given)
    out.parent.mkdir(parents=True, exist_ok=True)
    return versions.save(out, format_of(out))


def _translate_all(model: "Model", path: Path, out: Path, seed: int, given: Mapping[str, Any]) -> _Done:
    """Translate the images of a folder or zip, some at a time; each keeps its name below `out`."""
    import numpy as np

    from danqing.data.sources import find_source
    from danqing.images import Images, encode
    from danqing.randomness import derived_seed

    (source, _), spec = find_source(path, "all"), _spec(model)
    files, skipped = dict[Path, None](), dict[str, str]()
    readable = _read(source.records(spec), spec, skipped)
    with progress.Bar() as bar:
        while chunk := list(itertools.islice(readable, model.family.chunk)):
            bar.update(len(files) + len(skipped), source.count(), "Translating")
            numbers = range(len(files), len(files) + len(chunk))
            images = Images(np.stack([pixels for _, pixels in chunk]))
            seeds = [derived_seed(seed, "image", number) for number in numbers]
            for (name, _), pixels in zip(chunk, model.translate(images, seeds=seeds, **given), strict=True):
                target = (out / name).with_suffix(".png")
                target = target if target not in files else out / f"{name}.png"  # a.png and a.jpg
                target.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_bytes(target, encode(pixels, "png"))
                files[target] = None
    if not files:
        raise DataError(f"No image in {path} can be read: {next(iter(skipped.values()))}")
    return _Done(list(files), skipped)


def _spec(model: "Model") -> "ImageSpec":
    """Return how source images are read: as those that the model learned from."""
    from danqing.data.records import ImageSpec

    config, prepared = model.family.config, model.facts.get("data", {}).get("prepared", {})
    return ImageSpec(
        size=(config.width, config.height),
        channels=config.source_channels or config.channels,
        range=model.value_range,
        **{name: prepared[name] for name in ("background", "fit") if name in prepared},
    )


def _read(
    records: "Iterator[Record]", spec: "ImageSpec", skipped: dict[str, str]
) -> "Iterator[tuple[str, Pixels]]":
    """Yield the name and pixels of each image; those that cannot be read are added to `skipped`."""
    import numpy as np

    for record in records:
        try:
            pixels = spec.prepared(record.load()).astype(np.uint8, copy=False)
        except DataError as error:
            skipped[record.name] = str(error)
        else:
            yield record.name, pixels
