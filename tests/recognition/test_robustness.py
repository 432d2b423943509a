"""`attack` end to end: on classifiers as runs, and on encoders and generators."""

from pathlib import Path
from typing import Any

import pytest
import torch

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.data.corruptions import KINDS
from danqing.errors import DanqingError
from danqing.evaluation import scores
from tests.small_run import CLASSIFIER, SMALL

DIGITS = "digits:0,1,2,3"


def trained(out: Path, **settings: Any) -> dq.Run:
    return dq.train(
        DIGITS,
        task="classify",
        size=(8, 8),
        images=6400,
        settings={**CLASSIFIER, **settings},
        out=out,
        listener=dq.Listener(),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dq.Run:
    return trained(tmp_path_factory.mktemp("plain") / "run")


def test_the_scores_of_an_attack_stand_on_the_card(run: dq.Run) -> None:
    found = dq.attack(
        run, DIGITS, attacks="fgsm,apgd-ce", epsilon=0.1, steps=20, sigma=0.1, outside="digits:5,6,7", n=40
    )
    by_metric = {score.metric: score for score in found.scores}
    clean, worst = (by_metric[f"robust-accuracy/{name}"] for name in ("clean", "worst/linf 0.1"))
    assert clean.value > 0.9
    assert worst.value < clean.value
    assert worst.value <= by_metric["robust-accuracy/apgd-ce/linf 0.1"].value
    assert worst.interval is not None
    assert clean.reference is not None
    assert clean.reference.split == "held-out"
    assert by_metric["corrupted-accuracy"].value == pytest.approx(
        sum(by_metric[f"corrupted-accuracy/{kind}"].value for kind in KINDS) / len(KINDS)
    )
    certified = [
        by_metric[f"certified-accuracy/0.1/{radius}"].value for radius in ("0", "0.05", "0.1", "0.2")
    ]
    assert certified == sorted(certified, reverse=True)
    areas = {score.name for score in found.scores if score.name.startswith("AUROC")}
    assert {name.rpartition(" by ")[2] for name in areas} == {
        *("feature distance", "nearest features", "colours and detail", "energy", "uncertainty")
    }
    written = scores.read(run.model / "scores.json")
    assert {score.metric for score in written} >= by_metric.keys() | {"accuracy"}
    assert (written[0].metric, written[0].headline) == ("accuracy", True), "an attack leaves the headline"
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "accuracy under all of these attacks" in card
    again = dq.attack(run, DIGITS, attacks="fgsm,apgd-ce", epsilon=0.1, steps=20, corruptions=False, n=40)
    assert {score.metric: score.value for score in again.scores}.items() <= {
        (name, score.value) for name, score in by_metric.items()
    }


def test_adversarial_training_withstands_more(run: dq.Run, tmp_path: Path) -> None:
    hard = trained(tmp_path / "run", **{"model.adversarial_epsilon": 0.15, "model.adversarial_steps": 2})

    def worst(of: dq.Run) -> float:
        found = dq.attack(of, DIGITS, attacks="apgd-ce", epsilon=0.15, steps=20, corruptions=False)
        return found.scores[-1].value

    assert worst(hard) > worst(run) + 0.2


def test_the_command_prints_a_table_and_json(run: dq.Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--attacks", "fgsm", "--epsilon", "8/255", "--no-corruptions", "-n", "20"]
    with pytest.raises(SystemExit) as ended:
        main(["attack", str(run.folder), DIGITS, *options])
    assert ended.value.code == 0
    assert "accuracy under fgsm (linf 8/255)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["attack", str(run.folder), DIGITS, *options[:2], "--epsilon", "much", "--json"])
    assert ended.value.code == 2
    assert '"error"' in capsys.readouterr().out


def test_encoders_and_generators_are_attacked_too(tmp_path: Path) -> None:
    run = dq.train(
        "digits:0,1", preset="vae-32", size=(8, 8), images=640, settings=SMALL, out=tmp_path / "run"
    )
    result = dq.attack(run, "digits:0,1", epsilon=0.05, steps=5, n=24, outside="shapes")
    found = {score.metric: score for score in result.scores}
    attacked, noisy = (found[f"change/encode/{kind}/linf 0.05"] for kind in ("attack", "noise"))
    assert attacked.value > 1.5 * noisy.value > 0
    measures = {name.split("/")[1] for name in found if name.startswith("outside/")}
    assert measures >= {"feature distance", "colours and detail", "likelihood", "typicality"}
    with pytest.raises(DanqingError, match="does not classify images: leave attacks out"):
        dq.attack(run, "digits:0,1", attacks="pgd")
    with pytest.raises(DanqingError, match="does not classify images: leave sigma"):
        dq.attack(run, "digits:0,1", sigma=0.25)


def test_what_is_generated_is_attacked_by_search_where_there_are_no_gradients() -> None:
    config = {"family": "transformer", "width": 8, "height": 8, "channels": 1, "layers": 1, "heads": 2}
    torch.manual_seed(0)
    family = families.build(families.parse_config({**config, "features": 16}))
    found = dq.attack(dq.Model(family), "digits", epsilon=0.1, steps=2, n=4)
    assert any("passes no gradients" in note for note in found.notes)
    assert {score.unit for score in found.scores} == {"levels"}
