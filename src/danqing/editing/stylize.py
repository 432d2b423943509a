"""Style transfer: give images the style of another image, and keep what they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from danqing import options as rules
from danqing.editing.arrays import Array, apply
from danqing.editing.batch import BatchResult
from danqing.editing.contract import ImageToEdit, Values
from danqing.editing.instant_style import InstantStyle
from danqing.editing.mixing import mixed
from danqing.editing.optimized_style import OptimizedStyle
from danqing.editing.pixels import prepare
from danqing.editing.shrinking import padded
from danqing.editing.trained_style import load
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.model.loading import HasModel
from danqing.precision import choose_device
from danqing.trust.declaration import Declaration, SourceType

_SMALLEST = 32
"""Pixels: the networks halve the sides up to four times."""


class Method(Protocol):
    """How images get a style."""

    @property
    def channels(self) -> int:
        """Return how many channels it takes, 1 or 3."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides the image."""
        ...

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        ...

    def apply(self, images: Tensor) -> Tensor:
        """Return images `[1, channels, h, w]` in [-1, 1] in the style."""
        ...


@dataclass(frozen=True)
class Stylize:
    """Give each image a style.

    strength: from 0, which changes nothing, to 1; between them the result is mixed with the input.
    keep_colors: take the luma alone from the result, and the colours from the input.
    Raises ConfigError for a strength out of range.
    """

    method: Method
    strength: float = 1.0
    keep_colors: bool = False

    verb = "stylize"

    def __post_init__(self) -> None:
        rules.check(strength=self.strength)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return all that the result depends on besides the image."""
        return {**self.method.settings, "strength": self.strength, "keep_colors": self.keep_colors}

    @property
    def declaration(self) -> Declaration:
        """Return what the results declare of themselves."""
        method = self.method.settings
        name, digest = f"style transfer ({method['method']})", str(method.get("weights", ""))
        return Declaration(SourceType.of(self.verb), self.verb, name, digest)

    def changes(self, image: ImageToEdit) -> bool:
        """Return whether it would change the image."""
        return self.strength > 0

    def peak_bytes(self, width: int, height: int) -> int:
        """Estimate the memory for an image of this size, in bytes."""
        return self.method.peak_bytes(max(width, _SMALLEST), max(height, _SMALLEST))

    def apply(self, image: ImageToEdit) -> Values:
        """Apply the style to one image.

        A grey image gets the colours of the style, unless the colours are kept.
        """
        prepared = prepare(image.values, self.method.channels)
        made = padded(self.method.apply, prepared.images, _SMALLEST)
        keep = self.keep_colors or self.method.channels == 1
        return mixed(made, prepared, self.strength, keep_channels=keep, keep_colors=self.keep_colors)


def method_of(
    model: str | Path | HasModel | None = None,
    *,
    style: int | None = None,
    style_image: str | Path | None = None,
    optimize: bool = False,
    tile: int = 0,
    device: str = "cpu",
    **options: Any,
) -> Method:
    """Choose the method: a trained network, the instant one, or optimisation.

    The arguments are those of `stylize`. Raises ConfigError if they do not determine one method.
    """
    given = {"a model": model, "a style": style, "a style image": style_image}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        found = f"{' and '.join(named)} are given" if named else "nothing is given"
        raise ConfigError(
            f"A style comes from a model, the number of a style or a style image, and {found}: give one.",
            "style",
        )
    if options and not optimize:
        raise ConfigError(f"{', '.join(options)} is for optimize: leave it out.", next(iter(options)))
    if tile and model is None:
        raise ConfigError("tile is for a trained style, others see each image whole: leave it out.", "tile")
    rules.check(tile=tile)
    chosen = str(choose_device(device))
    if model is not None:
        if optimize:
            raise ConfigError("A trained style needs no optimisation: leave the model or optimize out.")
        return load(model if isinstance(model, str | Path) else model.model, device=chosen, tile=tile)
    if style_image is not None and not Path(style_image).is_file():
        raise ConfigError(f"The style image {style_image} does not exist: name an image file.", "style_image")
    if not optimize:
        return InstantStyle(style, None if style_image is None else Path(style_image))
    if style_image is None:
        raise ConfigError("optimize needs a style image: give one.", "style_image")
    return OptimizedStyle(Path(style_image), device=chosen, **options)


def stylize(
    model: str | Path | HasModel | None,
    images: "Images | Array | str | Path | Sequence[str | Path]",
    *,
    out: str | Path | None = None,
    style: int | None = None,
    style_image: str | Path | None = None,
    optimize: bool = False,
    strength: float = 1.0,
    keep_colors: bool = False,
    tile: int = 0,
    device: str = "cpu",
    seed: int = 0,
    steps: int | None = None,
    side: int | None = None,
    **options: Any,
) -> Images | Array | BatchResult:
    """Apply a style to images.

    model: a model that was trained for one style, or None for one of the other methods.
    images, out, options: as `danqing.editing.arrays.apply` takes them. A style draws nothing, so that `seed`
        and `n` change nothing.
    style: the number of one of the 26 built-in styles.
    style_image: a file whose style is used.
    optimize: whether the pixels are optimised, which takes minutes instead of a second; `steps` and `side`
        are its steps and the longer side of what is optimised.
    strength: from 0, which changes nothing, to 1. keep_colors: whether colours stay as they are.
    Raises ConfigError for options that do not fit together, ModelError if the model was not trained for a
    style, and EvaluationError if the weights of a network are not installed.
    """
    optimized = {name: value for name, value in (("steps", steps), ("side", side)) if value is not None}
    method = method_of(
        model,
        style=style,
        style_image=style_image,
        optimize=optimize,
        tile=tile,
        device=device,
        **optimized,
    )
    return apply(Stylize(method, strength, keep_colors), images, out, seed=seed, **options)
