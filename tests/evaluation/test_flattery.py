"""A score by a network that the model was trained with says so, and is not the one to quote."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import danqing as dq
from danqing.cli.run_output import run_text
from danqing.data import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.evaluate import score_samples
from danqing.evaluation.features import extract, feature_info
from danqing.evaluation.flattery import was_trained_with
from danqing.evaluation.networks import open_network
from danqing.evaluation.scores import FLATTERED, Score, read
from danqing.families import REGISTRY, build, can_sample, parse_config
from danqing.model.model import Model
from danqing.studies.search import Search, Trial, _Running, best_of
from danqing.studies.search_space import Dimension
from danqing.training.outcome import read_run
from danqing.training.run_files import read_lines
from tests.evaluation.models import small_model
from tests.small_run import TWO_STAGES

SHAPE = {"width": 8, "height": 8, "channels": 1}
VQVAE: dict[str, Any] = {"family": "vqvae", "features": 4, "blocks": 0, "downsamplings": 1, "vocabulary": 16}
PERCEPTUAL = {
    "features": "4",
    "blocks": "0",
    "vocabulary": "16",
    "batch_size": "16",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "1",
    "precision": "float32",
    "perceptual": "0.1",
    "evaluation.samples": "16",
    "evaluation.every_images": "32",
}


def first_stage(**settings: object) -> Model:
    return Model(build(parse_config({**VQVAE, **SHAPE, **settings})).eval())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that learnt with a perceptual loss in EfficientNet-Lite0."""
    out = tmp_path_factory.mktemp("runs") / "perceptual"
    dq.train("digits:0,1", preset="vqvae-32", size=(8, 8), images=64, out=out, settings=PERCEPTUAL)
    return out


def test_a_model_records_the_networks_that_it_was_trained_with(trained: Path) -> None:
    network = open_network("efficientnet-lite0")
    recorded = dq.load(trained).facts["networks"]
    assert recorded == [{"name": "efficientnet-lite0", "sha256": network.sha256}]


def test_held_out_scores_by_a_network_of_the_loss_are_marked(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "scores.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["score"]["flattered"] for line in lines)
    assert FLATTERED in lines[0]["score"]["text"]
    best = json.loads((trained / "run.json").read_text())["best"]
    assert best["flattered"]
    assert FLATTERED in run_text(read_run(trained))["Best"]
    assert "the scores flatter it" in (trained / "report.html").read_text(encoding="utf-8")


def test_a_flattering_score_is_marked_wherever_it_is_shown_and_not_quoted(trained: Path) -> None:
    found = dq.evaluate(trained, "digits:0,1", metrics="kernel,frechet", n=60, second_features="pixels")
    first, second = (
        [one for one in found.scores if one.features is not None and one.features.name == name]
        for name in ("efficientnet-lite0", "pixels")
    )
    assert [one.flattered for one in first] == [True, True]
    assert [one.flattered for one in second] == [False, False]
    assert found.headline == next(one for one in second if one.metric == "kernel")
    assert "efficientnet-lite0 would flatter" in found.reason
    assert any("part of this model's training" in note for note in found.notes)
    card = (trained / "model/README.md").read_text(encoding="utf-8")
    assert card.count("(trained with this network: flattering)") == 3  # the held-out score stays
    assert [one.flattered for one in read(trained / "model/scores.json")].count(True) == 3


def test_a_model_records_what_its_tokenizer_was_trained_with(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "second"
    settings = {key: value for key, value in TWO_STAGES.items() if key.split(".")[0] != "tokenizer"}
    settings = {key: value for key, value in settings.items() if "text" not in key}
    settings |= {"tokenizer.model": str(trained)}
    dq.train("digits:0,1", preset="transformer-32", size=(8, 8), images=32, out=out, settings=settings)
    model, network = dq.load(out), open_network("efficientnet-lite0")
    assert "networks" not in model.facts
    assert model.facts["tokenizer"]["networks"] == [{"name": network.name, "sha256": network.sha256}]
    assert was_trained_with(model, feature_info(network))


def test_a_network_is_known_by_its_weights_and_not_by_its_name() -> None:
    info = feature_info(open_network("pixels"))
    model = small_model()
    assert not was_trained_with(model, info)
    model.facts["networks"] = [{"name": "another name", "sha256": info.sha256}]
    assert was_trained_with(model, info)
    model.facts["networks"] = [{"name": info.name, "sha256": "0" * 64}]
    assert not was_trained_with(model, info)


def test_a_model_of_an_earlier_version_is_judged_by_its_configuration() -> None:
    info = feature_info(open_network("efficientnet-lite0"))
    assert was_trained_with(first_stage(perceptual=0.1), info)
    assert not was_trained_with(first_stage(), info)
    assert not was_trained_with(first_stage(perceptual=0.1), feature_info(open_network("pixels")))


FAMILIES: dict[str, dict[str, Any]] = {
    "gan": {"net": "mlp"},
    "vae": {"net": "mlp", "latents": 4},
    "vqvae": {key: value for key, value in VQVAE.items() if key != "family"},
    "transformer": {"layers": 1, "features": 16, "heads": 2},
    "flow": {"net": "dit", "widths": [8], "layers": 1, "heads": 2, "num_steps": 2},
    "regression": {"features": 4, "blocks": 1, "source_channels": 1},
    "translation": {"widths": [4], "blocks": 1},
}


def test_every_family_is_tried() -> None:
    untried = set(FAMILIES) ^ {name for name in REGISTRY if can_sample(name)}
    assert not untried, f"Add tiny settings of {sorted(untried)} to FAMILIES above."


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_every_family_are_marked_by_what_it_was_trained_with(family: str) -> None:
    model = Model(build(parse_config({"family": family, **SHAPE, **FAMILIES[family]})))
    if "source_channels" in FAMILIES[family]:
        model.facts["data"] = {"prepared": {"degrade": "noise0.1"}}
    assert_marked(model, dq.open_dataset("digits:0,1", domains="0:1" if family == "translation" else ""))


def test_scores_of_translations_are_marked_by_what_their_model_was_trained_with() -> None:
    settings = {**FAMILIES["flow"], "pairs": True, "source_channels": 1}
    model = Model(build(parse_config({"family": "flow", **SHAPE, **settings})))
    model.facts["data"] = {"prepared": {"degrade": "noise0.1"}}
    assert_marked(model, dq.open_dataset("digits:0,1"))


def assert_marked(model: Model, images: Dataset) -> None:
    network = open_network("pixels")
    reference = extract(images, network, keep=False)
    for flattered in (False, True):
        if flattered:
            model.facts["networks"] = [{"name": network.name, "sha256": network.sha256}]
        score = score_samples(model, reference, network, n=8, judged=images)
        assert score.flattered is flattered
        assert (FLATTERED in str(score)) is flattered
        assert Score.model_validate({k: v for k, v in score.to_json().items() if k != "text"}) == score


def test_a_search_names_a_flattered_trial_best_only_where_there_is_no_other(tmp_path: Path) -> None:
    def trial(number: int, score: float, *, flattered: bool = False, status: str = "finished") -> Trial:
        return Trial(number, tmp_path, status, {}, score, flattered=flattered)

    fair, worse, flattered = trial(1, 0.5), trial(2, 0.6), trial(3, 0.1, flattered=True)
    assert best_of([fair, worse, flattered, trial(4, 0.0, status="pruned")]) is fair
    assert best_of([flattered, trial(5, 0.2, flattered=True)]) is flattered
    assert best_of([]) is None


def test_a_search_marks_trials_that_were_trained_with_the_network_that_scores_them(tmp_path: Path) -> None:
    search = Search(tmp_path, {}, [Dimension("model.perceptual", "float", 0, 1)], "none", 0)
    for flattered, value in ((False, 0.5), (True, 0.1)):
        trial = search.study.ask()
        settings = {each.name: each.suggest(trial) for each in search.space}
        assert settings
        folder = tmp_path / "trials" / f"{trial.number + 1:04d}"
        folder.mkdir(parents=True)
        line = {"tenth": 1, "score": {"value": value, "flattered": flattered}}
        (folder / "scores.jsonl").write_text(json.dumps(line) + "\n")
        process = SimpleNamespace(score_lines=functools.partial(read_lines, folder / "scores.jsonl"))
        running = _Running(trial, folder, process, 0)  # type: ignore[arg-type]
        running.report()
        search.study.tell(trial, min(running.scores.values()))
    assert [(one.flattered, one.score) for one in search.trials()] == [(False, 0.5), (True, 0.1)]
    assert best_of(search.trials()) == search.trials()[0]


def test_the_second_network_is_another_one() -> None:
    with pytest.raises(EvaluationError, match="Both feature networks are pixels"):
        dq.evaluate(small_model(**SHAPE), "digits", features="pixels", second_features="pixels", n=8)


def test_a_second_network_sees_the_same_images() -> None:
    found = dq.evaluate(
        small_model(**SHAPE),
        "digits:0,1",
        metrics="kernel",
        features="efficientnet-lite0",
        second_features="pixels",
        n=40,
    )
    alone = dq.evaluate(small_model(**SHAPE), "digits:0,1", metrics="kernel,frechet", features="pixels", n=40)
    again = [one for one in found.scores if one.features is not None and one.features.name == "pixels"]
    assert [(one.metric, one.value) for one in again] == [(one.metric, one.value) for one in alone.scores]
    assert found.headline.features is not None
    assert found.headline.features.name == "efficientnet-lite0"
