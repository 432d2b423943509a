"""The first stage of a run: a tokenizer, trained or given, and the codes or latents of the images.

It is an ordinary run in the folder `tokenizer` of the run, with its share of the budget. The second stage
never changes the tokenizer, and can only be resumed with the tokenizer that it began with.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from danqing import families, machine, weights
from danqing.cluster.ledger import Ledger
from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import ConfigError, TrainingError
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.reconstruction import psnr
from danqing.families.abilities import HasTokenizer
from danqing.families.base import Family, FamilyConfig
from danqing.families.tokenizers import LatentConfig, LatentStatistics
from danqing.images import to_float, to_uint8
from danqing.model import folder as model_folder
from danqing.model import loading
from danqing.model.model import Model
from danqing.training import adapting, captions, codes, facts
from danqing.training.codes import CodedBatches, Codes, augmentation, batch_options
from danqing.training.config import RunConfig
from danqing.training.config_reading import from_toml, parse
from danqing.training.config_sections import FREE, SHARED, EvaluationConfig
from danqing.training.costs import CostMeter, total_cost
from danqing.training.engine import initialise
from danqing.training.interruption import Interruption
from danqing.training.listener import Listener, Plan
from danqing.training.position import Position
from danqing.training.publication import brief_options, sample_grid
from danqing.training.report import document as report
from danqing.training.requirements import estimate_requirements
from danqing.training.run_folder import RunFolder
from danqing.training.stage import OF_TOKENIZER, PRIOR, TOKENIZER, Stage, Tokenized
from danqing.training.trainer import Trainer
from danqing.training.transfer import Source
from danqing.version import __version__

_MOST_RECONSTRUCTED = 500


class FirstStage:
    """What a run with a tokenizer does before its own training.

    config: not yet completed for the data.
    folder: of the run; it exists and is locked.
    ledger: of the run; both stages are in it.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        held: Held | None,
        folder: RunFolder,
        device: torch.device,
        listener: Listener,
        ledger: Ledger,
    ) -> None:
        assert config.tokenizer is not None
        self.config, self.dataset, self.held = config, dataset, held
        self.folder, self.device, self.listener = folder, device, listener
        self.ledger = ledger
        self.own = RunFolder(folder.tokenizer)
        self.wanted = config.tokenizer
        if config.model.learns_trajectories and self.wanted.model != config.teacher:
            raise ConfigError(
                "A model of few steps generates the latents of its teacher: leave the tokenizer out."
            )
        self.reads = families.tokenizer_protocol(config.family)
        self._begun = folder.has_checkpoints
        """Whether the second stage has begun, so that its tokenizer cannot change."""
        self._learnt_from = dataset.fingerprint
        self._networks: list[dict[str, str]] = []
        self._known: tuple[dict[str, Any], RunConfig] | None = None

    def run(self) -> tuple[RunConfig, Stage] | None:
        """Train or load the tokenizer and encode the images.

        Returns the second stage and its configuration, completed for the data and with the rest of the
        budget; None if the user stopped the first stage. Raises DanqingError and records the failure.
        """
        self._write_facts()
        try:
            family = self._given() if self.wanted.model else self._trained()
            tokenized = self._tokenized(family) if family is not None else None
        except BaseException as error:
            if not self._begun:  # else the run is as it was before
                stopped = isinstance(error, KeyboardInterrupt)
                self._close("interrupted" if stopped else "failed", None if stopped else str(error))
            raise
        if tokenized is None:
            self._close("interrupted")
            return None
        completed = self._completed(tokenized.tokenizer.config, tokenized.codes)
        return second_stage_config(completed, tokenized.facts), Stage(PRIOR, tokenized=tokenized)

    def _given(self) -> Family:
        """The tokenizer of a model that has been trained before."""
        model = loading.load(self.wanted.model)
        family = model.family
        known = [model.facts.get(name, {}).get("fingerprint") for name in ("tokenizer", "data")]
        self._learnt_from = known[0] or known[1] or "unknown"
        self._networks = model.facts.get("networks", [])
        if isinstance(family, HasTokenizer) and isinstance(family.tokenizer, Family):
            family = family.tokenizer
            self._networks = model.facts.get("tokenizer", {}).get("networks", [])
        if not isinstance(family, self.reads):
            kinds = families.alternatives(self.reads)
            raise ConfigError(
                f"{self.wanted.model} is not a tokenizer for a {self.config.family}: give {kinds}, or a "
                "model that has one."
            )
        size, channels = (family.config.width, family.config.height), family.config.channels
        if (size, channels) != (self.dataset.size, self.dataset.channels):
            here, there = "{}x{}".format(*self.dataset.size), "{}x{}".format(*size)
            options = [f"--size {there}"] if size != self.dataset.size else []
            if channels != self.dataset.channels:
                options.append(f"--set data.channels={channels}")
                options += ["--set data.alpha=keep"] if channels in (2, 4) else []
            raise ConfigError(
                f"The tokenizer {self.wanted.model} is for images of {there} with {channels} channels, and "
                f"these are {here} with {self.dataset.channels}: add {' '.join(options)}."
            )
        if self.held is not None and self._learnt_from != self.dataset.fingerprint and not self._begun:
            self.listener.on_message(
                f"The tokenizer {self.wanted.model} was trained on other images than this run, perhaps on "
                "some that are held out here, so scores may be too good. To be sure, leave --tokenizer out."
            )
        return family

    def _trained(self) -> Family | None:
        """The tokenizer after its training; None if the user stopped it."""
        if self._begun and not self.own.model.exists():
            raise TrainingError(
                f"The tokenizer in {self.own.path} is missing, and the run needs it: restore that folder, or "
                "choose another --out."
            )
        if self._begun or self.own.has_finished:
            return self._read_own()
        self.own.create()
        with self.own.locked(), self.own.recording_failure():
            config = self.own.settle_config(self._own_config())
            self.own.check_images(self.dataset, self.held)
            self.own.write_config(config)
            completed = self.own.complete(config, self.dataset)
            if not isinstance(families.without_weights(completed.model), self.reads):
                raise ConfigError(
                    f"This {config.family} is not a tokenizer for a {self.config.family}: choose "
                    f"{families.alternatives(self.reads)} as tokenizer.preset."
                )
            stage = Stage(TOKENIZER, OF_TOKENIZER, then=self._plan_of_second_stage(completed))
            trainer = Trainer(
                completed,
                self.dataset,
                self.own,
                self.device,
                self.listener,
                held=self.held,
                stage=stage,
                ledger=self.ledger,
            )
            status = trainer.run()
            self.ledger.switch("start")  # of the second stage
            self._write_facts()
            if status != "finished" or trainer.interruption.requested:  # perhaps at its last step
                return None
        return self._read_own()

    def _read_own(self) -> Family:
        """The tokenizer in the model folder of its run."""
        family, trained = model_folder.read(self.own.model)
        self._networks = trained.get("networks", [])
        return family

    def _own_config(self) -> RunConfig:
        """The configuration that the tokenizer is trained with.

        It is decided when the run begins. A larger budget later is for the second stage.
        """
        config, settings = self.config, self.wanted.settings
        if self.own.has_checkpoints:  # a preset may have changed since
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
        )  # the same images are held out, so that the second stage can be scored on them
        data = config.data.model_copy(update={"attributes": ()})  # a code says nothing of them
        shape = {"source": config.source, "data": data, "size": self.dataset.size}
        return own.model_copy(update={**shape, **budget, "evaluation": evaluation})

    def _plan_of_second_stage(self, first: RunConfig) -> Plan:
        """The plan of the second stage, measured on random codes.

        Raises TrainingError if there is not enough memory for it.
        """
        encoding = codes.encoding_of(families.without_weights(first.model), self.reads)
        seen = {"images": 0, "seconds": 60 * (first.minutes or 0), "codes_seconds": self._encoding(first)}
        if first.images is not None:
            seen["images"] = -(-first.images // first.batch_size) * first.batch_size  # in whole steps
        config = second_stage_config(self._completed(first.model), seen)
        brief = config.training.model_copy(update={"measure_seconds": config.training.measure_seconds / 3})
        config = config.model_copy(update={"training": brief})  # it is measured again when it begins
        same = encoding.random(len(self.dataset))
        batches = CodedBatches(self.dataset, same, **batch_options(config, self.dataset, self.device))
        needs = estimate_requirements(config, batches, self.device, config.training.precision)
        images, grid_seconds = config.images, self._grid_seconds(config)
        if images is None:  # as the second stage itself will decide
            seconds, pauses = 60 * (config.minutes or 0), config.training.sample_grids * grid_seconds
            images = int((seconds - min(pauses, seconds / 2)) * needs.images_per_second)
        plan = needs.plan(images, self.device, grid_seconds=grid_seconds, stage=PRIOR)
        return replace(plan, codes_seconds=seen["codes_seconds"])

    def _grid_seconds(self, config: RunConfig) -> float:
        """Measure how long a grid of samples takes, by a few images of a model that is not trained."""
        family = initialise(config).eval().to(self.device)
        assert isinstance(family, Family)
        model, whole = Model(family), config.training.sample_images
        few = min(whole, model.chunk)
        training = config.training.model_copy(update={"sample_images": few})
        started = time.monotonic()
        sample_grid(model, config.model_copy(update={"training": training}), brief_options(model))
        return (time.monotonic() - started) * math.ceil(whole / few)

    def _encoding(self, first: RunConfig) -> float:
        """Measure how long it will take to encode the images, with a tokenizer that is not trained."""
        if self.dataset.stream is not None:
            return 0.0  # reading them would fetch shards
        encoding = codes.encoding_of(initialise(first).eval().to(self.device), self.reads)
        return codes.seconds_to_encode(encoding, self.dataset, self._views(), self.device)

    def _views(self) -> codes.Views:
        """Return the augmentations under which each image is encoded."""
        return codes.views_of(augmentation(self.config, self.dataset), self.config.seed, self.wanted.views)

    def _completed(self, tokenizer: FamilyConfig, found: Codes | None = None) -> RunConfig:
        """The run's configuration for its data and this tokenizer; reading captions may take a while.

        found: the codes, once there are any.
        """
        given: dict[str, Any] = {"tokenizer": tokenizer.model_dump()}
        if found is not None and found.statistics is not None:
            statistics = self._taught_statistics() or found.statistics
            given["latent_statistics"] = statistics.model_dump()
        if self._known is None or self._known[0] != given:
            self._known = (given, adapting.complete(self.folder, self.config, self.dataset, given))
            captions.read(self._known[1].model, self.dataset, self.listener)
        return self._known[1]

    def _taught_statistics(self) -> LatentStatistics | None:
        """Return the statistics of the latents that a teacher generates, if there is one."""
        if not self.config.model.learns_trajectories:
            return None
        config = Source(self.config.teacher).learner.config
        return config.latent_statistics if isinstance(config, LatentConfig) else None

    def _tokenized(self, tokenizer: Family) -> Tokenized | None:
        """The tokenizer with its codes; None if the user stopped the run before they were written."""
        digest = weights.digest(tokenizer.state_dict())
        earlier = self.folder.facts().get("tokenizer", {})
        if self._begun and earlier.get("weights") != digest:
            raise TrainingError(
                f"The tokenizer is not the one that the run in {self.folder.path} began with: restore it, or "
                "choose another --out."
            )
        views = self._views()
        costs, started, interruption = CostMeter(self.device), time.monotonic(), Interruption()
        with interruption.handling_signals():
            written = codes.ensure(
                tokenizer,
                self.dataset,
                views,
                reads=self.reads,
                device=self.device,
                on_progress=self.listener.on_data,
                stopped=lambda: interruption.requested,
            )
        if written is None or interruption.requested:
            return None
        if self._begun:  # the budget was computed with what the codes took then
            return Tokenized(tokenizer, written, earlier)
        spent = Position(seconds=time.monotonic() - started)
        costs.count(spent)
        cost = costs.cost(spent)
        known = self._facts() | {"weights": digest, "codes_seconds": spent.seconds, "views": views.number}
        known |= self._reconstruction(tokenizer)
        if known["psnr"] is not None:
            kind = "held-out images" if known["held_out"] else "training images"
            self.listener.on_message(
                f"Reconstructions of {known['reconstructed']} {kind} by the tokenizer have a PSNR of "
                f"{known['psnr']:.1f} dB."
            )
        if known["cost"]:
            cost = total_cost(known["cost"], cost)
        return Tokenized(tokenizer, written, known | {"status": "finished", "cost": cost})

    @torch.inference_mode()
    def _reconstruction(self, tokenizer: Family) -> dict[str, Any]:
        """How near reconstructions are to images, if possible those that are held out."""
        images = self.held.judged if self.held else self.dataset
        encoding, found = codes.encoding_of(tokenizer, self.reads), []
        rows = np.linspace(0, len(images) - 1, min(_MOST_RECONSTRUCTED, len(images))).astype(np.int64)
        for part in index_batches(len(rows), batch_size_for(images.size)):
            originals = images.images(rows[part])
            decoded = encoding.decode(encoding.encode(to_float(originals).to(self.device)))
            found.append(psnr(to_uint8(decoded).cpu(), originals))
        values = torch.cat(found)
        mean = float(values[values.isfinite()].mean()) if bool(values.isfinite().any()) else None
        return {"psnr": mean, "reconstructed": len(rows), "held_out": self.held is not None}

    def _facts(self) -> dict[str, Any]:
        """What is known of the first stage so far, from its own run or from the model that was given."""
        own = self.own.facts() if not self.wanted.model else {}
        progress = own.get("progress", {})
        return {
            "model": self.wanted.model or None,
            "fingerprint": self._learnt_from,
            **({"networks": self._networks} if self._networks else {}),
            "status": own.get("status", "running"),
            "images": progress.get("images", 0),
            "seconds": progress.get("seconds", 0.0),
            "images_per_second": progress.get("images_per_second", 0.0),
            "cost": own.get("cost"),
        }

    def _write_facts(self) -> None:
        """Record in `run.json` that the first stage is running, unless the second has begun."""
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


def second_stage_config(config: RunConfig, first: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with what the first stage leaves of the budget.

    first: the facts of the first stage: `images`, `seconds` and perhaps `codes_seconds`.

    At least one step is left.
    """
    images, minutes = config.images, config.minutes
    if images is not None:
        images = max(1, images - int(first["images"]))
    if minutes is not None:
        spent = first["seconds"] + first.get("codes_seconds", 0.0)
        minutes = max(0.001, minutes - spent / 60)
    return config.model_copy(update={"images": images, "minutes": minutes})
