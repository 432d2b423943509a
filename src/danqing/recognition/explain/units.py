"""Which units of a network stand for which classes of things (Bau et al. 2019, "GAN Dissection").

A unit is a channel of a layer. It stands for a class as far as it is active where the class is: where its
values are among its highest, and where a mask shows the class.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data.targets import IGNORED

QUANTILE = 0.95
"""Values above this quantile of a unit's values count as active."""


class Unit(NamedTuple):
    """A unit, and the class that it fits best.

    unit: its channel. name: of the class. iou: the area where both are, over the area where either is.
    """

    unit: int
    name: str
    iou: float


def layers_with_maps(network: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Return the layers whose output is a map, with its number of channels, in the order in which they run.

    run: runs the network once. Only layers without children are returned.
    """
    found: dict[str, int] = {}
    hooks = []
    for name, layer in network.named_modules():
        if any(layer.children()):
            continue

        def note(_layer: nn.Module, _inputs: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                found.setdefault(name, output.shape[1])

        hooks.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def maps_of(layer: nn.Module, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the output of a layer while `run` runs the network once, and what `run` returns.

    The output of the layer is a map `[n, units, rows, columns]`.
    """
    outputs: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(output.detach()))
    try:
        with torch.no_grad():
            result = run()
    finally:
        hook.remove()
    return outputs[-1].float(), result


def dissect(parts: Iterable[tuple[Tensor, Tensor]], classes: Mapping[int, str]) -> list[Unit]:
    """Find the class that each unit fits best, best first.

    parts: maps `[n, units, rows, columns]` of some images with their masks uint8 `[n, h, w]`; they are read
        once and kept at the size of the maps' own places. Pixels of the class `IGNORED` do not count.
    classes: the name of each class in the masks.
    """
    kept = [(maps.cpu(), masks.cpu()) for maps, masks in parts]
    values = torch.cat([maps.transpose(0, 1).flatten(1) for maps, _ in kept], dim=1)  # [units, places]
    thresholds = _quantiles(values, QUANTILE)
    numbers = list(classes)
    both = torch.zeros(len(thresholds), len(numbers), dtype=torch.float64)
    active, shown = torch.zeros(len(thresholds), dtype=torch.float64), torch.zeros(len(numbers)).double()
    for maps, masks in kept:
        large = F.interpolate(maps, masks.shape[1:], mode="bilinear", align_corners=False)
        known = (masks != IGNORED).flatten()
        on = (large > thresholds[:, None, None]).transpose(0, 1).flatten(1)[:, known].float()
        of_class = torch.stack([(masks == number).flatten()[known] for number in numbers]).float()
        both += (on @ of_class.T).double()
        active += on.sum(1).double()
        shown += of_class.sum(1).double()
    union = (active[:, None] + shown - both).clamp_min(1)
    best, places = (both / union).max(1)
    units = [
        Unit(unit, classes[numbers[place]], value)
        for unit, (place, value) in enumerate(zip(places.tolist(), best.tolist(), strict=True))
    ]
    return sorted(units, key=lambda each: -each.iou)


def _quantiles(values: Tensor, share: float) -> Tensor:
    """Return a quantile of each row; `torch.quantile` refuses long rows."""
    place = min(values.shape[1], max(1, round(share * values.shape[1])))
    return values.kthvalue(place, dim=1).values
