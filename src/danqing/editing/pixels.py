"""From the pixels of a file to the input of a model and back: depth, channels and transparency."""

from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from danqing.editing.contract import Values
from danqing.image_files import Range
from danqing.images import to_float, to_uint8, to_uint16, with_channels


class Prepared(NamedTuple):
    """An image in the form that a model takes.

    It also keeps what the model does not see.

    images: float32 `[1, c, h, w]` in [-1, 1], with the model's channels. values: the image's own pixels.
    value_range: the levels of `values` that are -1 and 1.
    """

    images: Tensor
    values: Values
    value_range: Range

    @property
    def alpha(self) -> Values | None:
        """Return the image's alpha `[h, w]`, None if it has none."""
        return self.values[:, :, -1] if self.values.shape[2] in (2, 4) else None


def prepare(values: Values, channels: int, *, value_range: Range | None = None) -> Prepared:
    """Convert an image to the input of a model.

    The colours of a transparent image are premultiplied by its alpha, unless the model has an alpha channel.
    Grey becomes each colour, and colours become their mean.

    values: uint8 or uint16 `[h, w, c]`, with 1 to 4 channels.
    channels: of the model, 1 to 4.
    value_range: the levels that become -1 and 1; by default 0 and 255 or 65,535. Others are clamped.
    """
    bounds = value_range or _full_range(values)
    images = _to_unit(values, bounds)
    if channels in (1, 3) and values.shape[2] in (2, 4):
        images = _premultiplied(images)
    return Prepared(with_channels(images, channels).contiguous(), values, bounds)


def enlarged_alpha(values: Values, scale: int) -> Values:
    """Enlarge the alpha of an image with Lanczos's filter.

    values: `[h, w, c]` with 2 or 4 channels. Returns `[scale · h, scale · w]` of the same type.
    """
    height, width = values.shape[:2]
    top = np.iinfo(values.dtype).max
    plane = values[:, :, -1].astype(np.float32) / np.float32(top)
    unit = _lanczos(plane, (scale * width, scale * height))
    return cast("Values", np.round(unit * top).astype(values.dtype))


def restore(
    images: Tensor, prepared: Prepared, *, keep_channels: bool, alpha: Values | None = None
) -> Values:
    """Convert the output of a model to pixels of the input's depth.

    A pixel that the model returned as it was gets the values of the input, whatever its depth and channels.
    The alpha of the input is restored, unless the model has an alpha channel; if the size has changed, alpha
    is resized with Lanczos's filter. Where it is zero, the colours are those of the input.

    images: float `[1, c, h, w]` in [-1, 1]; the size may differ from the input's.
    keep_channels: whether the result has the channels of the input, so that grey stays grey; otherwise its
        colours are those of the model.
    alpha: `[h, w]` of the result, where it is known; it may be a part of what `enlarged_alpha` returns.
    Returns uint8 or uint16 `[h, w, c]`, as the input.
    """
    values, size = prepared.values, (int(images.shape[3]), int(images.shape[2]))
    given = values.shape[2]
    is_transparent = given in (2, 4)
    colours = given if keep_channels else int(images.shape[1])
    colours = 1 if colours < 3 else 3
    own_alpha = images.shape[1] in (2, 4) and (is_transparent or not keep_channels)
    if own_alpha or not is_transparent:
        restored = _levels(with_channels(images, colours + own_alpha), values.dtype, prepared.value_range)
    else:
        restored = _with_alpha(with_channels(images, colours), prepared, size, alpha)
    if restored.shape == values.shape and images.shape == prepared.images.shape:
        unchanged = (images[0].detach() == prepared.images[0]).all(0).cpu().numpy()
        restored[unchanged] = values[unchanged]
    return restored


def _full_range(values: Values) -> Range:
    return 0.0, float(np.iinfo(values.dtype).max)


def _to_unit(values: Values, bounds: Range) -> Tensor:
    """Scale levels to floats `[1, c, h, w]` in [-1, 1]; alpha has the full range."""
    images = to_float(torch.from_numpy(np.require(values, requirements="W"))[None])
    low, high = bounds
    top = _full_range(values)[1]
    if bounds != (0.0, top):
        colours = images[:, : values.shape[2] - (values.shape[2] in (2, 4))]
        # -1 and 1 are 0 and top here: the levels between low and high are stretched to fill this range.
        colours.add_(1).mul_(top / 2).sub_(low).mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)
    return images


def _levels(images: Tensor, dtype: np.dtype[np.uint8 | np.uint16], bounds: Range) -> Values:
    """Round floats `[1, c, h, w]` in [-1, 1] to levels `[h, w, c]`."""
    low, high = bounds
    top = float(np.iinfo(dtype).max)
    if bounds != (0.0, top):
        is_transparent = images.shape[1] in (2, 4)
        colours = images[:, :-1] if is_transparent else images
        colours = colours.clamp(-1, 1).add_(1).mul_((high - low) / 2).add_(low).mul_(2 / top).sub_(1)
        images = torch.cat([colours, images[:, -1:]], dim=1) if is_transparent else colours
    convert = to_uint8 if dtype == np.uint8 else to_uint16
    levels: Values = convert(images)[0].cpu().numpy()
    return levels


def _premultiplied(images: Tensor) -> Tensor:
    """Multiply colours by alpha, with black as 0; returns them without alpha."""
    alpha = images[:, -1:].add(1).div_(2)
    return images[:, :-1].add(1).mul_(alpha).sub_(1)


def _with_alpha(colours: Tensor, prepared: Prepared, size: tuple[int, int], known: Values | None) -> Values:
    """Divide colours `[1, c, h, w]` by the input's alpha, and put it behind them."""
    values = prepared.values
    alpha = values[:, :, -1] if known is None else known
    top = np.iinfo(values.dtype).max
    unit = alpha.astype(np.float32) / np.float32(top)
    is_resized = size != (values.shape[1], values.shape[0])
    if is_resized and known is None:
        unit = _lanczos(unit, size)
        alpha = cast("Values", np.round(unit * top).astype(values.dtype))
    opacity = torch.from_numpy(unit)[None, None]
    straight = colours.detach().float().cpu().add(1).div_(opacity.clamp(min=1 / top)).sub_(1)
    restored = _levels(straight.clamp_(-1, 1), values.dtype, prepared.value_range)
    hidden = alpha == 0
    if hidden.any():
        ground = _levels(
            with_channels(_to_unit(values[:, :, :-1], prepared.value_range), colours.shape[1]),
            values.dtype,
            prepared.value_range,
        )
        if is_resized:
            ground = _nearest(ground, size)
        restored[hidden] = ground[hidden]
    whole: Values = np.concatenate([restored, alpha[:, :, None]], axis=2)
    return whole


def _lanczos(plane: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a plane `[h, w]` in [0, 1] to (width, height)."""
    resized = Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32).clip(0, 1)


def _nearest(values: Values, size: tuple[int, int]) -> Values:
    height, width = values.shape[:2]
    rows, columns = np.arange(size[1]) * height // size[1], np.arange(size[0]) * width // size[0]
    nearest: Values = values[rows][:, columns]
    return nearest
