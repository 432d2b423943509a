"""Write the golden model folder of a new family; those that exist stay: python -m tests.golden.make."""

import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.numpy import save_file

import danqing as dq
from danqing.families import build, parse_config
from danqing.model.model import Model
from tests.families.test_golden import CALLS, GOLDEN

LABELS = {"labels": ("bar", "square"), "label_frequencies": (0.5, 0.5)}
TOKENIZER = {"features": 4, "blocks": 1, "downsamplings": 1, "vocabulary": 16, "code_width": 4}
CONFIGURATIONS = {
    "gan": {"generator_features": 4, "latents": 4, **LABELS},
    "vae": {"net": "conv", "features": 4, "latents": 3, "couplings": 2, "prior_features": 8, **LABELS},
    "regression": {
        "features": 4,
        "blocks": 1,
        "source_channels": 3,
        "source_scale": 2,
        "source_is_average": True,
    },
    "translation": {"widths": (4, 8), "blocks": 1},
    "flow": {"widths": (4, 8), "layers": 1, "heads": 2, "num_steps": 3, "guide": True, **LABELS},
    "latent-flow": {
        "family": "flow",
        **{"widths": (8,), "layers": 1, "heads": 2, "num_steps": 3, **LABELS},
        "tokenizer": {"family": "vqvae", "width": 8, "height": 6, **TOKENIZER},
        "latent_statistics": {"mean": (0.1,) * 4, "deviation": (0.5,) * 4},
    },
    "vqvae": {"features": 4, "blocks": 0, "downsamplings": 1, "quantizer": "fsq", "levels": (5, 5)},
}


def make(name: str, folder: Path) -> None:
    """Save a family with random weights, and the pixels that each of its calls gives."""
    torch.manual_seed(0)
    size = {"width": 8, "height": 6, "channels": 3}
    learner = build(parse_config({"family": name, **size, **CONFIGURATIONS[name]}))
    for parameter in learner.parameters():  # fresh weights may ignore the label, or be zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    learner.drop_training_only()
    folder.mkdir()
    with tempfile.TemporaryDirectory() as whole:
        Model(learner).save(whole)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(Path(whole) / file, folder)
    model = dq.load(folder)
    pixels = {call: function(model).array for call, function in CALLS[name].items()}
    save_file(pixels, folder / "expected.safetensors")


if __name__ == "__main__":
    for name in CALLS:
        if not (GOLDEN / name).exists():
            make(name, GOLDEN / name)
