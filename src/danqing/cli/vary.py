"""`danqing vary`: make variations of images of any size."""

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

EXAMPLES = """Examples:

  danqing vary runs/faces photo.jpg --strength 0.3 --out varied.jpg

  danqing vary runs/textures tiles/ --tile 64 -n 3 --out varied/"""


def vary(
    model: ModelArgument,
    images: edit_options.InputArgument,
    out: edit_options.OutOption,
    strength: edit_options.StrengthOption = 0.5,
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
    """Make a variation of each image."""
    edit_options.check(images, out, marks)
    is_picked, seed = seed == -1, picked_seed(seed)
    attributes, options = parse_attributes(attribute), sample_options(settings, guidance)

    import danqing
    from danqing.editing.vary import Vary
    from danqing.editing.window_model import Request, WindowModel
    from danqing.machine import use_free_cores

    use_free_cores()
    request = Request(label, prompt, negative_prompt, attributes)
    edit_options.run(
        Vary(WindowModel(danqing.load(model), "vary", request, options), strength, tile, overlap),
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
