"""A smaller model learns what a trained one gives, besides its images (Hinton, Vinyals and Dean 2015).

A GAN or a VAE learns the image that its teacher makes of the same noise, and a flow model its teacher's
prediction for the same noisy image. A student that draws an image in one evaluation begins with some of the
channels of each layer of its teacher, and with the discriminator, if that is known.
"""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.errors import ConfigError
from danqing.families import display_name
from danqing.families.autoencoder import DISCRIMINATOR
from danqing.families.base import Batch, FamilyConfig, Learner, Losses, Phase
from danqing.families.flow_variants import Flow
from danqing.families.gan import GAN
from danqing.families.vae import VAE
from danqing.nets.layers import ToMap, shrunk
from danqing.nets.pruning import order_channels
from danqing.training.transfer import Source


class Taught(NamedTuple):
    """How a family teaches.

    weight: of the distance to the teacher, beside the loss of the family.
    widths: settings that make a student narrower.
    """

    weight: float
    widths: tuple[str, ...]


_TAUGHT: Mapping[type[Learner], Taught] = {
    GAN: Taught(10.0, ("generator_features",)),
    VAE: Taught(4.0, ("features", "prior_features")),
    Flow: Taught(4.0, ("widths",)),
}
_SHARED = ("width", "height", "channels", "labels", "attributes", "sizes")
_NETWORKS = ("net", "latents", "likelihood", "scale", "path", "prediction", "mask_share", "condition")
_DRAWS = ("times", "time_mean", "time_deviation", "transport", "condition_dropout")
"""Settings that must be those of the teacher."""
_HALVINGS = 2
"""Images are compared at their size, and as often halved."""


class Teacher:
    """A trained model whose outputs another one learns.

    model: a run folder, a model folder or a hub id. config: of the student.
    Raises ModelError where it cannot be read, and ConfigError where it cannot teach the student.
    """

    def __init__(self, model: str, config: FamilyConfig, device: torch.device) -> None:
        self._source = Source(model)
        self._learner = self._source.learner.to(device).eval().requires_grad_(False)
        self._weight = taught(self._learner).weight
        theirs = self._learner.config
        names = [name for name in (*_SHARED, *_NETWORKS, *_DRAWS) if hasattr(theirs, name)]
        other = [name for name in names if getattr(theirs, name) != getattr(config, name, None)]
        if theirs.family != config.family or other:
            what = "is of another family" if theirs.family != config.family else f"has another {other[0]}"
            raise ConfigError(f"The teacher {model} {what} than the student: choose the same for both.")

    def lend(self, student: Learner) -> None:
        """Copy the most important channels of each layer to a student, if that is of use."""
        if isinstance(student, VAE):
            inherit(student, self._source.weights())
        if isinstance(student, GAN):
            whole = copy.deepcopy(self._learner)
            order_channels(whole.get_submodule("generator"))
            inherit(student, {**self._source.weights(), **whole.state_dict()})

    def losses(
        self, student: Learner, batch: Batch, phase: Phase, rng: Callable[[], torch.Generator]
    ) -> Losses:
        """Compute the loss of a phase, with the distance to the teacher.

        rng: gives a generator, the same each time.
        """
        if phase.name == DISCRIMINATOR:
            return student.loss(batch, phase, rng())
        if isinstance(student, VAE):
            losses, distance = student.loss(batch, phase, rng()), self._of_noise(student, batch, rng())
        else:
            child = "generator" if isinstance(student, GAN) else "network"
            with _Observed(student.get_submodule(child)) as ours:
                losses = student.loss(batch, phase, rng())
            if isinstance(student, GAN):
                with torch.no_grad():
                    theirs = self._learner.get_submodule(child)(*ours.inputs)
                distance = between(ours.output, theirs)
            else:
                with torch.no_grad(), _Observed(self._learner.get_submodule(child)) as other:
                    self._learner.loss(batch, phase, rng())  # with the same times and noise
                distance = F.mse_loss(ours.output.float(), other.output.float())
        logged = {**losses.logged, "distance_to_teacher": distance.detach()}
        return Losses(losses.total + self._weight * distance, logged)

    def _of_noise(self, student: VAE, batch: Batch, rng: torch.Generator) -> Tensor:
        """Compare what both make of the same noise."""
        assert isinstance(self._learner, VAE)
        noise = torch.randn(len(batch), student.noise_size, generator=rng, device=rng.device)
        with torch.no_grad():
            theirs = self._learner.from_noise(noise, batch.condition)
        return between(student.from_noise(noise, batch.condition), theirs)


def taught(learner: Learner) -> Taught:
    """Return how a learner teaches; raises ConfigError if it does not."""
    for kind, how in _TAUGHT.items():
        if isinstance(learner, kind) and (not isinstance(learner, VAE) or learner.has_prior):
            return how
    name = display_name(learner.config.family)
    raise ConfigError(f"A {name} teaches no student: only GANs, VAEs and flow models of pixels do.")


class _Observed:
    """The inputs and the output of a module's latest call, within a block."""

    inputs: tuple[Tensor, ...]
    output: Tensor

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> "_Observed":
        self._handle = self._module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.inputs, self.output = inputs, output


def between(images: Tensor, others: Tensor) -> Tensor:
    """Return the mean absolute difference of images `[n, c, h, w]`, over several sizes."""
    levels = [F.l1_loss(shrunk(images, level), shrunk(others, level)) for level in range(_HALVINGS + 1)]
    return torch.stack(levels).mean()


def inherit(student: Learner, weights: Mapping[str, Tensor]) -> None:
    """Copy the first channels of each layer of a wider learner.

    weights: of the wider one, by name. A tensor that is missing there or is not as wide stays as it is.
    """
    maps = {f"{name}.linear": module for name, module in student.named_modules() if isinstance(module, ToMap)}
    for name, tensor in student.state_dict().items():
        found = weights.get(name)
        if found is None or found.dim() != tensor.dim():
            continue
        module = maps.get(name.rpartition(".")[0])
        if module is not None:  # its outputs are the channels of each place, one place after the other
            height, width, channels = module.shape
            places = found.unflatten(0, (height * width, -1))
            found = places[:, :channels].flatten(0, 1)
        if all(ours <= theirs for ours, theirs in zip(tensor.shape, found.shape, strict=True)):
            tensor.copy_(found[tuple(slice(side) for side in tensor.shape)])
