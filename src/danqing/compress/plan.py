"""What an export of a model consists of: graphs, and the loop that runs them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from danqing.compress.runtime.manifest import Loop, Port, TextForm
from danqing.errors import ModelError
from danqing.families.base import Condition, FamilyConfig, ReadsText
from danqing.sizes import SizeRange

Size = tuple[int, int]
"""Width and height."""
Examples = Callable[[int, Size, torch.Generator], tuple[Tensor, ...]]
"""From a batch, a size and a generator to random inputs of a graph."""


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """A graph before it is traced.

    network: in eval mode; takes the inputs by position and returns one tensor or several.
    inputs, outputs: in their order. examples: random inputs, any of which the network may get.
    multiple: of pixels, of the height and the width of images of any size; 0 where a graph takes one size.
    """

    network: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    examples: Examples
    multiple: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All graphs of a model, and the loop that runs them.

    sizes: of the images that they take or give. options: of sampling with their defaults.
    text: how prompts are read. left_out: sentences about what the export cannot do.
    """

    loop: Loop
    graphs: Mapping[str, GraphPlan]
    sizes: SizeRange
    options: Mapping[str, Any] = field(default_factory=dict)
    text: TextForm | None = None
    left_out: tuple[str, ...] = ()


class ConditionPorts:
    """The inputs of a graph that say what images show.

    config: of the family. label, attributes: whether its network reads them.
    absent: whether the network can also run without them.
    Raises ModelError where the model reads text by another network.
    """

    def __init__(self, config: FamilyConfig, *, label: bool, attributes: bool, absent: bool = False) -> None:
        self._labels = len(config.labels) if label else 0
        self._columns = config.attributes if attributes else ()
        self._width = sum(column.width for column in self._columns)
        self._absent = absent
        self.text = text_form(config)
        self._vocabulary = (
            config.text_facts.vocabulary if isinstance(config, ReadsText) and config.text_facts else 0
        )

    @property
    def ports(self) -> tuple[Port, ...]:
        """Return the inputs."""
        found = []
        if self._labels:
            found.append(Port(name="label", dtype="int64", shape=("n",)))
        if self.text is not None:
            found.append(Port(name="tokens", dtype="int64", shape=("n", self.text.length)))
            found.append(Port(name="blank", dtype="bool", shape=("n",)))
        if self._columns:
            found.append(Port(name="attributes", dtype="float32", shape=("n", self._width)))
            found.append(Port(name="known", dtype="bool", shape=("n", self._width)))
        if self._absent and found:
            found.append(Port(name="absent", dtype="bool", shape=("n",)))
        return tuple(found)

    def examples(self, batch: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Return random values of the inputs."""
        makers: dict[str, Callable[[], Tensor]] = {
            "label": lambda: torch.randint(self._labels, (batch,), generator=rng),
            "tokens": lambda: self._tokens(batch, rng),
            "blank": lambda: torch.rand(batch, generator=rng) < 0.2,
            "attributes": lambda: self._values(batch, rng),
            "known": lambda: torch.rand(batch, self._width, generator=rng) < 0.7,
            "absent": lambda: torch.rand(batch, generator=rng) < 0.3,
        }
        return tuple(makers[port.name]() for port in self.ports)

    def named(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return values of the inputs by their names."""
        return dict(zip((port.name for port in self.ports), values, strict=True))

    def condition(self, values: Sequence[Tensor]) -> Condition:
        """Return the condition that values of the inputs stand for, without its text."""
        given = self.named(values)
        return Condition(
            label=given.get("label"), attributes=given.get("attributes"), attribute_mask=given.get("known")
        )

    def _tokens(self, batch: int, rng: torch.Generator) -> Tensor:
        assert self.text is not None
        ids = torch.randint(1, max(2, self._vocabulary), (batch, self.text.length), generator=rng)
        lengths = torch.randint(1, self.text.length + 1, (batch, 1), generator=rng)
        return torch.where(torch.arange(self.text.length) < lengths, ids, 0)

    def _values(self, batch: int, rng: torch.Generator) -> Tensor:
        columns = []
        for column in self._columns:
            if column.kind == "category":
                columns.append(torch.randint(len(column.categories), (batch, 1), generator=rng).float())
                continue
            mean = torch.tensor(column.mean or (0.0,) * column.width)
            deviation = torch.tensor(column.deviation or (1.0,) * column.width)
            columns.append(mean + deviation * torch.randn(batch, column.width, generator=rng))
        return torch.cat(columns, dim=1)


def text_form(config: FamilyConfig) -> TextForm | None:
    """Return how prompts are read; None where a model reads none.

    Raises ModelError where another network reads them.
    """
    if not config.reads_text or not isinstance(config, ReadsText):
        return None
    if config.text_facts is None or not config.text_facts.bpe:
        raise ModelError(
            f"This model reads captions by the network {config.text.encoder}, which is not exported: train "
            "one with text.encoder=bpe."
        )
    return TextForm(bpe=config.text_facts.bpe, length=config.text.length)


def images_port(config: FamilyConfig) -> Port:
    """Return the port of images of the model's own size."""
    return Port(name="images", dtype="float32", shape=("n", config.channels, config.height, config.width))


def own_size(config: FamilyConfig) -> SizeRange:
    """Return the sizes of a model that has one."""
    return SizeRange(((config.width, config.height),))
