"""Units of a network in which it is known what each stands for."""

import torch
from torch import Tensor, nn

from danqing.data.targets import IGNORED
from danqing.recognition.explain.units import dissect, layers_with_maps, maps_of


def scene(seed: int) -> tuple[Tensor, Tensor]:
    """Maps of three units, and masks: unit 0 finds class 1, unit 2 finds class 2, unit 1 is noise."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.zeros(4, 8, 8, dtype=torch.uint8)
    for image in range(4):
        top, left = torch.randint(0, 6, (2,), generator=rng).tolist()
        masks[image, top : top + 2, left : left + 2] = 1 + image % 2
    maps = 0.1 * torch.rand(4, 3, 8, 8, generator=rng)
    maps[:, 0] += (masks == 1).float()
    maps[:, 2] += (masks == 2).float()
    return maps, masks


def test_units_are_named_after_what_they_find() -> None:
    found = dissect([scene(0), scene(1)], {0: "ground", 1: "cat", 2: "dog"})
    named = {unit.unit: unit for unit in found}
    assert named[0].name == "cat"
    assert named[2].name == "dog"
    assert min(named[0].iou, named[2].iou) > 0.5 > named[1].iou
    assert [unit.iou for unit in found] == sorted((unit.iou for unit in found), reverse=True)


def test_ignored_pixels_do_not_count() -> None:
    maps, masks = scene(0)
    hidden = torch.where(masks == 2, IGNORED, masks).to(torch.uint8)
    found = dissect([(maps, hidden)], {1: "cat", 2: "dog"})
    assert next(unit for unit in found if unit.unit == 2).iou == 0


def test_layers_are_found_by_running_the_network() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(48, 2))
    images = torch.randn(2, 1, 4, 4)
    assert layers_with_maps(network, lambda: network(images)) == {"0": 3, "1": 3}
    maps, result = maps_of(network[0], lambda: network(images))
    assert torch.equal(maps, network[0](images))
    assert torch.equal(result, network(images))
    assert not network[0]._forward_hooks
