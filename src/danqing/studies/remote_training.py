"""Runs on the nodes of a cluster, for studies: each is the process that a study would start here."""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from danqing.cluster import node_folder
from danqing.cluster.node_folder import NodeFolder
from danqing.cluster.ray_jobs import RETRIES, LostNodeError, LostNodeWarning, RayCluster, RemoteObject
from danqing.errors import ClusterError
from danqing.studies.training_process import SAVING_TIME, StartsTraining, TrainingProcess, wait_until_free
from danqing.training.run_files import parse_lines, read_lines, read_text

_ANSWER_SECONDS = 0.5  # the longest that a node waits for news before it answers


class RemoteTrainings:
    """What starts the runs of a study on the nodes of a cluster; a context manager.

    folder: of the study. data: what all runs learn from. cpus: that each reserves, and as many threads; None
    for those of the smallest node.

    Raises ClusterError where nodes lack the data or the CPUs.
    """

    def __init__(
        self, address: str, folder: Path, data: str, *, cpus: int | None = None, device: str = "auto"
    ) -> None:
        self.folder = folder.resolve()
        self._exits = ExitStack()
        with ExitStack() as opened:
            self.cluster = opened.enter_context(RayCluster(address))
            self._word = opened.enter_context(node_folder.marked(self.folder))
            self.gpus = self.cluster.gpus_for(device)
            nodes = [node for node in self.cluster.nodes() if node.gpus >= self.gpus]
            self.cpus = cpus or min((node.cpus for node in nodes), default=1)
            self.cluster.check_room(self.cpus, self.gpus)
            self._check_data(data)
            self._exits = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._exits.close()

    def start(self, arguments: Mapping[str, Any], threads: int | None = None, /) -> "RemoteTraining":
        """Start a run on a node with room, as `TrainingProcess` starts one here.

        It has as many threads as the CPUs that it reserves, whatever `threads` says of this machine.
        """
        return RemoteTraining(self, arguments)

    def host(self) -> RemoteObject:
        """Start an object that runs a training process on a node with room."""
        return self.cluster.start(TrainingHost, str(self.folder), self._word, cpus=self.cpus, gpus=self.gpus)

    def _check_data(self, data: str) -> None:
        if not Path(data).exists():  # a name or an address, which means the same everywhere
            return
        for node, has_data in self.cluster.on_each_node(os.path.exists, data).items():
            if not has_data:
                raise ClusterError(
                    f"The node {node.name} does not have {data}: put the images on storage that all nodes "
                    "have under the same path, or name a built-in set or a URL."
                )


class RemoteTraining:
    """A run on a node, with the methods of `TrainingProcess`.

    A run whose node is lost starts again on another one: from its last checkpoint where the nodes share the
    study's folder, else as it was sent.
    """

    def __init__(self, trainings: RemoteTrainings, arguments: Mapping[str, Any]) -> None:
        self._trainings = trainings
        self._arguments = dict(arguments)
        self._part = Path(arguments["out"]).resolve().relative_to(trainings.folder).as_posix()
        self.done, self.total = 0, 0
        self.lost: list[str] = []
        self._state: dict[str, Any] = {"running": True}
        self._host: RemoteObject | None = None
        self._is_stopping = False
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet; asks its node."""
        if self._host is not None:
            self._trainings.cluster.watch()
            try:
                self._hear(self._host)
            except LostNodeError as error:
                self._start_again(error)
        return bool(self._state["running"])

    @property
    def interrupted(self) -> bool:
        """Whether it ended because it was stopped."""
        return bool(self._state.get("interrupted"))

    def ask_to_stop(self) -> None:
        """Let it save and end, without waiting."""
        self._is_stopping = True
        if self._host is not None:
            self._host.begin("ask_to_stop")

    def stop(self) -> None:
        """Let it save and end, and wait; safe to call again."""
        self.ask_to_stop()
        deadline = time.monotonic() + SAVING_TIME
        try:
            while self.running and self._is_placed and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:  # also after a second Ctrl-C: what it has saved before stays
            self._end({"running": False, "interrupted": True})

    def error(self) -> str:
        """Return why it failed, in one sentence; "" if it did not."""
        return str(self._state.get("error", ""))

    def score_lines(self) -> list[dict[str, Any]]:
        """Return the lines of its `scores.jsonl` so far."""
        if self._host is None or self._state.get("scores") is None:
            return read_lines(Path(self._arguments["out"]) / "scores.jsonl")
        return parse_lines(str(self._state["scores"]))

    @property
    def _is_placed(self) -> bool:
        return "node" in self._state

    def _start(self) -> None:
        self._state = {"running": True}
        self._host = self._trainings.host()
        self._host.begin("start", json.dumps(self._arguments), self._trainings.cpus)

    def _hear(self, host: RemoteObject) -> None:
        answer = host.poll("state", self._is_placed)
        if answer is None:
            return
        state = json.loads(answer)
        if state.get("waits_for_files"):
            node_folder.send(host, self._trainings.folder, self._inputs())
            host.begin("run")
        self._state |= state
        self.done, self.total = state["done"], state["total"]
        if not state["running"]:
            if state["has_copy"]:
                node_folder.fetch(host, self._trainings.folder, self._part)
            with contextlib.suppress(LostNodeError):
                host.call("remove")
            self._end(state)

    def _inputs(self) -> list[str]:
        """The parts of the study's folder that a run reads."""
        config, folder = Path(str(self._arguments.get("config", ""))), self._trainings.folder
        return [
            self._part,
            *([config.relative_to(folder).as_posix()] if config.is_relative_to(folder) else []),
        ]

    def _end(self, state: Mapping[str, Any]) -> None:
        host, self._host = self._host, None
        if host is not None:
            self._state = dict(state)
            host.kill()

    def _start_again(self, error: LostNodeError) -> None:
        node = str(self._state.get("node", "a node"))
        self.lost.append(node)
        self._end({"running": False, "interrupted": True})
        if self._is_stopping:
            return
        if len(self.lost) > RETRIES:
            self._state = {"running": False, "error": f"Its node was lost {len(self.lost)} times: {error}."}
            return
        sentence = f"{Path(self._part).name} starts again on another node: it ran on {node}, which was lost."
        warnings.warn(sentence, LostNodeWarning, stacklevel=4)
        self._start()


class TrainingHost(NodeFolder):
    """Runs a training process on a node, on behalf of a study elsewhere.

    folder: the absolute path of the study's folder there. word: shows whether this node shares it.
    """

    def __init__(self, folder: str, word: str) -> None:
        super().__init__(folder, word)
        self._arguments: dict[str, Any] = {}
        self._threads = 1
        self._process: TrainingProcess | None = None
        self._error = ""
        self._is_stopping = False

    def start(self, arguments: str, threads: int) -> None:
        """Start `train` with these arguments (JSON); a node with a copy waits for its files."""
        self._arguments, self._threads = self.localized(json.loads(arguments)), threads
        if self.is_shared:
            self.run()

    def run(self) -> None:
        """Start the process; safe to call again."""
        if self._process is not None or self._is_stopping:
            return
        try:
            wait_until_free(Path(self._arguments["out"]))
            self._process = TrainingProcess(self._arguments, self._threads)
        except OSError as error:
            self._error = f"The node could not start it: {error}."

    def ask_to_stop(self) -> None:
        """Let the process save and end."""
        self._is_stopping = True
        if self._process is not None:
            self._process.ask_to_stop()

    def state(self, wait: bool) -> str:
        """Return what is known of the run, as JSON.

        wait: for news, though not for long.
        """
        process = self._process
        told: dict[str, Any] = {"done": 0, "total": 0, "has_copy": False, "node": _name_of_this_node()}
        if process is None:
            told["running"] = not self._is_stopping and not self._error
            told |= {"interrupted": self._is_stopping, "error": self._error}
            told["waits_for_files"] = told["running"] and not self.is_shared
            return json.dumps(told)
        told["has_copy"] = not self.is_shared
        before, deadline = process.done, time.monotonic() + _ANSWER_SECONDS
        while wait and process.running and process.done == before and time.monotonic() < deadline:
            time.sleep(0.05)
        told["running"] = process.running
        if not told["running"]:
            process.stop()
            told |= {"interrupted": process.interrupted, "error": process.error()}
        told |= {"done": process.done, "total": process.total}
        if not self.is_shared:
            told["scores"] = read_text(Path(self._arguments["out"]) / "scores.jsonl")
        return json.dumps(told)


@contextmanager
def started_by(
    ray: str | None, folder: Path, data: str, *, cpus: int | None, device: str
) -> Iterator[StartsTraining]:
    """Yield what starts the runs of a study: here, or on the nodes of a Ray cluster.

    ray: the address of the cluster; None for this machine. cpus: that each run reserves on a node.

    Raises ClusterError.
    """
    if ray is None:
        if cpus is not None:
            raise ClusterError("--cpus reserves CPUs on the nodes of a cluster: give --ray, too.")
        yield TrainingProcess
        return
    with RemoteTrainings(ray, folder, data, cpus=cpus, device=device) as trainings:
        yield trainings.start


def _name_of_this_node() -> str:
    from ray.util import get_node_ip_address

    address: str = get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{os.uname().nodename} ({address})"
