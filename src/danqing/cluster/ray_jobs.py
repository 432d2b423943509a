"""A thin layer over Ray: our own functions and objects, on the nodes of a cluster that exists.

Ray decides which node has room. Nothing here schedules, and nothing starts or stops a cluster.
"""

import collections
import importlib.util
import os
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from danqing.errors import ClusterError, first_line
from danqing.version import __version__

RETRIES = 3
"""How often work whose node was lost starts again."""
_WATCH_SECONDS = 1.0
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0


class LostNodeWarning(UserWarning):
    """A node of a cluster was lost."""


class LostNodeError(Exception):
    """The node of a remote object was lost, or its process died."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster that has CPUs.

    name: its host name and address.
    """

    identity: str
    name: str
    address: str
    cpus: int
    gpus: int


class RayCluster:
    """A connection to a Ray cluster that exists; a context manager that closes it.

    address: "auto" for the cluster of this machine (or of `RAY_ADDRESS`), or HOST:PORT of its head node.

    Raises ClusterError.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ClusterError("A cluster needs Ray: pip install 'danqing[cluster]'.")
        import ray

        self._ray: Any = ray  # an extra without types
        self._opened = not ray.is_initialized()
        if self._opened:
            self._connect(address)
        self._known: dict[str, Node] = {}
        self._watched = time.monotonic()
        try:
            self._known = {node.identity: node for node in self.nodes()}
            if not self._known:
                raise ClusterError("No node of the Ray cluster has a CPU: start one with ray start.")
            self._check_versions()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, which ends everything that was started; safe to call again."""
        if self._opened:
            self._opened = False
            self._ray.shutdown()

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive and have a CPU, in the order of their names."""
        found = []
        for each in self._ray.nodes():
            resources = each.get("Resources", {})
            if each["Alive"] and resources.get("CPU", 0) >= 1:
                host, address = str(each["NodeManagerHostname"]), str(each["NodeManagerAddress"])
                cpus, gpus = int(resources["CPU"]), int(resources.get("GPU", 0))
                found.append(Node(each["NodeID"], f"{host} ({address})", address, cpus, gpus))
        return sorted(found, key=lambda node: (node.name, node.identity))

    def watch(self) -> None:
        """Warn of nodes that were lost since the last call; looks once a second at most."""
        if time.monotonic() - self._watched < _WATCH_SECONDS:
            return
        self._watched = time.monotonic()
        alive = {node.identity: node for node in self.nodes()}
        for identity in self._known.keys() - alive.keys():
            sentence = (
                f"The node {self._known[identity].name} was lost ({identity[:8]}): what ran on it starts "
                f"again elsewhere. Nodes left: {len(alive)}."
            )
            warnings.warn(sentence, LostNodeWarning, stacklevel=2)
        self._known = alive

    def gpus_for(self, device: str) -> int:
        """Return how many GPUs a process reserves that computes on `device`: 0 or 1."""
        kind = device.partition(":")[0]
        if kind == "auto":
            return int(any(node.gpus for node in self.nodes()))
        return int(kind == "cuda")

    def check_room(self, cpus: int, gpus: int = 0) -> None:
        """Raise ClusterError unless a node has this many CPUs and GPUs."""
        nodes = self.nodes()
        if not any(node.cpus >= cpus and node.gpus >= gpus for node in nodes):
            largest = max((node.cpus for node in nodes), default=0)
            with_gpus = f" and {gpus} GPU" if gpus else ""
            raise ClusterError(
                f"No node of the cluster has {cpus} CPUs{with_gpus}; the largest has {largest} CPUs: "
                "request fewer by --cpus, or another --device."
            )

    def on_each_node(self, function: Callable[..., Any], *arguments: Any) -> dict[Node, Any]:
        """Call a function of ours on every node at once; returns the results by node."""
        task, nodes = self._ray.remote(function), self.nodes()
        calls = [task.options(num_cpus=0, **self._on(node)).remote(*arguments) for node in nodes]
        return dict(zip(nodes, (self._result(call) for call in calls), strict=True))

    def start(
        self, kind: type, *arguments: Any, cpus: int, gpus: int = 0, node: Node | None = None
    ) -> "RemoteObject":
        """Create an object of ours on a node with room.

        It waits where no node has room now.

        kind: a class in a module of ours. arguments: of its constructor: text, numbers or bytes.
        node: where it must be; None for any.
        """
        place = {"scheduling_strategy": "SPREAD"} if node is None else self._on(node)
        remote = self._ray.remote(kind).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, **place)
        return RemoteObject(self._ray, remote.remote(*arguments))

    def compute(
        self,
        prepare: Callable[[Any], Any],
        work: Callable[[Any, Any], Any],
        common: Any,
        calls: Iterable[Any],
        *,
        cpus: int,
        gpus: int = 0,
    ) -> Iterator[Any]:
        """Yield `work(prepare(common), call)` of each call, in their order, computed on all nodes.

        prepare: called once in each process, and its result is kept for the calls that follow.
        common: sent to each node once.

        A call whose node is lost is computed again. Raises ClusterError where that happens too often, and the
        DanqingError of a call.
        """
        self.check_room(cpus, gpus)
        task = self._ray.remote(_compute).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        at_once = 2 * max(1, sum(node.cpus // max(1, cpus) for node in self.nodes()))
        key, stored = uuid.uuid4().hex, [self._ray.put(common)]  # in a list: fetched when needed, not before
        waiting: collections.deque[Any] = collections.deque()
        try:
            for call in calls:
                waiting.append(task.remote(prepare, work, key, stored, call))
                if len(waiting) >= at_once:
                    yield self._outcome(waiting)
            while waiting:
                yield self._outcome(waiting)
        finally:
            for call in waiting:
                self._ray.cancel(call, force=True)

    def _outcome(self, waiting: "collections.deque[Any]") -> Any:
        error, found = self._result(waiting[0])
        waiting.popleft()
        if error is not None:
            raise error
        return found

    def _result(self, call: Any) -> Any:
        errors = self._ray.exceptions
        while not self._ray.wait([call], timeout=_WATCH_SECONDS)[0]:
            self.watch()
        try:
            return self._ray.get(call)
        except errors.RayTaskError:  # a defect of ours, with its traceback
            raise
        except errors.RayError as error:
            raise ClusterError(
                f"A part of the work failed {RETRIES + 1} times, since its node or process died: "
                f"{_brief(error)}"
            ) from error

    def _on(self, node: Node) -> dict[str, Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node.identity, soft=False)}

    def _connect(self, address: str) -> None:
        if "://" in address:
            raise ClusterError(
                f"{address} is not HOST:PORT: run this command on a node of the cluster, with --ray auto."
            )
        if address != "auto":
            host, _, port = address.rpartition(":")
            try:  # Ray itself would try for a minute
                socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
            except (OSError, ValueError, OverflowError) as error:
                raise ClusterError(
                    f"There is no Ray cluster at {address}: write HOST:PORT of its head node, or auto on a "
                    "node of it."
                ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise ClusterError(
                f"The Ray cluster at {address} cannot be used from here ({_brief(error)}): run this "
                "command on one of its nodes."
            ) from error

    def _check_versions(self) -> None:
        for node, version in self.on_each_node(_version).items():
            if version != __version__:
                raise ClusterError(
                    f"The node {node.name} has Danqing {version}, and this is {__version__}: install the "
                    "same version on all nodes."
                )


class RemoteObject:
    """An object of ours in a process on some node."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._pending: Any = None

    def poll(self, method: str, *arguments: Any) -> Any:
        """Return the answer of the call that the last `poll` has begun, or None while there is none.

        The next call begins when the answer was returned. Raises LostNodeError.
        """
        if self._pending is None:
            self._pending = getattr(self._actor, method).remote(*arguments)
        if not self._ray.wait([self._pending], timeout=0)[0]:
            return None
        pending, self._pending = self._pending, None
        try:
            return self._get(pending)
        except self._ray.exceptions.ActorUnavailableError:
            return None  # perhaps for a moment: the next call says whether it is lost

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method that may safely be called twice, and wait for its answer; raises LostNodeError."""
        deadline = time.monotonic() + _SILENCE_SECONDS
        while True:
            try:
                return self._get(getattr(self._actor, method).remote(*arguments))
            except self._ray.exceptions.ActorUnavailableError as error:
                if time.monotonic() > deadline:
                    raise LostNodeError(_brief(error)) from error
                time.sleep(_WATCH_SECONDS)

    def begin(self, method: str, *arguments: Any) -> None:
        """Call a method without waiting."""
        getattr(self._actor, method).remote(*arguments)

    def kill(self) -> None:
        """End its process; safe to call again."""
        self._ray.kill(self._actor)

    def _get(self, call: Any) -> Any:
        try:
            return self._ray.get(call)
        except self._ray.exceptions.ActorUnavailableError:
            raise
        except self._ray.exceptions.RayActorError as error:
            raise LostNodeError(_brief(error)) from error


def _version() -> str:
    return __version__


_prepared: tuple[str, Any] = ("", None)


def _compute(
    prepare: Callable[[Any], Any], work: Callable[[Any, Any], Any], key: str, stored: list[Any], call: Any
) -> tuple[Exception | None, Any]:
    """Compute a call in a process of Ray's; a user's mistake is returned, since Ray would rewrite it."""
    import ray

    from danqing.errors import DanqingError

    global _prepared
    try:
        if _prepared[0] != key:
            _prepared = ("", None)  # what it holds must go first
            _prepared = (key, prepare(ray.get(stored[0])))
        return None, work(_prepared[1], call)
    except DanqingError as error:
        return error, None


def _brief(error: BaseException) -> str:
    return first_line(error).rstrip(".")
