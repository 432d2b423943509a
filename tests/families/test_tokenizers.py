"""Pixels as codes: nothing is lost on the way."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.families.abilities import Tokenizes
from danqing.families.tokenizers import PixelCodes
from danqing.images import to_float


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_images_come_back_exactly_and_channels_follow_one_another(
    height: int, width: int, channels: int, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = torch.randint(256, (2, height, width, channels), dtype=torch.uint8, generator=rng)
    images = values.float().div(127.5).sub(1).permute(0, 3, 1, 2)
    pixels = PixelCodes(height, width, channels)
    assert isinstance(pixels, Tokenizes)
    codes = pixels.tokenize(images)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, *pixels.code_shape)
    assert torch.equal(codes, values.long())
    assert torch.equal(pixels.detokenize(codes), images)


def test_every_value_has_a_code_of_its_own() -> None:
    levels = to_float(torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1))
    codes = PixelCodes(16, 16, 1).tokenize(levels)
    assert codes.flatten().tolist() == list(range(256))
