"""Services on the nodes of a Ray cluster: one on each of some nodes, and another where one is lost.

Ray Serve is not used: its proxy and its queue would stand before those of our service, which knows keys,
quotas, jobs and batches. The services share a PostgreSQL database. A load balancer asks each for `/readyz`.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from danqing import interpreter
from danqing.cluster.ray_jobs import LostNodeError, Node, RayCluster
from danqing.errors import ClusterError

DATABASE = "DANQING_DATABASE_URL"
"""The variable with the address of the database, which contains a password."""
_POLL_SECONDS = 0.5
_DRAIN_SECONDS = 90.0  # that a service may take to end
_PAUSE_SECONDS = 5.0  # before a service that ended by itself starts again
_ANYWHERE = ("0.0.0.0", "::")


def keep(
    cluster: RayCluster, count: int, words: Sequence[str], on_change: Callable[[str, str], None]
) -> None:
    """Keep `count` services running, each on a node of its own, until KeyboardInterrupt.

    A service takes all CPUs and GPUs of its node. One that ends, and one whose node is lost, is replaced.

    words: the arguments of `danqing serve`, the same for all. Paths are those of the nodes.
    on_change: hears of each change: an address, and "ready", "ended" or "lost".

    Raises ClusterError where there are too few nodes, where there is no database that the services share, and
    where a service ends before it was ready.
    """
    database = os.environ.get(DATABASE, "")
    if not database.startswith("postgresql"):
        raise ClusterError(
            f"Replicas share keys and jobs in PostgreSQL: set {DATABASE} to its address (postgresql://...)."
        )
    nodes = cluster.nodes()
    if count > len(nodes):
        raise ClusterError(
            f"{count} replicas need as many nodes, and the cluster has {len(nodes)}: add nodes, or start "
            "fewer."
        )
    replicas: list[_Replica] = []
    try:
        while True:
            free = [node for node in cluster.nodes() if node not in [each.node for each in replicas]]
            replicas += [_Replica(cluster, node, words, database) for node in free[: count - len(replicas)]]
            cluster.watch()
            for each in list(replicas):
                if not each.look(on_change):
                    replicas.remove(each)
            time.sleep(_POLL_SECONDS)
    finally:
        for each in replicas:
            each.ask_to_stop()
        for each in replicas:
            each.stop()


class _Replica:
    """A service on a node."""

    def __init__(self, cluster: RayCluster, node: Node, words: Sequence[str], database: str) -> None:
        self.node, self._url = node, ""
        self._host = cluster.start(ServiceHost, cpus=node.cpus, gpus=node.gpus, node=node)
        # Not with the constructor: Ray stores the arguments of that.
        self._host.begin("start", json.dumps(list(words)), database)

    def look(self, on_change: Callable[[str, str], None]) -> bool:
        """Return whether it is still there; raises ClusterError where it was never ready."""
        try:
            answer = self._host.poll("state")
        except LostNodeError:
            on_change(self._url or self.node.name, "lost")
            return False
        if answer is None:
            return True
        state = json.loads(answer)
        if state["url"] and not self._url:
            self._url = _reachable(state["url"], self.node.address)
            on_change(self._url, "ready")
        if state["running"]:
            return True
        self._host.kill()
        if not self._url:
            raise ClusterError(f"The service on {self.node.name} could not start: {state['error']}")
        on_change(self._url, "ended")
        time.sleep(_PAUSE_SECONDS)
        return False

    def ask_to_stop(self) -> None:
        self._host.begin("ask_to_stop")

    def stop(self) -> None:
        """Wait until its requests have ended, then end it."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        with contextlib.suppress(LostNodeError):
            while time.monotonic() < deadline:
                answer = self._host.poll("state")
                if answer is not None and not json.loads(answer)["running"]:
                    break
                time.sleep(0.1)
        self._host.kill()


class ServiceHost:
    """Runs `danqing serve` on a node; its log is in that of the Ray worker."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._said: dict[str, Any] = {}
        self._listening: threading.Thread | None = None

    def start(self, words: str, database: str) -> None:
        """Start the service.

        words: its arguments, as JSON. database: the address of its database, which is not logged.
        """
        self._process = subprocess.Popen(
            interpreter.command("danqing.cluster.tied_process", "serve", *json.loads(words), "--json"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**interpreter.environment(), DATABASE: database},
            start_new_session=True,
        )
        self._listening = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listening.start()

    def state(self) -> str:
        """Return its address once it is ready, whether it runs, and why not, as JSON."""
        process = self._process
        running = process is not None and process.poll() is None
        if not running and self._listening is not None:
            self._listening.join(5)  # its last words say why
        code = process.returncode if process is not None else None
        error = self._said.get("error", f"it ended with code {code}; see its log on the node.")
        return json.dumps({"url": self._said.get("url", ""), "running": running, "error": error})

    def ask_to_stop(self) -> None:
        """Let it finish its requests and end."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    self._said |= said


def _reachable(url: str, address: str) -> str:
    """Return the URL of a service with the address of its node, where it listens on all."""
    parts = urlsplit(url)
    if parts.hostname not in _ANYWHERE:
        return url
    host = f"[{address}]" if ":" in address else address
    return urlunsplit(parts._replace(netloc=host if parts.port is None else f"{host}:{parts.port}"))
