"""`rebuild_ema`: the model of a run that is over, with its weights averaged over another length."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from danqing.data import Dataset
from danqing.data.splits import Held
from danqing.errors import TrainingError
from danqing.families.base import Family, Learner
from danqing.model import folder as model_folder
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.precision import choose_device
from danqing.progress import Bar
from danqing.training import checkpoint, facts, publication
from danqing.training.config import RunConfig
from danqing.training.config_reading import from_toml
from danqing.training.display import Display
from danqing.training.ema import LONGEST, SHORTEST, averaged_names
from danqing.training.ema_choice import MOST_ERROR, score_lengths, usable_lengths
from danqing.training.engine import averages_in
from danqing.training.json_lines import AppendedLines
from danqing.training.listener import Listener
from danqing.training.post_hoc import averages_of, error_share, reconstruct
from danqing.training.publication import Publisher
from danqing.training.report import document as report
from danqing.training.run import disk_errors_explained
from danqing.training.run_data import open_data
from danqing.training.run_folder import RunFolder
from danqing.training.schedule import Budget
from danqing.training.snapshots import Snapshot, open_snapshots
from danqing.training.validation import Best, Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A model that has been rebuilt. text: its EMA length and how it was chosen.

    images: how many its weights have seen. scores: of each length that was scored; lower is better.
    """

    model: Path
    length: float
    images: int
    scores: Mapping[float, float]
    text: str


def rebuild_ema(
    run: str | Path | HasModel,
    *,
    length: float | Literal["best"] = "best",
    device: str = "auto",
    listener: Listener | None = None,
) -> Rebuilt:
    """Write a run's model again, with its last weights averaged over another length.

    run: a finished or stopped run that was trained with `training.ema_lengths`.
    length: the standard deviation of the average's profile as a share of the run, in [0.01, 0.28], or "best":
    several lengths are scored on the images that the run holds out, and the best model is written.
    listener: hears of scores and messages, by default on stderr.

    The model folder is replaced; training the run further writes it again. Raises DanqingError.
    """
    folder = RunFolder(run if isinstance(run, str | Path) else run.model.parent)
    if not folder.config_file.exists():
        raise TrainingError(f"{folder.path} is not a run folder: give one that danqing train has written.")
    with contextlib.ExitStack() as stack:
        listener = listener or Display(stack.enter_context(Bar()))
        stack.enter_context(disk_errors_explained(folder))
        stack.enter_context(folder.locked())
        _check_is_free(folder)
        with folder.readable():
            rebuilding = _Rebuilding(folder, listener, choose_device(device))
        done = rebuilding.best() if length == "best" else rebuilding.of_length(length)
        report.write(folder.path)
    return done


class _Rebuilding:
    """A run's last averages, and what is needed to publish another one."""

    def __init__(self, folder: RunFolder, listener: Listener, device: torch.device) -> None:
        self.folder, self.listener, self.device = folder, listener, device
        self.config = from_toml(folder.config_file)
        lengths = self.config.training.ema_lengths
        if not lengths:
            raise TrainingError(
                f"The run in {folder.path} keeps one average with a half-life, so it has no other lengths: "
                "train with --set training.ema_lengths=[0.05,0.1]."
            )
        found = checkpoint.read_latest(folder.checkpoints)
        if found is None:
            raise TrainingError(
                f"The checkpoints of the run in {folder.path} are gone, and with them its last averages: its "
                "model stays as it is."
            )
        self.tensors, self.state, complaints = found
        self.images = int(self.state["position"]["images"])
        if not self.images:
            raise TrainingError(f"The run in {folder.path} has not taken a step yet: train it first.")
        self.learner, trained = model_folder.read_learner(folder.model)
        seconds = round(self.state["position"]["seconds"], 1)
        self.trained = {**trained, "images": self.images, "seconds": seconds, "ema_length": lengths[0]}
        states = averages_in(self.tensors, self.config)
        self.learner.load_state_dict(states[0])
        self.learner.to(device)
        self.snapshots, damaged = open_snapshots(folder.snapshots, self._latest(states))
        for complaint in [*complaints, *damaged]:
            listener.on_message(complaint)

    def of_length(self, length: float) -> Rebuilt:
        """Publish the average of one length."""
        if not SHORTEST <= length <= LONGEST:
            raise TrainingError(f"The EMA length {length:g} is not between {SHORTEST} and {LONGEST}.")
        if error_share(averages_of(self.snapshots), self.images, length) > MOST_ERROR:
            usable = usable_lengths(self.snapshots)
            raise TrainingError(
                f"The run has too few snapshots for the EMA length {length:g}: give one from "
                f"{usable[0]:g} to {usable[-1]:g}."
            )
        weights = reconstruct(self.snapshots, length)
        self.learner.load_state_dict(self.learner.state_dict() | weights)
        trained = {**self.trained, "ema_length": length}
        data = {name: value for name, value in trained.get("data", {}).items() if name != "chosen_by"}
        self._publish(self.learner, {**trained, "data": data})
        text = f"EMA length {length:g} at {self.images:,} images, chosen by hand."
        self.folder.update_facts(ema={"length": length, "scores": [], "text": text}, best=None)
        return self._rebuilt(length, {}, text)

    def best(self) -> Rebuilt:
        """Score several lengths on held-out images, and publish the best model of the run."""
        if not self.config.evaluation.every_images:
            raise TrainingError(
                f"The run in {self.folder.path} holds no images out to choose by: give a length, such as 0.1."
            )
        config, dataset, held = self._data()
        assert held is not None
        keeps_best = config.evaluation.model_copy(update={"keep": "best"})
        lines = AppendedLines(self.folder.scores_file)
        with contextlib.closing(lines):
            validation = Validation(
                config.model_copy(update={"evaluation": keeps_best}),
                held,
                lines,
                self.device,
                self.listener.on_data,
            )
            if config.evaluation.keep == "best":
                validation.restore(self.tensors, self.state["validation"])
            else:  # the weights of earlier scores were not kept
                lines.cut(self.state["validation"]["bytes"])
            trained = {**self.trained, "data": {**self.trained.get("data", {}), "chosen_by": held.split}}
            budget = Budget.read(self.folder.budget_file)
            for scored in score_lengths(validation, self.snapshots, self.learner, trained, budget):
                self.listener.on_score(scored)
        best = validation.best
        if best is None:
            raise TrainingError("No EMA length has a finite score: give a length, such as 0.1.")
        self.learner.load_state_dict(best.weights)
        Publisher(self.folder, config, dataset, held).write_best(self.learner, best.facts, best.score)
        ema = facts.of_ema(self.trained["ema_length"], validation, self.images)
        self.folder.update_facts(ema=ema, best=facts.of_best(best))
        return self._rebuilt(ema["length"], validation.scored_lengths(self.images), ema["text"], best)

    def _latest(self, states: list[dict[str, Tensor]]) -> Snapshot:
        lengths, names = self.config.training.ema_lengths, averaged_names(self.learner)
        averages = {
            length: {name: tensor for name, tensor in state.items() if name in names}
            for length, state in zip(lengths, states, strict=True)
        }
        return Snapshot(self.images, lengths, lambda: averages)

    def _data(self) -> tuple[RunConfig, Dataset, Held | None]:
        """The images of the run, and its configuration with what the model took from them."""
        config, dataset, held = open_data(self.config.source, self.config, self.listener)
        self.folder.check_images(dataset, held)
        return config.model_copy(update={"model": self.learner.config}), dataset, held

    def _publish(self, learner: Learner, trained: Mapping[str, Any]) -> None:
        if not isinstance(learner, Family):
            publication.publish_learner(self.folder.model, learner, trained)
        elif learner.has_prior:
            model = Model(learner, trained, name=self.folder.name)
            config = self.config.model_copy(update={"model": learner.config})
            publication.publish(self.folder.model, model, publication.sample_grid(model, config))
        else:
            config, dataset, held = self._data()
            Publisher(self.folder, config, dataset, held).write(
                Model(learner, trained, name=self.folder.name)
            )

    def _rebuilt(
        self, length: float, scores: Mapping[float, float], text: str, best: Best | None = None
    ) -> Rebuilt:
        images = best.images if best else self.images
        return Rebuilt(model=self.folder.model, length=length, images=images, scores=scores, text=text)


def _check_is_free(folder: RunFolder) -> None:
    """Raise TrainingError for a first stage on whose codes a second one has begun to train."""
    whole = RunFolder(folder.path.absolute().parent)
    if whole.tokenizer == folder.path.absolute() and whole.has_checkpoints:
        raise TrainingError(
            f"The run in {whole.path} is trained on the codes of this tokenizer, which must stay as it is: "
            "rebuild that run instead."
        )
