"""The folder of one run: where everything lies, what is known of it, and who may write."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from danqing import atomic, folder_formats
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import ConfigError, TrainingError
from danqing.families import parse_config
from danqing.families.base import FamilyConfig
from danqing.training import config as configs
from danqing.training.config import RunConfig
from danqing.version import __version__


class RunFolder:
    """Paths within a run folder, its configuration, and `run.json`: the facts that the report is made
    from.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.toml"
        self.from_data_file = self.path / "from_data.json"
        self.facts_file = self.path / "run.json"
        self.budget_file = self.path / "budget.json"
        self.log_file = self.path / "log.jsonl"
        self.timing_file = self.path / "timing.jsonl"
        self.scores_file = self.path / "scores.jsonl"
        self.transport_file = self.path / "transport.safetensors"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.model = self.path / "model"
        self.report = self.path / "report.html"
        self.tokenizer = self.path / "tokenizer"

    def create(self) -> None:
        """Make the folder and its parts; raises TrainingError when it cannot be written to."""
        own = {".lock", self.samples.name, self.checkpoints.name}  # what a kill at birth leaves
        try:
            if atomic.present(self.path) - own and not self.config_file.exists():
                raise TrainingError(f"{self.path} is not empty and holds no run: choose another --out.")
            for folder in (self.path, self.samples, self.checkpoints):
                folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()  # has no name: others may try at the same time
        except OSError as error:
            raise TrainingError(
                f"The run folder {self.path} cannot be written to ({error.strerror}): choose another --out."
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this folder; the lock goes with the process, however it
        ends. Raises TrainingError where another process has it, and as `check_format`.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                self.check_format()  # before anything is written
                for folder in (self.path, self.samples, self.model):
                    atomic.remove_leftovers(folder)
                yield
        except Timeout as error:
            raise TrainingError(
                f"Another process is training in {self.path}: wait for it, or choose another --out."
            ) from error

    @property
    def has_checkpoints(self) -> bool:
        """Whether training has begun here, and can go on."""
        return any(self.checkpoints.glob("*.safetensors"))

    @property
    def has_finished(self) -> bool:
        """Whether training has come to its end here, and the model is there."""
        return self.facts().get("status") == "finished" and (self.model / "config.json").exists()

    def check_images(self, dataset: Dataset, held: Held | None) -> None:
        """Raise TrainingError where the images are not those that the run began with."""
        known = self.facts().get("data", {})
        pairs = [(known.get("fingerprint"), dataset.fingerprint)]
        if held is not None:
            pairs.append((known.get("judged", {}).get("fingerprint"), held.judged.fingerprint))
        if any(before not in (None, now) for before, now in pairs):
            raise TrainingError(
                f"The images have changed since the run in {self.path} began: choose another --out."
            )

    def settle_config(self, wanted: RunConfig) -> RunConfig:
        """Write the configuration of a new run, or hold `wanted` against that of the run that is there.

        What comes back has what the run has settled in place of "auto". The budget may change; anything else
        would make a different run, and raises ConfigError. A folder without a checkpoint, and without one or
        a finished model of a first stage, holds nothing to protect: a first try that failed may be mended and
        repeated.
        """
        if not self.has_checkpoints and self.facts().get("progress", {}).get("images"):
            raise TrainingError(
                f"The checkpoints of the run in {self.path} are gone: its model stays, and cannot be "
                "trained further; choose another --out."
            )
        first = RunFolder(self.tokenizer)
        if not (self.has_checkpoints or first.has_checkpoints or first.has_finished):
            for file in (self.facts_file, self.budget_file, self.from_data_file):
                file.unlink(missing_ok=True)
        else:
            with self.readable():
                recorded = configs.from_toml(self.config_file)
            recorded = recorded.evaluated(0)  # "auto" from before there was a choice
            assert recorded.evaluation.every_images != "auto"
            wanted = wanted.evaluated(recorded.evaluation.every_images)
            if changed := configs.differences(recorded, wanted):
                raise ConfigError(
                    f"{self.path} holds a run with other settings ({', '.join(changed[:4])}): use the same "
                    f"settings to go on with it (--config {self.config_file} has them all), or choose "
                    "another --out."
                )
        self.write_config(wanted)
        return wanted

    def check_format(self) -> None:
        """Raise TrainingError where another version wrote this run in a format that is not this version's."""
        facts = self.facts()
        if folder_formats.format_of(facts) != folder_formats.RUN:
            raise TrainingError(self._resumable_by(facts.get("version")))

    @contextlib.contextmanager
    def readable(self) -> Iterator[None]:
        """Raise TrainingError with the version to install where this one cannot read what another wrote."""
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
        self, config: RunConfig, dataset: Dataset, tokenizer: FamilyConfig | None = None
    ) -> RunConfig:
        """The configuration for its data, as `RunConfig.for_data` makes it when training begins.

        It is kept: whatever a library makes of the captions later, or a hub gives as the encoder of the same
        name, a run that has begun goes on with the words that it has learnt with.
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
        completed = config.for_data(dataset, tokenizer)
        kept = completed.model.model_dump(mode="json", include=set(completed.model.from_data))
        atomic.write_json(self.from_data_file, kept)
        return completed

    def facts(self) -> dict[str, Any]:
        """What `run.json` says; empty for a new run."""
        if not self.facts_file.exists():
            return {}
        return dict(json.loads(self.facts_file.read_text(encoding="utf-8")))

    @contextlib.contextmanager
    def honest(self) -> Iterator[None]:
        """Let `run.json` never say that a run is going on which an exception has ended."""
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
        atomic.write_json(self.facts_file, {"format": folder_formats.RUN} | self.facts() | changes)
