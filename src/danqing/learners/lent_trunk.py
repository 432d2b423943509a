"""The trunk of a learner that continues from the encoder of a generative model."""

import torch
from torch import Tensor, nn

from danqing import families
from danqing.errors import ConfigError
from danqing.families.base import Family, FamilyConfig
from danqing.nets.weightless import weightless


class LentTrunk(nn.Module):
    """An encoder, a discriminator or a transformer, without its last layer.

    lender: the configuration of the generative model. images: that of the learner, whose images it reads.
    Its child has the name that it has in the generative model, so that the weights are found again.
    outputs: channels of the map of features.
    """

    def __init__(self, lender: FamilyConfig, images: FamilyConfig) -> None:
        super().__init__()
        family = _built(lender, images)
        network = family.lent()
        if not hasattr(network, "features"):
            raise ConfigError(
                f"A {families.display_name(lender.family)} has no encoder to continue from: give a VAE, a "
                "VQ-VAE, a GAN, a transformer, or a model that was trained with --task."
            )
        assert isinstance(network, nn.Module)
        for layer in ("last", "head"):
            if hasattr(network, layer):
                setattr(network, layer, nn.Identity())
        self.lent = family.lends
        self.add_module(self.lent, network)
        known = getattr(network, "feature_channels", None)
        self.outputs = _channels(lender, images) if known is None else int(known)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images `[n, c, h, w]` into a map `[n, outputs, rows, columns]`."""
        features: Tensor = getattr(self, self.lent).features(images)
        return features if features.dim() == 4 else features[:, :, None, None]


def _built(lender: FamilyConfig, images: FamilyConfig) -> Family:
    """Return the generative model for images of the learner's size and channels."""
    of_images = {name: getattr(images, name) for name in ("width", "height", "channels")}
    plain = {**lender.model_dump(), **of_images}
    if plain.get("tokenizer"):
        plain["tokenizer"] = {**plain["tokenizer"], **of_images}
    return families.build(families.parse_config(plain))


def _channels(lender: FamilyConfig, images: FamilyConfig) -> int:
    """Return the channels of the features, found on a device where nothing is computed."""
    with weightless():
        family = _built(lender, images)
        pixels = torch.empty(2, images.channels, images.height, images.width)
        return int(getattr(family, family.lends).features(pixels).shape[1])
