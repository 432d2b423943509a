"""Parameters in parts: between uses, each parameter of a block has its values in one process alone.

A block gathers the values of its parameters when it computes, forwards or backwards, and drops those of other
processes afterwards (ZeRO, stage 3, Rajbhandari et al. 2020, by whole tensors). It computes the same. The
moving averages are kept in the same parts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from danqing.cluster.world import World
from danqing.families.base import Learner
from danqing.nets.gathering import Gathers
from danqing.nets.recomputing import Recomputes

_STILL = ("tokenizer", "guide")
"""Children that do not learn, whatever they are made of."""


def is_here(tensor: Tensor) -> bool:
    """Return whether a tensor has its values in this process."""
    return tensor.numel() == 0 or tensor.untyped_storage().nbytes() > 0


class Parts:
    """The parameters of a learner's blocks and of their averages, of which each process keeps some.

    At first all are whole.
    names: of the parameters that are in parts. mine: of those that this process keeps.
    """

    def __init__(
        self, learner: Learner, averages: Sequence[Learner], owners: Mapping[str, int], world: World
    ) -> None:
        """Divide the parameters of all blocks.

        owners: which process keeps a parameter, by its name; others are not divided.
        """
        self._blocks, self._averages, self.names = list[_Part](), list[_Part](), set[str]()
        for path, block in blocks_of(learner, {name.partition(".")[0] for name in owners}):
            names = [f"{path}.{name}" for name, _ in block.named_parameters()]
            self.names.update(names)
            part = _Part({name: learner.get_parameter(name) for name in names}, owners, world)
            part.attach(block)
            self._blocks.append(part)
            for average in averages:
                averaged = dict(average.named_parameters())
                of_block = {name: averaged[name] for name in names if name in averaged}
                self._averages.append(_Part(of_block, owners, world))
        self.mine = {name for name in self.names if owners[name] == world.rank}

    @property
    def averages_are_whole(self) -> bool:
        """Return whether this process has all values of the averages."""
        return all(part.is_whole for part in self._averages)

    def gather_averages(self, *, keeps: bool) -> None:
        """Give processes whole averages; all processes take part.

        keeps: whether this one needs them. Otherwise it has no more than those of one block at a time.
        """
        for part in self._averages:
            part.gather()
            if not keeps:
                part.release()

    def allocate(self) -> None:
        """Make room for all values, which are to be loaded."""
        for part in (*self._blocks, *self._averages):
            part.allocate()

    def release(self) -> None:
        """Drop the values that other processes keep."""
        for part in (*self._blocks, *self._averages):
            part.release()


class _Part:
    """The parameters of a block: by the process that keeps them, and which of them this one does not.

    is_whole: whether all have their values; the same in all processes, or about to be.
    """

    def __init__(self, parameters: Mapping[str, Tensor], owners: Mapping[str, int], world: World) -> None:
        self._world, self.is_whole = world, True
        self._kept = [
            [parameter for name, parameter in parameters.items() if owners[name] == rank]
            for rank in range(world.size)
        ]
        self._others = [
            (parameter, parameter.untyped_storage().nbytes())
            for name, parameter in parameters.items()
            if owners[name] != world.rank
        ]
        self._is_in_backward, self._waiting = False, set[Tensor]()

    def attach(self, block: nn.Module) -> None:
        """Gather the values whenever the block computes."""
        block.register_forward_pre_hook(lambda *_: self.gather())
        block.register_forward_hook(self._after_forward)
        for parameter in block.parameters():
            parameter.register_post_accumulate_grad_hook(self._after_gradient)

    def gather(self) -> None:
        """Get the values that other processes keep, if they are not here; all processes take part."""
        if self.is_whole:
            return
        self.allocate()
        for rank, parameters in enumerate(self._kept):
            self._world.spread([parameter.data for parameter in parameters], rank)

    def allocate(self) -> None:
        """Make room for the values that other processes keep."""
        self.is_whole = True
        for parameter, size in self._others:
            parameter.untyped_storage().resize_(size)

    def release(self) -> None:
        """Drop the values that other processes keep."""
        self.is_whole = self._is_in_backward = False
        for parameter, _ in self._others:
            # What the backward pass has saved of a parameter refers to this memory, which is filled again.
            parameter.untyped_storage().resize_(0)

    def _after_forward(self, block: nn.Module, inputs: Any, output: Any) -> None:
        outputs: Iterable[Any] = output if isinstance(output, tuple) else (output,)
        for tensor in outputs:
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._before_backward(block))
        if not self._is_in_backward:  # else the block has computed its activations again
            self.release()

    def _before_backward(self, block: nn.Module) -> None:
        self.gather()
        if not self._is_in_backward:
            self._is_in_backward = True
            self._waiting = {parameter for parameter in block.parameters() if parameter.requires_grad}

    def _after_gradient(self, parameter: Tensor) -> None:
        """Note that no backward pass will read a parameter again; drop the values after the last one."""
        self._waiting.discard(parameter)
        if not self._waiting and self._is_in_backward:
            self.release()


def blocks_of(learner: Learner, modules: set[str]) -> list[tuple[str, nn.Module]]:
    """Return the outermost blocks of the modules that are trained, with their paths.

    A learner that learns in its forward pass has none, because one process alone sees its first batch.
    """
    found = list[tuple[str, nn.Module]]()
    for path, module in learner.named_modules():
        child = path.partition(".")[0]
        if isinstance(module, Gathers) and child not in _STILL:
            return []
        is_within = any(path.startswith(f"{outer}.") for outer, _ in found)
        has_parameters = any(True for _ in module.parameters())
        if isinstance(module, Recomputes) and child in modules and has_parameters and not is_within:
            found.append((path, module))
    return found
