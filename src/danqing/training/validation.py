"""Scoring during training: the moving average, on held-out images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from danqing import weights
from danqing.data.splits import Held
from danqing.evaluation.learner_scores import learned_facts
from danqing.evaluation.scores import Score
from danqing.families.base import Learner
from danqing.nets import adapters
from danqing.progress import ProgressCallback
from danqing.training.config import RunConfig
from danqing.training.json_lines import AppendedLines
from danqing.training.judging import open_judge
from danqing.training.listener import Scored
from danqing.training.schedule import Budget

BEST = "best/"
"""How the names of the best weights begin in a checkpoint."""
FEWEST = 10
"""The smallest number of held-out images that a score is computed on."""


@dataclass(frozen=True, slots=True)
class Best:
    """The model with the best score so far.

    facts: what the model folder says of its training.
    weights: on the CPU.
    """

    images: int
    score: Score
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor]


class Validation:
    """Scores a model at times and keeps the best.

    lines: the run's `scores.jsonl`.

    The random streams of training are not used. Raises EvaluationError if the feature network is not
    available, and TrainingError if it is not that of earlier scores.
    """

    def __init__(
        self,
        config: RunConfig,
        held: Held,
        lines: AppendedLines,
        device: torch.device,
        on_progress: ProgressCallback,
    ) -> None:
        self.config, self.lines, self.seed = config.evaluation, lines, config.seed
        self.best: Best | None = None
        self._scored: list[dict[str, Any]] = []
        self._judge = open_judge(config, held, device, on_progress)

    def is_due(self, before: int, images: int, budget: Budget) -> bool:
        """Whether the step from `before` to `images` crossed a point of evaluation.

        A budget in minutes is corrected during the run and its tenths move; each is scored at most once.
        """
        every = self.config.every_images
        if every == "tenth":
            scored = [line.get("tenth", 0) for line in self._scored if line["images"] > budget.begun]
            return budget.tenth(images) > max(scored, default=budget.tenth(budget.begun))
        assert isinstance(every, int)
        return before // every < images // every

    def has_scored(self, images: int) -> bool:
        """Whether the last score is that of the model at `images`."""
        return bool(self._scored) and self._scored[-1]["images"] == images

    def scored_lengths(self, images: int) -> dict[float, float]:
        """Return what each EMA length has scored at `images`; lower is better, and infinity is not finite."""
        found = {
            line["ema_length"]: _score(line)
            for line in self._scored
            if line["images"] == images and "ema_length" in line
        }
        return {
            length: math.inf if not math.isfinite(s.value) else -s.value if s.higher_is_better else s.value
            for length, s in found.items()
        }

    def stall(self, since: int = 0) -> str | None:
        """Return why the run ends early, or None.

        since: after how many images the whole size of a run that grows began; patience begins there.
        """
        if not self.config.patience_images or self.best is None:
            return None
        waited = self._scored[-1]["images"] - max(self.best.images, since)
        if waited < self.config.patience_images:
            return None
        return (
            f"Training ended early: {self.best.score.name} has not improved for {waited:,} images. The model "
            f"is that of {self.best.images:,} images. To continue, give more --patience."
        )

    def score(self, learner: Learner, trained: Mapping[str, Any], images: int, budget: Budget) -> Scored:
        """Score a learner and record the score.

        trained: what the model folder says of its training. images: how many it has seen of its budget.
        """
        c = self.config
        score = self._judge.score(learner, trained, self.seed)
        state, facts = learner.state_dict(), {**trained, **learned_facts(score)}
        settings = score.settings | {"weights": learner.digest()[:12]}
        score = score.model_copy(update={"settings": settings})
        is_best = self._is_best(score)
        if is_best:
            fixed = adapters.fixed(learner)
            kept = {name: weights.on_its_own(value) for name, value in state.items() if name not in fixed}
            self.best = Best(images, score, facts, kept)
        line = {"images": images, "is_best": is_best, "score": score.to_json()}
        if c.every_images == "tenth":
            line["tenth"] = budget.tenth(images)
        length = trained.get("ema_length")
        if length is not None:
            line["ema_length"] = length
        self.lines.append(line)
        self._scored.append(line)
        return Scored(images, score, is_best, self.best.images if self.best else None, length)

    def tensors(self) -> dict[str, Tensor]:
        """Return the best weights, named for a checkpoint."""
        return {f"{BEST}{name}": value for name, value in self.best.weights.items()} if self.best else {}

    def state(self) -> dict[str, Any]:
        """Return what else a checkpoint must hold."""
        return {"bytes": self.lines.length, "facts": dict(self.best.facts) if self.best else None}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `state` returned.

        Raises TrainingError if new scores could not be compared with the earlier ones.
        """
        self.lines.cut(state["bytes"])
        self._scored = self.lines.read()
        found = [line for line in self._scored if line["is_best"]]
        self.best = None
        if found:
            kept = {
                name.removeprefix(BEST): value for name, value in tensors.items() if name.startswith(BEST)
            }
            self.best = Best(found[-1]["images"], _score(found[-1]), state["facts"], kept)
        self._judge.check([_score(line) for line in self._scored])

    def _is_best(self, score: Score) -> bool:
        if self.config.keep == "last" or not math.isfinite(score.value):
            return False
        return self.best is None or _is_better(score, self.best.score)


def _score(line: Mapping[str, Any]) -> Score:
    values = {key: value for key, value in line["score"].items() if key != "text"}
    return Score.model_validate(values | {"value": math.nan if values["value"] is None else values["value"]})


def _is_better(score: Score, than: Score) -> bool:
    return score.value > than.value if score.higher_is_better else score.value < than.value
