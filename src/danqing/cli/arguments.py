"""Options that several commands share, and the parsing of their values."""

import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from danqing.errors import ConfigError

ModelArgument = Annotated[
    str, typer.Argument(help="A run folder, a model folder, or the id of a model on the hub.")
]
DataArgument = Annotated[
    str,
    typer.Argument(
        help="A folder, zip, Parquet, tar or IDX file of images, a URL of shards, or a built-in name "
        "(danqing data list)."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
UnseenSplitOption = Annotated[
    str | None,
    typer.Option(
        help="Which part of the data: test, validation, held-out, train or all.",
        show_default="the first that the model did not learn from",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Compute on the nodes of a Ray cluster: auto for that of this machine, or HOST:PORT.",
        metavar="ADDRESS",
        show_default="on this machine",
    ),
]
CpusOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --ray: how many CPUs each run reserves, and how many threads it has.",
        show_default="those of the smallest node",
    ),
]
LabelOption = Annotated[str | None, typer.Option(help="What the images show, for a model with labels.")]
PromptOption = Annotated[
    str | None, typer.Option(help="What the images show, for a model that reads text.", metavar="TEXT")
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="How strongly to follow the prompt or label; 1 is as learnt.")
]
NegativeOption = Annotated[
    str | None,
    typer.Option(help="What guidance leads away from, for a model that reads text.", metavar="TEXT"),
]
AttributeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        help="What an image should show (age=30), where the model reads attributes; may be repeated.",
        metavar="NAME=VALUE",
    ),
]
MasksOption = Annotated[
    str,
    typer.Option(
        help="Where the masks are: two folders, the suffix of files (_mask), a column, or auto.",
        metavar="IMAGES:MASKS",
        show_default="not read",
    ),
]
BoxesOption = Annotated[
    str,
    typer.Option(
        help="Where the boxes are: coco, yolo, a JSON file, a column, auto, masks, or instances.",
        metavar="FORMAT",
        show_default="not read",
    ),
]
LabelSetsOption = Annotated[
    str,
    typer.Option(
        help="The column that holds several labels of an image, or auto.",
        metavar="COLUMN",
        show_default="one label",
    ),
]
PairsOption = Annotated[
    str | None,
    typer.Option(
        help="Turn one image into another: two folders, side-by-side halves, or the column of the sources.",
        metavar="SOURCES:TARGETS",
    ),
]
AttributesOption = Annotated[
    str | None,
    typer.Option(
        help="Columns of a table that are read too: numbers, categories or vectors.", metavar="NAME,NAME"
    ),
]
IgnoreReservationsOption = Annotated[
    bool,
    typer.Option(
        "--ignore-reservations",
        help="Use images whose owners reserve training on them in their files, if you have their permission.",
    ),
]
MarksOption = Annotated[
    str | None,
    typer.Option(
        "--marks",
        help="How results are marked as generated: eu, cn, both as eu,cn, or none.",
        metavar="eu,cn|none",
        show_default="DANQING_MARKS, else eu",
    ),
]
SampleSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="An option of the model (danqing show lists them); may be repeated.",
        metavar="KEY=VALUE",
    ),
]

NewKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--new-key",
        help="Create a key pair: this file, only for you, and a public key beside it (.pub).",
        metavar="FILE",
    ),
]
TrainingSizeOption = Annotated[
    str | None,
    typer.Option(
        help="Width x height in pixels: 32, or 48x32; auto for several sizes of the preset's area.",
        metavar="W[xH]|auto[:W]",
        show_default="that of the preset",
    ),
]
SizeOption = Annotated[
    str | None,
    typer.Option(
        help="Width x height of the images, where the model samples other sizes (danqing show).",
        metavar="W[xH]",
        show_default="the model's own",
    ),
]
SeamlessOption = Annotated[
    Literal["x", "y", "both"] | None,
    typer.Option(
        help="Make opposite edges fit together, for textures: left and right (x), top and bottom (y)."
    ),
]

SeedOption = Annotated[
    int, typer.Option(help="The same seed gives the same images; -1 picks one and reports it.")
]


def picked_seed(seed: int) -> int:
    """Return the seed, or a random one for -1.

    Raises ConfigError for other negative numbers.
    """
    if seed < -1:
        raise ConfigError(f"--seed {seed} is not a seed: write a whole number from 0 up, or -1 to pick one.")
    return secrets.randbelow(2**31) if seed == -1 else seed


AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        help="An adapter of the model, and how much of it is used; may be repeated.",
        metavar="ADAPTER[:WEIGHT]",
    ),
]


def sample_options(settings: list[str] | None, guidance: float | None) -> dict[str, Any]:
    """Return the sampling options of `--set` and `--guidance`; raise ConfigError."""
    options: dict[str, Any] = {key: parse_value(text) for key, text in parse_settings(settings or []).items()}
    return options if guidance is None else {**options, "guidance_scale": guidance}


def parse_attributes(pairs: list[str] | None) -> dict[str, str | None] | None:
    """Read `["age=30"]` as `{"age": "30"}`; raise ConfigError.

    An empty value is None.
    """
    if pairs is None:
        return None
    attributes: dict[str, str | None] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise ConfigError(f"--attribute {pair} is not of the form name=value: write for example age=30.")
        if name in attributes:
            raise ConfigError(f"--attribute {name} is given twice: give it once.")
        attributes[name] = value or None
    return attributes


def parse_range(text: str) -> tuple[float, float]:
    """Read `"-1000:400"` as (low, high); raises ConfigError."""
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError as error:
        raise ConfigError(
            f"--range {text} is not valid: write two numbers, for example --range=-1000:400."
        ) from error


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """Read `["net=mlp"]` as `{"net": "mlp"}`; raise ConfigError for one without `=`."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair} is not of the form key=value: write for example --set net=mlp.")
        settings[key.strip()] = value.strip()
    return settings


def parse_size(text: str) -> tuple[int, int]:
    """Read `"48x32"` as `(48, 32)` and `"32"` as `(32, 32)`, width first; raise ConfigError."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--size {text} is not a size: write 32 for a square, or 48x32 for width x height.")
    return int(parts[0]), int(parts[-1])


def parse_size_or_auto(text: str) -> tuple[tuple[int, int] | None, bool]:
    """Read a size, or `"auto"` or `"auto:64"` for buckets of some area; raise ConfigError.

    Returns (width, height), or None where none is given, and whether buckets are requested.
    """
    auto, _, size = text.partition(":")
    if auto.lower() != "auto":
        return parse_size(text), False
    return (parse_size(size) if size else None), True


def size_and_settings(
    size: str | None, settings: list[str] | None, *, ignore_reservations: bool = False
) -> tuple[tuple[int, int] | None, dict[str, Any]]:
    """Read `--size`, `--set` and `--ignore-reservations`; raises ConfigError.

    The size `auto` is the setting `data.buckets`.
    """
    given: dict[str, Any] = {**parse_settings(settings or [])}
    of_all, buckets = (None, False) if size is None else parse_size_or_auto(size)
    flags = {"data.buckets": buckets, "data.ignore_reservations": ignore_reservations}
    return of_all, given | {name: True for name, is_set in flags.items() if is_set}


def split_names(text: str) -> list[str]:
    """`"age, price"` to `["age", "price"]`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_duration(text: str) -> int | None:
    """Read `"30d"` as seconds.

    Also minutes (m), hours (h) and weeks (w). None for anything else.
    """
    units = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text.strip().lower())
    return int(found[1]) * units[found[2]] if found else None


def parse_value(text: str) -> bool | int | float | str:
    """Read `"0.7"` as 0.7 and `"true"` as True; anything else stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
