"""The folder of one run: its paths, its lock, its configuration and its facts."""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from danqing import atomic, folder_formats
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import ConfigError, TrainingError
from danqing.families import parse_config
from danqing.training import config_reading
from danqing.training.config import RunConfig, differences
from danqing.version import __version__

_WRITING_FACTS = threading.Lock()
"""Checkpoints are written in another thread, which writes facts too."""


class RunFolder:
    """A run's paths, its configuration, and its facts in `run.json`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.name = self.path.resolve().name
        self.config_file = self.path / "config.toml"
        self.from_data_file = self.path / "from_data.json"
        self.facts_file = self.path / "run.json"
        self.budget_file = self.path / "budget.json"
        self.log_file = self.path / "log.jsonl"
        self.timing_file = self.path / "timing.jsonl"
        self.goodput_file = self.path / "goodput.jsonl"
        self.privacy_file = self.path / "privacy.json"
        self.private_key_file = self.path / "private.key"
        self.scores_file = self.path / "scores.jsonl"
        self.transport_file = self.path / "transport.safetensors"
        self.generated_file = self.path / "generated.safetensors"
        self.prior_file = self.path / "prior.safetensors"
        self.pseudo_labels_file = self.path / "pseudo_labels.safetensors"
        self.samples = self.path / "samples"
        self.examination = self.path / "examination"
        self.checkpoints = self.path / "checkpoints"
        self.snapshots = self.path / "snapshots"
        self.tensorboard = self.path / "tensorboard"
        self.model = self.path / "model"
        self.report = self.path / "report.html"
        self.tokenizer = self.path / "tokenizer"

    def create(self) -> None:
        """Create the folder and its parts; raises TrainingError if that fails."""
        own = {".lock", self.samples.name, self.checkpoints.name}  # left by a process killed in here
        try:
            if atomic.present(self.path) - own and not self.config_file.exists():
                raise TrainingError(
                    f"{self.path} is not empty and is not a run folder: choose another --out."
                )
            for folder in (self.path, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()  # no name, so processes do not disturb each other
        except OSError as error:
            raise TrainingError(
                f"The run folder {self.path} cannot be written to ({error.strerror}): choose another --out."
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder.

        The lock is released when the process ends, however it ends. Raises TrainingError if another process
        has the lock, and as `check_format` does.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                self.check_format()  # before anything is written
                for folder in (self.path, self.samples, self.model, self.checkpoints):
                    atomic.remove_leftovers(folder)
                yield
        except Timeout as error:
            raise TrainingError(
                f"Another process is training in {self.path}: wait for it, or choose another --out."
            ) from error

    @property
    def has_checkpoints(self) -> bool:
        """Whether training has begun here and can be resumed."""
        return any(self.checkpoints.glob("images-*"))

    @property
    def has_finished(self) -> bool:
        """Whether training is finished here and has left its model."""
        return self.facts().get("status") == "finished" and (self.model / "config.json").exists()

    def check_images(self, dataset: Dataset, held: Held | None) -> None:
        """Raise TrainingError if the images have changed since the run began."""
        known = self.facts().get("data", {})
        pairs = [(known.get("fingerprint"), dataset.fingerprint)]
        if held is not None:
            pairs.append((known.get("judged", {}).get("fingerprint"), held.judged.fingerprint))
        if any(before not in (None, now) for before, now in pairs):
            raise TrainingError(
                f"The images differ from those with which the run in {self.path} began "
                f"({known.get('source')}): choose another --out; --init {self.path} goes on from its weights."
            )

    def settle_config(self, wanted: RunConfig, *, keeps_grains: bool = False) -> RunConfig:
        """Write a new run's configuration, or compare an existing one with `wanted`.

        That of an existing run is written once its images have been checked, whose place may have changed.
        The result has what the run has decided in place of "auto". The budget may change; other changes would
        make a different run and raise ConfigError. If there is neither a checkpoint nor a finished first
        stage, there is nothing to protect: the run begins again, with any settings.

        keeps_grains: whether an existing run keeps its number of grains, because no other is requested.
        """
        if not self.has_checkpoints and self.facts().get("progress", {}).get("images"):
            raise TrainingError(
                f"The checkpoints of the run in {self.path} are missing, so its model cannot be trained "
                "further: choose another --out."
            )
        first = RunFolder(self.tokenizer)
        if not (self.has_checkpoints or first.has_checkpoints or first.has_finished):
            self.write_config(wanted)
            begun = (self.facts_file, self.budget_file, self.from_data_file, self.goodput_file)
            for file in (*begun, self.privacy_file, self.private_key_file):
                file.unlink(missing_ok=True)
        else:
            with self.readable():
                recorded = config_reading.from_toml(self.config_file)
            recorded = recorded.with_evaluation(0)  # older runs say "auto" and are not evaluated
            assert recorded.evaluation.every_images != "auto"
            wanted = wanted.with_evaluation(recorded.evaluation.every_images)
            if keeps_grains:
                grains = {"grains": recorded.training.grains}
                wanted = wanted.model_copy(update={"training": wanted.training.model_copy(update=grains)})
            if changed := differences(recorded, wanted):
                raise ConfigError(
                    f"{self.path} holds a run with other settings ({', '.join(changed[:4])}): use the same "
                    f"settings to resume it (--config {self.config_file} has them all), or choose another "
                    "--out."
                )
        return wanted

    def check_format(self) -> None:
        """Raise TrainingError if the run has a format of another version."""
        facts = self.facts()
        if folder_formats.format_of(facts) != folder_formats.RUN:
            raise TrainingError(self._resumable_by(facts.get("version")))

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Raise TrainingError, naming the version to install, for unreadable content."""
        try:
            yield
        except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
            version = self.facts().get("version", __version__)
            if version == __version__:
                raise
            raise TrainingError(self._resumable_by(version)) from error

    def _resumable_by(self, version: object) -> str:
        return (
            f"{self.path} was written by {folder_formats.writer(version)}: install that version to resume it "
            f"({folder_formats.install_command(version)}), or choose another --out."
        )

    def write_config(self, config: RunConfig) -> None:
        """Write `config.toml`."""
        atomic.write_text(self.config_file, config.to_toml())

    def complete(
        self,
        config: RunConfig,
        dataset: Dataset,
        first_stage: Mapping[str, Any] | None = None,
        *,
        made: Callable[[], RunConfig] | None = None,
    ) -> RunConfig:
        """Return the configuration for its data, as it was when training began.

        `RunConfig.for_data` makes it. It is written down, so that a resumed run has the text encoder that it
        began with, even if a library or the hub would now give another one.

        first_stage: as of `for_data`.
        made: completes the configuration instead of `for_data`.
        """
        if self.has_checkpoints and self.from_data_file.exists():
            try:
                kept = json.loads(self.from_data_file.read_text(encoding="utf-8"))
                with self.readable():
                    model = parse_config({**config.model.model_dump(), **kept})
            except (ValueError, TypeError, ConfigError) as error:
                raise TrainingError(
                    f"{self.from_data_file} is damaged: restore it, or choose another --out."
                ) from error
            return config.model_copy(update={"model": model, "size": dataset.size})
        completed = config.for_data(dataset, first_stage) if made is None else made()
        kept = completed.model.model_dump(mode="json", include=set(completed.model.from_data))
        atomic.write_json(self.from_data_file, kept)
        return completed

    def facts(self) -> dict[str, Any]:
        """Return what `run.json` says; empty for a new run.

        Raises TrainingError if it is damaged.
        """
        if not self.facts_file.exists():
            return {}
        try:
            found = json.loads(self.facts_file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self.damaged(error) from error
        if not isinstance(found, dict):
            raise self.damaged("it is not a JSON object")
        return found

    def damaged(self, why: object) -> TrainingError:
        """Return the error for a `run.json` that this version cannot read."""
        return TrainingError(f"{self.facts_file} is damaged ({why}): restore it, or choose another --out.")

    @contextlib.contextmanager
    def recording_failure(self) -> Iterator[None]:
        """Record in `run.json` that an exception has ended the run."""
        try:
            yield
        except BaseException as error:
            if self.facts().get("status") == "running":
                stopped = isinstance(error, KeyboardInterrupt)
                self.update_facts(
                    status="interrupted" if stopped else "failed", reason=None if stopped else str(error)
                )
            raise

    def update_facts(self, **changes: Any) -> None:
        """Write `changes` into `run.json`."""
        with _WRITING_FACTS:
            atomic.write_json(self.facts_file, {"format": folder_formats.RUN} | self.facts() | changes)
