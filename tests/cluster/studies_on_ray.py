"""Studies and evaluations on a Ray cluster of two nodes give the results of one machine."""

import contextlib
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import danqing
from danqing.cluster import node_folder, replicas
from danqing.cluster.ray_jobs import LostNodeWarning, RayCluster
from danqing.errors import ClusterError
from danqing.training.listener import Listener
from danqing.training.run_files import read_json, read_lines
from tests.service import postgresql
from tests.small_run import SPACE, TRIAL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each; it answers at `address`, and the second one can be killed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as on a node
    folder = tempfile.mkdtemp(prefix="dq", dir="/tmp")  # short: the names of sockets are limited
    options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 10}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)  # of the nodes
        (Path(folder) / "ray").mkdir()  # where Ray notes the address of the cluster
        cluster = started(options, {"temp_dir": folder, "_system_config": quick})
    cluster.folder = Path(folder)
    yield cluster
    torch.set_num_threads(threads)
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def started(options: dict[str, Any], of_head: dict[str, Any]) -> Any:
    """Start two nodes; Ray gives up after half a minute, in which a busy machine may not start them."""
    from ray.cluster_utils import Cluster

    for attempt in range(5):
        cluster: Any = Cluster()
        try:
            cluster.add_node(**options, **of_head)
            cluster.second = cluster.add_node(**options)
            return cluster
        except Exception:
            cluster.shutdown()
            if attempt == 4:
                raise
    return None


@pytest.fixture(scope="module")
def searched(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial on a node that does not share our folder: it was interrupted, and then went on there."""
    folder = tmp_path_factory.mktemp("searched")

    @contextlib.contextmanager
    def unmarked(folder: Path) -> Iterator[str]:
        yield "a word that no node finds"

    def interrupt(done: float, total: float | None, text: str) -> None:
        if done > 0.3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_folder, "marked", unmarked)
        assert search(folder, nodes.address, on_progress=interrupt).status == "interrupted"
        run = read_json(folder / "search/trials/0001/run.json")
        assert run["status"] == "interrupted", "its folder came back"
        assert search(folder, nodes.address).status == "finished"
    return folder / "search"


def search(folder: Path, address: str, **more: Any) -> Any:
    (folder / "space.toml").write_text(SPACE, encoding="utf-8")
    return danqing.tune(
        "digits:0,1",
        preset="gan-32",
        size=(8, 8),
        images=4000,
        seed=1,
        trials=1,
        settings=TRIAL,
        space=folder / "space.toml",
        out=folder / "search",
        ray=address,
        **more,
    )


def check_same_alone(run: Path, out: Path) -> None:
    """A run on this machine with the same settings has the same weights, log and scores."""
    danqing.train("digits:0,1", config=run / "config.toml", out=out, listener=Listener())
    for name in ("model/model.safetensors", "log.jsonl"):
        assert (run / name).read_bytes() == (out / name).read_bytes()
    scores, others = ([line["score"] for line in read_lines(each / "scores.jsonl")] for each in (run, out))
    assert scores == others


def test_a_cluster_that_is_not_there_is_reported_in_a_sentence() -> None:
    for address, sentence in (("127.0.0.1:1", "There is no Ray cluster"), ("ray://a:1", "is not HOST:PORT")):
        with pytest.raises(ClusterError, match=sentence):
            RayCluster(address)


def test_what_a_cluster_lacks_is_reported_before_anything_starts(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClusterError, match="No node of the cluster has 2 CPUs; the largest has 1"):
        search(tmp_path, nodes.address, cpus=2)
    assert not list(tmp_path.glob("search/trials/*"))
    with RayCluster(nodes.address) as cluster:
        monkeypatch.delenv(replicas.DATABASE, raising=False)
        with pytest.raises(ClusterError, match="set DANQING_DATABASE_URL"):
            replicas.keep(cluster, 1, [], lambda address, change: None)
        monkeypatch.setenv(replicas.DATABASE, "postgresql://tests@/none")
        with pytest.raises(ClusterError, match="3 replicas need as many nodes, and the cluster has 2"):
            replicas.keep(cluster, 3, [], lambda address, change: None)


def test_an_interrupted_trial_on_a_node_without_our_folder_ends_as_it_would_here(
    nodes: Any, searched: Path, tmp_path: Path
) -> None:
    check_same_alone(searched / "best", tmp_path / "alone")
    assert not list(nodes.folder.glob("danqing-node-*")), "nothing is left on the node"


def test_an_evaluation_on_nodes_has_the_same_score_to_the_last_digit(nodes: Any, searched: Path) -> None:
    options: dict[str, Any] = {"features": "pixels", "n": 600, "metrics": "kernel,frechet,precision"}

    there = danqing.evaluate(searched / "best", "digits:0,1", ray=nodes.address, **options)
    here = danqing.evaluate(searched / "best", "digits:0,1", **options)

    assert there.scores == here.scores
    assert {score.images for score in there.scores} == {600}


@pytest.mark.skipif(postgresql.programs() is None, reason="needs PostgreSQL")
def test_a_replica_whose_process_is_killed_is_replaced_by_another(
    nodes: Any, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = postgresql.programs()
    assert programs is not None
    server = postgresql.Server(programs)
    server.start()
    told: list[tuple[str, str]] = []

    def hear(address: str, change: str) -> None:
        told.append((change, address))
        if change == "ready":
            assert httpx.get(f"{address}/readyz").json()["status"] == "ready"
            if len(told) > 1:
                raise KeyboardInterrupt
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if process.read_bytes().startswith(b"ray::ServiceHost"):
                        os.kill(int(process.parent.name), signal.SIGKILL)

    monkeypatch.setenv(replicas.DATABASE, server.new_database())
    words = [f"painter={searched / 'best'}", "--port", "0", "--data", str(searched / "service")]
    try:
        with RayCluster(nodes.address) as cluster, pytest.raises(KeyboardInterrupt):
            replicas.keep(cluster, 1, words, hear)
    finally:
        server.remove()
    (_, first), (_, lost), (_, second) = told
    assert [change for change, _ in told] == ["ready", "lost", "ready"]
    assert first == lost != second
    for address in (first, second):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz")


def test_a_comparison_goes_on_elsewhere_when_a_node_is_killed(nodes: Any, tmp_path: Path) -> None:
    told = list[str]()
    runs = tmp_path / "compared/runs"

    def kill(done: float, total: float | None, text: str) -> None:
        told.append(text)
        if nodes.second and all(read_lines(runs / name / "scores.jsonl") for name in ("gan-32", "vae-32")):
            nodes.remove_node(nodes.second, allow_graceful=False)
            nodes.second = None

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = danqing.compare(
            "digits:0,1",
            presets=["gan-32", "vae-32"],
            images=4000,
            size=(8, 8),
            settings={key: value for key, value in TRIAL.items() if key != "evaluation.features"},
            features="pixels",
            second_features="none",
            n=64,
            out=tmp_path / "compared",
            ray=nodes.address,
            on_progress=kill,
        )

    assert not nodes.second, "a node was killed"
    assert [one.status for one in found.contestants] == ["finished", "finished"]
    assert "Training gan-32, vae-32 (1, 2 of 2)" in told
    assert all("1 threads" in one.trained_on for one in found.contestants)
    warned = [str(each.message) for each in caught if issubclass(each.category, LostNodeWarning)]
    assert any("starts again on another node" in sentence for sentence in warned)
    assert any("was lost" in sentence and "Nodes left: 1" in sentence for sentence in warned)
    assert not list(tmp_path.glob("compared/.shared*"))
    for one in found.contestants:
        check_same_alone(runs / one.name, tmp_path / one.name)
