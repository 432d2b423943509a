"""What a learner of recognition sees of an image through the network of a transformer."""

import pytest
import torch

from danqing import families
from danqing.families.code_features import CodeFeatures
from danqing.families.transformer import TransformerLearner

SHAPE = {"width": 4, "height": 6, "channels": 1}


def features(order: str) -> tuple[TransformerLearner, CodeFeatures]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {"family": "transformer", "order": order, "layers": 3, "features": 16, "heads": 2, **SHAPE}
        model = families.build(families.parse_config({**config, "labels": ["a", "b"]}))
    assert isinstance(model, TransformerLearner)
    lent = model.eval().lent()
    assert isinstance(lent, CodeFeatures)
    return model, lent


@pytest.mark.parametrize("order", ["masked", "raster"])
def test_each_place_sees_the_codes_that_the_order_lets_it_see(order: str) -> None:
    _, lent = features(order)
    image = torch.rand(1, 1, 6, 4) * 2 - 1
    changed = image.clone()
    changed[0, 0, 3, 2] *= -1
    before, after = (lent.features(each)[0] for each in (image, changed))
    assert before.shape == (16, 6, 4)
    differs = ((before - after).abs().amax(0) > 1e-6).flatten()
    place = 3 * 4 + 2
    expected = torch.ones(24, dtype=torch.bool)
    if order == "raster":  # a place holds what writes its code, from the codes before it
        expected[: place + 1] = False
    assert torch.equal(differs, expected)


@pytest.mark.parametrize("order", ["masked", "raster"])
def test_the_features_are_the_stream_of_the_network_before_its_last_block(order: str) -> None:
    model, lent = features(order)
    images, seen = torch.rand(2, 1, 6, 4) * 2 - 1, list[torch.Tensor]()
    hook = model.net.blocks[-1].register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))
    codes = model.codec.tokenize(images).flatten(1)
    prefix = model.prefix.nothing(2)
    if order == "raster":
        model.net(prefix, codes)
        stream = seen[0]
    else:  # of equal ranks, each code sees all others
        ranks = torch.zeros_like(codes)
        model.net.parallel(prefix, codes, ranks, ranks)
        stream = seen[0][:, 1:25]
    hook.remove()
    expected = torch.nn.functional.rms_norm(stream, (16,)).transpose(1, 2)
    assert torch.allclose(lent.features(images).flatten(2), expected, atol=1e-5)


def test_the_network_learns_and_the_images_get_no_gradient() -> None:
    model, lent = features("masked")
    images = torch.rand(2, 1, 6, 4, requires_grad=True)
    lent.train().features(images).square().mean().backward()
    assert images.grad is None
    assert not lent.tokenizer.training
    trained = {name for name, one in lent.named_parameters() if one.grad is not None}
    assert {name for name, _ in lent.named_parameters()} - trained <= {"prefix.embed.weight"}
    assert len(model.net.blocks) == 3, "the model itself keeps its end"
    assert hasattr(model.net, "head")
