"""`danqing enhance`: restore images with a model that learned from damaged copies, or from pairs."""

from danqing.cli import edit_options, output
from danqing.cli.arguments import ModelArgument, SampleSettings, SeedOption, picked_seed, sample_options
from danqing.cli.edit_options import (
    DryRunOption,
    InputArgument,
    MemoryOption,
    OutOption,
    OverlapOption,
    SequenceOption,
    StrengthOption,
    StripOption,
    TileOption,
    VersionsOption,
)

EXAMPLES = """Examples:

  danqing enhance runs/clean scan.tif --out clean.tif

  danqing enhance runs/clean photos/ --strength 0.5 --out better/"""


def enhance(
    model: ModelArgument,
    images: InputArgument,
    out: OutOption,
    n: VersionsOption = 1,
    strength: StrengthOption = 1.0,
    tile: TileOption = 0,
    overlap: OverlapOption = None,
    memory: MemoryOption = None,
    sequence: SequenceOption = False,
    strip: StripOption = False,
    dry_run: DryRunOption = False,
    seed: SeedOption = 0,
    settings: SampleSettings = None,
    as_json: output.JsonOption = False,
) -> None:
    """Restore images: remove what damaged the copies that the model learned from."""
    edit_options.check(images, out)
    options, is_picked, seed = sample_options(settings, None), seed == -1, picked_seed(seed)

    from danqing.editing.enhance import enhancement
    from danqing.editing.window_model import Request, WindowModel, opened
    from danqing.machine import use_free_cores

    use_free_cores()
    used = WindowModel(opened(model), "translate", Request(), options)
    edit_options.run(
        enhancement(used, strength=strength, tile=tile, overlap=overlap),
        images,
        out,
        seed=seed,
        n=n,
        strip=strip,
        dry_run=dry_run,
        sequence=sequence,
        memory=memory,
        show_seed=is_picked,
        as_json=as_json,
    )
