"""`explain`: one page for models that recognize, and one for generators."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.errors import ConfigError, DanqingError
from danqing.families.abilities import AttendsToWords, DrawsFromNoise
from danqing.families.base import Condition
from danqing.families.flow import FlowModel
from danqing.families.transformer import Attention, TransformerLearner
from danqing.families.word_attention import _text_weights, _weights
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.nets.flow.blocks import TextAttention, normalize
from danqing.recognition.explain.of_generator import reads_words, units, word_heats
from danqing.text import bpe
from danqing.text.pretrained import Pretrained
from tests.tiny_encoders import written

SIZE = {"width": 8, "height": 8, "channels": 1}
CAPTIONS = ("a red apple", "two blue cats", "a green tree on a hill")


def built(**config: Any) -> Any:
    torch.manual_seed(0)
    return families.build_learner(families.parse_config({**SIZE, **config}))


def gan() -> Model:
    return Model(built(family="gan", net="mlp", latents=5))


def classifier() -> Recognizer:
    return Recognizer(built(family="classifier", features=8, blocks=0, labels=["left", "right"]))


def text_facts() -> dict[str, Any]:
    content = bpe.learn(CAPTIONS, 300)
    return {"bpe": content, "vocabulary": bpe.BytePairs(content).vocabulary}


def reader(family: str) -> Model:
    own: dict[str, Any] = {
        "flow": {"net": "dit", "patch": 2, "widths": (16,)},
        "raster": {"order": "raster", "features": 16},
        "masked": {"order": "masked", "features": 16},
    }[family]
    name = "flow" if family == "flow" else "transformer"
    common = {"condition": "text", "layers": 2, "heads": 2, "text_facts": text_facts()}
    widths = {"width": 6, "height": 4, "text": {"length": 12, "vocabulary": 300}}
    learner = built(family=name, **common, **widths, **own)
    for parameter in learner.parameters():  # some layers start at zero, where all attention is alike
        torch.nn.init.normal_(parameter, std=0.3)
    return Model(learner)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(path)
    return path


def test_a_page_explains_the_labels_of_files(tmp_path: Path, picture: Path) -> None:
    found = dq.explain(classifier(), picture, label="left", out=tmp_path / "new" / "why.html")
    with pytest.raises(DanqingError, match=r"cannot be written .*choose another --out"):
        found.save(tmp_path / "new" / "why.html" / "page.html")
    (section,) = found.sections
    assert section.title == "cat.png"
    assert sum(section.values["labels"].values()) == pytest.approx(1, abs=1e-4)
    assert "left" in section.values["explained"]
    assert [figure.caption.split(": ")[-1] for figure in section.rows[0]] == [
        "the image as the model sees it",
        "Grad-CAM",
        "integrated gradients",
        "hiding",
    ]
    page = (tmp_path / "new" / "why.html").read_text()
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("data:image/png") == sum(map(len, section.rows))


def test_a_detector_shows_why_the_surest_place_has_a_class() -> None:
    model = Recognizer(built(family="detector", features=8, blocks=0, box_classes=["cat", "dog"]))
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    found = dq.explain(model, images, label="dog")
    assert [section.title for section in found.sections] == ["image 0", "image 1"]
    logits, _ = model.learner.found(images)
    scores = {
        name: round(float(logits[0, :, place].amax().sigmoid()), 6)
        for place, name in enumerate(["cat", "dog"])
    }
    assert found.sections[0].values["labels"] == pytest.approx(scores, abs=1e-6)
    assert "dog" in found.sections[0].values["explained"]
    assert {figure.caption.split(": ")[-1] for figure in found.sections[0].rows[0][1:]} == {
        *("integrated gradients", "hiding")
    }


def test_a_model_that_reads_codes_is_explained_without_gradients_by_pixels() -> None:
    lender = {"family": "transformer", "order": "masked", "layers": 2, "features": 16, "heads": 2, **SIZE}
    trunk = {"net": "lent", "lender": lender}
    model = Recognizer(built(family="classifier", labels=["left", "right"], **trunk))
    found = dq.explain(model, torch.rand(1, 1, 8, 8) * 2 - 1)
    captions = [figure.caption.split(": ")[-1] for figure in found.sections[0].rows[0][1:]]
    assert captions == ["Grad-CAM", "hiding"]
    assert any("pass" in note and "gradients" in note for note in found.notes)


def test_what_a_model_cannot_explain_is_refused_with_a_reason(picture: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of left, right"):
        dq.explain(classifier(), picture, label="middle")
    with pytest.raises(ConfigError, match="Give the images"):
        dq.explain(classifier())
    with pytest.raises(ConfigError, match="for generators"):
        dq.explain(classifier(), picture, prompt="a cat")
    with pytest.raises(ConfigError, match="leave images and label out"):
        dq.explain(gan(), picture)
    with pytest.raises(ConfigError, match="reads no text"):
        dq.explain(gan(), prompt="a cat")
    with pytest.raises(ConfigError, match="give a segmenter too"):
        dq.explain(gan(), layer="generator.0")


def test_a_generator_shows_its_directions_and_those_of_labels() -> None:
    model = gan()
    assert isinstance(model.family, DrawsFromNoise)
    found = dq.explain(model, classifier=classifier(), seed=3)
    strongest, labelled = found.sections
    shares = [each["share"] for each in strongest.values]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1.001
    assert all(len(row) == 5 for row in strongest.rows)
    assert set(labelled.values) <= {"left", "right"}
    again = dq.explain(model, classifier=classifier(), seed=3)
    assert again.plain() == found.plain()


def test_units_are_those_of_the_chosen_layer() -> None:
    masks = built(family="segmenter", widths=(8, 12), decoder_widths=(8,), mask_classes=("ground", "thing"))
    model = Model(built(family="vae", net="conv", latents=4, features=8))
    with pytest.raises(ConfigError, match="choose one of"):
        dq.explain(model, segmenter=Recognizer(masks), layer="nowhere")
    section = dq.explain(model, segmenter=Recognizer(masks)).sections[-1]
    assert {unit["name"] for unit in section.values["units"]} <= {"ground", "thing"}
    assert all(0 <= unit["iou"] <= 1 for unit in section.values["units"])


@pytest.mark.parametrize("family", ["raster", "masked", "flow"])
def test_words_are_shown_over_samples(family: str) -> None:
    model = reader(family)
    assert isinstance(model.family, AttendsToWords)
    options = {"condition": Condition(text=("a red apple",) * 2), "seeds": [0, 1]}
    found = model.family.word_attention(torch.rand(2, 1, 4, 6) * 2 - 1, **options)
    assert found.shape[:2] == (2, 12)
    assert found.shape[2] / found.shape[3] == pytest.approx(4 / 6)
    assert found.min() >= 0
    assert found.sum(1).max() <= 1 + 1e-5
    section = dq.explain(model, prompt="a red apple").sections[0]
    assert [figure.caption for figure in section.rows[0]] == ["the sample", "a", "red", "apple"]


def test_words_of_a_pretrained_encoder_are_shown_too(tmp_path: Path) -> None:
    folder, _ = written("t5", tmp_path)
    encoder = Pretrained(str(folder), 8)
    facts = {"width": encoder.width, "sha256": encoder.sha256}
    text = {"encoder": str(folder), "length": 8}
    net = {"net": "dit", "patch": 2, "widths": (16,), "layers": 1, "heads": 2}
    model = Model(built(family="flow", condition="text", text=text, text_facts=facts, **net))
    assert reads_words(model)
    heats = word_heats(model, torch.rand(1, 1, 8, 8) * 2 - 1, "two red hearts", [0])
    assert [heat.name for heat in heats[0]] == ["two", "red", "hearts"]
    assert Pretrained(str(folder), 3).words("a red  heart") == [("a", [0]), ("red", [1])], "cut, with its end"


def test_the_observed_weights_give_what_the_layers_give() -> None:
    """With one head, the weights times the values are the layer itself."""
    rng = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    learner = built(family="transformer", layers=1, features=16, heads=1, width=4, height=4)
    assert isinstance(learner, TransformerLearner)
    layer = next(each for each in learner.net.modules() if isinstance(each, Attention))
    x, rotations = noise(2, 5, 16), learner.net.raster_rotations()[:, :5]
    _, _, v = layer.project(x, rotations)
    expected = layer.out(_weights(layer, x, rotations) @ v[:, 0])
    assert torch.allclose(layer(x, rotations), expected, atol=1e-5)

    flow = reader("flow").family
    assert isinstance(flow, FlowModel)
    text = TextAttention(16, 1)
    torch.nn.init.normal_(text.out.weight)
    x, tokens, known = (
        noise(2, 6, 16),
        noise(2, 4, 16),
        torch.tensor([[True] * 4, [True, True, False, False]]),
    )
    values = text.kv(normalize(tokens))[..., 16:]
    assert torch.allclose(
        text(x, tokens, known), text.out(_text_weights(text, x, tokens, known) @ values), atol=1e-5
    )


def test_the_command_writes_a_page(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    found = classifier()
    found.save(model)
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["explain", str(model), str(picture), "--out", str(out), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["found"]) == {"cat.png"}
    assert out.read_text().startswith("<!doctype html>")


def test_an_index_alone_shows_the_nearest_images_of_samples(tmp_path: Path, picture: Path) -> None:
    config = {"widths": (16,), "net": "dit", "patch": 2, "layers": 1, "num_steps": 2}
    model = Model(built(family="flow", **config))
    with pytest.raises(ConfigError, match="give an index"):
        dq.explain(model)
    index = dq.index(picture.parent, tmp_path / "index", encoder="pixels")
    assert [section.title for section in dq.explain(model, index=index).sections] == ["Nearest images"]


def test_a_model_without_maps_has_no_units_with_names() -> None:
    values = {"family": "vae", "net": "mlp", "prior": "normal", "features": 4, "latents": 4, **SIZE}
    with pytest.raises(ConfigError, match="No layer of this model has maps"):
        units(Model(families.build(families.parse_config(values))), None, None, 0)
