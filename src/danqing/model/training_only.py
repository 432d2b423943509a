"""What only a run keeps of a model, such as a discriminator: read from the newest checkpoint."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danqing import families
from danqing.cluster import tensor_folder
from danqing.errors import ModelError
from danqing.families.abilities import Judges
from danqing.families.base import Family
from danqing.model.model import Model

_DISCRIMINATOR = "discriminator"


def with_discriminator(model: Model) -> Model | None:
    """Return a model beside its discriminator, which judges images.

    None where the family has no discriminator, or where the model does not come from a run with checkpoints.
    Raises ModelError where the newest checkpoint is damaged or of another model.
    """
    family = model.family
    if not isinstance(family, Judges) or _DISCRIMINATOR not in family.training_only or model.origin is None:
        return None
    found = sorted((model.origin.parent / "checkpoints").glob("images-*"))
    if not found:
        return None
    with torch.random.fork_rng(devices=[]):  # fresh weights, which are replaced
        whole = families.build(family.config)
    child = getattr(whole, _DISCRIMINATOR)
    try:
        child.load_state_dict(_read(found[-1], f"family/{_DISCRIMINATOR}."))
    except (SafetensorError, OSError, ValueError, RuntimeError, ModelError) as error:
        raise ModelError(
            f"{found[-1]} does not hold the discriminator of this model: evaluate a copy of the model folder "
            "that lies elsewhere, or repair the run."
        ) from error
    assert isinstance(whole, Family)
    return Model(whole.eval(), model.facts).to(model.device)


def _read(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint whose names begin with a prefix, without it."""
    if path.is_dir():
        tensors, _ = tensor_folder.read(path, prefix)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
