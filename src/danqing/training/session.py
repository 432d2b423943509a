"""What all parts of a run share: its settings, its images, its folder, and how far it is."""

from collections.abc import Sequence
from typing import Any

import torch

from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.families.base import Alarm, Family
from danqing.model.model import Model
from danqing.training import facts
from danqing.training.config import RunConfig
from danqing.training.engine import Engine
from danqing.training.growth import Growth
from danqing.training.listener import Listener
from danqing.training.position import Position
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
    """

    engine: Engine

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
    def family(self) -> Family:
        """Return the moving average of a learner that samples images."""
        family = self.engine.ema.learner
        assert isinstance(family, Family)
        return family

    def model(self) -> Model:
        """Return the moving average as a model."""
        return Model(self.family, self.trained())

    def trained(self) -> dict[str, Any]:
        """Return what the model folder says of the training so far."""
        first = self.stage.tokenized.facts if self.stage.tokenized else None
        precision, networks = self.engine.precision, self.engine.networks
        trained = facts.of_trained(self.position, precision, self.config, self.dataset, self.held, first)
        return trained | ({"networks": list(networks)} if networks else {})

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
