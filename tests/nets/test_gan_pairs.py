"""Generators and discriminators: any shape, and what they promise."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.data.batch import Condition
from danqing.nets.gan_contract import GANShape
from danqing.nets.gan_pairs import build_discriminator, build_generator
from danqing.nets.layers import JoinCondition, ProjectionHead, halvings

sides = st.integers(4, 70)


@settings(deadline=None)
@given(height=st.integers(1, 500), width=st.integers(1, 500))
def test_halvings_end_at_the_base(height: int, width: int) -> None:
    sizes = halvings(height, width)
    assert sizes[0] == (height, width)
    for (h, w), (half_h, half_w) in itertools.pairwise(sizes):
        assert (half_h, half_w) == ((h + 1) // 2, (w + 1) // 2)
    assert min(sizes[-1]) <= 7


@settings(max_examples=25, deadline=None)
@given(
    net=st.sampled_from(["mlp", "dcgan", "resnet", "modern"]),
    height=sides,
    width=sides,
    channels=st.integers(1, 4),
    labels=st.sampled_from([0, 1, 3]),
)
def test_any_shape(net: str, height: int, width: int, channels: int, labels: int) -> None:
    shape = GANShape(height, width, channels, labels)
    generator = build_generator(net, shape, latents=6, features=4)
    discriminator = build_discriminator(net, shape, features=4, batch_norm=True)
    condition = Condition(label=torch.arange(3) % labels - 1) if labels else None  # -1: not known
    images = generator(torch.randn(3, 6), condition)
    assert images.shape == (3, channels, height, width)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert discriminator(images, condition).shape == (3,)


@pytest.mark.parametrize("net", ["mlp", "dcgan", "resnet", "modern"])
def test_every_pixel_is_seen_and_painted(net: str) -> None:
    """Odd sizes must neither lose the last row and column to the discriminator nor leave them unpainted."""
    shape = GANShape(13, 22, 2, 0)
    generator = build_generator(net, shape, latents=6, features=8)
    discriminator = build_discriminator(net, shape, features=8, batch_norm=False)
    images = generator(torch.randn(4, 6), None)
    assert (images.std(0) > 0).all()
    leaf = images.detach().requires_grad_()
    discriminator(leaf, None).sum().backward()
    assert (leaf.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize("net", ["mlp", "dcgan", "resnet", "modern"])
def test_labels_matter(net: str) -> None:
    shape = GANShape(8, 8, 1, 2)
    generator = build_generator(net, shape, latents=6, features=8).eval()
    discriminator = build_discriminator(net, shape, features=8, batch_norm=False)
    latents = torch.randn(1, 6).expand(2, 6)
    condition = Condition(label=torch.tensor([0, 1]))
    first, second = generator(latents, condition)
    assert not torch.equal(first, second)
    logits = discriminator(first[None].expand(2, -1, -1, -1), condition)
    assert logits[0] != logits[1]


def test_projection_equals_its_definition() -> None:
    head = ProjectionHead(5, 3)
    h, y = torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    rows = [
        head.linear.weight[0] @ h[i] + head.linear.bias[0] + head.embedding.weight[y[i]] @ h[i]
        for i in range(4)
    ]
    torch.testing.assert_close(head(h, Condition(label=y)), torch.stack(rows))


def test_joining_no_condition_changes_nothing() -> None:
    x = torch.randn(2, 7)
    assert JoinCondition(7, 0)(x, None) is x
    assert JoinCondition(7, 0).outputs == 7
