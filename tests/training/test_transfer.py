"""A run that starts from a trained model: what it keeps, what is new, and that it resumes as any other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.errors import ConfigError
from danqing.training import transfer
from danqing.training.run_folder import RunFolder
from tests.small_run import SMALL, TWO_STAGES
from tests.training.heard import Heard

PLAIN = {name: SMALL[name] for name in SMALL if name not in ("net", "features", "latents", "prior")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def pictures(folder: Path, labels: str, size: tuple[int, int] = (8, 8)) -> Path:
    """Noise of a brightness for each label, 12 images each."""
    rng = np.random.default_rng(0)
    for place, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(40 * place, 40 * place + 40, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def weights(run: dq.Run) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


@pytest.fixture
def source(tmp_path: Path) -> dq.Run:
    """A tiny VAE of the labels b, c and e."""
    data = pictures(tmp_path / "source", "bce")
    return dq.train(
        data, preset="vae-32", settings=SMALL, size=(8, 8), images=64, out=tmp_path / "s", listener=Heard()
    )


def test_a_run_keeps_the_network_and_the_rows_of_the_labels_that_both_know(
    source: dq.Run, tmp_path: Path
) -> None:
    data, heard = pictures(tmp_path / "target", "abcd"), Heard()
    settings = {**PLAIN, "learning_rate": "1e-9"}  # stays where it starts
    options: dict[str, Any] = {"settings": settings, "images": 16, "seed": 1, "listener": heard}
    run = dq.train(data, init=source, out=tmp_path / "t", **options)
    before, after = weights(source), weights(run)
    rows = "encoder.label.vectors"
    assert torch.allclose(after[rows][[1, 2]], before[rows][[0, 1]], atol=1e-5)
    assert not any(torch.allclose(after[rows][new], old, atol=1e-2) for new in (0, 3) for old in before[rows])
    for name, tensor in before.items():
        if tensor.shape == after[name].shape:
            assert torch.allclose(after[name], tensor, atol=1e-5), name
    # Size, preset and network come from the model, although none is named.
    model = dq.load(run)
    assert model.labels == ("a", "b", "c", "d")
    assert (model.family.config.width, model.family.config.family) == (8, "vae")
    facts = RunFolder(run.folder).facts()["init"]
    assert set(facts["kept"]) >= {"encoder", "decoder"}
    assert sum(facts["new"].values()) == sum(after[n].numel() for n in after) - sum(facts["kept"].values())
    (said,) = [text for text in heard.messages if text.startswith("Starts from")]
    assert "weights are kept (" in said
    assert "new: " in said


def test_a_run_that_starts_from_a_model_resumes_bit_for_bit(source: dq.Run, tmp_path: Path) -> None:
    data = pictures(tmp_path / "target", "cd")
    options: dict[str, Any] = {"init": source.folder, "settings": PLAIN, "images": 96}
    whole = dq.train(data, **options, out=tmp_path / "whole", listener=Heard())
    with pytest.raises(RuntimeError, match="stopped"):
        dq.train(data, **options, out=tmp_path / "parts", listener=Heard(stop_at=48))
    resumed = dq.train(data, **options, out=tmp_path / "parts", listener=Heard())
    assert all(torch.equal(one, weights(resumed)[name]) for name, one in weights(whole).items())
    with pytest.raises(ConfigError, match="init"):
        dq.train(data, **{**options, "init": whole}, out=tmp_path / "parts", listener=Heard())


@pytest.mark.parametrize(
    ("preset", "own"),
    [
        ("vae-32", {"net": "conv"}),
        ("gan-32", {"net": "mlp"}),
        ("vqvae-32", {}),
        ("transformer-32", {**TWO_STAGES, "order": "masked"}),
    ],
)
def test_a_classifier_continues_from_what_a_generative_model_lends(
    preset: str, own: dict[str, str], tmp_path: Path
) -> None:
    data = pictures(tmp_path / "source", "ab")
    settings = {**PLAIN, **own}
    made = dq.train(
        data, preset=preset, settings=settings, size=(8, 8), images=16, out=tmp_path / "s", listener=Heard()
    )
    own = {**PLAIN, "learning_rate": "1e-9"}
    options: dict[str, Any] = {"task": "classify", "init": made, "settings": own, "evaluate_every": 0}
    run = dq.train(data, **options, images=16, out=tmp_path / "t", listener=Heard())
    facts = RunFolder(run.folder).facts()["init"]
    assert set(facts["kept"]) == {"trunk"}
    assert set(facts["new"]) == {"head"}
    recognizer = dq.load_recognizer(run)
    images = dq.open_dataset(data).images(range(4))
    assert recognizer.logits(images.numpy()).shape == (4, 2)
    before = transfer.Source(str(made.folder)).weights()
    for name, tensor in recognizer.learner.state_dict().items():
        if name.startswith("trunk.") and tensor.is_floating_point():
            assert torch.allclose(tensor, before[name.removeprefix("trunk.")], atol=1e-5), name


def test_a_model_that_fits_nowhere_is_rejected(source: dq.Run, tmp_path: Path) -> None:
    data = pictures(tmp_path / "target", "ab")
    with pytest.raises(ConfigError, match=r"No weights of .*\(VAE\) fit this GAN"):
        dq.train(
            data,
            preset="gan-32",
            init=source,
            settings=PLAIN,
            images=16,
            out=tmp_path / "t",
            listener=Heard(),
        )


def test_a_flow_model_keeps_the_vectors_of_its_labels_and_that_of_none(tmp_path: Path) -> None:
    settings = {**PLAIN, "widths": "[8, 16]", "layers": 1, "heads": 2}
    options: dict[str, Any] = {"size": (8, 8), "images": 16, "listener": Heard()}
    data = pictures(tmp_path / "source", "bce")
    first = dq.train(data, preset="flow-32", settings=settings, out=tmp_path / "s", **options)
    settings = {**settings, "learning_rate": "1e-9"}
    data = pictures(tmp_path / "target", "abcd")
    run = dq.train(data, init=first, settings=settings, out=tmp_path / "t", **options)
    name = "network.labels.table.weight"
    before, after = weights(first)[name], weights(run)[name]
    assert torch.allclose(after[[1, 2, 4]], before[[0, 1, 3]], atol=1e-5)
