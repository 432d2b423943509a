"""Every family gives the same pictures and answers without PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.compress.runtime import RuntimeModel, load, load_recognizer
from danqing.compress.runtime import codes as loops
from danqing.errors import ConfigError, ModelError
from danqing.families.decoding import Sampling
from danqing.families.masked_order import left_unknown
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from tests.compress import tiny

GUIDED = {"guidance_scale": 2.5}
DRAWN = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "guidance_schedule": "cosine", **GUIDED}
AWAY = {"prompt": ["a dog", ""], "negative_prompt": "a cat", **GUIDED}


def assert_same_pictures(model: Model, exported: RuntimeModel, wanted: list[dict[str, Any]]) -> None:
    """Compare pictures of the same seeds: at most one level apart."""
    exact = {"precision": "float32"} if "precision" in model.sample_options else {}
    for one in wanted:
        count = None if "prompt" in one else 3
        expected = model.sample(count, seed=3, **one, **exact).array.astype(int)
        found = exported.sample(count, seed=3, **one).array
        assert found.std() > 1
        apart = np.abs(expected - found)
        if one.get("sampler") == "adaptive":  # rounding decides which steps it accepts, in PyTorch as well
            assert apart.mean() < 4, one
        else:
            assert apart.max() <= 1, one


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (tiny.VAE, [{}, {"label": "cat", "temperature": 0.5}]),
        (tiny.TOKENIZER, [{}]),
        (tiny.LATENT_FLOW, [{}, AWAY]),
        (tiny.FEW_STEPS, [{}, {"num_steps": 1}]),
        (tiny.PIXELS, [{}, {**DRAWN, "label": 1, "attributes": {"age": 5, "kind": None}}]),
        (tiny.MASKED, [{}, {"num_steps": 3, **DRAWN}, AWAY]),
    ],
    ids=[
        "vae",
        "vqvae",
        "latent flow of captions",
        "latent flow of few steps",
        "raster transformer",
        "masked transformer of captions",
    ],
)
def test_a_family_gives_the_same_pictures_without_torch(
    values: dict[str, Any], wanted: list[dict[str, Any]], tmp_path: Path
) -> None:
    model = tiny.model_of(values)
    exported = load(dq.export(model, tmp_path / "out"), marks="none")
    assert max(check.error for check in exported.manifest.parity.checks) <= 1e-4
    assert_same_pictures(model, exported, wanted)
    if "guidance_scale" in model.sample_options and values is not tiny.LATENT_FLOW:
        with pytest.raises(ConfigError, match=r"negative prompt|does not read text"):
            exported.sample(negative_prompt="a cat")


def test_a_flow_gives_the_same_pictures_at_any_size_with_any_sampler(tmp_path: Path) -> None:
    model = tiny.model_of(tiny.FLOW)
    exported = load(dq.export(model, tmp_path / "out", sizes=[(8, 8), (12, 8)]), marks="none")
    checks = exported.manifest.parity.checks
    assert {(check.graph, check.batch, check.size) for check in checks} == {
        (graph, batch, size)
        for graph in ("step", "guide")
        for batch in (1, 3, 16)
        for size in ((8, 8), (12, 8))
    }
    samplers = ("euler", "heun", "midpoint", "ab2", "dpm++", "stochastic", "consistency", "adaptive")
    wanted: list[dict[str, Any]] = [{"sampler": name} for name in samplers]
    wanted += [
        {"size": (8, 12), "time_shift": 2.0},
        {"guidance": "guide", **GUIDED},
        {"sampler": "adaptive", "guidance_start": 0.3, "label": 0, **GUIDED},
    ]
    assert_same_pictures(model, exported, wanted)
    steps: list[tuple[int, int, int]] = []
    exported.sample(20, on_step=lambda done, total, shown: steps.append((done, total, len(shown()))))
    assert steps == [(1, 6, 16), (2, 6, 16), (3, 6, 16), (4, 6, 20), (5, 6, 20), (6, 6, 20)]


def test_recognizers_give_the_same_answers_without_torch(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 17, 3), np.uint8)
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    of = {
        "classifier": {"width": 8, "height": 8, "features": 8, "labels": ("a", "b", "c")},
        "embedder": {"width": 8, "height": 8, "features": 8},
        "segmenter": {"width": 16, "height": 8, "widths": (8, 16), "decoder_widths": (8,)}
        | {"mask_classes": ("sky", "sea")},
        "detector": {"width": 16, "height": 16, "features": 8, "head_features": 16}
        | {"box_classes": ("car", "bus")},
    }
    for family, values in of.items():
        model = Recognizer(tiny.learner_of({"family": family, **values}), {"temperature": 1.5})
        folder = dq.export(model, tmp_path / family)
        exported = load_recognizer(folder)
        told = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
        exec(told.replace("this folder", str(folder)).replace("image.png", str(tmp_path / "image.png")), {})
        np.testing.assert_allclose(exported.embed(images), model.embed(images).numpy(), atol=1e-4)
        answer = exported.predict(images)
        if family == "classifier":
            np.testing.assert_allclose(answer, model.probabilities(images).numpy(), atol=1e-5)
            with pytest.raises(ModelError, match="classify and not detect"):
                exported.detect(images)
            with pytest.raises(ModelError, match="use load_recognizer"):
                load(folder)
        if family == "segmenter":
            assert len({check.size for check in exported.manifest.parity.checks}) == 2
            assert np.array_equal(answer, model.masks(images).numpy())
        if family == "detector":
            found = exported.detect(images, threshold=0.005)
            for ours, theirs in zip(found, model.detect(images, threshold=0.005), strict=True):
                assert len(ours.boxes) == len(theirs.boxes) > 3
                np.testing.assert_allclose(ours.boxes, theirs.boxes.numpy(), atol=1e-3)
                assert np.array_equal(ours.classes, theirs.classes.numpy())


def test_what_has_no_export_is_rejected_with_a_reason(tmp_path: Path) -> None:
    pairs = {**tiny.FLOW, "guide": False, "pairs": True, "source_channels": 3}
    for values, reason in (
        (pairs, "pairs turns images into others"),
        ({"family": "regression", "width": 8, "height": 8, "source_channels": 3}, "turns images into others"),
    ):
        with pytest.raises(ModelError, match=reason):
            dq.export(tiny.model_of(values), tmp_path / "out")
    shape = {"width": 8, "height": 8, "channels": 1}
    lender = {"family": "transformer", "layers": 1, "features": 16, "heads": 2, **shape}
    reader = {"family": "classifier", "net": "lent", "lender": lender, "labels": ("a", "b"), **shape}
    with pytest.raises(ModelError, match="as a transformer's codes"):
        dq.export(Recognizer(tiny.learner_of(reader)), tmp_path / "out")


def test_codes_are_drawn_as_in_torch() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 3, (400, 9)).astype(np.float32)
    uniforms = generator.random(400, np.float32)
    for settings in (
        {},
        {"temperature": 0.0},
        {"temperature": 2.5},
        {"top_k": 3},
        {"top_p": 0.6, "top_k": 7},
    ):
        sampling = Sampling(**settings)
        expected = sampling.choose(torch.from_numpy(logits), torch.from_numpy(uniforms))
        options = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}
        assert np.array_equal(loops.choose(logits, uniforms, options), expected.numpy())
    for wanted in (1, 5, 16, 256):
        for steps in (1, 3, 12, 40):
            theirs = [int(left) for left in left_unknown(torch.tensor([wanted]), steps)]
            assert loops.left_unknown(wanted, steps) == theirs
