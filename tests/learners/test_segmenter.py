"""A segmenter learns masks; what is ignored changes nothing, and a pixel sees only as far as it says."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.data.batch import Batch
from danqing.data.builtin import cells
from danqing.data.targets import IGNORED, Targets
from danqing.errors import ConfigError
from danqing.families import parse_config
from danqing.families.abilities import IsConvolutional, StartsTrained
from danqing.images import to_float
from danqing.learners.abilities import Embeds, Segments
from danqing.learners.mask_losses import dice_loss, mask_cross_entropy
from danqing.learners.segmenter import Segmenter, SegmenterConfig, class_weights
from danqing.pretrained import lite0_trunk
from danqing.randomness import generator
from danqing.training.config_sections import OptimizerConfig
from danqing.training.optimizers import build

SMALL: dict[str, Any] = {"widths": (8, 12, 16), "decoder_widths": (8, 12), "mask_classes": ("a", "b", "c")}


def segmenter(**settings: Any) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(**{"width": 16, "height": 16, **SMALL, **settings}))


def scenes(first: int, count: int) -> Batch:
    drawn = [cells.drawn(f"cells#{number}", (24, 24)) for number in range(first, first + count)]
    pixels = torch.stack([torch.from_numpy(scene.pixels) for scene in drawn])
    mask = torch.stack([torch.from_numpy(scene.mask) for scene in drawn])
    return Batch(to_float(pixels), targets=Targets(mask=mask))


def loss_of(model: Segmenter, batch: Batch) -> Tensor:
    return model.loss(batch, model.phases()[0], generator(0, "test")).total


def test_the_losses_have_their_closed_forms() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=generator(0, "logits"))
    mask = torch.randint(3, (2, 4, 4), generator=generator(0, "mask")).byte()
    assert mask_cross_entropy(logits, mask).item() == pytest.approx(
        F.cross_entropy(logits, mask.long()).item()
    )
    weights = torch.tensor([1.0, 2.0, 5.0])
    expected = F.cross_entropy(logits, mask.long(), weights)
    assert mask_cross_entropy(logits, mask, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    certain = F.one_hot(mask.long(), 3).permute(0, 3, 1, 2) * 100.0
    assert dice_loss(certain, mask).item() == pytest.approx(0, abs=1e-6)
    # All classes alike: each has the probability 1/3 at each of 32 pixels.
    counts = torch.bincount(mask.flatten().long(), minlength=3).float()
    dice = (2 * counts / 3 + 1) / (32 / 3 + counts + 1)
    assert dice_loss(torch.zeros_like(logits), mask).item() == pytest.approx(1 - dice.mean().item(), rel=1e-5)


def test_ignored_pixels_change_neither_the_loss_nor_its_gradients() -> None:
    batch, model = scenes(0, 4), segmenter(mask_classes=cells.CLASSES, balance=0.5)
    assert batch.targets is not None
    assert batch.targets.mask is not None
    mask = batch.targets.mask.clone()
    mask[:, :10] = IGNORED
    noisy = batch.images.clone()
    logits = torch.randn(4, 4, 24, 24, generator=generator(0, "logits"), requires_grad=True)
    loss = mask_cross_entropy(logits, mask, model.weights) + dice_loss(logits, mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :, :10].any()
    assert gradient[:, :, 10:].abs().sum() > 0
    nothing = Batch(noisy, targets=Targets(mask=torch.full_like(mask, IGNORED)))
    assert loss_of(model, nothing).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("trunk", ["none", "efficientnet-lite0"])
def test_images_of_any_size_and_channels_become_masks(trunk: str, channels: int) -> None:
    model = segmenter(trunk=trunk, channels=channels, width=17, height=23)
    assert isinstance(model, Segments | Embeds)
    assert isinstance(model, IsConvolutional)
    assert isinstance(model, StartsTrained)
    images = torch.rand(2, channels, 23, 17, generator=generator(0, "images")) * 2 - 1
    assert model.mask_logits(images).shape == (2, 3, 23, 17)
    assert model.embed(images).shape == (2, model.embedding_size)


@pytest.mark.parametrize("trunk", ["none", "efficientnet-lite0"])
def test_a_pixel_sees_no_further_than_the_receptive_radius(trunk: str) -> None:
    model = segmenter(trunk=trunk, widths=(4,) * 5, decoder_widths=(4,) * 4).double()
    for parameter in model.parameters():  # nothing cancels, saturates or vanishes
        fan_in = parameter[0].numel()
        torch.nn.init.uniform_(parameter, 0, 2 / fan_in if parameter.dim() > 1 else 0)
    side = 2 * (model.receptive_radius // model.stride + 2) * model.stride
    images = torch.zeros(1, 3, 4 * model.stride, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    model.mask_logits(images)[0, :, 8, middle].sum().backward()
    assert images.grad is not None
    reached = images.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    furthest = max(middle - int(reached.min()), int(reached.max()) - middle)
    assert furthest <= model.receptive_radius
    assert furthest > 0.7 * model.receptive_radius


def test_a_trunk_has_the_published_weights_and_keeps_them() -> None:
    model = segmenter(trunk="efficientnet-lite0")
    model.load_published()
    assert model.trunk is not None
    whole = lite0_trunk.Lite0().load_published(lite0_trunk.read_published())
    images = torch.rand(1, 3, 32, 32, generator=generator(0, "images")) * 2 - 1
    expected = whole.stages(lite0_trunk.normalized((images + 1) * 127.5))
    found = model.trunk(images)
    assert [values.shape[1] for values in found] == list(model.trunk.WIDTHS)
    for one, other in zip(found, expected, strict=False):
        torch.testing.assert_close(7 * one, other, atol=1e-3, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in model.trunk.parameters())
    images.requires_grad_()
    model.network.last.weight.data.normal_(generator=generator(0, "last"))
    model.mask_logits(images).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is None for parameter in model.trunk.parameters())


def test_rare_classes_weigh_more_and_the_mean_over_pixels_stays_1() -> None:
    shares = (0.9, 0.08, 0.02)
    config = SegmenterConfig(**SMALL, mask_shares=shares, balance=1.0, class_weights={"c": 3.0})
    weights = class_weights(config)
    assert (weights * torch.tensor(shares)).sum().item() == pytest.approx(1)
    assert (weights[2] / weights[0]).item() == pytest.approx(3 * 0.9 / 0.02)
    assert class_weights(SegmenterConfig(**SMALL, mask_shares=shares)).tolist() == pytest.approx([1, 1, 1])


def test_what_does_not_fit_is_rejected_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="learns from masks with 2 to 255 classes, and this data has no"):
        SegmenterConfig().check_shape()
    with pytest.raises(ConfigError, match="class_weights names d, and the classes are a, b, c"):
        SegmenterConfig(**SMALL, class_weights={"d": 2.0}).check_shape()
    with pytest.raises(ConfigError, match="decoder_widths must hold 4 numbers, one less than widths"):
        parse_config({"family": "segmenter", "decoder_widths": [8]})


def test_a_segmenter_learns_cells_in_a_few_steps() -> None:
    model = segmenter(mask_classes=cells.CLASSES, width=24, height=24)
    settings = OptimizerConfig(name="muon", learning_rate=1e-2, ns_steps=3)
    optimizer = build(settings, model.named_parameters(), model.parameter_kind)
    batch, unseen = scenes(0, 16), scenes(100, 16)
    before = loss_of(model, unseen)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    with torch.no_grad():
        after = loss_of(model, unseen)
    assert math.isfinite(after.item())
    assert after < 0.6 * before
