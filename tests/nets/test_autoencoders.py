"""Encoders and decoders: any size and number of channels, labels that reach every layer, compact shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data.batch import Condition
from danqing.nets.autoencoders import AutoencoderShape, build_decoder, build_encoder

NETS = ("mlp", "conv", "resnet", "hybrid")


@settings(max_examples=25, deadline=None)
@given(
    net=st.sampled_from(NETS),
    height=st.integers(4, 41),
    width=st.integers(4, 41),
    channels=st.integers(1, 4),
    labels=st.sampled_from([0, 3]),
)
def test_any_size_and_channels_go_to_latents_and_back(
    net: str, height: int, width: int, channels: int, labels: int
) -> None:
    shape = AutoencoderShape(
        height, width, channels, latents=5, features=4, blocks=int(net != "conv"), labels=labels
    )
    condition = Condition(label=torch.tensor([0, 1])) if labels else None
    images = torch.rand(2, channels, height, width).contiguous(memory_format=torch.channels_last)
    out = build_encoder(net, shape)(images, condition)
    assert out.shape == (2, 10)
    decoded = build_decoder(net, shape, 2 * channels)(out[:, :5], condition)
    assert decoded.shape == (2, 2 * channels, height, width)


def test_maps_halve_until_four_and_channels_halve_towards_the_pixels() -> None:
    shape = AutoencoderShape(height=64, width=48, channels=3, latents=8, features=64)
    assert shape.sizes == [(64, 48), (32, 24), (16, 12), (8, 6), (4, 3)][: len(shape.sizes)]
    assert shape.widths[-2:] == [128, 128]
    assert shape.widths == sorted(shape.widths)
    assert AutoencoderShape(height=4, width=4, channels=1, latents=2, features=4).sizes == [(4, 4), (2, 2)]


@pytest.mark.parametrize("net", NETS)
def test_a_label_changes_what_is_encoded_and_decoded(net: str) -> None:
    torch.manual_seed(0)
    shape = AutoencoderShape(9, 8, 1, latents=4, features=4, blocks=int(net != "conv"), labels=2)
    for module, x in (
        (build_encoder(net, shape), torch.rand(1, 1, 9, 8)),
        (build_decoder(net, shape, 1), torch.rand(1, 4)),
    ):
        first, second = (Condition(label=torch.tensor([label])) for label in (0, 1))
        assert not torch.allclose(module(x, first), module(x, second))
        module(x, second).square().sum().backward()
        gradient = next(p.grad for n, p in module.named_parameters() if n.endswith("label.vectors"))
        assert gradient is not None
        assert gradient[1].abs().max() > 0
        assert gradient[0].abs().max() == 0


@pytest.mark.parametrize("net", NETS)
def test_without_labels_there_is_nothing_to_store_for_them(net: str) -> None:
    shape = AutoencoderShape(8, 8, 1, latents=4, features=4, blocks=1)
    for module in (build_encoder(net, shape), build_decoder(net, shape, 1)):
        assert not any("label" in name for name in module.state_dict())
