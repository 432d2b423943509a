"""The first stage of a run: a tokenizer, trained or brought along, and the codes that it makes of images.

It is an ordinary run in the folder `tokenizer` of the run, with its share of the budget. What is trained
after it never changes it, and a run whose second stage has begun goes on with that tokenizer or not at all.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from danqing import families, machine, weights
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import ConfigError, TrainingError
from danqing.families.base import Family, FamilyConfig, HasTokenizer, Tokenizes
from danqing.model import folder as model_folder
from danqing.model import loading
from danqing.training import captions, codes, facts
from danqing.training.codes import CodedBatches, Codes, augmentation, batch_options
from danqing.training.config import FREE, SHARED, EvaluationConfig, RunConfig, from_toml, parse
from danqing.training.estimate import estimate
from danqing.training.interruption import Interruption
from danqing.training.listener import Listener, Plan
from danqing.training.position import Position
from danqing.training.report import document as report
from danqing.training.run_folder import RunFolder
from danqing.training.stage import OF_TOKENIZER, PRIOR, TOKENIZER, Stage, Tokenized
from danqing.training.trainer import Trainer
from danqing.version import __version__


class FirstStage:
    """What a run does before its own training, where its configuration names a tokenizer.

    The folder must exist and be locked; `config` is not yet completed for the data.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        held: Held | None,
        folder: RunFolder,
        device: torch.device,
        listener: Listener,
    ) -> None:
        assert config.tokenizer is not None
        self.config, self.dataset, self.held = config, dataset, held
        self.folder, self.device, self.listener = folder, device, listener
        self.own = RunFolder(folder.tokenizer)
        self.wanted = config.tokenizer
        self._begun = folder.has_checkpoints
        """Whether the second stage has begun: its tokenizer is then what it is."""
        self._learnt_from = dataset.fingerprint
        self._known: tuple[FamilyConfig, RunConfig] | None = None

    def run(self) -> tuple[RunConfig, Stage] | None:
        """The second stage with its configuration, completed and with what is left of the budget; None where
        the user stopped the first.

        Raises DanqingError; what went wrong then stands in the facts of the run.
        """
        self._write_facts()
        try:
            family = self._brought() if self.wanted.model else self._trained()
            tokenized = self._tokenized(family) if family is not None else None
        except BaseException as error:
            if not self._begun:  # else nothing has been lost, and the run is what it was
                stopped = isinstance(error, KeyboardInterrupt)
                self._close("interrupted" if stopped else "failed", None if stopped else str(error))
            raise
        if tokenized is None:
            self._close("interrupted")
            return None
        completed = self._completed(tokenized.tokenizer.config)
        return left_for_the_second(completed, tokenized.facts), Stage(PRIOR, tokenized=tokenized)

    def _brought(self) -> Family:
        """The tokenizer of a model that is there already."""
        model = loading.load(self.wanted.model)
        family = model.family
        told = [model.facts.get(name, {}).get("fingerprint") for name in ("tokenizer", "data")]
        self._learnt_from = told[0] or told[1] or "unknown"
        if isinstance(family, HasTokenizer) and isinstance(family.tokenizer, Family):
            family = family.tokenizer
        if not isinstance(family, Tokenizes):
            raise ConfigError(f"{self.wanted.model} is no tokenizer: give a vqvae, or a model that has one.")
        size, channels = (family.config.width, family.config.height), family.config.channels
        if (size, channels) != (self.dataset.size, self.dataset.channels):
            here, there = "{}x{}".format(*self.dataset.size), "{}x{}".format(*size)
            mend = [f"--size {there}"] if size != self.dataset.size else []
            if channels != self.dataset.channels:
                mend.append(f"--set data.channels={channels}")
                mend += ["--set data.alpha=keep"] if channels in (2, 4) else []
            raise ConfigError(
                f"The tokenizer {self.wanted.model} knows images of {there} with {channels} channels, and "
                f"these are {here} with {self.dataset.channels}: choose {' '.join(mend)}."
            )
        if self.held is not None and self._learnt_from != self.dataset.fingerprint and not self._begun:
            self.listener.on_message(
                f"The tokenizer {self.wanted.model} learnt from other images than this run does, and those "
                "that are held out may be among them: scores may flatter; to be sure, leave --tokenizer out."
            )
        return family

    def _trained(self) -> Family | None:
        """The tokenizer after its training, or after the rest of it; None where the user stopped it."""
        if self._begun and not self.own.model.exists():
            raise TrainingError(
                f"The tokenizer in {self.own.path} is gone, and the run was built on it: restore that "
                "folder, or choose another --out."
            )
        if self._begun or self.own.has_finished:  # its model is all that is needed
            return model_folder.read(self.own.model)[0]
        self.own.create()
        with self.own.locked(), self.own.honest():
            config = self.own.settle_config(self._own_config())
            self.own.check_images(self.dataset, self.held)
            completed = self.own.complete(config, self.dataset)
            if not isinstance(_blank(completed.model), Tokenizes):
                raise ConfigError(f"A {config.family} is no tokenizer: choose another tokenizer.preset.")
            stage = Stage(TOKENIZER, OF_TOKENIZER, then=self._foreseen(completed))
            trainer = Trainer(
                completed, self.dataset, self.own, self.device, self.listener, held=self.held, stage=stage
            )
            status = trainer.run()
            self._write_facts()
            if status != "finished" or trainer.interruption.wanted:  # be it at its last step
                return None
        return model_folder.read(self.own.model)[0]

    def _own_config(self) -> RunConfig:
        """What the tokenizer is trained with. All of it is settled when it begins, its budget too: what a run
        is given later is for its second stage.
        """
        config, settings = self.config, self.wanted.settings
        if self.own.has_checkpoints:  # whatever a preset may say by now
            begun = from_toml(self.own.config_file)
            free = {name: getattr(config.training, name) for name in FREE}
            return begun.model_copy(update={"training": begun.training.model_copy(update=free)})
        shared = config.training.model_dump(include=SHARED)
        training = {**shared, **settings["training"]}
        own = parse({"seed": config.seed, **settings, "training": training})
        budget = {"images": config.images, "minutes": config.minutes}
        if config.images is not None:
            budget["images"] = max(1, round(config.images * self.wanted.share))
        elif config.minutes is not None:
            budget["minutes"] = config.minutes * self.wanted.share
        evaluation = EvaluationConfig(
            every_images=0, held_out=config.evaluation.held_out, keep="last"
        )  # with the same images held out, though nothing is scored on them
        data = config.data.model_copy(update={"attributes": ()})  # a code says nothing of them
        shape = {"source": config.source, "data": data, "size": self.dataset.size}
        return own.model_copy(update={**shape, **budget, "evaluation": evaluation})

    def _foreseen(self, first: RunConfig) -> Plan:
        """What the second stage will take, found out on codes that mean nothing. Raises TrainingError where
        the memory will not be enough for it.
        """
        blank = _blank(first.model)
        assert isinstance(blank, Tokenizes)
        seen = {"images": 0, "seconds": 60 * (first.minutes or 0)}
        if first.images is not None:
            seen["images"] = -(-first.images // first.batch_size) * first.batch_size  # in whole steps
        config = left_for_the_second(self._completed(first.model), seen)
        brief = config.training.model_copy(update={"measure_seconds": config.training.measure_seconds / 3})
        config = config.model_copy(update={"training": brief})  # it is measured again when it begins
        numbers = np.random.default_rng(0).integers(0, blank.vocabulary, (1, *blank.code_shape))
        same = Codes(lambda places: np.repeat(numbers, len(places), axis=0), len(self.dataset))
        batches = CodedBatches(self.dataset, same, **batch_options(config, self.device))
        measured = estimate(config, batches, self.device, config.training.precision)
        speed = measured.images_per_second
        images = config.images if config.images is not None else int(60 * (config.minutes or 0) * speed)
        return Plan(
            parameters=measured.parameters,
            memory_bytes=measured.memory_bytes,
            images=images,
            seconds=images / speed,
            images_per_second=speed,
            precision=measured.precision,
            device=str(self.device),
            resumed_from=0,
            stage=PRIOR,
        )

    def _completed(self, tokenizer: FamilyConfig) -> RunConfig:
        """The run's configuration for its data and this tokenizer; reading the captions may take its time."""
        if self._known is None or self._known[0] != tokenizer:
            self._known = (tokenizer, self.folder.complete(self.config, self.dataset, tokenizer))
            captions.read(self._known[1].model, self.dataset, self.listener)
        return self._known[1]

    def _tokenized(self, tokenizer: Family) -> Tokenized | None:
        """The tokenizer with its codes; None where the user stopped before they were written."""
        digest = weights.digest(tokenizer.state_dict())
        earlier = self.folder.facts().get("tokenizer", {})
        if self._begun and earlier.get("weights") != digest:
            raise TrainingError(
                f"The tokenizer is no longer the one that the run in {self.folder.path} began with: restore "
                "it, or choose another --out."
            )
        views = codes.views_of(augmentation(self.config, self.dataset), self.config.seed, self.wanted.views)
        energy, started, interruption = (
            machine.EnergyMeter.open(self.device),
            time.monotonic(),
            Interruption(),
        )
        with interruption.heard():
            written = codes.ensure(
                tokenizer,
                self.dataset,
                views,
                device=self.device,
                on_progress=self.listener.on_data,
                stopped=lambda: interruption.wanted,
            )
        if written is None or interruption.wanted:
            return None
        if self._begun:  # what it took then is what the budget was reckoned with
            return Tokenized(tokenizer, written, earlier)
        spent = Position(
            evaluation_seconds=0.0,
            seconds=time.monotonic() - started,
            energy_joules=energy.spent() if energy else 0.0,
            peak_memory_bytes=machine.peak_memory(self.device) or 0,
        )
        cost = facts.of_cost(vars(spent), machine.cores_used(self.device), energy is not None)
        known = self._facts() | {"weights": digest, "codes_seconds": spent.seconds, "views": views.number}
        if known["cost"]:
            cost = facts.of_both(known["cost"], cost)
        return Tokenized(tokenizer, written, known | {"status": "finished", "cost": cost})

    def _facts(self) -> dict[str, Any]:
        """What is known of the first stage so far: what its own run says of itself, or whose it was."""
        own = self.own.facts() if not self.wanted.model else {}
        progress = own.get("progress", {})
        return {
            "model": self.wanted.model or None,
            "fingerprint": self._learnt_from,
            "status": own.get("status", "running"),
            "images": progress.get("images", 0),
            "seconds": progress.get("seconds", 0.0),
            "images_per_second": progress.get("images_per_second", 0.0),
            "cost": own.get("cost"),
        }

    def _write_facts(self) -> None:
        """Let `run.json` say that the first stage is at work; a second stage that has begun says more."""
        if self._begun:
            return
        self.folder.update_facts(
            version=__version__,
            status="running",
            reason=None,
            data=facts.of_data(self.dataset, self.config, self.held),
            hardware=machine.hardware(self.device),
            progress=Position().facts(),
            tokenizer=self._facts(),
            cost=self._facts()["cost"] or {},
        )

    def _close(self, status: str, reason: str | None = None) -> None:
        self._write_facts()
        self.folder.update_facts(status=status, reason=reason)
        report.write(self.folder.path)


def left_for_the_second(config: RunConfig, first: Mapping[str, Any]) -> RunConfig:
    """The configuration with what is left of the budget after a first stage of so many `images` and
    `seconds`, and after `codes_seconds`; always enough for a step.
    """
    images, minutes = config.images, config.minutes
    if images is not None:
        images = max(1, images - int(first["images"]))
    if minutes is not None:
        spent = first["seconds"] + first.get("codes_seconds", 0.0)
        minutes = max(0.001, minutes - spent / 60)
    return config.model_copy(update={"images": images, "minutes": minutes})


def _blank(config: FamilyConfig) -> Family:
    """A family without weights, to ask what it is like."""
    with torch.device("meta"):
        return families.build(config)
