"""`danqing sample`: generate images with a trained model, as one grid or one file each."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from danqing import progress
from danqing.cli import output, prompts
from danqing.cli.arguments import (
    AdapterOption,
    AttributeOption,
    GuidanceOption,
    MarksOption,
    NegativeOption,
    SampleSettings,
    SeamlessOption,
    SeedOption,
    SizeOption,
    parse_attributes,
    parse_size,
    picked_seed,
    sample_options,
)
from danqing.errors import ConfigError, DanqingError
from danqing.trust.settings import MarkSettings

if TYPE_CHECKING:
    from danqing.compress.runtime import RuntimeModel
    from danqing.images import Images, Pixels
    from danqing.marks import Marks
    from danqing.model.model import Model
    from danqing.text.prompt_writer import PromptWriter

EXAMPLES = """Examples:

  danqing sample runs/photos --out grid.png

  danqing sample demo --prompt "a pink cat" -n 16 --out cats.png

  danqing sample runs/digits --label 7 -n 16 --seed 3 --out sevens.webp

  danqing sample runs/emoji --prompt "a red heart" --guidance 3 -n 16 --out hearts.png

  danqing sample runs/faces --attribute age=30 --attribute glasses=yes -n 16 --out faces.png

  danqing sample runs/stone --size 96x64 --seamless both --each tiles/

  danqing sample runs/emoji --prompts prompts.csv --each samples/ --format webp

  danqing sample runs/faces --prompts ages.csv --out ages.png

  danqing sample runs/tiles --adapter runs/stone:0.8 --adapter runs/gold:0.4 --out tiles.png"""

_SUFFIXES = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}
_IMAGES, _IMAGES_OF_A_PROMPT = 64, 8


def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="A run folder, a model folder, an export, the id of a model on the hub, or demo."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A file for all images as one grid.", metavar="GRID.png")
    ] = None,
    each: Annotated[Path | None, typer.Option(help="A folder for one file per image.", metavar="DIR")] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", min=1, help="How many images.", show_default="64, or 8 of each of --prompts"),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The label of all images, for a model with labels.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What the images should show, for a model that reads text.", metavar="TEXT"),
    ] = None,
    prompt_table: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            help="One prompt per line, or a .csv or .jsonl with columns prompt, n, seed, guidance, age, ...",
            metavar="FILE",
        ),
    ] = None,
    negative_prompt: NegativeOption = None,
    guidance: GuidanceOption = None,
    attribute: AttributeOption = None,
    expand: Annotated[
        str | None,
        typer.Option(
            help="Let a language model expand the prompt: the address of an OpenAI-compatible endpoint.",
            metavar="URL",
        ),
    ] = None,
    expand_model: Annotated[
        str,
        typer.Option(help="The language model's name.", metavar="NAME", show_default="the only one there"),
    ] = "",
    size: SizeOption = None,
    seamless: SeamlessOption = None,
    seed: SeedOption = 0,
    image_format: Annotated[
        Literal["png", "webp", "jpeg"] | None,
        typer.Option("--format", help="The file format.", show_default="that of --out, else png"),
    ] = None,
    adapter: AdapterOption = None,
    marks: MarksOption = None,
    settings: SampleSettings = None,
    as_json: output.JsonOption = False,
) -> None:
    """Generate images with a trained model."""
    if out is None and each is None:
        raise ConfigError(
            "Say where to save the images: --out grid.png for one grid, or --each DIR for one file each."
        )
    if prompt is not None and prompt_table is not None:
        raise ConfigError("Give --prompt or --prompts, not both.")
    own_marks = MarkSettings.of(marks)
    chosen = image_format or (format_of(out) if out is not None else "png")
    options, is_picked, seed = sample_options(settings, guidance), seed == -1, picked_seed(seed)
    options |= {} if size is None else {"size": parse_size(size)}
    options |= {} if seamless is None else {"seamless": seamless}
    count = n or (_IMAGES_OF_A_PROMPT if prompt_table else _IMAGES)
    attributes = parse_attributes(attribute)
    wanted = prompts.PromptRow(
        prompt, count, seed, options, negative_prompt=negative_prompt, attributes=attributes or {}
    )

    from danqing.text.prompt_writer import PromptWriter

    trained = _loaded(model, own_marks, adapter or [])
    rows = [wanted] if prompt_table is None else _rows_of(prompt_table, wanted, trained)
    suffix = out.suffix if out is not None and not image_format else f".{chosen.replace('jpeg', 'jpg')}"
    painted: list[Images] = []
    files: list[list[Path]] = []
    try:
        for folder in filter(None, (each, out and out.parent)):  # before the work, not after it
            folder.mkdir(parents=True, exist_ok=True)
        for row in (wanted, *rows):
            row.check(trained)
        if expand is not None:
            rows = _written_out(rows, trained, PromptWriter(expand, expand_model))
        for number, (row, images) in enumerate(zip(rows, _paint(trained, rows, label), strict=True)):
            painted.append(images)
            if each is not None:
                files.append(images.save_each(each, suffix, name=row.file_name(number, len(rows))))
        if each is not None and rows[0].prompt is not None:
            texts = [
                (path.name, row.prompt) for row, paths in zip(rows, files, strict=True) for path in paths
            ]
            prompts.record(each, {name: text for name, text in texts if text is not None})
        if out is not None:
            prompt_list = "\n".join(dict.fromkeys(row.prompt for row in rows if row.prompt))
            _save_grid(painted, out, chosen, trained.marking("sample", prompt_list))
    except OSError as error:
        raise DanqingError(
            f"The images cannot be written ({error.strerror or error}): choose another --out or --each."
        ) from error
    if each is not None:
        _say_what_else_is_in(each, files)
    count = sum(map(len, painted))
    payload = {
        "images": count,
        "label": label,
        "attributes": attributes,
        "seed": seed,
        "format": chosen,
        "grid": out,
        "files": [path for paths in files for path in paths],
        "prompts": [
            {"prompt": row.prompt, "asked": row.asked or row.prompt, "n": row.n, "seed": row.seed}
            | ({"attributes": dict(row.attributes)} if row.attributes else {})
            for row in rows
            if row.prompt is not None or row.where
        ],
    }
    facts = {
        "Grid": out,
        "Images": f"{count:,} in {each}" if each else None,
        "Seed": seed if is_picked else None,
    }
    output.result(payload, output.facts(facts), as_json=as_json)


def _say_what_else_is_in(each: Path, files: Sequence[Sequence[Path]]) -> None:
    """Say how many older images a folder holds: whoever reads the folder gets them too."""
    from danqing.image_files.formats import is_image_name

    own = {path.name for paths in files for path in paths}
    others = sum(1 for path in each.iterdir() if is_image_name(path.name) and path.name not in own)
    if others:
        progress.say(
            output.printable(f"{each} also holds {others:,} images that were there before."), style="yellow"
        )


def _loaded(model: str, marks: MarkSettings, adapters: Sequence[str]) -> "Model | RuntimeModel":
    """Load a model, or an export of one, which needs no PyTorch."""
    from danqing.folder_formats import is_export

    if is_export(model):
        if adapters:
            raise ConfigError("An export takes no adapters: merge them first, by danqing adapters merge.")
        from danqing.compress.runtime import load

        return load(model, marks=marks)
    import danqing
    from danqing.machine import use_free_cores

    use_free_cores()
    return danqing.load(model, marks=marks, adapters=adapters)


def _rows_of(
    table: Path, wanted: prompts.PromptRow, model: "Model | RuntimeModel"
) -> list[prompts.PromptRow]:
    """Read a table for a model; a column that could be an attribute or an option is an option."""
    config, options = model.config, model.sample_options
    names = [column.name for column in config.attributes if column.name not in options]
    return prompts.read(table, wanted, names, needs_prompt=config.reads_text or not names)


def _written_out(
    rows: Sequence[prompts.PromptRow], model: "Model | RuntimeModel", writer: "PromptWriter"
) -> list[prompts.PromptRow]:
    """Return the rows with their prompts expanded by a language model, each distinct prompt once.

    After the first failure the remaining prompts are used unchanged, and a message says why.
    """
    if rows[0].prompt is None:
        raise ConfigError("There is nothing to expand: give --prompt or --prompts with --expand.")
    asked = dict.fromkeys(row.prompt for row in rows if row.prompt)
    written: dict[str | None, str] = {}
    with progress.Bar() as bar:
        for prompt in asked:
            bar.update(len(written), len(asked), "Writing prompts")
            answer = writer.expand(prompt, model.config.captions)
            if answer.problem:
                kept = "prompts are used as they are" if written else "prompt is used as it is"
                bar.say(f"{answer.problem.rstrip('.')}: the {kept}.", style="yellow")
                break
            written[prompt] = answer.prompt
            bar.say(output.printable(f"{prompt}: {answer.prompt}"))
            try:
                model.check_prompt(answer.prompt)
            except ConfigError:
                bar.say("That is longer than the model reads: its end is ignored.", style="yellow")
    return [row._replace(prompt=written.get(row.prompt, row.prompt), asked=row.prompt) for row in rows]


def _paint(
    model: "Model | RuntimeModel", rows: Sequence[prompts.PromptRow], label: str | None
) -> Iterator["Images"]:
    """Yield the images of each row, and show every sampling step in a bar.

    label: of all images.
    """
    import numpy as np

    from danqing.images import Images

    with progress.Bar() as bar:
        images = _one_by_one(model, rows, label, bar)
        for row in rows:
            own = np.stack(list(itertools.islice(images, row.n)))
            yield Images(own, model.marking("sample", row.prompt or ""))


def _one_by_one(
    model: "Model | RuntimeModel", rows: Sequence[prompts.PromptRow], label: str | None, bar: progress.Bar
) -> Iterator["Pixels"]:
    """Yield the images of all rows, one after another; adjacent rows with equal options share chunks.

    A model always computes a full chunk of images, and most rows need fewer. An image depends only on its
    seed, its options and what is requested of it.
    """
    from danqing.randomness import derived_seed

    total, done = sum(row.n for row in rows), 0
    for _, alike in itertools.groupby(rows, key=lambda row: row.options):
        wanted = ((row, derived_seed(row.seed, "image", number)) for row in alike for number in range(row.n))
        while chunk := list(itertools.islice(wanted, model.chunk)):

            def show(step: int, steps: int, preview: object, done: int = done, n: int = len(chunk)) -> None:
                bar.update(done + n * step / steps, total, "Generating", detail=f"step {step} of {steps}")

            texts = [row.prompt for row, _ in chunk if row.prompt is not None]
            negative = [row.negative_prompt for row, _ in chunk]
            attributes = [row.attributes for row, _ in chunk]
            yield from model.sample(
                label=label,
                attributes=attributes if any(attributes) else None,
                prompt=texts or None,
                negative_prompt=[text or "" for text in negative] if any(negative) else None,
                seeds=[seed for _, seed in chunk],
                on_step=show,
                **chunk[0][0].options,
            )
            done += len(chunk)


def _save_grid(painted: Sequence["Images"], out: Path, image_format: str, marks: "Marks | None") -> None:
    """Save all images as one grid; several prompts get a row each."""
    import numpy as np

    from danqing.images import Images

    if len(painted) == 1:
        painted[0].save(out, image_format)
        return
    widest = max(map(len, painted))
    blank = 0 if painted[0].array.shape[3] in (2, 4) else 255
    rows = [
        np.pad(images.array, ((0, widest - len(images)), (0, 0), (0, 0), (0, 0)), constant_values=blank)
        for images in painted
    ]
    Images(np.concatenate(rows), marks).save(out, image_format, columns=widest)


def format_of(out: Path) -> str:
    """Return the format of a file by its suffix.

    Raises ConfigError if it is none of ours.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{out.name} has no known image suffix: end it in .png, .webp or .jpg.")
    return _SUFFIXES[out.suffix.lower()]
