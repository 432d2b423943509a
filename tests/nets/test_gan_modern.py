"""The networks of `modern`: their levels, their first weights, and images of every size on the way."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.nets.gan_contract import GANShape, MultiScale
from danqing.nets.gan_modern import (
    LevelShape,
    ModernDiscriminator,
    ModernGenerator,
    doubled,
)
from danqing.nets.gan_pairs import build_discriminator
from danqing.nets.gan_reconstruction import Reconstruction

SHAPE = GANShape(40, 28, 3, 0)  # levels of 40×28, 20×14, 10×7 and 5×4
SIZES = [(5, 4), (10, 7), (8, 8), (13, 9), (16, 11), (20, 14), (40, 28)]


def networks(levels: LevelShape | None = None) -> tuple[ModernGenerator, ModernDiscriminator]:
    torch.manual_seed(0)
    levels = levels or LevelShape()
    return ModernGenerator(SHAPE, 6, 8, levels), ModernDiscriminator(SHAPE, 8, levels)


def stirred(*modules: torch.nn.Module) -> None:
    """Move all weights away from zero, as training does."""
    for module in modules:
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_generated_and_judged(size: tuple[int, int]) -> None:
    generator, discriminator = networks()
    stirred(generator, discriminator)
    images = generator(torch.randn(3, 6), None, size)
    assert images.shape == (3, 3, *size)
    assert images.abs().max() <= 1
    leaf = images.detach().requires_grad_()
    logits = discriminator(leaf, None)
    assert logits.shape == (3,)
    (gradients,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
    assert (gradients.abs().sum(0) > 0).all()
    gradients.square().sum().backward()  # penalties are differentiated again


def test_small_images_leave_the_finer_levels_alone() -> None:
    generator, discriminator = networks()
    discriminator(generator(torch.randn(2, 6), None, (10, 7)), None).sum().backward()
    idle = {
        name
        for module in (generator, discriminator)
        for name, parameter in module.named_parameters()
        if parameter.grad is None
    }
    fine_of_generator = {f"{part}.{level}." for part in ("levels", "outputs") for level in (2, 3)}
    fine_of_discriminator = {f"{part}.{level}." for part in ("levels", "inputs") for level in (0, 1)}
    assert all(any(name.startswith(each) for name in idle) for each in fine_of_generator)
    assert all(any(name.startswith(each) for name in idle) for each in fine_of_discriminator)
    assert "levels.0.0.last.weight" in idle  # of the discriminator's finest level
    coarse = {name for name, _ in generator.named_parameters() if name.startswith(("first.", "outputs.1."))}
    assert not coarse & idle


def test_a_new_level_changes_nothing_at_first() -> None:
    generator, discriminator = networks()
    latents = torch.randn(4, 6)
    coarse, fine = (torch.atanh(generator(latents, None, size)) for size in ((10, 7), (20, 14)))
    torch.testing.assert_close(fine, doubled(coarse), rtol=1e-4, atol=1e-4)
    images = torch.rand(4, 3, 20, 14) * 2 - 1
    smaller = F.avg_pool2d(images, 2)
    torch.testing.assert_close(discriminator(images, None), discriminator(smaller, None))


def test_fresh_weights_keep_the_variance() -> None:
    shape, levels = GANShape(128, 128, 3, 0), LevelShape(blocks=3)
    torch.manual_seed(0)
    generator, discriminator = ModernGenerator(shape, 64, 32, levels), ModernDiscriminator(shape, 32, levels)
    for output in generator.outputs:
        torch.nn.init.zeros_(output.weight)  # type: ignore[arg-type]
    torch.nn.init.normal_(generator.outputs[-1].weight, std=256**-0.5 * 8**0.5)  # type: ignore[arg-type]
    with torch.no_grad():
        images = torch.atanh(generator(torch.randn(16, 64), None).clamp(-0.999, 0.999))
        features = discriminator.features(torch.randn(16, 3, 4, 4))
    assert 0.5 < float(features.std()) < 2
    assert 0.2 < float(images.std()) < 2


def test_the_middle_of_a_block_is_dense_or_in_groups() -> None:
    generator, _ = networks(levels=LevelShape(blocks=2, expansion=2, group_width=4))
    block = generator.levels[-1][1]  # type: ignore[index]
    assert block.middle.weight.shape == (16, 4, 3, 3)
    generator, _ = networks(levels=LevelShape(expansion=0.5))
    assert generator.levels[0][0].middle.weight.shape == (32, 32, 3, 3)  # type: ignore[index]


def test_doubling_gives_every_pixel_the_same_weight() -> None:
    assert torch.equal(doubled(torch.ones(1, 1, 5, 4)), torch.ones(1, 1, 10, 8))
    ramp = doubled(torch.arange(8.0).expand(1, 1, 8, 8))
    torch.testing.assert_close(ramp[0, 0, 0, 1:-1], torch.arange(0.25, 7, 0.5))


@pytest.mark.parametrize("net", ["mlp", "dcgan", "resnet", "modern"])
def test_each_scale_judges_a_copy_of_half_the_size(net: str) -> None:
    torch.manual_seed(0)
    both = build_discriminator(net, SHAPE, features=4, batch_norm=False, scales=3)  # type: ignore[arg-type]
    assert isinstance(both, MultiScale)
    images = torch.rand(2, 3, 40, 28) * 2 - 1
    logits = both(images, None)
    assert logits.shape == (2, 3)
    copies = [images, F.avg_pool2d(images, 2), F.avg_pool2d(images, 4)]
    expected = [part(copy, None) for part, copy in zip(both.parts, copies, strict=True)]
    torch.testing.assert_close(logits, torch.stack(expected, 1))


@pytest.mark.parametrize("net", ["dcgan", "resnet", "modern"])
@pytest.mark.parametrize(
    ("size", "copied"), [((4, 4), (4, 4)), ((13, 22), (13, 22)), ((64, 64), (32, 32)), ((96, 70), (48, 35))]
)
def test_a_reconstruction_is_at_most_eight_times_the_map_and_teaches_the_discriminator(
    net: str, size: tuple[int, int], copied: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    shape = GANShape(*size, 2, 0)
    discriminator = build_discriminator(net, shape, features=4, batch_norm=False)  # type: ignore[arg-type]
    head = Reconstruction(shape, discriminator.map_width)
    images = torch.rand(3, 2, *size) * 2 - 1
    _, features = discriminator.judge(images, None)
    assert head(features).shape == (3, 2, *copied)
    head.loss(features, images).backward()
    taught = [p for p in discriminator.parameters() if p.grad is not None and bool(p.grad.any())]
    assert taught


def test_a_perfect_copy_costs_nothing() -> None:
    shape = GANShape(4, 4, 1, 0)  # so small that the map has the image's size
    head = Reconstruction(shape, 1)
    with torch.no_grad():
        head.last.weight.fill_(1)
        head.last.bias.zero_()  # type: ignore[union-attr]
    images: Tensor = torch.rand(2, 1, 4, 4)
    assert head.loss(images, images).item() == 0
    assert head.loss(images + 0.5, images).item() == pytest.approx(0.5)
