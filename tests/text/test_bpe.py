"""The words learnt from captions read any text, the same everywhere, and no text steers them."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import DataError, ModelError
from danqing.text.bpe import END, PADDING, BytePairs, learn

CAPTIONS = [
    f"{count} {size} {colour} {shape}\n{size_zh}{colour_zh}{shape_zh}"
    for count in ("two", "three")
    for size, size_zh in (("small", "小的"), ("large", "大的"))
    for colour, colour_zh in (("red", "红色"), ("blue", "蓝色"))
    for shape, shape_zh in (("circles", "圆形"), ("stars", "星形"))
]
LINES = [line for caption in CAPTIONS for line in caption.split("\n")]
PAIRS = BytePairs(learn(LINES, 400))


def test_a_word_is_one_token_wherever_it_stands() -> None:
    assert PAIRS.tokens("two small red stars") == [" two", " small", " red", " stars"]
    assert PAIRS.tokens("stars, red") == [" stars", ",", " red"]
    alone = PAIRS.row("stars")
    assert alone.dtype == torch.int64
    assert alone[-1] == END
    assert alone[0] == PAIRS.row("two red  stars")[-2]


def test_chinese_is_read_by_the_character_so_that_new_combinations_are_made_of_known_parts() -> None:
    assert PAIRS.tokens("红色的小星形") == list("红色的小星形")
    assert PAIRS.tokens("two 红 stars") == [" two", "红", " stars"]


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_becomes_ids_of_the_vocabulary_and_is_spelt_out_in_full(text: str) -> None:
    ids = PAIRS.row(text.encode("utf-8", "replace").decode())
    assert ids[-1] == END
    assert bool((ids[:-1] > END).all())
    assert bool((ids < PAIRS.vocabulary).all())


@pytest.mark.parametrize(
    ("one", "other"),
    [("A RED Heart", "a red heart"), ("cafe\u0301", "café"), ("  two \n stars ", "two stars"), ("ÄÖ", "äö")],
)
def test_case_accents_and_spaces_do_not_matter(one: str, other: str) -> None:
    assert torch.equal(PAIRS.row(one), PAIRS.row(other))


def test_different_texts_have_different_ids() -> None:
    texts = ["", "a", "b", "ab", "a b", "红", "黄", "🎉", "\U0001f468\u200d\U0001f469", "12", "21", "<pad>"]
    assert len({tuple(PAIRS.row(text).tolist()) for text in texts}) == len(texts)


def test_no_text_spells_padding_or_the_end() -> None:
    for text in ("<pad>", "<end>", "[PAD]", "\x00", "\x01", "</s>"):
        assert not set(PAIRS.row(text)[:-1].tolist()) & {PADDING, END}


def test_the_vocabulary_follows_from_the_captions_alone_in_whatever_order_and_process() -> None:
    here = learn(LINES, 400)
    assert learn(list(reversed(LINES)), 400) == here
    code = f"from danqing.text.bpe import learn; print(learn({LINES!r}, 400), end='')"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
    assert there.stdout == here


@given(st.integers(258, 420))
@settings(max_examples=20, deadline=None)
def test_the_vocabulary_is_no_larger_than_asked(vocabulary: int) -> None:
    assert BytePairs(learn(LINES, vocabulary)).vocabulary <= vocabulary


def test_no_captions_are_a_sentence() -> None:
    for captions in ([], ["", ""]):
        with pytest.raises(DataError, match="give the images captions"):
            learn(captions, 400)


def test_a_damaged_vocabulary_is_refused_and_its_own_pipeline_is_not_used() -> None:
    content = json.loads(learn(LINES, 400))
    for broken in (
        "",
        "{",
        "[]",
        "{}",
        '{"model": {"vocab": {"a": 5}, "merges": []}}',
        '{"model": {"vocab": 3}}',
    ):
        with pytest.raises(ModelError, match="get a whole copy"):
            BytePairs(broken)
    content["model"]["vocab"][next(iter(content["model"]["vocab"]))] = 10**6
    with pytest.raises(ModelError, match="get a whole copy"):
        BytePairs(json.dumps(content))
    content = json.loads(learn(LINES, 400))
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    content["model"]["dropout"] = 0.9
    content["added_tokens"] = [
        {"id": 3, "content": "red", "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
    ]
    forged = BytePairs(json.dumps(content))
    for text in (*LINES, "aaaa red"):
        assert torch.equal(forged.row(text), PAIRS.row(text))
