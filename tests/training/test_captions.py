"""A run whose captions a pretrained encoder reads: once each, kept for the next run, and needed to paint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import danqing as dq
from danqing.data import open_dataset
from danqing.errors import TextError, TrainingError
from danqing.text import bpe, pretrained
from danqing.text.encoders import shared_encoder
from danqing.training import captions
from danqing.training.config_reading import resolve
from danqing.training.listener import Listener
from tests.tiny_encoders import written

SETTINGS = {
    "model.layers": "1",
    "model.features": "16",
    "model.heads": "2",
    "model.condition": "text",
    "model.text.length": "6",
    "batch_size": "4",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "1",
    "precision": "float32",
    "schedule": "constant",  # so that a longer run begins as a shorter one
}


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pictures of 5x4, two captions each, of which some are alike."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    lines = []
    for number in range(10):
        Image.fromarray(rng.integers(0, 256, (4, 5), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append({"file_name": f"{number}.png", "text": ["a red heart", f"top {'abc'[number % 3]}"]})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def forgotten() -> None:
    """As in a new process: nothing that was read is known any more."""
    shared_encoder.cache_clear()
    pretrained._load.cache_clear()


def test_captions_are_read_once_and_the_encoder_is_needed_afterwards(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = written("t5", tmp_path / "t5")
    settings = {**SETTINGS, "model.text.encoder": str(encoder)}
    asked: list[str] = []
    row = pretrained.Pretrained.row

    def counted(self: pretrained.Pretrained, text: str) -> object:
        asked.append(text)
        return row(self, text)

    monkeypatch.setattr(pretrained.Pretrained, "row", counted)
    options = {"preset": "transformer-16", "images": 16, "listener": Listener()}
    forgotten()
    first = dq.train(pictures, size=(5, 4), out=tmp_path / "one", settings=settings, **options)
    texts = {"a red heart", "top a", "top b", "top c"}
    assert set(asked) - {""} == texts
    assert len([text for text in asked if text]) == 4
    asked.clear()
    forgotten()
    second = dq.train(pictures, size=(5, 4), out=tmp_path / "two", settings=settings, **options)
    assert not set(asked) - {""}
    weights = [(run.model / "model.safetensors").read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]

    forgotten()
    model = dq.load(first)
    info = model.info()["text"]
    assert (info["encoder"], info["vocabulary"], info["length"]) == (str(encoder), 0, 6)
    assert set(info["captions"]) <= texts
    heart, star = model.sample(2, prompt="a red heart"), model.sample(2, prompt="two blue stars")
    assert heart.array.shape == star.array.shape == (2, 4, 5, 1)
    forgotten()
    shutil.rmtree(encoder)
    assert len(dq.load(first).labels) == 0  # it can be opened and looked at without its encoder
    with pytest.raises(TextError, match="There is no text encoder at"):
        dq.load(first).sample(prompt="a red heart")


def facts_of(run: dq.Run) -> dict[str, object]:
    """What the model of a run says of its text."""
    found = json.loads((run.model / "config.json").read_text())["model"]["text_facts"]
    assert isinstance(found, dict)
    return found


def test_an_encoder_that_changed_under_a_run_changes_nothing_or_stops_it(
    pictures: Path, tmp_path: Path
) -> None:
    encoder, _ = written("t5", tmp_path / "t5")
    settings = {**SETTINGS, "model.text.encoder": str(encoder)}
    options = {"preset": "transformer-16", "size": (5, 4), "settings": settings, "listener": Listener()}
    forgotten()
    whole = dq.train(pictures, images=48, out=tmp_path / "whole", **options)
    dq.train(pictures, images=16, out=tmp_path / "run", **options)
    for file in encoder.glob("*.safetensors"):
        tensors = {name: value + 0.3 for name, value in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    forgotten()
    run = dq.train(pictures, images=48, out=tmp_path / "run", **options)
    assert facts_of(run) == facts_of(whole)
    weights = [(each.model / "model.safetensors").read_bytes() for each in (run, whole)]
    assert weights[0] == weights[1]
    shutil.rmtree(tmp_path / "cache/text")
    forgotten()
    with pytest.raises(TextError, match="is not the one that the model learned with"):
        dq.train(pictures, images=64, out=tmp_path / "run", **options)


def test_a_begun_run_keeps_its_words_whatever_would_be_learnt_today(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"preset": "transformer-16", "size": (5, 4), "settings": SETTINGS, "listener": Listener()}
    whole = dq.train(pictures, images=48, out=tmp_path / "whole", **options)
    dq.train(pictures, images=16, out=tmp_path / "run", **options)
    learn = bpe.learn
    monkeypatch.setattr(bpe, "learn", lambda captions, size: learn(["other words"], size))
    run = dq.train(pictures, images=48, out=tmp_path / "run", **options)
    assert facts_of(run) == facts_of(whole)
    weights = [(each.model / "model.safetensors").read_bytes() for each in (run, whole)]
    assert weights[0] == weights[1]
    (run.folder / "from_data.json").write_text('{"captions": 3}')
    with pytest.raises(TrainingError, match="is damaged"):
        dq.train(pictures, images=64, out=tmp_path / "run", **options)


class Heard(Listener):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(("length", "share"), [("4", ""), ("3", "25%"), ("2", "100%")])
def test_captions_that_are_cut_are_said_before_the_first_step(
    pictures: Path, length: str, share: str
) -> None:
    dataset = open_dataset(pictures)
    settings = {**SETTINGS, "model.text.length": length, "model.text.vocabulary": "400"}
    heard = Heard()
    captions.read(resolve(preset="transformer-16", settings=settings).for_data(dataset).model, dataset, heard)
    said = [f"{share} of the captions are longer than the {length} tokens that are read of each"]
    assert [message.split(":")[0] for message in heard.messages] == (said if share else [])


def test_byte_pairs_are_learnt_from_the_captions_and_nothing_is_kept(pictures: Path, tmp_path: Path) -> None:
    config = resolve(preset="transformer-16", settings=SETTINGS).for_data(open_dataset(pictures))
    facts = config.model.text_facts  # type: ignore[attr-defined]
    assert "Ġheart" in json.loads(facts.bpe)["model"]["vocab"]
    assert not (tmp_path / "cache" / "text").exists()


def test_a_model_folder_shows_no_caption_of_the_data_where_it_should_not(
    pictures: Path, tmp_path: Path
) -> None:
    """But the pieces of words that `bpe` learnt from them."""
    settings = {**SETTINGS, "model.text.examples": "0"}
    options = {"preset": "transformer-16", "size": (5, 4), "images": 8, "listener": Listener()}
    run = dq.train(pictures, out=tmp_path / "run", settings=settings, **options)
    told = "".join((run.model / name).read_text() for name in ("config.json", "README.md"))
    assert "a red heart" not in told
    assert "top a" not in told
    model = dq.load(run)
    assert (model.sample(2).array == model.sample(2, prompt="").array).all()
