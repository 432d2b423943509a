"""What all parts of a run share: its settings, its images, its folder, and how far it is."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.families.base import Alarm, Family, Learner
from danqing.model.model import Model
from danqing.training import facts, privacy
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.growth import Growth
from danqing.training.listener import Listener
from danqing.training.position import Position
from danqing.training.privacy import Mechanism
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import Budget
from danqing.training.stage import Stage


class Session:
    """A run in this process.

    config: completed with `for_data`.
    folder: exists and is locked.
    held: if images are held out, those to score on; `dataset` is then the rest.
    stage: if the run has two stages, which of them this is.
    engine: set before the first step.
    mechanism: of a private run, once it is settled.
    """

    engine: Engine
    mechanism: Mechanism | None = None

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        folder: RunFolder,
        device: torch.device,
        listener: Listener,
        *,
        held: Held | None,
        stage: Stage,
    ) -> None:
        self.config, self.dataset, self.folder, self.listener = config, dataset, folder, listener
        self.device, self.held, self.stage = device, held, stage
        self.position = Position()
        self.budget = Budget.read(folder.budget_file)
        self.growth = Growth.of(config)

    @property
    def begins(self) -> tuple[int, ...]:
        """Return after how many images each size of a run that grows has begun."""
        return self.growth.begins(self.position.images, self.budget.totals)

    @property
    def learner(self) -> Learner:
        """Return the moving average."""
        return self.engine.ema.learner

    @property
    def family(self) -> Family:
        """Return the moving average of a learner that samples images."""
        family = self.learner
        assert isinstance(family, Family)
        return family

    def model(self) -> Model:
        """Return the moving average as a model."""
        return Model(self.family, self.trained(), name=self.folder.name)

    def trained(self) -> dict[str, Any]:
        """Return what the model folder says of the training so far."""
        first = self.stage.tokenized.facts if self.stage.tokenized else None
        precision, networks = self.engine.precision, self.engine.networks
        trained = facts.of_trained(self.position, precision, self.config, self.dataset, self.held, first)
        trained |= {"networks": list(networks)} if networks else {}
        trained |= facts.of_help(self.folder.facts())
        if (told := self.privacy()) is not None:
            trained["privacy"] = told
        return trained | ({"domain": self.domain} if self.domain else {})

    def privacy(self) -> dict[str, Any] | None:
        """Return what a private run has spent so far, as facts; None if the run is not private."""
        if self.config.private is None:
            return None
        return privacy.facts(self.config.private, self.mechanism, self.position.step)

    @functools.cached_property
    def domain(self) -> dict[str, Any] | None:
        """Return the domain of the model as facts; None without enough images, or for a private run."""
        if self.config.private is not None:
            return None
        found = facts.domain_of(self.dataset, self.config)
        return None if found is None else found.facts()

    def raise_alarms(self, alarms: Sequence[Alarm]) -> None:
        """Report alarms and write them to `run.json`."""
        for alarm in alarms:
            text = self.with_hint(alarm.text)
            fact = {"images": self.position.images, "kind": alarm.kind, "text": text}
            self.folder.update_facts(alarms=[*self.folder.facts().get("alarms", []), fact])
            self.listener.on_alarm(text)

    def with_hint(self, text: str) -> str:
        """Return a sentence that names settings, and where these are found if that is not obvious."""
        return f"{text} {self.stage.settings}".rstrip()
