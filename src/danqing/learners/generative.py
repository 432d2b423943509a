"""Classification by a generative model: Bayes' rule turns p(image | label) into p(label | image).

    p(label | image) ∝ p(image | label) · p(label)

Any labelled family that weighs conditions predicts this way, and needs no further training. It explains all
of an image and not only what tells the labels of the training images apart, so that it depends less on
features which go with a label by chance (Li et al. 2025, "Generative Classifiers Avoid Shortcut Solutions").

The price is time: each image takes one evaluation of the whole network for each label and sample.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from danqing import families
from danqing.errors import ConfigError
from danqing.families.abilities import WeighsConditions
from danqing.families.base import Batch, Condition, Family, Learner, Phase

_ROWS = 64
"""Pairs of an image and a label that are computed at once."""
_LEAST_FREQUENCY = 1e-6


class Cost(NamedTuple):
    """What the prediction of one image takes.

    labels, samples: their product is the number of evaluations of the whole network.
    """

    labels: int
    samples: int

    @property
    def evaluations(self) -> int:
        """Return how often the network is evaluated for one image."""
        return self.labels * self.samples

    def __str__(self) -> str:
        samples = f" × {self.samples} samples" if self.samples > 1 else ""
        return f"{self.labels} labels{samples} = {self.evaluations} evaluations of the network for each image"


class GenerativeClassifier(Learner):
    """A trained generative model as a classifier; it implements `Classifies`.

    family: has labels, or reads text and gets `prompts`.
    prompts: descriptions that stand for the classes of a model that reads text; they are equally frequent.
    samples: of the noise, for families that estimate the likelihood; None is what suits the family.
    uniform: treat all labels as equally frequent, instead of as frequent as in the training data.
    seed: of the noise, which is the same for all images and labels.
    Raises ConfigError where the family cannot weigh labels.

    Likelihoods of many pixels count the same evidence many times, so that probabilities are far too certain
    without a temperature.
    """

    is_multi_label = False

    def __init__(
        self,
        family: Family,
        *,
        prompts: Sequence[str] | None = None,
        samples: int | None = None,
        uniform: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = family.config
        if not isinstance(family, WeighsConditions):
            raise ConfigError(families.cannot(config, "tell which label suits an image", WeighsConditions))
        if samples is not None and samples < 1:
            raise ConfigError(f"A classifier needs at least 1 sample, not {samples}.")
        self.config, self.family, self.seed = config, family, seed
        self.classes, self._conditions = _classes(family, prompts)
        exact = family.evidence_samples == 1
        self.samples = family.evidence_samples if samples is None or exact else samples
        frequencies = torch.ones(len(self.classes))
        if not uniform and prompts is None and config.label_frequencies:
            frequencies = torch.tensor(config.label_frequencies).clamp_min(_LEAST_FREQUENCY)
        self.register_buffer("log_prior", (frequencies / frequencies.sum()).log(), persistent=False)

    log_prior: Tensor

    @property
    def cost(self) -> Cost:
        """Return how many evaluations of the network a prediction takes."""
        return Cost(len(self.classes), self.samples)

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Return the weights of the family, as which it is saved."""
        return self.family.state_dict(*args, **options)

    def log_evidence(self, images: Tensor) -> Tensor:
        """Estimate log p(image | label) in nats for each label, `[n, k]` float32.

        images: `[n, c, h, w]` in [-1, 1]. A term that is the same for all labels may be missing. Row i
        depends on image i alone, up to rounding.
        """
        family, count = self.family, len(self.classes)
        assert isinstance(family, WeighsConditions)
        parts = []
        for rows in torch.arange(len(images) * count).split(_ROWS):
            condition = self._conditions[(rows % count).tolist()].to(images.device)
            batch = Batch(images[rows // count], condition)
            seeds = [self.seed] * len(rows)
            parts.append(family.log_evidence(batch, seeds=seeds, samples=self.samples))
        return torch.cat(parts).view(-1, count)

    def logits(self, images: Tensor) -> Tensor:
        """Compute log p(image, label) less that of the most probable label, `[n, k]` float32."""
        joint = self.log_evidence(images).double() + self.log_prior
        return (joint - joint.amax(1, keepdim=True)).float()


def _classes(family: Family, prompts: Sequence[str] | None) -> tuple[tuple[str, ...], Condition]:
    """Return the names of the classes and a condition for each; raise ConfigError without any."""
    config, name = family.config, families.display_name(family.config.family)
    if prompts is not None:
        if not config.reads_text:
            raise ConfigError(f"This {name} does not read text: leave prompts out.")
        if len(set(prompts)) < max(2, len(prompts)):
            raise ConfigError("Give at least two prompts, all different: each stands for a class.")
        return tuple(prompts), Condition(text=tuple(prompts))
    if len(config.labels) < 2:
        advice = (
            "give prompts that describe the classes" if config.reads_text else "train with labelled images"
        )
        raise ConfigError(f"This {name} knows no labels: {advice}.")
    return config.labels, Condition(label=torch.arange(len(config.labels)))
