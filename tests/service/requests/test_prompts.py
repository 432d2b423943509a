"""What a prompt means to each kind of model, and what is said of one that means nothing."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from danqing import families
from danqing.data import open_dataset
from danqing.images import Images
from danqing.model.files import Access
from danqing.model.model import Model
from danqing.service.engine import model_description
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError
from danqing.service.requests import prompts
from danqing.training.config_reading import resolve

LABELLED = Offer("pets", "", reads="label", labels=("cat", "Guinea pig", "狗"))
CAPTIONED = Offer(
    "emoji", "", reads="label", labels=("1f600", "2764"), captions=("grinning face\na grin", "red heart")
)


@pytest.mark.parametrize(
    ("offer", "prompt", "label"),
    [
        (LABELLED, "cat", "cat"),
        (LABELLED, "  guinea_PIG\n", "Guinea pig"),
        (LABELLED, "GUINEA-PIG", "Guinea pig"),
        (LABELLED, "狗", "狗"),
        (LABELLED, "ｃａｔ", "cat"),
        (LABELLED, "a Cat", "cat"),
        (LABELLED, "The guinea-pig", "Guinea pig"),
        (CAPTIONED, "Red  Heart", "2764"),
        (CAPTIONED, "the red heart", "2764"),
        (CAPTIONED, "grin", "1f600"),
        (CAPTIONED, "a grin", "1f600"),
        (CAPTIONED, "1F600", "1f600"),
    ],
)
def test_a_class_is_found_by_its_name_or_caption(offer: Offer, prompt: str, label: str) -> None:
    reading = prompts.read(offer, prompt, None)
    assert (reading.label, reading.prompt) == (label, None)
    assert reading.revised == (None if prompt == label else label)


def test_a_model_keeps_what_all_images_of_a_class_are_called(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    Images(pixels).save_each(tmp_path / "data", ".png", name="")
    files = sorted(path.name for path in (tmp_path / "data").glob("*.png"))
    texts = ["grinning face\na grin", "a grin", "red heart", "blue heart", "", "no name at all"]
    rows = [
        {"file_name": file, "label": label, "text": text}
        for file, label, text in zip(
            files, ["1f600", "1f600", "2764", "2764", "bare", "bare"], texts, strict=True
        )
    ]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = open_dataset(tmp_path / "data", cache_dir=tmp_path / "cache")
    assert dataset.label_captions == ("a grin", "", "")
    assert dataset.subset([1, 2, 3]).label_captions == ("a grin", "")
    assert dataset.subset([0, 2]).label_captions == ("grinning face\na grin", "red heart")
    assert dataset.subset([3, 2, 4]).label_captions == ()
    small = {"model.net": "mlp", "model.features": 4, "model.latents": 4}
    config = resolve(preset="vae-32", settings=small, size=(8, 8)).for_data(dataset).model
    folder = Model(families.build(config)).save(tmp_path / "model")
    assert families.parse_config(json.loads((folder / "config.json").read_text())["model"]) == config
    offer = model_description.describe("emoji", str(folder), Access())
    assert (offer.fault, offer.captions) == (None, ("a grin", "", ""))
    assert prompts.read(offer, "A grin", None).label == "1f600"
    with pytest.raises(ApiError):
        prompts.read(offer, "red heart", None)


def test_what_is_written_exactly_goes_first() -> None:
    sky = Offer("sky", "", reads="label", labels=("The Sun", "sun", "a", "an a"))
    for name, label in (("the sun", "The Sun"), ("A Sun", "sun"), ("SUN", "sun"), ("A", "a"), ("the a", "a")):
        assert prompts.read(sky, name, None).label == label
    offer = Offer("letters", "", reads="label", labels=("a", "A", "7"))
    assert [prompts.read(offer, name, None).label for name in ("a", "A", "7")] == ["a", "A", "7"]
    assert prompts.read(offer, "", "7").label == "7"  # the name, not the eighth label
    assert prompts.read(offer, "", 1).label == "A"
    assert prompts.read(offer, "", "1").label == "A"  # as a form writes a number
    assert prompts.read(offer, "A", "A").label == "A"


def test_a_model_that_reads_text_takes_any() -> None:
    offer = Offer("painter", "", reads="text", captions=("a red heart",))
    for prompt in ("", "  ", "something new", "a red heart"):
        assert prompts.read(offer, prompt, None) == prompts.PromptMeaning(prompt=prompt)


def test_nothing_is_asked_of_a_model_without_a_condition() -> None:
    offer = Offer("noise", "", reads="none")
    assert prompts.read(offer, " ", None) == prompts.PromptMeaning()
    assert prompts.read(offer, None, None) == prompts.PromptMeaning()


@pytest.mark.parametrize(
    ("prompt", "label", "param", "words"),
    [
        ("gunea pig", None, "prompt", "the nearest are Guinea pig"),
        ("zebra", None, "prompt", "choose one of cat, Guinea pig, 狗"),
        ("", None, "prompt", "cat, Guinea pig, 狗"),
        ("cat", "狗", "label", "cat"),
        ("", "cta", "label", "cat"),
        ("", 3, "label", "0 to 2"),
        ("", -1, "label", "0 to 2"),
        ("", "9" * 5000, "label", "know the label"),
        ("", "0000000002", "label", "know the label"),
    ],
)
def test_what_means_nothing_is_refused_with_the_nearest(
    prompt: str, label: str | int | None, param: str, words: str
) -> None:
    with pytest.raises(ApiError) as refused:
        prompts.read(LABELLED, prompt, label)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert words in refused.value.message
    assert len(refused.value.message) < 300


def test_comparing_takes_a_bounded_time() -> None:
    offer = Offer("many", "", reads="label", labels=tuple(f"label number {i} of many" for i in range(20_000)))
    prompts.read(offer, "label number 7 of many", None)
    began = time.process_time()
    with pytest.raises(ApiError):
        prompts.read(offer, "label numbers " * 2_000, None)
    assert time.process_time() - began < 1
