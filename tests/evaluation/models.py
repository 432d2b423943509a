"""Small models for the tests of this room."""

import torch

from danqing.families import build, parse_config
from danqing.model.model import Model


def small_model(**changes: object) -> Model:
    torch.manual_seed(0)
    values = {"family": "vae", "net": "mlp", "width": 9, "height": 7, "channels": 3, "latents": 4}
    family = build(parse_config({**values, **changes}))
    for parameter in family.parameters():  # fresh weights may ignore the label, or be zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Model(family)
