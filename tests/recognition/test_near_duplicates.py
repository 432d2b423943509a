import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from danqing.recognition.cleaning.near_duplicates import describe, find_copies

SIDE = 96


def scenes(count: int, seed: int = 0) -> list[Image.Image]:
    """Images of their own: structures of several sizes in changing colours."""
    rng = torch.Generator().manual_seed(seed)
    levels = torch.zeros(count, 3, SIDE, SIDE)
    for size in (3, 6, 12, 24, 48):
        noise = torch.rand(count, 3, size, size, generator=rng)
        levels += F.interpolate(noise, (SIDE, SIDE), mode="bicubic") / size**0.5
    low, high = levels.amin((1, 2, 3), keepdim=True), levels.amax((1, 2, 3), keepdim=True)
    pixels = ((levels - low) / (high - low) * 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in pixels]


def stacked(pictures: list[Image.Image]) -> Tensor:
    resized = [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in pictures]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


def compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=50)
    return Image.open(buffer)


COPIES = {
    "compressed": compressed,
    "cropped at the corner": lambda one: one.crop((0, 0, 86, 86)),
    "cropped between the places that are tried": lambda one: one.crop((7, 3, 93, 89)),
    "cropped less": lambda one: one.crop((3, 2, 94, 93)),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda one: ImageOps.mirror(one).crop((6, 8, 92, 94)),
    "brighter": lambda one: one.point(lambda level: min(255, level * 1.08)),
    "smaller": lambda one: one.resize((48, 48)),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_and_nothing_else(name: str) -> None:
    pictures = scenes(40)
    found = find_copies(describe(stacked([*pictures, *[COPIES[name](one) for one in pictures[:8]]])))
    assert found.rows.tolist() == [[row, 40 + row] for row in range(8)]
    assert found.mirrored.tolist() == [name.startswith("mirrored")] * 8
    assert (found.similarity > 0.85).all()


def test_the_same_drawing_in_another_colour_is_not_a_copy() -> None:
    pictures = scenes(10)
    turned = [Image.merge("RGB", [one.getchannel(band) for band in "GBR"]) for one in pictures]
    assert len(find_copies(describe(stacked([*pictures, *turned]))).rows) == 0


def test_smooth_and_few_images_have_no_copies() -> None:
    assert len(find_copies(describe(torch.full((5, 3, 16, 16), 0.4))).rows) == 0
    assert len(find_copies(describe(torch.rand(1, 3, 16, 16))).rows) == 0
