"""Grains: fixed parts of a batch, whose gradients give the same sum on any number of processes.

A batch has 2^k grains of equal sizes. Each has its own random numbers and begins with the same state. What
the grains give, gradients above all, is added along the complete binary tree over their numbers: 0 and 1, 2
and 3, and so on, then these sums. A process computes a block of 2^j grains, so that its sum is a node of the
tree, and the processes add the rest of it together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danqing import threads
from danqing.cluster.world import World, world
from danqing.data.batch import Batch
from danqing.errors import ConfigError
from danqing.families.abilities import HasGuide, HasTokenizer
from danqing.families.base import Learner, Losses
from danqing.nets.gathering import Gathers, Grain
from danqing.training.config import RunConfig

FEWEST = 4
"""Grains of a run that begins with `--processes`, at least, so that up to 4 processes can compute it."""


class Grains:
    """The grains of a batch, and which of them this process computes.

    count: a power of two that divides `batch_size`.
    fast: whether gradients are added in the order that is fastest, which depends on the processes.
    exchanges: whether other processes compute the other grains; False for steps that only measure.
    """

    def __init__(self, count: int, batch_size: int, world: World, *, fast: bool = False) -> None:
        if world.size > count:
            raise ConfigError(
                f"A batch of this run has {count} grain{'s' * (count > 1)} (training.grains), which "
                f"{world.size} processes cannot share: use {count}, or begin another run with more grains."
            )
        self.count, self.size, self.world, self.fast = count, batch_size // count, world, fast
        self.exchanges = world.size > 1
        own = count // world.size
        self.own = range(world.rank * own, (world.rank + 1) * own)

    def threads(self) -> int:
        """Return with how many threads a process computes on the CPU.

        It is one, since the number decides how sums within a grain are rounded. Where their order may change
        anyway, the processes of a machine share its cores.
        """
        return max(1, threads.cores() // self.world.place.local_size) if self.fast else 1

    @property
    def rows(self) -> slice:
        """Return the rows of a batch that this process computes."""
        return slice(self.own.start * self.size, self.own.stop * self.size)

    @property
    def rows_of_each(self) -> list[slice]:
        """Return the rows of each of its grains."""
        return [slice(number * self.size, (number + 1) * self.size) for number in self.own]

    def sums_bytes(self, parameters: int) -> int:
        """Return how many bytes the sums of gradients take, at most.

        parameters: how many numbers have a gradient.
        """
        return 4 * parameters * (2 if self.fast else len(self.own).bit_length() + 1)

    def compute(
        self,
        learner: Learner,
        parameters: Sequence[nn.Parameter],
        batches: Sequence[Batch],
        loss: Callable[[Batch, int], Losses],
    ) -> Losses:
        """Compute the mean gradients of all grains, and leave them in `parameters`.

        batches: the images of each grain of this process.
        loss: computes the loss of a grain, given its number.
        What the forward passes change in the learner becomes the mean over the grains too. Whole numbers,
        which are counts, are taken from one grain.
        Returns the mean losses, detached.
        """
        state = _State(learner)
        self._start(state, parameters, batches[0], loss)
        sums: list[tuple[int, Tensor]] = []  # of whole subtrees, with their heights
        layout: _Layout | None = None
        for batch, number in zip(batches, self.own, strict=True):
            state.begin(Grain(number, self.count))
            if not self.fast or layout is None:
                _clear(parameters)
            losses = loss(batch, number)
            (losses.total / self.count).backward()
            given = _Given.of(losses, state)
            layout = layout or _Layout.of(parameters, given)
            values, height = given.flat(), 0
            if not self.fast:
                values = torch.cat([*_gradients(parameters), values])
            while sums and (self.fast or sums[-1][0] == height):
                values, height = sums.pop()[1].add_(values), height + 1
            sums.append((height, values))
        assert layout is not None
        ((_, total),) = sums
        if self.fast:  # gradients have been added up where they are
            total = torch.cat([*_gradients(parameters), total])
        if self.exchanges:
            total = self.world.plain_sum(total) if self.fast else self.world.tree_sum(total)
        return layout.spread(total, parameters, state, self.count)

    def _start(
        self,
        state: "_State",
        parameters: Sequence[nn.Parameter],
        batch: Batch,
        loss: Callable[[Batch, int], Losses],
    ) -> None:
        """Let modules that need a first batch see the first grain, in the first process."""
        waiting = [module for module in state.gathering if not module.has_started]
        if not waiting:
            return
        if self.own.start == 0:
            for module in waiting:
                module.starting = True
            loss(batch, 0)
            for module in waiting:
                module.starting = False
            state.restore()
            _clear(parameters)
        if self.exchanges:
            self.world.spread([buffer for module in waiting for buffer in module.buffers()])


def grains_of(config: RunConfig) -> Grains | None:
    """Return the grains of a run; None if it has none.

    Raises ConfigError if there are more processes than grains.
    """
    training, here = config.training, world()
    if training.grains == 1 and here.size == 1:
        return None
    return Grains(training.grains, config.batch_size, here, fast=training.fast_sums)


class _State:
    """What forward passes change in a learner.

    means: buffers of real numbers, which become means over the grains. counts: those of whole numbers.
    gathering: modules that learn from all grains together.
    """

    def __init__(self, learner: Learner) -> None:
        still = [learner.tokenizer] if isinstance(learner, HasTokenizer) else []
        if isinstance(learner, HasGuide) and learner.guide is not None:
            still.append(learner.guide)
        modules = set(learner.modules()) - {module for part in still for module in part.modules()}
        self.gathering = [
            module for module in learner.modules() if module in modules and isinstance(module, Gathers)
        ]
        self.means, self.counts = list[Tensor](), list[Tensor]()
        for module in learner.modules():
            if module not in modules or isinstance(module, Gathers):
                continue
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:  # constants
                    (self.means if buffer.is_floating_point() else self.counts).append(buffer)
        self._before = [buffer.clone() for buffer in (*self.means, *self.counts)]

    def begin(self, grain: Grain) -> None:
        """Begin a grain with the values from before the batch."""
        self.restore()
        for module in self.gathering:
            module.grain, module.seen = grain, None

    @torch.no_grad()
    def restore(self) -> None:
        """Put back the values from before the batch."""
        for buffer, before in zip((*self.means, *self.counts), self._before, strict=True):
            buffer.copy_(before)

    def taken(self) -> list[list[Tensor]]:
        """Return what each gathering module has seen of a grain, if anything."""
        return [module.seen or [] for module in self.gathering]

    @torch.no_grad()
    def settle(self, means: Sequence[Tensor], seen: Sequence[Sequence[Tensor]], grains: int) -> None:
        """Take the means over all grains; counts stay as they are."""
        for buffer, mean in zip(self.means, means, strict=True):
            buffer.copy_(mean)
        for module, own in zip(self.gathering, seen, strict=True):
            module.grain, module.seen = None, None
            if own:
                module.settle(own, grains)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a grain gives besides gradients; all of it is averaged.

    logged: the loss and what is logged, by name. means: buffers. seen: of each gathering module.
    """

    logged: dict[str, Tensor]
    means: list[Tensor]
    seen: list[list[Tensor]]

    @classmethod
    def of(cls, losses: Losses, state: _State) -> "_Given":
        total = losses.total.detach()
        logged = {"loss": total, **losses.logged}
        # The total that is minimised may differ from the loss that is logged.
        return cls({"": total, **logged}, [buffer.detach() for buffer in state.means], state.taken())

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.logged.values(), *self.means, *(tensor for own in self.seen for tensor in own)]

    def flat(self) -> Tensor:
        """Return all in one vector, float32."""
        device = self.logged[""].device
        return torch.cat([tensor.detach().to(device, torch.float32).reshape(-1) for tensor in self.tensors])


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where in a vector of sums everything is: gradients, whether there are any, and what `_Given` holds."""

    gradients: list[int]
    given: _Given
    shapes: list[torch.Size]

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], given: _Given) -> "_Layout":
        return cls([parameter.numel() for parameter in parameters], given, [t.shape for t in given.tensors])

    def spread(self, total: Tensor, parameters: Sequence[nn.Parameter], state: _State, grains: int) -> Losses:
        """Give the sums to whom they belong; returns the mean losses."""
        count = len(self.gradients)
        *gradients, present, rest = total.split(
            [*self.gradients, count, len(total) - sum(self.gradients) - count]
        )
        for parameter, gradient, there in zip(parameters, gradients, (present > 0).tolist(), strict=True):
            # As the parameter lies in memory, which is dense.
            parameter.grad = gradient.as_strided(parameter.shape, parameter.stride()) if there else None
        means = (rest / grains).split([shape.numel() for shape in self.shapes])
        tensors = iter([mean.view(shape) for mean, shape in zip(means, self.shapes, strict=True)])
        logged = {name: next(tensors) for name in self.given.logged}
        state.settle(
            [next(tensors) for _ in self.given.means],
            [[next(tensors) for _ in own] for own in self.given.seen],
            grains,
        )
        return Losses(logged.pop(""), logged)


def _clear(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


@torch.no_grad()
def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Return the gradients as vectors, then how many grains there are with one of each parameter."""
    flat = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            flat.append(parameter.new_zeros(parameter.numel()))
            continue
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        flat.append(gradient.as_strided((parameter.numel(),), (1,)))
    present = [float(parameter.grad is not None) for parameter in parameters]
    return [*flat, torch.tensor(present, device=parameters[0].device)]
