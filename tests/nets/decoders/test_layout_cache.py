"""Layouts of weights are kept while the weights stay the same, and no longer."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from danqing.families.transformer import Transformer
from danqing.nets.decoders.layout_cache import MOST_LAYOUTS, cached_layout
from danqing.nets.decoders.raster import RasterDecoder
from danqing.training.ema import EMA, HalfLife
from tests.families.test_transformer import build


def step(module: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def replaced(module: nn.Linear) -> None:
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()}, assign=True)


CHANGES: dict[str, Callable[[nn.Linear], object]] = {
    "fused": lambda m: step(m, torch.optim.AdamW(m.parameters(), fused=True)),
    "foreach": lambda m: step(m, torch.optim.SGD(m.parameters(), lr=0.1, foreach=True)),
    "loaded": lambda m: m.load_state_dict({name: value + 1 for name, value in m.state_dict().items()}),
    "assigned": replaced,
    "written": lambda m: torch.no_grad()(m.bias.add_)(1),
    "moved": lambda m: m.to(torch.float64),
    "hidden": lambda m: m.weight.data.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layout_is_made_again_once_weights_change(change: str) -> None:
    module, made = nn.Linear(3, 3), []

    def make() -> int:
        made.append(None)
        return len(made)

    assert [cached_layout(module, "a", make) for _ in range(3)] == [1, 1, 1]
    CHANGES[change](module)
    assert [cached_layout(module, "a", make) for _ in range(2)] == [2, 2]


def test_only_the_latest_layouts_are_kept_and_none_of_a_module_that_is_gone() -> None:
    module = nn.Linear(3, 3)
    first = weakref.ref(cached_layout(module, 0, nn.Identity))
    for key in range(1, MOST_LAYOUTS):
        cached_layout(module, key, nn.Identity)
    assert first() is cached_layout(module, 0, nn.Identity)
    cached_layout(module, MOST_LAYOUTS, nn.Identity)  # key 1 was used the longest ago
    assert cached_layout(module, 1, lambda: None) is None
    del module
    gc.collect()
    assert first() is None


def test_an_average_that_grows_paints_with_what_it_has_become() -> None:
    family = build()
    average = EMA(family, HalfLife(100))

    def painted() -> torch.Tensor:
        with torch.inference_mode():
            prefix = average.learner.prefix.nothing(2)
            return RasterDecoder(average.learner.net, prefix, "float32").logits

    before = painted()
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    average.update(1000, 10)
    after = painted()
    assert not torch.equal(before, after)
    with torch.inference_mode():
        fresh = Transformer(average.learner.net.shape)
        fresh.load_state_dict(average.learner.net.state_dict())
        expected = RasterDecoder(fresh, average.learner.prefix.nothing(2), "float32").logits
    assert torch.equal(after, expected)
