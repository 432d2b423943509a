"""Adapting a recognizer to images of another domain without their labels: the statistics of its layers."""

import copy

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.families.base import Learner
from danqing.learners.abilities import Embeds
from danqing.model.recognizer import Pixels, Recognizer
from danqing.randomness import generator

FEWEST = 32
"""Of fewer images than this, statistics say little."""
_AT_ONCE = 256
_STATISTICS = ("running_mean", "running_var")
_SOURCE_WEIGHT = 64
"""How many images of the new domain count as much as all that the learner has seen."""


def adapt(recognizer: Recognizer, images: Pixels) -> Recognizer:
    """Return a recognizer whose batch normalization suits the statistics of images.

    images: unlabelled, of the domain that it will see.
    The means and variances of the training images are replaced by those of these images, weighted by their
    number (Li et al. 2017, "Revisiting Batch Normalization For Practical Domain Adaptation"; Schneider et al.
    2020, equation 3). No weight is trained.
    Raises ConfigError where there are too few images, or the learner has no such layers.
    """
    learner = copy.deepcopy(recognizer.learner)
    adapt_statistics(learner, recognizer.inputs(images))
    return Recognizer(learner, recognizer.facts, recognizer.origin)


def adapt_statistics(learner: Learner, inputs: Tensor) -> None:
    """Change the statistics of a learner to those of its inputs.

    inputs: `[n, c, h, w]` in [-1, 1]. Raises as `adapt` does.
    """
    norms = _norms(learner)
    if not norms or not isinstance(learner, Embeds):
        raise ConfigError("This model has no batch normalization to adapt: use pseudo-labels (--unlabelled).")
    if len(inputs) < FEWEST:
        raise ConfigError(f"{len(inputs)} images are too few to adapt to: give at least {FEWEST}.")
    known = [[_known(norm, name).clone() for name in _STATISTICS] for norm in norms]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    order = torch.randperm(len(inputs), generator=generator(0, "adapt"))  # each batch holds all kinds
    with torch.no_grad():
        for rows in order.tensor_split(-(-len(inputs) // _AT_ONCE)):
            learner.embed(inputs[rows])
        share = len(inputs) / (len(inputs) + _SOURCE_WEIGHT)
        for norm, before, momentum in zip(norms, known, usual, strict=True):
            norm.eval()
            norm.momentum = momentum
            for name, value in zip(_STATISTICS, before, strict=True):
                found = _known(norm, name)
                found.copy_(torch.lerp(value, found, share))


def has_statistics(learner: Learner) -> bool:
    """Return whether a learner has statistics to adapt."""
    return isinstance(learner, Embeds) and bool(_norms(learner))


def _norms(learner: Learner) -> list[nn.BatchNorm2d]:
    return [module for module in learner.modules() if isinstance(module, nn.BatchNorm2d)]


def _known(norm: nn.BatchNorm2d, name: str) -> Tensor:
    found = getattr(norm, name)
    assert isinstance(found, Tensor)
    return found
