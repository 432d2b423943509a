"""Where else a run is logged: TensorBoard always, Weights & Biases or MLflow on request."""

import contextlib
import importlib.util
import netrc
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from danqing.errors import TrainingError, first_line
from danqing.training.config import flat
from danqing.training.run_folder import RunFolder

Service = Literal["wandb", "mlflow"]
_PROJECT = "danqing"


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The run that a tracker is opened for.

    images: seen by earlier processes.
    id: the tracker's name for the run; None if it has none yet.
    """

    folder: RunFolder
    config: Mapping[str, Any]
    images: int
    id: str | None

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name


class Tracker(Protocol):
    """One place that numbers and pictures are logged to, by the images seen.

    id: its name for the run, under which a resumed run continues.
    """

    id: str | None

    def log(self, values: Mapping[str, float], images: int) -> None: ...

    def picture(self, path: Path, images: int) -> None: ...

    def finish(self, status: str, summary: Mapping[str, float], model: Path) -> None:
        """End the log.

        status: finished, interrupted or failed.
        summary: numbers of the run as a whole.
        """
        ...


class Trackers:
    """The trackers of a run.

    A tracker that fails is dropped with a message; it never ends the run.
    """

    def __init__(self, trackers: Mapping[str, Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = dict(trackers), say

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Log numbers at `images` seen."""
        self._each(lambda tracker: tracker.log(values, images))

    def picture(self, path: Path, images: int) -> None:
        """Log a grid of samples."""
        self._each(lambda tracker: tracker.picture(path, images))

    def finish(self, status: str, summary: Mapping[str, float], model: Path) -> None:
        """Close all trackers; a further call does nothing."""
        self._each(lambda tracker: tracker.finish(status, summary, model))
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # a foreign service may raise anything, and the run matters more
                del self._trackers[name]
                self._say(_failure(name, error))


def open_trackers(
    service: str | None, folder: RunFolder, config: Mapping[str, Any], images: int, say: Callable[[str], None]
) -> Trackers:
    """Open TensorBoard, if it is installed, and the requested service.

    Raises TrainingError if the library of the service is not installed.
    """
    ids: dict[str, str] = folder.facts().get("trackers", {})
    opened: dict[str, Tracker] = {}
    for name in ("tensorboard", *([service] if service else [])):
        try:
            opened[name] = _KINDS[name](TrackedRun(folder, config, images, ids.get(name)))
        except ImportError:
            if name == service:
                raise TrainingError(_missing(name)) from None
        except Exception as error:
            say(_failure(name, error))
    ids |= {name: tracker.id for name, tracker in opened.items() if tracker.id is not None}
    if ids:
        folder.update_facts(trackers=ids)
    return Trackers(opened, say)


def check_service(service: str | None) -> None:
    """Raise TrainingError for an unknown service, and for W&B without a login."""
    if service is not None and service not in get_args(Service):
        raise TrainingError(f"There is no tracker {service!r}: choose {' or '.join(get_args(Service))}.")
    if service == "wandb" and importlib.util.find_spec("wandb") is not None:
        _refuse_wandb_without_login()


class TensorBoard:
    """Event files in the run folder.

    What an earlier process wrote after the run's `images` is hidden.
    """

    id: str | None = None

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder.tensorboard), purge_step=run.images or None)

    def log(self, values: Mapping[str, float], images: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)

    def picture(self, path: Path, images: int) -> None:
        with Image.open(path) as grid:
            pixels = np.asarray(grid.convert("RGB"))
        self._writer.add_image("samples", pixels, images, dataformats="HWC")
        self._writer.flush()

    def finish(self, status: str, summary: Mapping[str, float], model: Path) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run on W&B, with files in the run folder.

    WANDB_MODE=offline keeps it there, for `wandb sync` to upload later. WANDB_PROJECT and WANDB_ENTITY are
    read.
    """

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._image = wandb.Image
        self.id: str | None = run.id or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.name,
            id=self.id,
            resume="allow",
            dir=str(run.folder.path.resolve()),
            config=dict(run.config),
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], images: int) -> None:
        self._run.log(dict(values), step=images)  # W&B ignores a step that it has

    def picture(self, path: Path, images: int) -> None:
        self._run.log({"samples": self._image(str(path))}, step=images)

    def finish(self, status: str, summary: Mapping[str, float], model: Path) -> None:
        self._run.summary.update({**summary, "status": status, "model": str(model.resolve())})
        self._run.finish(exit_code=int(status == "failed"))


class MLflow:
    """A run on MLflow.

    It is in an SQLite file in the run folder, or at MLFLOW_TRACKING_URI.
    """

    def __init__(self, run: TrackedRun) -> None:
        for name, value in (("MLFLOW_DISABLE_TELEMETRY", "true"), ("MLFLOW_LOGGING_LEVEL", "WARNING")):
            os.environ.setdefault(name, value)
        import sqlalchemy  # noqa: F401 (MLflow needs it for its own file, and would fail later)
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric = Metric
        store = run.folder.path.resolve() / "mlflow"
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if address is None:
            store.mkdir(exist_ok=True)
            address = f"sqlite:///{(store / 'mlflow.db').as_posix()}"
        self._client = MlflowClient(tracking_uri=address)
        if run.id is None:
            place = None if os.environ.get("MLFLOW_TRACKING_URI") else (store / "artifacts").as_uri()
            self._id: str = self._client.create_run(self._experiment(place), run_name=run.name).info.run_id
            values = flat(run.config)
            self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in values.items()])
        else:
            self._id = run.id
            self._client.update_run(self._id, status="RUNNING")
        self._known = {name: self._last_step(name) for name in self._client.get_run(self._id).data.metrics}
        self.id: str | None = self._id

    def log(self, values: Mapping[str, float], images: int) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._metric(name, value, now, images)
            for name, value in values.items()
            if images > self._known.get(name, -1)  # a killed process may have written it already
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def picture(self, path: Path, images: int) -> None:
        self._client.log_artifact(self._id, str(path), "samples")

    def finish(self, status: str, summary: Mapping[str, float], model: Path) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(f"final/{name}", value, now, 0) for name, value in summary.items()]
        self._client.log_batch(self._id, metrics=metrics)
        self._client.set_tag(self._id, "model", str(model.resolve()))
        ends = {"finished": "FINISHED", "interrupted": "KILLED"}
        self._client.set_terminated(self._id, ends.get(status, "FAILED"))

    def _last_step(self, name: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(self._id, name))

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name, artifacts)


_KINDS: Mapping[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def _refuse_wandb_without_login() -> None:
    """Without a key, W&B would ask for one at the terminal and wait, hidden behind the progress bar."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode in ("offline", "dryrun", "disabled") or settings.api_key or settings.identity_token_file:
        return
    hosts = (urlsplit(str(settings.base_url)).hostname or "", "api.wandb.ai")  # old keys stay valid
    standard = [Path.home() / name for name in (".netrc", "_netrc")]
    for file in [Path(os.environ["NETRC"]).expanduser()] if os.environ.get("NETRC") else standard:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if any(map(netrc.netrc(file).authenticators, hosts)):
                return
    raise TrainingError("W&B has no key: log in with `wandb login`, or set WANDB_MODE=offline.")


def _missing(name: str) -> str:
    return f"The library of {name} is not installed: run `pip install 'danqing[{name}]'`."


def _failure(name: str, error: Exception) -> str:
    return f"Logging to {name} has stopped ({first_line(error)}); the run folder has everything."
