"""Models that read text paint the captions they are judged by; first stages are judged by reconstructions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import danqing as dq
from danqing import families
from danqing.data.builtin import shapes
from danqing.data.captions import captions_of
from danqing.errors import EvaluationError
from danqing.evaluation.candidate import open_candidate
from danqing.evaluation.evaluate import METRICS, Evaluation, _plan, evaluate, score_samples
from danqing.evaluation.features import extract
from danqing.evaluation.judges import caption_matcher
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.networks import open_network
from danqing.evaluation.reference import open_reference
from danqing.evaluation.scores import Score
from danqing.families.transformer_sampling import TransformerFamily
from danqing.images import Images
from danqing.model.model import Model
from danqing.precision import candidates
from tests.evaluation.models import small_model
from tests.evaluation.painters import always, copier, painter

DATA = "shapes:2000"
WORDS = ["composition", "prompt-agreement"]


def by_metric(found: Evaluation) -> dict[str, Score]:
    return {score.metric: score for score in found.scores}


def comparison(model: Model, n: int, data: str = DATA, seed: int = 0) -> MetricInputs:
    candidate = open_candidate(model, data, n=n, seed=seed)
    return MetricInputs(candidate, open_reference(data, candidate), open_network("pixels"), n=n, seed=seed)


@pytest.fixture(scope="module")
def judge() -> caption_matcher.CaptionMatcher:
    """What has seen a few shapes and their captions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_matcher, "_SHOWN", 16_000)
        return caption_matcher.fit(dq.open_dataset(DATA, size=(24, 24)))


def measured(c: MetricInputs, *metrics: str) -> dict[str, Score]:
    return {score.metric: score for name in metrics for score in METRICS[name].measure(c)}


def test_whoever_paints_what_was_asked_has_all_attributes_right() -> None:
    found = by_metric(evaluate(painter(), DATA, metrics="composition", features="pixels", n=400))
    score = found["composition"]
    assert (score.value, found["composition-all"].value) == (1, 1)
    assert set(score.settings["per_attribute"].values()) == {1.0}
    assert score.settings["on_real_images"] == 1
    assert score.settings["prompts"] == "captions of the reference"
    assert score.reference is not None
    assert (score.reference.split, score.images) == ("test", 400)
    for one in found.values():
        low, high = one.interval or (0, 0)
        assert 0.98 < low < high == 1


def test_each_attribute_is_judged_by_itself() -> None:
    always_red = painter(always(colour="red", count=1))
    found = by_metric(evaluate(always_red, DATA, metrics="composition-all", features="pixels", n=400))
    shares = found["composition"].settings["per_attribute"]
    assert shares["shape"] == shares["size"] == 1
    assert shares["place"] > 0.95
    assert shares["colour"] == pytest.approx(1 / 8, abs=0.05)
    assert shares["count"] == pytest.approx(1 / 4, abs=0.08)
    assert found["composition"].value == pytest.approx(np.mean(list(shares.values())), abs=1e-3)
    assert found["composition-all"].value < 0.1
    low, high = found["composition"].interval or (0, 0)
    assert low < found["composition"].value < high
    assert high - low < 0.06


def test_agreement_knows_right_pictures_from_wrong_ones(judge: caption_matcher.CaptionMatcher) -> None:
    askew = always(colour="red", shape="ring", place=(0, 0))
    right, wrong = comparison(painter(), 300), comparison(painter(askew), 300)
    for c in (right, wrong):
        vars(c)["caption_matcher"] = judge
    ours, theirs = measured(right, "prompt-agreement"), measured(wrong, "prompt-agreement")
    for metric in ("prompt-agreement", "prompt-agreement-top5"):
        real = ours[metric].settings["on_real_images"]
        assert ours[metric].value == pytest.approx(real, abs=0.1)
        assert theirs[metric].value < 0.5 * real
        assert ours[metric].settings["among"] == 100
        assert f"real images reach {real:.3f}" in ours[metric].note
    assert ours["prompt-agreement-top5"].value > 0.6
    assert ours["prompt-agreement"].value <= ours["prompt-agreement-top5"].value


def test_a_model_paints_the_captions_of_the_reference_in_their_order() -> None:
    few, many = comparison(painter(), 12), comparison(painter(), 3000)
    texts = few.reference.images.texts(range(len(few.reference.images)))
    assert texts is not None
    lines = [captions_of(text) for text in texts]
    assert many.prompts is not None
    assert few.prompts is not None
    assert all(prompt in lines[row % len(lines)] for row, prompt in enumerate(many.prompts))
    assert [p in lines[row * len(lines) // 12] for row, p in enumerate(few.prompts)] == [True] * 12
    languages = [prompt.isascii() for prompt in many.prompts]
    assert 0.4 < np.mean(languages) < 0.6
    assert comparison(painter(), 12).prompts == few.prompts
    assert comparison(painter(), 12, seed=1).prompts != few.prompts
    combination = shapes.by_caption()[few.prompts[3]]
    network = open_network("pixels")
    drawn = painter().sample(1, prompt=combination.english, seed=0)
    assert len(drawn) == 1
    assert network.features(torch.from_numpy(drawn.array)).shape[0] == 1


def test_pictures_with_captions_are_judged_by_those(tmp_path: Path) -> None:
    model = painter()
    wanted = [one.english for one in shapes.combinations() if one.is_held_out][:40]
    images = model.sample(40, prompt=wanted)
    images.save_each(tmp_path)
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    table = "".join(
        f'{{"file_name": "{name}", "text": "{text}"}}\n' for name, text in zip(names, wanted, strict=True)
    )
    (tmp_path / "metadata.jsonl").write_text(table)
    found = by_metric(evaluate(tmp_path, DATA, metrics="composition", features="pixels"))
    assert found["composition-all"].value == 1
    assert "prompts" not in found["composition"].settings


def captioned(folder: Path, texts: list[str]) -> str:
    """A folder of drawn shapes with these captions, whatever they show."""
    folder.mkdir()
    painter().sample(len(texts)).save_each(folder)
    names = sorted(path.name for path in folder.glob("*.png"))
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in zip(names, texts, strict=True)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_a_folder_that_is_called_shapes_is_data_like_any_other(tmp_path: Path) -> None:
    texts = [one.english for one in shapes.combinations()[:20]] + ["something else"] * 20
    folder = captioned(tmp_path / "shapes", texts)
    found = evaluate(painter(), folder, metrics="kernel", features="pixels", n=20)
    assert found.headline.metric == "kernel"
    with pytest.raises(EvaluationError, match="built-in data shapes alone"):
        evaluate(painter(), folder, metrics="composition", features="pixels", n=20)


def test_where_no_drawn_image_has_a_caption_nothing_can_agree(tmp_path: Path) -> None:
    lines = "\n".join(one.english for one in shapes.combinations()[:12])
    c = comparison(painter(), 5, captioned(tmp_path / "few", [""] * 39 + [lines]))
    with pytest.raises(EvaluationError, match="leave prompt-agreement out"):
        measured(c, "prompt-agreement")
    with pytest.raises(EvaluationError, match="leave composition out"):
        measured(c, "composition")


def test_a_first_stage_is_scored_by_what_it_makes_of_the_reference() -> None:
    asked = ["frechet", "reconstruction-error", "composition"]
    scores = by_metric(evaluate(copier(), DATA, metrics=asked, features="pixels", n=9999))
    assert scores["frechet"].value < 1e-6
    assert scores["frechet"].images == len(dq.open_dataset(DATA, split="test"))
    assert scores["frechet"].settings["images"] == "reconstructions of the reference"
    assert "of reconstructions" in scores["frechet"].note
    assert "of reconstructions" not in scores["reconstruction-error"].note
    assert scores["reconstruction-error"].value < 1e-9
    assert scores["composition"].value == 1
    grey = by_metric(evaluate(copier(0.0), DATA, metrics=asked, features="pixels", n=200))
    assert grey["frechet"].value > 100
    assert grey["frechet"].images == 200
    assert grey["composition"].value == 0
    assert grey["composition"].settings["unread"]["shape"] == 1
    chosen, left_out = _plan(comparison(copier(), 200), None)
    assert {"frechet", "composition", "psnr"} <= set(chosen)
    assert "has no samples of its own" in left_out["memorised"]
    assert "has no samples of its own" in left_out["duplicates"]


def test_what_cannot_be_judged_by_words_says_why() -> None:
    with pytest.raises(EvaluationError, match="the data has no captions"):
        evaluate(small_model(width=8, height=8, channels=1), "digits", metrics=WORDS[1], features="pixels")
    with pytest.raises(EvaluationError, match="the model reads no text"):
        evaluate(small_model(width=24, height=24), DATA, metrics="prompt-agreement", features="pixels", n=10)
    with pytest.raises(EvaluationError, match="built-in data shapes alone"):
        evaluate(small_model(width=8, height=8, channels=1), "digits", metrics=WORDS, features="pixels")


def test_scores_in_training_know_what_was_asked() -> None:
    network, judged = open_network("pixels"), dq.open_dataset(DATA, split="test", size=(24, 24))
    features = extract(judged, network, keep=True)
    asked = score_samples(painter(), features, network, n=200, judged=judged)
    other = score_samples(painter(), features, network, n=200)
    assert asked.settings == {"prompts": "captions of the reference"}
    assert other.settings == {}
    assert asked == score_samples(painter(), features, network, n=200, judged=judged)
    copied = score_samples(copier(), features, network, n=200, judged=judged)
    assert copied.settings == {"images": "reconstructions of the reference"}
    assert copied.value < other.value


def writer(**settings: object) -> Model:
    """A transformer that has learnt nothing: it finds every code as likely as the others."""
    side = {"width": 24, "height": 24, "channels": 3}
    tokenizer = {"family": "vqvae", "features": 4, "blocks": 0, "downsamplings": 3, "vocabulary": 16} | side
    plain = {"family": "transformer", "tokenizer": tokenizer, "condition": "text", "layers": 1, **side}
    config = families.parse_config({**plain, "features": 16, "heads": 2, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        family = families.build(config.complete([one.english for one in shapes.combinations()[:50]]))
    assert isinstance(family, TransformerFamily)
    family.net.head.weight.data.zero_()
    return Model(family)


def test_tokens_cost_log_v_where_nothing_has_been_learnt() -> None:
    score = evaluate(writer(), DATA, metrics="token-nll", features="pixels", n=2).headline
    assert score.value == pytest.approx(4, abs=1e-5)
    assert (score.name, score.settings["tokens_per_image"]) == ("bits per token", 9)
    assert score.images == 2000
    assert "prompts" not in score.settings
    with pytest.raises(EvaluationError, match="cannot say how likely tokens are"):
        evaluate(writer(order="masked"), DATA, metrics="token-nll", features="pixels", n=2)
    told = comparison(writer(), 20)
    score = measured(told, "composition")["composition"]
    assert score.value < 0.5
    assert score.settings["painted_in"] == candidates(torch.device("cpu"))[0]


def test_seeds_and_prompts_paint_the_same_alone() -> None:
    made = comparison(painter(), 20)
    prompts = made.prompts
    assert prompts is not None
    painted = made.generated.images(np.arange(20)).numpy()
    again = painter().sample(20, prompt=list(prompts), seed=0)
    assert isinstance(again, Images)
    assert np.array_equal(painted, again.array)
