"""`danqing fill`: replace a part of an image so that it fits the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing.cli import output
from danqing.cli.arguments import (
    AttributeOption,
    GuidanceOption,
    NegativeOption,
    SampleSettings,
    SeedOption,
    parse_attributes,
    picked_seed,
    sample_options,
)
from danqing.cli.sample import format_of
from danqing.errors import ConfigError, DanqingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES = """Examples:

  danqing fill runs/faces photo.png --box 8,4,12,6 --out filled.png

  danqing fill runs/faces photo.png --mask mask.png -n 8 --prompt "a hat" --guidance 3 --out hats.png"""


def fill(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or the id of a model on the hub.")
    ],
    image: Annotated[Path, typer.Argument(help="The image; it is resized to the model's size.")],
    out: Annotated[
        Path, typer.Option(help="Where to save the result; several images become a grid.", metavar="FILE.png")
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            help="An image that is white in the part to replace, and black or transparent elsewhere.",
            metavar="MASK.png",
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            help="The part to replace: left, top, width and height, in pixels of the model.",
            metavar="X,Y,W,H",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many versions to generate.")] = 1,
    label: Annotated[str | None, typer.Option(help="What the image shows, for a model with labels.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the image shows, for a model that reads text.", metavar="TEXT")
    ] = None,
    negative_prompt: NegativeOption = None,
    guidance: GuidanceOption = None,
    attribute: AttributeOption = None,
    seed: SeedOption = 0,
    settings: SampleSettings = None,
    as_json: output.JsonOption = False,
) -> None:
    """Replace a part of an image; every pixel outside it stays unchanged."""
    if (mask is None) == (box is None):
        raise ConfigError("Say which part to replace: --mask MASK.png (white there) or --box X,Y,W,H.")
    chosen, attributes = format_of(out), parse_attributes(attribute)
    options, is_picked, seed = sample_options(settings, guidance), seed == -1, picked_seed(seed)

    import numpy as np

    import danqing
    from danqing.image_files import decode
    from danqing.images import Images
    from danqing.machine import use_free_cores

    use_free_cores()
    trained = danqing.load(model)
    config = trained.family.config
    size = (config.width, config.height)
    pixels = decode(image, size=size, channels=config.channels, range=trained.value_range)
    if mask is None:
        where = _box(box or "", size)
    else:  # transparent pixels do not count as white: they are kept
        where = decode(mask, size=size, channels=1, background="#000000")[:, :, 0] >= 128
    several = Images(np.repeat(pixels[None], n, axis=0))
    painted = trained.fill(
        several,
        where,
        label=label,
        prompt=prompt,
        negative_prompt=negative_prompt,
        attributes=attributes,
        seed=seed,
        **options,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        painted.save(out, chosen)
    except OSError as error:
        raise DanqingError(
            f"The image cannot be written ({error.strerror or error}): choose another --out."
        ) from error
    payload = {"image": image, "pixels": int(where.sum()), "images": n, "seed": seed, "out": out}
    shown = {
        "Painted": f"{int(where.sum()):,} of {where.size:,} pixels",
        "Picture": out,
        "Seed": seed if is_picked else None,
    }
    output.result(payload, output.facts(shown), as_json=as_json)


def _box(text: str, size: Sequence[int]) -> "NDArray[np.bool_]":
    """Read `"8,4,12,6"` as a mask bool `[h, w]`; raise ConfigError if it is invalid or outside the image."""
    import numpy as np

    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"--box {text} is not a box: write left,top,width,height, for example 8,4,12,6.")
    left, top, width, height = map(int, parts)
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    mask[top : top + height, left : left + width] = True
    if not mask.any():
        raise ConfigError(f"--box {text} lies outside the model's {size[0]}x{size[1]} pixels.")
    return mask
