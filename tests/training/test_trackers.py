"""Trackers are told what the log is told, through their own libraries and without a network."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.errors import TrainingError
from danqing.training import trackers
from danqing.training.run_folder import RunFolder
from tests.small_run import SCORED

SMALL = {**SCORED, "log_every_steps": "10"}


class Heard(dq.Listener):
    """Remembers the sentences."""

    def __init__(self):
        self.messages = []

    def on_message(self, text):
        self.messages.append(text)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def train(pictures, out, track, images, listener=None):
    return dq.train(
        pictures,
        preset="vae-32",
        out=out,
        images=images,
        size=(6, 9),
        settings=SMALL,
        evaluate_every=320,
        track=track,
        listener=listener or Heard(),
    )


def test_mlflow_reads_back_what_was_logged_and_a_resumed_run_goes_on(pictures, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    run = train(pictures, tmp_path / "run", "mlflow", 640)
    run = train(pictures, tmp_path / "run", "mlflow", 960)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.folder / 'mlflow/mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("danqing").experiment_id])
    assert found.info.run_id == RunFolder(run.folder).facts()["trackers"]["mlflow"]
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["optimizer.learning_rate"] == "0.001"
    assert found.data.tags["model"] == str(run.model.resolve())
    assert found.data.metrics["final/best/kernel"] == run.best["value"]
    history = client.get_metric_history(found.info.run_id, "autoencoder/loss")
    assert [metric.step for metric in history] == [160, 320, 480, 640, 800, 960]
    assert history[-1].value == run.final["autoencoder/loss"]
    scored = client.get_metric_history(found.info.run_id, "held-out/kernel")
    assert [metric.step for metric in scored] == [320, 640, 960]
    grids = [file.path for file in client.list_artifacts(found.info.run_id, "samples")]
    assert "samples/000000960.png" in grids
    assert (run.folder / "mlflow/artifacts" / found.info.run_id / "artifacts" / grids[-1]).exists()


def test_wandb_keeps_one_run_offline_in_the_run_folder(pictures, tmp_path):
    pytest.importorskip("wandb")
    run = train(pictures, tmp_path / "run", "wandb", 640)
    run = train(pictures, tmp_path / "run", "wandb", 960)
    name = RunFolder(run.folder).facts()["trackers"]["wandb"]
    files = sorted((run.folder / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) in (1, 2)  # a second within the same second goes into the same folder
    logged, summary = {}, {}
    for record in (record for file in files for record in read_wandb(file)):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for key, value in items.items():
                if not key.startswith("_"):
                    logged.setdefault(key, []).append((int(items["_step"]), value))
        if record.WhichOneof("record_type") == "summary":
            summary |= {"/".join(i.nested_key) or i.key: i.value_json for i in record.summary.update}
    steps = [step for step, _ in logged["autoencoder/loss"]]
    assert steps == [160, 320, 480, 640, 800, 960]
    assert float(logged["autoencoder/loss"][-1][1]) == run.final["autoencoder/loss"]
    assert [step for step, _ in logged["held-out/kernel"]] == [320, 640, 960]
    assert (960, '"image-file"') in logged["samples/_type"]
    assert summary["status"] == '"finished"'
    assert float(summary["best/kernel"]) == run.best["value"]


def test_tensorboard_reads_back_what_was_logged(pictures, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(pictures, tmp_path / "run", None, 640)
    board = accumulator.EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("autoencoder/loss")] == [160, 320, 480, 640]
    assert [event.step for event in board.Scalars("held-out/kernel")] == [320, 640]
    assert [event.step for event in board.Images("samples")] == [0, 320, 640]


class Broken:
    """A tracker whose service goes away after the first call."""

    id = "7"

    def __init__(self, run):
        self.calls = 0

    def log(self, values, images):
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("the service is gone\nsecond line")

    def picture(self, path, images):
        pass

    def finish(self, status, summary, model):
        raise AssertionError("it has been left out")


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers._KINDS, "wandb", Broken)
    heard = Heard()
    run = train(pictures, tmp_path / "run", "wandb", 640, heard)
    assert run.status == "finished"
    assert heard.messages == [
        "Logging to wandb has stopped (the service is gone); the run folder has everything."
    ]


def test_a_service_that_cannot_be_reached_is_one_sentence(pictures, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-scheme://here")
    heard = Heard()
    assert train(pictures, tmp_path / "run", "mlflow", 320, heard).status == "finished"
    assert len(heard.messages) == 1
    assert heard.messages[0].startswith("Logging to mlflow has stopped")


def test_a_service_that_is_unknown_or_not_installed_is_refused(pictures, tmp_path, monkeypatch):
    with pytest.raises(TrainingError, match="choose wandb or mlflow"):
        train(pictures, tmp_path / "run", "comet", 320)
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(trackers._KINDS, "wandb", lambda run: __import__("no_such_module"))
    with pytest.raises(TrainingError, match=r"pip install 'danqing\[wandb\]'"):
        train(pictures, tmp_path / "run", "wandb", 320)


@pytest.mark.parametrize(
    ("known", "refused"),
    [
        ({}, True),
        ({"WANDB_MODE": "offline"}, False),
        ({"NETRC": "machine api.wandb.ai login user password " + "0" * 40}, False),
    ],
    ids=["nothing", "offline", "netrc"],
)
def test_wandb_without_a_login_is_refused_and_never_asks(tmp_path, known, refused):
    pytest.importorskip("wandb")
    names = ("WANDB_", "NETRC", "HOME")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    if "NETRC" in known:
        file = tmp_path / "netrc"
        file.write_text(known["NETRC"])
        file.chmod(0o600)
        known = {"NETRC": str(file)}
    code = "from danqing.training.trackers import check_service; check_service('wandb')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": str(tmp_path), **known},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode != 0) == refused, done.stderr
    assert ("TrainingError: W&B has no key: log in with `wandb login`" in done.stderr) == refused


def read_wandb(path):
    """The records of a `.wandb` file: a LevelDB log (blocks of 32 KiB; checksum, length, kind) behind seven
    bytes of its own.
    """
    from wandb.proto import wandb_internal_pb2 as proto

    content, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = proto.Record()  # type: ignore[attr-defined]  # made when it is imported
            record.ParseFromString(part)
            yield record
            part = b""
