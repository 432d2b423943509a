"""`danqing translate`: turn images into others, with a model that learned from pairs, domains or labels."""

from typing import Annotated

import typer

from danqing.cli import edit_options, output
from danqing.cli.arguments import (
    AttributeOption,
    GuidanceOption,
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
from danqing.cli.edit_options import (
    CompareOption,
    DryRunOption,
    InputArgument,
    MemoryOption,
    OutOption,
    OverlapOption,
    ReferenceOption,
    SequenceOption,
    StripOption,
    VersionsOption,
)

EXAMPLES = """Examples:

  danqing translate runs/colours outline.png --out coloured.png

  danqing translate runs/colours outline.png -n 8 --seed 3 --out versions/

  danqing translate runs/colours outlines/ --out coloured/

  danqing translate runs/animals cat.png --from cat --to dog --out dog.png

  danqing translate runs/day-night film/ --tile 128 --sequence --out night/"""

WholeTileOption = Annotated[
    int,
    typer.Option(
        "--tile",
        min=0,
        help="Edit large images in tiles of this side, in pixels; 0 shows the model each image whole, at the "
        "size that it learned, and resizes the result back.",
    ),
]


def translate(
    model: ModelArgument,
    images: InputArgument,
    out: OutOption,
    n: VersionsOption = 1,
    label: Annotated[
        str | None, typer.Option("--label", "--to", help="What the results show, for a model with labels.")
    ] = None,
    source_label: Annotated[
        str | None,
        typer.Option(
            "--from", help="What the images show, for a model that learned labels and not source images."
        ),
    ] = None,
    prompt: PromptOption = None,
    negative_prompt: NegativeOption = None,
    guidance: GuidanceOption = None,
    attribute: AttributeOption = None,
    tile: WholeTileOption = 0,
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
    """Turn images into others, as a model has learned it."""
    edit_options.check(images, out, marks)
    attributes, options = parse_attributes(attribute), sample_options(settings, guidance)
    is_picked, seed = seed == -1, picked_seed(seed)

    from danqing.editing.translate import Translation
    from danqing.editing.window_model import Request, WindowModel, opened
    from danqing.machine import use_free_cores

    use_free_cores()
    request = Request(label, prompt, negative_prompt, attributes, source_label)
    edit = Translation(
        WindowModel(opened(model), "translate", request, options),
        whole=not tile,
        tile=tile,
        overlap=overlap,
    )
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
