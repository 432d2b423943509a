"""The judge of captions: the same each time, fair to captions that occur twice, exact in its ranks."""

import numpy as np
import pytest
import torch

import danqing as dq
from danqing.data.builtin import shapes
from danqing.errors import EvaluationError
from danqing.evaluation.judges import caption_matcher
from danqing.evaluation.judges.caption_matcher import _contrast, captions_in, fit, other_captions


def test_other_captions_are_others_in_the_same_language() -> None:
    captions = [["a red heart", "红心"], ["a heart", "红心"], ["a blue star", "蓝星"], ["a cat", "猫"], []]
    first, second, unknown = other_captions(["a red heart", "猫", "a dog"], captions)
    assert sorted(first) == ["a blue star", "a cat", "a heart"]
    assert sorted(second) == ["红心", "蓝星"]
    assert sorted(unknown) == ["a blue star", "a cat", "a heart", "a red heart"]
    shared = other_captions(["红心"], captions)[0]
    assert sorted(shared) == ["猫", "蓝星"]
    many = [[one.english, one.chinese] for one in shapes.combinations()]
    (drawn,) = other_captions([many[7][1]], many)
    assert len(set(drawn)) == 99
    assert not any(text.isascii() for text in drawn)
    assert drawn == other_captions([many[7][1]], many)[0]
    assert drawn != other_captions([many[7][1]], many, seed=1)[0]


def test_equal_captions_of_a_batch_are_equally_right() -> None:
    logits = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    twice, thrice = _contrast(logits, ["a", "a", "b"]), _contrast(logits, ["a", "b", "c"])
    of_pair, of_one = (
        -torch.tensor([4.0, 4, 0]).log_softmax(0)[0],
        -torch.tensor([4.0, 0, 0]).log_softmax(0)[0],
    )
    assert twice.item() == pytest.approx(((2 * of_pair + of_one) / 3).item(), abs=1e-6)
    assert twice == pytest.approx(thrice.item())  # here, where both are as likely
    better = torch.tensor([[4.0, 3.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    assert _contrast(better, ["a", "b", "c"]) < thrice
    assert _contrast(better, ["a", "a", "b"]) > twice


def test_the_same_seed_learns_the_same_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_matcher, "_SHOWN", 600)
    data = dq.open_dataset("shapes:300", size=(16, 16))
    rows, captions = np.arange(40), captions_in(data)
    state = torch.get_rng_state()
    first, again, other = fit(data), fit(data), fit(data, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    texts = [lines[0] for lines in captions[:40]]
    assert torch.equal(first.of_images(data, rows), again.of_images(data, rows))
    assert torch.equal(first.of_texts(texts), again.of_texts(texts))
    assert not torch.equal(first.of_images(data, rows), other.of_images(data, rows))
    assert torch.allclose(first.of_images(data, rows).norm(dim=1), torch.ones(40))
    assert first.taught == 300
    assert torch.allclose(first.of_texts(texts)[3:5], first.of_texts(texts[3:5]), atol=1e-6)


def test_ranks_count_what_suits_better_and_half_of_what_suits_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caption_matcher, "_SHOWN", 100)
    data = dq.open_dataset("shapes:100", size=(16, 16))
    judge, rows = fit(data), np.arange(5)
    texts = [lines[0] for lines in captions_in(data)[5:35]]
    alike = judge.of_images(data, rows) @ judge.of_texts(texts).T
    order = alike.argsort(dim=1, descending=True)
    prompts = [texts[order[row, 4]] for row in range(5)]
    choices = [[text for text in texts if text != prompt] for prompt in prompts]
    assert judge.ranks(data, rows, prompts, choices).tolist() == [4] * 5
    assert judge.ranks(data, rows, prompts, [[prompt] * 6 for prompt in prompts]).tolist() == [3] * 5


def test_one_caption_alone_cannot_be_told_apart() -> None:
    with pytest.raises(EvaluationError, match="at least two captions"):
        fit(dq.open_dataset("digits"))
