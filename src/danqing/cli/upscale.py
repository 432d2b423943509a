"""`danqing upscale`: enlarge images with a model that learned from small copies of large images."""

from danqing.cli import edit_options, output
from danqing.cli.arguments import (
    MarksOption,
    ModelArgument,
    SampleSettings,
    SeedOption,
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
    TileOption,
    VersionsOption,
)

EXAMPLES = """Examples:

  danqing upscale runs/larger sprite.png --out large.png

  danqing upscale runs/larger sprites/ --out large/

  danqing upscale runs/larger 'scans/*.tif' --tile 256 --memory 1.5G --out large.zip"""


def upscale(
    model: ModelArgument,
    images: InputArgument,
    out: OutOption,
    n: VersionsOption = 1,
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
    """Enlarge images by the scale that the model learned."""
    edit_options.check(images, out, marks)
    options, is_picked, seed = sample_options(settings, None), seed == -1, picked_seed(seed)

    from danqing.editing.upscale import upscaling
    from danqing.editing.window_model import Request, WindowModel, opened
    from danqing.machine import use_free_cores

    use_free_cores()
    used = WindowModel(opened(model), "translate", Request(), options)
    edit_options.run(
        upscaling(used, tile=tile, overlap=overlap),
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
