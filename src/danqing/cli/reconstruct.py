"""`danqing reconstruct`: encode and decode real images, and show each above its reconstruction."""

from pathlib import Path
from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import MarksOption, ModelArgument
from danqing.cli.sample import format_of
from danqing.errors import ConfigError, DanqingError
from danqing.trust.settings import MarkSettings

EXAMPLES = """Examples:

  danqing reconstruct runs/tokens photos/ --out grid.png

  danqing reconstruct runs/tokens fashion-mnist --split train -n 100 --seed 3 --out grid.webp"""


def reconstruct(
    model: ModelArgument,
    data: Annotated[
        str, typer.Argument(help="The images: a folder, file or built-in name, as danqing train takes it.")
    ],
    out: Annotated[Path, typer.Option(help="Where to save the grid.", metavar="GRID.png")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many images.")] = 32,
    split: Annotated[
        str | None,
        typer.Option(
            help="Which part of the data: test, validation, held-out, train or all.",
            show_default="one that the model did not learn from, if there is one",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 0,
    marks: MarksOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Encode real images with a model, decode them again, and show both."""
    chosen, own_marks = format_of(out), MarkSettings.of(marks)

    import numpy as np
    import torch

    from danqing.evaluation.candidate import open_candidate
    from danqing.evaluation.generated_images import reconstruct as reconstruct_images
    from danqing.evaluation.reconstruction import squared_error
    from danqing.evaluation.reference import open_reference
    from danqing.families.abilities import Compresses, Tokenizes, Translates
    from danqing.images import Images
    from danqing.randomness import generator

    with progress.Bar() as bar:
        candidate = open_candidate(model, data, n=n, seed=seed, on_progress=bar.update)
        if candidate.model is None:
            raise ConfigError(
                f"{model} is not a model: name a run folder, a model folder or a model on the hub."
            )
        if candidate.model.family.config.reads_domains:
            raise ConfigError(
                "The source images of this model have no true targets to compare with: use danqing translate."
            )
        reference = open_reference(data, candidate, split=split, seed=seed, on_progress=bar.update)
        drawn = torch.randperm(len(reference.images), generator=generator(seed, "reconstruct"))[:n].numpy()
        rows = np.sort(drawn)
        again = reconstruct_images(candidate.model, reference.images, rows, on_progress=bar.update)
    originals, rebuilt = reference.images.images(rows), again.images(np.arange(len(rows)))
    error = float(squared_error(rebuilt, originals).mean())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        candidate.model.marks = own_marks
        shown = Images(torch.cat([originals, rebuilt], dim=1), candidate.model.marking("reconstruct"))
        shown.save(out, chosen)
    except OSError as problem:
        raise DanqingError(
            f"The grid cannot be written ({problem.strerror or problem}): choose another --out."
        ) from problem
    family = candidate.model.family
    translates, written = isinstance(family, Translates), None
    if isinstance(family, Tokenizes):
        written = f"{'×'.join(map(str, family.code_shape))} codes out of {family.vocabulary:,}"
    elif isinstance(family, Compresses):
        channels, height, width = family.latent_shape
        written = f"{height}×{width} latents of {channels} channels"
    payload = {
        "images": len(rows),
        "split": reference.info.split,
        "squared_error": error,
        "codes": list(family.code_shape) if isinstance(family, Tokenizes) else None,
        "vocabulary": family.vocabulary if isinstance(family, Tokenizes) else None,
        "grid": out,
    }
    facts = {
        "Grid": f"{out}, each image above its {'translation' if translates else 'reconstruction'}",
        "Images": f"{len(rows):,} of the {reference.info.split} split",
        "Squared error": f"{error:.5f}, of values from 0 to 1",
        "Written in": written,
    }
    output.result(payload, output.facts(facts), as_json=as_json)
