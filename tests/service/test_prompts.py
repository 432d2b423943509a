"""What a prompt means to each kind of model, and what is said of one that means nothing."""

import time

import pytest

from danqing.service import prompts
from danqing.service.errors import ApiError
from danqing.service.orders import Offer

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
        (CAPTIONED, "Red  Heart", "2764"),
        (CAPTIONED, "a grin", "1f600"),
        (CAPTIONED, "1F600", "1f600"),
    ],
)
def test_a_class_is_found_by_its_name_or_caption(offer: Offer, prompt: str, label: str) -> None:
    reading = prompts.read(offer, prompt, None)
    assert (reading.label, reading.prompt) == (label, None)
    assert reading.revised == (None if prompt == label else label)


def test_what_is_written_exactly_goes_first() -> None:
    offer = Offer("letters", "", reads="label", labels=("a", "A", "7"))
    assert [prompts.read(offer, name, None).label for name in ("a", "A", "7")] == ["a", "A", "7"]
    assert prompts.read(offer, "", "7").label == "7"  # the name, not the eighth label
    assert prompts.read(offer, "", 1).label == "A"
    assert prompts.read(offer, "", "1").label == "A"  # as a form writes a number
    assert prompts.read(offer, "A", "A").label == "A"


def test_a_model_that_reads_text_takes_any() -> None:
    offer = Offer("painter", "", reads="text", captions=("a red heart",))
    for prompt in ("", "  ", "something new", "a red heart"):
        assert prompts.read(offer, prompt, None) == prompts.Reading(prompt=prompt)


def test_nothing_is_asked_of_a_model_without_a_condition() -> None:
    offer = Offer("noise", "", reads="none")
    assert prompts.read(offer, " ", None) == prompts.Reading()
    assert prompts.read(offer, None, None) == prompts.Reading()


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
        ("", "9" * 5000, "label", "no label"),
        ("", "0000000002", "label", "no label"),
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
