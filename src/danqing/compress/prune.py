"""A model without the channels that matter least, which needs no training."""

import copy

import torch
from torch import nn

from danqing.errors import ModelError
from danqing.families import build
from danqing.families.gan import GAN
from danqing.model.model import Model
from danqing.nets.pruning import order_channels
from danqing.randomness import derived_seed
from danqing.training.teacher import inherit

_KEPT = 0.75
_BATCHES, _BATCH = 16, 32
"""Images from which the averages of batch norm are computed again."""


def pruned(model: Model) -> Model:
    """Return a model with three quarters of the channels of each layer.

    Raises ModelError for a network whose channels cannot be sorted.
    """
    family = model.family
    if not isinstance(family, GAN):
        raise ModelError("Only GANs are pruned.")
    whole = copy.deepcopy(family)
    if not order_channels(whole.get_submodule("generator")):
        raise ModelError(f"The channels of the net {family.config.net} depend on each other, so all stay.")
    features = max(4, round(_KEPT * family.config.generator_features))
    with torch.random.fork_rng(devices=[]):  # fresh weights, all of which are replaced
        small = build(family.config.model_copy(update={"generator_features": features}))
    small.drop_training_only()
    inherit(small, whole.state_dict())
    found = Model(small, model.facts, name=model.name).unmarked()
    average_again(found)
    return found


def average_again(model: Model) -> None:
    """Compute the averages of batch norm again, by which samples are made.

    Other channels change them.
    """
    norms = [module for module in model.family.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all batches count alike
        norm.train()
    for number in range(_BATCHES if norms else 0):
        model.sample(_BATCH, seed=derived_seed(0, "batch norm", number) % 2**31)
    model.family.eval()
