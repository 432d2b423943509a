"""`danqing sample`: paint images with a trained model, as one grid or one file each."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from danqing.cli import output
from danqing.cli.arguments import parse_settings, parse_value
from danqing.errors import ConfigError, DanqingError

EXAMPLES = """Examples:

  danqing sample runs/photos --out grid.png

  danqing sample runs/digits --label 7 -n 16 --seed 3 --out sevens.webp

  danqing sample runs/photos -n 1000 --each samples/ --format webp --set truncation=0.7"""

_SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def sample(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or the id of a model on the hub.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="One picture of them all, as a grid.", metavar="GRID.png")
    ] = None,
    each: Annotated[
        Path | None, typer.Option(help="A folder that gets one file per image.", metavar="DIR")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 64,
    label: Annotated[
        str | None, typer.Option(help="Only of this label, where the model knows labels.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed paints the same images.")] = 0,
    image_format: Annotated[
        Literal["png", "webp", "jpeg"] | None,
        typer.Option("--format", help="The file format.", show_default="by --out's name, else png"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="An option of the model (danqing show lists them); may be repeated.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Paint images with a trained model."""
    if out is None and each is None:
        raise ConfigError(
            "Say where the images go: --out grid.png for one picture, or --each DIR for a file each."
        )
    chosen = image_format or (_format_of(out) if out is not None else "png")
    options: dict[str, Any] = {key: parse_value(text) for key, text in parse_settings(settings or []).items()}

    import danqing

    trained = danqing.load(model)
    try:
        for folder in filter(None, (each, out and out.parent)):  # before the work, not after it
            folder.mkdir(parents=True, exist_ok=True)
        images = trained.sample(n, label=label, seed=seed, **options)
        suffix = out.suffix if out is not None and not image_format else f".{chosen.replace('jpeg', 'jpg')}"
        names = images.save_each(each, suffix) if each is not None else []
        if out is not None:
            images.save(out, chosen)
    except OSError as error:
        raise DanqingError(
            f"The images cannot be written ({error.strerror or error}): choose another --out or --each."
        ) from error
    payload = {"images": n, "label": label, "seed": seed, "format": chosen, "grid": out, "files": names}
    rows = {"Grid": out, "Images": f"{n:,} in {each}" if each else None}
    output.result(payload, output.facts(rows), as_json=as_json)


def _format_of(out: Path) -> str:
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"{out.name} does not say its format: end it in .png, .webp or .jpg, or add --format."
        )
    return _SUFFIXES[out.suffix.lower()]
