"""`danqing stylize`: give images the style of another image."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import edit_options, output
from danqing.cli.arguments import (
    DeviceOption,
    MarksOption,
)
from danqing.cli.edit_options import (
    CompareOption,
    DryRunOption,
    MemoryOption,
    OutOption,
    ReferenceOption,
    SequenceOption,
    StrengthOption,
    StripOption,
    TileOption,
)
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing stylize photo.jpg --style-image starry-night.jpg --out starry.jpg

  danqing stylize photos/ --style 7 --strength 0.6 --keep-colors --out styled/

  danqing stylize photo.jpg --style-image starry-night.jpg --optimize --out starry.jpg

  danqing stylize runs/starry photos/ --out starry/"""


def stylize(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] INPUT...",
            help="Images, folders (with all folders below them), a zip, or a pattern such as 'photos/*.jpg'; "
            "before them a model of one style, unless --style or --style-image is given.",
        ),
    ],
    out: OutOption,
    style_image: Annotated[
        Path | None, typer.Option(help="Take the style of this image.", metavar="FILE")
    ] = None,
    style: Annotated[
        int | None, typer.Option(help="The number of a built-in style, 0 to 25.", metavar="NUMBER")
    ] = None,
    optimize: Annotated[
        bool,
        typer.Option("--optimize", help="Optimise the pixels: minutes for each image, and the most detail."),
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Steps of --optimize.", show_default="100", min=1)] = None,
    side: Annotated[
        int | None,
        typer.Option(
            help="The longer side of what --optimize computes; the change of a larger image is enlarged.",
            metavar="PIXELS",
            show_default="384",
            min=32,
        ),
    ] = None,
    strength: StrengthOption = 1.0,
    keep_colors: Annotated[
        bool,
        typer.Option("--keep-colors", help="Keep the colours of the input; change its brightness."),
    ] = False,
    strip: StripOption = False,
    marks: MarksOption = None,
    dry_run: DryRunOption = False,
    sequence: SequenceOption = False,
    memory: MemoryOption = None,
    tile: TileOption = 0,
    compare: CompareOption = None,
    reference: ReferenceOption = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Give images the style of another image."""
    has_model = style is None and style_image is None
    model, inputs = (arguments[0], arguments[1:]) if has_model else (None, arguments)
    if not inputs:
        raise ConfigError(
            "Name the style and the images: --style-image FILE, --style NUMBER, or a model before the images."
        )
    edit_options.check(inputs, out, marks)

    from danqing.editing.stylize import Stylize, method_of
    from danqing.machine import use_free_cores

    use_free_cores()
    options = {name: value for name, value in (("steps", steps), ("side", side)) if value is not None}
    method = method_of(
        model,
        style=style,
        style_image=style_image,
        optimize=optimize,
        tile=tile,
        device=device,
        **options,
    )
    edit_options.run(
        Stylize(method, strength, keep_colors),
        inputs,
        out,
        seed=0,
        strip=strip,
        marks=marks,
        dry_run=dry_run,
        sequence=sequence,
        memory=memory,
        compare=compare,
        reference=reference,
        as_json=as_json,
    )
