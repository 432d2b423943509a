"""What a run keeps of a model where labels, captions and sizes are new, for every family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danqing import families
from danqing.images import Images
from danqing.model.model import Model
from danqing.text.contract import TextConfig
from danqing.text.encoders import settle
from danqing.training import transfer

CAPTIONS = ("a red square", "a blue circle")
_TEXT = TextConfig(vocabulary=300, length=8)
_READS: dict[str, Any] = {
    "condition": "text",
    "captions": CAPTIONS,
    "text": _TEXT.model_dump(),
    "text_facts": settle(_TEXT, CAPTIONS).model_dump(),
}
_SHAPE = {"width": 16, "height": 16, "channels": 3}
_VQVAE = {"family": "vqvae", **_SHAPE, "features": 4, "blocks": 0, "downsamplings": 1, "vocabulary": 16}
SOURCES: dict[str, dict[str, Any]] = {
    "flow-hybrid": {"family": "flow", "net": "hybrid", "widths": [8, 16], "layers": 1, "heads": 2},
    "flow-unet": {"family": "flow", "net": "unet", "widths": [8, 16], "layers": 1, "heads": 2},
    "flow-dit": {"family": "flow", "net": "dit", "widths": [16], "layers": 1, "heads": 2, "patch": 4},
    "gan": {"family": "gan", "latents": 8, "generator_features": 4, "discriminator_features": 4},
    "vae": {"family": "vae", "net": "conv", "features": 4, "latents": 4},
    "transformer": {"family": "transformer", "layers": 1, "features": 16, "heads": 2, "tokenizer": _VQVAE},
    "vqvae": _VQVAE,
}


def carried(source: dict[str, Any], changes: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    family = families.build(families.parse_config({**_SHAPE, **source}))
    family.drop_training_only()
    Model(family).save(folder, Images(np.zeros((1, 4, 4, 3), np.uint8)))
    config = families.parse_config({**_SHAPE, **source, **changes})
    found = transfer.carry(transfer.Source(str(folder)), config)
    torch.manual_seed(1)
    learner = families.build_learner(config)
    found.apply(learner)
    state, before = learner.state_dict(), family.state_dict()
    for name in found.whole:
        assert torch.equal(state[name], before[name]), name
    return found, learner


@pytest.mark.parametrize("name", SOURCES)
def test_new_labels_sizes_and_captions_keep_most_of_a_network(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    base = {"labels": ("cat", "dog"), "label_frequencies": (0.5, 0.5)} if name != "vqvae" else {}
    changes: dict[str, dict[str, Any]] = {"size": {"width": 24, "height": 16}}
    if name == "transformer":
        changes["size"]["tokenizer"] = {**_VQVAE, "width": 24}
    if base:
        changes["labels"] = {"labels": ("bird", "cat", "eel"), "label_frequencies": (0.4, 0.3, 0.3)}
    if name.startswith("flow") or name == "transformer":
        changes["captions"] = {**_READS, "labels": (), "label_frequencies": ()}
    for what, changed in changes.items():
        found, _ = carried({**source, **base}, changed, tmp_path / f"{name}-{what}")
        kept, new = sum(found.kept.values()), sum(found.new.values())
        text = found.in_words("that model")
        assert f"{kept:,} of {kept + new:,} weights are kept" in text, what
        least = {"captions": 0.2}.get(what, 0.4)
        least = 0.05 if (name, what) == ("gan", "size") else least  # its first layer makes the whole map
        share = kept / (kept + new - sum(found.new.get(one, 0) for one in ("discriminator",)))
        assert share > least, f"{name}, {what}: {text}"
        if what == "labels":
            assert found.rows, f"{name}: the rows of the label that both know are kept"
        told = {"size": "images are 24x16", "labels": "1 of 3 labels are known, new: bird, eel"}
        assert told.get(what, "reads captions for the first time") in text
