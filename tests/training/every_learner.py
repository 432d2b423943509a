"""A few steps of every kind of learner on some number of processes, and what state they end with."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from danqing import weights
from danqing.cluster.place import Place
from danqing.cluster.world import World, joined
from danqing.data import open_dataset
from danqing.training import checkpoint
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.grains import grains_of
from danqing.training.listener import Listener
from danqing.training.run_batches import Material, open_batches
from danqing.training.run_folder import RunFolder

STEPS, BATCH, GRAINS = 2, 16, 4
SIZES = {"segmenter": (16, 16), "detector": (16, 16), "style": (32, 32)}
CPU = torch.device("cpu")
GAN = {"generator_features": 4, "discriminator_features": 4}
FLOW = {"widths": [16], "layers": 1, "heads": 2, "net": "dit", "patch": 2}
VQGAN = {"model.features": 4, "blocks": 1, "vocabulary": 16, "code_width": 4, "discriminator_features": 4}
EDITOR = {"model.features": 8, "blocks": 1, "discriminator_features": 4, "adversarial_share": 0.5}
MIRRORED = {"data.augment": {"flip": True, "crop": 0.2, "rotation": 10.0, "colour": 0.2}}
LEARNERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gan, batch norm": ("gan-32", "images", {**GAN, "net": "dcgan", "clip_norm": 1.0}),
    "gan, spectral norm": (
        "gan-32",
        "images",
        {**GAN, "net": "mlp", "spectral_norm": True, "discriminator_steps": 2},
    ),
    "gan, modern": ("gan-64", "images", {**GAN, **MIRRORED, "net": "modern", "scales": 2}),
    "gan, resnet": ("faces-32", "images", {**GAN, "net": "resnet", "ema_lengths": [0.05, 0.1]}),
    "vae": ("vae-32", "images", {"net": "mlp", "model.features": 4, "latents": 4, "prior": "flow"}),
    "vqvae": (
        "vqvae-32",
        "images",
        {**VQGAN, "depth": 2, "adversarial": 1.0, "adversarial_start_images": 16},
    ),
    "vqvae, binary": ("vqvae-32", "images", {**VQGAN, "quantizer": "binary"}),
    "transformer": (
        "transformer-16",
        "images",
        {"layers": 1, "model.features": 16, "heads": 2, "optimizer": "muon"},
    ),
    "flow": ("flow-32", "images", {**FLOW}),
    "upscaler": ("upscale-64", "images", {**EDITOR, "degrade": "shrink2"}),
    "enhancer": ("enhance-64", "images", {**EDITOR, "degrade": "blur,noise,jpeg"}),
    "style": ("style-128", "images", {"style_side": 32, "model.features": 4, "blocks": 1}),
    "translator": (
        "translation-64",
        "images",
        {"data.domains": "0:1", "widths": [8, 8], "discriminator_features": 4},
    ),
    "classifier": (
        "classify-32",
        "images",
        {**MIRRORED, "model.features": 8, "model.mixup": 0.2, "optimizer": "sgd"},
    ),
    "segmenter": ("segment-64", "cells:40", {**MIRRORED, "widths": [8, 8], "decoder_widths": [8]}),
    "detector": (
        "detect-64",
        "cells:40",
        {"model.features": 8, "head_features": 8},
    ),
    "embedder": ("embed-32", "images", {"model.features": 8, "projection": 8}),
    "embedder, masked": ("embed-32", "images", {"model.features": 8, "objective": "masked", "patch": 2}),
}

COSTLY = ("style",)
"""Those that four processes leave out: each would read a network of features."""
FAST = ("gan, batch norm", "vqvae", "flow")
"""Those that also add gradients in any order."""


def write_images(folder: Path) -> None:
    """Write what the learners learn from."""
    rng = np.random.default_rng(0)
    for number in range(40):
        path = folder / "images" / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    Image.radial_gradient("L").resize((40, 40)).convert("RGB").save(folder / "style.png")


def steps_of(name: str, folder: Path, how: str) -> Engine:
    """Take a few steps of a learner.

    how: "exact", "fast" for sums in any order, or "parts" for parameters and optimisers in parts.
    """
    preset, data, settings = LEARNERS[name]
    small = {"batch_size": BATCH, "precision": "float32", "grains": GRAINS, "fast_sums": how == "fast"}
    small["shard"] = "parameters" if how == "parts" else False
    size = SIZES.get(name, (8, 8))
    if name == "style":
        settings = {**settings, "style_image": str(folder / "style.png")}
    config = resolve(preset=preset, settings={**small, **settings}, size=size)
    source = folder / data if data == "images" else data
    dataset = open_dataset(source, size=size, cache_dir=folder / "cache", **config.data.of_source())
    config = config.for_data(dataset)
    material = Material(config, dataset, None, None, RunFolder(folder / "run"), CPU)
    batches = open_batches(material, Listener(), is_begun=False)
    engine = Engine(config, batches, CPU, "float32", grains=grains_of(config))
    for step in range(STEPS):
        engine.step(step * engine.images_per_step, step, total=STEPS * engine.images_per_step)
    assert engine.weights_are_finite(), name
    return engine


def state_of(engine: Engine, here: World, folder: Path) -> dict[str, Tensor]:
    """Return the whole state, from a checkpoint that all processes have written; in the first one only."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = checkpoint.Writer(folder, here.rank, here.size)
    writer.begin(1, engine.shared(), {}, own=engine.own())
    writer.wait()
    if here.rank:
        return {}
    found = checkpoint.read_latest(folder)
    assert found is not None
    return found[0]


def check_exchanges(here: World) -> None:
    """Compare what the processes exchange with what each can compute alone."""
    rng = torch.Generator().manual_seed(0)
    values = list(torch.randn(here.size, 1001, generator=rng))
    sums = values
    while len(sums) > 1:
        sums = [first + second for first, second in zip(sums[::2], sums[1::2], strict=True)]
    assert torch.equal(here.tree_sum(values[here.rank].clone()), sums[0])
    torch.testing.assert_close(here.plain_sum(values[here.rank].clone()), sums[0])
    for text in ("short", "long " * 1000):
        assert here.agreed([text, None] if here.rank == 0 else here.rank) == [text, None]
    assert here.gathered({"rank": here.rank}) == [{"rank": rank} for rank in range(here.size)]
    mixed = [torch.full((2, 3), here.rank + 0.5), torch.tensor(here.rank + 7), torch.tensor(here.rank == 0)]
    here.spread(mixed)
    assert [tensor.flatten()[0].item() for tensor in mixed] == [0.5, 7, True]


def compute(place: Place, folder: Path, out: Path) -> None:
    """Compute the states of all learners as one of several processes; the first one writes them.

    folder: what `write_images` has written to. The processes meet there. Four processes
        keep their parameters and optimisers in parts.
    """
    os.environ["DANQING_MEETING"] = (folder / f"meeting-{place.size}").as_uri()
    torch.set_num_threads(1)
    found = {}
    with joined(place) as here:
        check_exchanges(here)
        usual = "parts" if here.size == 4 else "exact"
        names = [name for name in LEARNERS if here.size < 4 or name not in COSTLY]
        for name, how in [*((name, usual) for name in names), *((name, "fast") for name in FAST)]:
            engine = steps_of(name, folder, how)
            key = f"{name}, fast" if how == "fast" else name
            state = state_of(engine, here, folder / f"{here.size}-{how}" / name)
            found[key] = {"digest": weights.digest(state), "logged": engine.meter.drain()}
    if here.rank == 0:
        out.write_text(json.dumps(found))
