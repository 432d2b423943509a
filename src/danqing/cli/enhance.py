"""`danqing enhance`: restore images with a trained model, or denoise each by what it shows itself."""

from typing import TYPE_CHECKING, Annotated

import typer

from danqing.cli import edit_options, output
from danqing.cli.arguments import (
    MarksOption,
    SampleSettings,
    SeedOption,
    picked_seed,
    sample_options,
)
from danqing.cli.edit_options import (
    CompareOption,
    DryRunOption,
    MemoryOption,
    OutOption,
    OverlapOption,
    ReferenceOption,
    SequenceOption,
    StrengthOption,
    StripOption,
    TileOption,
    VersionsOption,
)
from danqing.errors import ConfigError

if TYPE_CHECKING:
    from danqing.editing.contract import Edit

EXAMPLES = """Examples:

  danqing enhance runs/clean scan.tif --out clean.tif

  danqing enhance runs/clean photos/ --strength 0.5 --out better/

  danqing enhance --zero-shot noisy.png --out clean.png"""


def enhance(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT...",
            help="Images, folders (with all folders below them), a zip, or a pattern such as 'photos/*.jpg'; "
            "before them a run folder, a model folder, or the id of a model on the hub, unless --zero-shot "
            "is given.",
        ),
    ],
    out: OutOption,
    zero_shot: Annotated[
        bool,
        typer.Option("--zero-shot", help="Denoise without a model: learn from each image alone."),
    ] = False,
    noise: Annotated[
        str | None,
        typer.Option(
            help="What --zero-shot removes: noise that differs from pixel to pixel (white) or is alike in "
            "neighbours (correlated).",
            metavar="auto|white|correlated",
            show_default="auto",
        ),
    ] = None,
    n: VersionsOption = 1,
    strength: StrengthOption = 1.0,
    tile: TileOption = 0,
    overlap: OverlapOption = None,
    memory: MemoryOption = None,
    sequence: SequenceOption = False,
    strip: StripOption = False,
    marks: MarksOption = None,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    settings: SampleSettings = None,
    compare: CompareOption = None,
    reference: ReferenceOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Restore images: remove what damaged the copies that the model learned from, or noise."""
    images = arguments if zero_shot else arguments[1:]
    if not images:
        raise ConfigError("Name a model and the images, or --zero-shot and the images.")
    if noise is not None and not zero_shot:
        raise ConfigError("--noise is for --zero-shot: leave it out for a model.")
    edit_options.check(images, out, marks)
    options, is_picked, seed = sample_options(settings, None), seed == -1, picked_seed(seed)
    if noise is not None:
        options["noise"] = noise

    from danqing.editing import enhance as restoring
    from danqing.editing.window_model import Request, WindowModel, opened
    from danqing.machine import use_free_cores

    use_free_cores()
    edit: Edit
    if zero_shot:
        given = {} if overlap is None else {"overlap": overlap}
        edit = restoring.zero_shot(strength=strength, tile=tile, **options, **given)
    else:
        used = WindowModel(opened(arguments[0]), "translate", Request(), options)
        edit = restoring.enhancement(used, strength=strength, tile=tile, overlap=overlap)
    edit_options.run(
        edit,
        images,
        out,
        seed=seed,
        n=n,
        strip=strip,
        marks=marks,
        dry_run=dry_run,
        sequence=sequence,
        memory=memory,
        compare=compare,
        reference=reference,
        show_seed=is_picked,
        as_json=as_json,
    )
