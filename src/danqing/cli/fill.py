"""`danqing fill`: fill parts of images, of any size, so that they suit the rest."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import edit_options, output
from danqing.cli.arguments import (
    AttributeOption,
    GuidanceOption,
    LabelOption,
    MarksOption,
    ModelArgument,
    NegativeOption,
    PromptOption,
    SampleSettings,
    SeedOption,
    parse_attributes,
    picked_seed,
    sample_options,
)
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing fill runs/faces photo.jpg --box 80,40,120,60 --out filled.jpg

  danqing fill runs/faces photos/ --mask masks/ --feather 8 -n 4 --out filled/

  danqing fill runs/landscapes photo.png --expand 0,0,200,0 --grow 8 --feather 8 --out wider.png"""


def fill(
    model: ModelArgument,
    images: edit_options.InputArgument,
    out: edit_options.OutOption,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="A mask for all images, or a folder of masks with the names of the images: white where to "
            "fill, black or transparent elsewhere.",
            metavar="FILE|DIR",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="A part to fill: left, top, width and height, in pixels of the image; may be repeated.",
            metavar="X,Y,W,H",
        ),
    ] = None,
    alpha: Annotated[bool, typer.Option("--alpha", help="Fill what is transparent.")] = False,
    invert: Annotated[bool, typer.Option("--invert", help="Fill all but the mask.")] = False,
    grow: Annotated[int, typer.Option(min=0, help="Enlarge the mask by this many pixels.")] = 0,
    feather: Annotated[
        int, typer.Option(min=0, help="Blend the edge over this many pixels, inside the mask.")
    ] = 0,
    expand: Annotated[
        str | None,
        typer.Option(help="Add pixels at the left, top, right and bottom, and fill them.", metavar="L,T,R,B"),
    ] = None,
    n: edit_options.VersionsOption = 1,
    label: LabelOption = None,
    prompt: PromptOption = None,
    negative_prompt: NegativeOption = None,
    guidance: GuidanceOption = None,
    attribute: AttributeOption = None,
    tile: edit_options.TileOption = 0,
    overlap: edit_options.OverlapOption = None,
    strip: edit_options.StripOption = False,
    marks: MarksOption = None,
    dry_run: edit_options.DryRunOption = False,
    sequence: edit_options.SequenceOption = False,
    memory: edit_options.MemoryOption = None,
    compare: edit_options.CompareOption = None,
    reference: edit_options.ReferenceOption = None,
    seed: SeedOption = 0,
    settings: SampleSettings = None,
    as_json: output.JsonOption = False,
) -> None:
    """Fill a part of each image; every pixel outside of it stays unchanged."""
    edit_options.check(images, out, marks)
    is_picked, seed = seed == -1, picked_seed(seed)
    attributes, options = parse_attributes(attribute), sample_options(settings, guidance)
    boxes = [_four("--box", text) for text in box or ()]
    borders = (0, 0, 0, 0) if expand is None else _four("--expand", expand)

    import danqing
    from danqing.editing.fill import Fill
    from danqing.editing.masks import Masks
    from danqing.editing.window_model import Request, WindowModel
    from danqing.editing.windows import Window
    from danqing.machine import use_free_cores

    masks = Masks(mask, tuple(Window(*each) for each in boxes), alpha, invert, grow, feather, borders)
    use_free_cores()
    request = Request(label, prompt, negative_prompt, attributes)
    edit_options.run(
        Fill(WindowModel(danqing.load(model), "fill", request, options), masks, tile, overlap),
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
        extra=masks.own,
        show_seed=is_picked,
        as_json=as_json,
    )


def _four(option: str, text: str) -> tuple[int, int, int, int]:
    """Read `"8,4,12,6"`; raise ConfigError."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        names = "left,top,width,height" if option == "--box" else "left,top,right,bottom"
        raise ConfigError(f"{option} {text} is not valid: write {names}, for example 8,4,12,6.")
    first, second, third, fourth = map(int, parts)
    return first, second, third, fourth
