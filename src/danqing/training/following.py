"""Processes that compute a run together: the first one leads, and the others do what it orders.

Whatever depends on time, on memory or on a signal is decided by the first process alone. It writes the run
folder. The others keep the same weights, since they take the same steps.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.cluster.world import World, world
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.nets.recomputing import recompute_blocks
from danqing.precision import Precision
from danqing.training import captions, checkpoint
from danqing.training.codes import Codes, streamed
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.grains import grains_of
from danqing.training.interruption import Interruption
from danqing.training.listener import Listener
from danqing.training.run_batches import Material, open_batches
from danqing.training.run_folder import RunFolder
from danqing.training.validation import BEST

OpenData = Callable[[str, RunConfig, Listener], tuple[RunConfig, Dataset, Held | None]]


class Lead:
    """What the first process of a run orders the others to do.

    It orders before it does the same itself.
    """

    def __init__(self) -> None:
        self._world = world()

    def open(self, config: RunConfig, dataset: Dataset) -> None:
        """Let the others open the images, which are in the cache."""
        self._order("open", config=config, fingerprint=dataset.fingerprint)

    def begin(
        self,
        config: RunConfig,
        folder: RunFolder,
        codes: Codes | None,
        precision: Precision,
        recomputes: bool,
    ) -> None:
        """Let the others prepare for the steps of a stage.

        config: completed for the data.
        codes: of the images, in a second stage.
        recomputes: whether blocks compute their activations again.
        """
        path = None if codes is None else str(codes.path or "")
        self._order("begin", config=config, folder=folder, codes=path, precision=precision, again=recomputes)

    def load(self, engine: Engine, found: Mapping[str, Tensor] | None = None) -> None:
        """Give the others the state of an engine.

        found: the checkpoint that it has loaded, if any: it has more than one process keeps.
        """
        if self._world.size == 1:
            return
        tensors = (
            engine.tensors()
            if found is None
            else {name: tensor for name, tensor in found.items() if not name.startswith(BEST)}
        )
        forms = [
            [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape), tensor.device.type == "cpu"]
            for name, tensor in tensors.items()
        ]
        self._order("load", forms=forms, counts=engine.meter.counts)
        for tensor in tensors.values():  # one by one, since a process may not have room for all of them
            self._world.spread([tensor])
        engine.release()

    def step(self, images: int, step: int, total: int, scale: float, begins: Sequence[int] | None) -> None:
        """Let the others take a step, with the arguments of `Engine.step`."""
        self._order("step", arguments=(images, step, total, scale, begins))

    def save(self, images: int) -> None:
        """Let the others write their part of a checkpoint."""
        self._order("save", images=images)

    def finds_finite(self, engine: Engine) -> bool:
        """Return whether every weight and every average is a number, also of those that others keep."""
        if engine.parts:
            self._order("check")
        return engine.weights_are_finite()

    @contextlib.contextmanager
    def whole_averages(self, engine: Engine) -> Iterator[None]:
        """Let this process have whole averages for a block; it then computes alone."""
        if engine.parts is None or engine.parts.averages_are_whole:
            yield
            return
        self._order("lend")
        engine.parts.gather_averages(keeps=True)
        try:
            yield
        finally:
            engine.release()

    def written(self) -> None:
        """Wait until the others have written their part of the last checkpoint.

        Raises TrainingError at once if one of them could not.
        """
        self._order("written")
        for failure in self._world.gathered(""):
            if failure:
                raise TrainingError(failure)

    def end(self, run: Mapping[str, Any]) -> None:
        """Let the others return; run: the result, as plain values."""
        self._order("end", run=run)

    def _order(self, name: str, **arguments: Any) -> None:
        if self._world.size == 1:
            return
        for key, value in arguments.items():
            if isinstance(value, RunConfig):
                arguments[key] = value.model_dump(mode="json")
            elif isinstance(value, RunFolder):
                arguments[key] = str(value.path.resolve())
        self._world.agreed({"order": name, **arguments})


def follow(here: World, device: torch.device, open_data: OpenData) -> dict[str, Any]:
    """Do what the first process orders; returns the result as plain values.

    open_data: opens the images of a run, as of `training.run_data`.
    """
    follower = _Follower(here, device, open_data)
    with Interruption().handling_signals():  # the first process decides when to stop
        while (order := here.agreed())["order"] != "end":
            getattr(follower, order.pop("order"))(**order)
    return dict(order["run"])


class _Follower:
    """A process that is not the first of its run. Its methods are the orders of `Lead`."""

    _dataset: Dataset
    _held: Held | None
    _engine: Engine
    _writer: checkpoint.Writer

    def __init__(self, here: World, device: torch.device, open_data: OpenData) -> None:
        self._world, self._device, self._open_data = here, device, open_data
        self._listener = Listener()

    def open(self, config: dict[str, Any], fingerprint: str) -> None:
        wanted = RunConfig.model_validate(config)
        _, self._dataset, self._held = self._open_data(wanted.source, wanted, self._listener)
        if self._dataset.fingerprint != fingerprint:
            raise TrainingError(
                f"Process {self._world.rank + 1} finds other images at {wanted.source} than the first "
                "process: all machines need the same ones."
            )

    def begin(
        self, config: dict[str, Any], folder: str, codes: str | None, precision: Precision, again: bool
    ) -> None:
        self.__dict__.pop("_engine", None)  # with which steps have been measured
        completed = RunConfig.model_validate(config)
        read = None if codes is None else self._codes(codes)
        captions.read(completed.model, self._dataset, self._listener)  # from where the first has kept them
        material = Material(completed, self._dataset, self._held, read, RunFolder(folder), self._device)
        grains = grains_of(completed)
        assert grains is not None
        if self._device.type == "cpu":
            torch.set_num_threads(grains.threads())
        self._writer = checkpoint.Writer(RunFolder(folder).checkpoints, self._world.rank, self._world.size)
        batches = open_batches(material, self._listener, is_begun=True)
        self._engine = Engine(completed, batches, self._device, precision, grains=grains)
        recompute_blocks(self._engine.learner, again)

    def _codes(self, path: str) -> Codes:
        stream = self._dataset.stream
        if not path and stream is not None:
            return streamed(self._dataset, stream)
        return Codes.open(Path(path), len(self._dataset))

    def load(self, forms: list[list[Any]], counts: dict[str, int]) -> None:
        tensors = dict[str, Tensor]()
        for name, dtype, shape, on_cpu in forms:
            device = "cpu" if on_cpu else self._device
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
            self._world.spread([tensor])
            if self._engine.keeps(name):
                tensors[name] = tensor
        self._engine.load_tensors(tensors, counts)
        self._engine.release()

    def save(self, images: int) -> None:
        self._writer.begin(images, self._engine.shared(), {}, own=self._engine.own())

    def check(self) -> None:
        self._engine.weights_are_finite()

    def lend(self) -> None:
        assert self._engine.parts is not None
        self._engine.parts.gather_averages(keeps=False)

    def written(self) -> None:
        failure = None
        try:
            self._writer.wait()
        except Exception as error:  # the first process must not wait for a part that will not come
            failure = error
        self._world.gathered("" if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure

    def step(self, arguments: list[Any]) -> None:
        self._writer.check()
        self._engine.step(*arguments)
