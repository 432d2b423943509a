"""A search that is killed goes on; what is worse is stopped early; what fails says why."""

import json
import signal
import time
from pathlib import Path

import optuna
import pytest

import danqing
from danqing.errors import ConfigError, DataError, TrainingError
from danqing.randomness import derived_seed
from danqing.studies import training_process
from danqing.studies.search import Search, held_out_scores
from danqing.studies.search_space import Dimension
from danqing.studies.training_process import TrainingProcess
from danqing.training.run_files import read_lines
from tests import forked
from tests.small_run import SPACE, TRIAL


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "space.toml").write_text(SPACE, encoding="utf-8")
    return {
        "data": "digits:0,1",
        "preset": "gan-32",
        "settings": TRIAL,
        "space": tmp_path / "space.toml",
        "size": (8, 8),
        "images": 2000,
        "out": tmp_path / "search",
    }


def command(arguments: dict[str, object], trials: int) -> list[str]:
    words = ["tune", str(arguments["data"]), "--preset", "gan-32"]
    words += ["--size", "8", "--images", str(arguments["images"]), "--trials", str(trials)]
    words += ["--space", str(arguments["space"]), "--out", str(arguments["out"]), "--json"]
    for key, value in TRIAL.items():
        words += ["--set", f"{key}={value}"]
    return words


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_the_trial_that_it_was_at(
    arguments: dict[str, object], tmp_path: Path
) -> None:
    arguments["images"] = 4000
    process = forked.start(command(arguments, 1))
    run = tmp_path / "search/trials/0001"
    deadline = time.monotonic() + 600
    while not (run / "scores.jsonl").exists() or (run / "scores.jsonl").read_text().count("\n") < 2:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    study = optuna.load_study(study_name="danqing", storage=f"sqlite:///{tmp_path}/search/study.db")
    (killed,) = study.trials
    assert killed.state is optuna.trial.TrialState.RUNNING
    log_before = (run / "log.jsonl").read_text(encoding="utf-8")

    found = danqing.tune(**arguments, trials=1)  # type: ignore[arg-type]

    (trial,) = found.trials
    assert (trial.status, trial.number, trial.settings) == ("finished", 1, killed.params)
    scores = [json.loads(line)["score"]["value"] for line in (run / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 10
    assert trial.score == min(scores)
    kept = log_before.rpartition("\n")[0].splitlines()
    assert (run / "log.jsonl").read_text(encoding="utf-8").splitlines()[: len(kept)] == kept
    assert json.loads((run / "run.json").read_text())["progress"]["images"] >= 4000
    assert found.best is not None
    assert danqing.load(found.best).sample(2).array.shape == (2, 8, 8, 1)
    assert found.best_config is not None
    assert f"learning_rate = {trial.settings['optimizer.learning_rate']}" in found.best_config.read_text()
    assert danqing.tune(**arguments, trials=1) == found, "what is there is not done again"  # type: ignore[arg-type]


def test_a_trial_that_is_worse_than_the_others_is_stopped_and_stays_a_run(tmp_path: Path) -> None:
    task = {
        "data": "digits:0,1",
        "preset": "gan-32",
        "settings": {**TRIAL, "evaluation.every_images": "tenth"},
        "size": (8, 8),
        "images": 12_000,
    }
    space = [Dimension("optimizer.learning_rate", "float", 1e-4, 1e-2, log=True)]
    search = Search(tmp_path, task, space, "median", seed=0)
    for _ in range(4):  # four that nothing can match
        search.study.add_trial(
            optuna.create_trial(
                params={"optimizer.learning_rate": 1e-3},
                distributions={
                    "optimizer.learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
                },
                value=-1.0,
                intermediate_values=dict.fromkeys(range(1, 11), -1.0),
            )
        )
    search.run(5, 1, lambda done, total, text: None)
    last = search.trials()[-1]
    assert (last.number, last.status) == (5, "pruned")
    assert last.score is not None
    facts = json.loads((last.folder / "run.json").read_text())
    assert facts["status"] == "interrupted"
    assert facts["progress"]["images"] < 12_000
    assert danqing.load(last.folder).sample(1).array.shape == (1, 8, 8, 1)


def test_hyperband_lets_the_promising_finish(arguments: dict[str, object], tmp_path: Path) -> None:
    arguments["images"] = 640
    found = danqing.tune(**arguments, trials=2, pruner="hyperband")  # type: ignore[arg-type]
    statuses = [trial.status for trial in found.trials]
    assert set(statuses) <= {"finished", "pruned"}
    assert "finished" in statuses
    assert found.best_trial is not None
    assert found.best_trial.score == min(
        trial.score or 9 for trial in found.trials if trial.status == "finished"
    )
    study = optuna.load_study(study_name="danqing", storage=f"sqlite:///{tmp_path}/search/study.db")
    rungs = [key for trial in study.trials for key in trial.system_attrs if "completed_rung" in key]
    assert rungs, "every trial that went far enough is held against others of its bracket"


def test_settings_that_fail_say_why(arguments: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text('[optimizer.name]\nchoices = ["adam", "abacus"]\n')
    with pytest.raises(TrainingError, match=r"No trial has finished; .*optimizer.name"):
        danqing.tune(**arguments, trials=1, seed=next_seed("abacus"))  # type: ignore[arg-type]


def next_seed(wanted: str) -> int:
    """A seed whose first trial takes the choice that is wanted."""
    for seed in range(20):
        sampler = optuna.samplers.TPESampler(seed=derived_seed(seed, "trial", 0) % 2**32)
        if optuna.create_study(sampler=sampler).ask().suggest_categorical("o", ["adam", "abacus"]) == wanted:
            return seed
    raise AssertionError


def test_a_pruner_that_is_not_there_is_named(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="choose one of median, hyperband, none"):
        danqing.tune(**arguments, trials=1, pruner="mean")  # type: ignore[arg-type]


def test_other_settings_are_another_search(arguments: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search/holiday.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not empty and does not hold a search"):
        danqing.tune(**arguments, trials=1)  # type: ignore[arg-type]
    (tmp_path / "search/asked.json").write_text(json.dumps({"pruner": "hyperband"}))
    with pytest.raises(ConfigError, match="holds a search with other settings"):
        danqing.tune(**arguments, trials=1)  # type: ignore[arg-type]


def test_changed_or_too_few_images_are_told_before_any_trial(
    arguments: dict[str, object], tmp_path: Path
) -> None:
    from PIL import Image

    for number in range(120):
        path = tmp_path / f"pictures/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 2 * number).save(path)
    arguments["data"] = tmp_path / "pictures"
    few = {**TRIAL, "held_out": 0.05}
    with pytest.raises(DataError, match="too few to score trials by"):
        danqing.tune(**{**arguments, "settings": few}, trials=1)  # type: ignore[arg-type]
    assert not (tmp_path / "search").exists()
    with pytest.raises(TrainingError, match="No trial has finished"):
        danqing.tune(**arguments, trials=1, device="abacus")  # type: ignore[arg-type]
    arguments["data"] = (tmp_path / "pictures").rename(tmp_path / "moved")
    Image.new("L", (8, 8), 251).save(tmp_path / "moved/more.png")
    with pytest.raises(ConfigError, match=r"other settings \(images: .* → "):  # the place alone is no matter
        danqing.tune(**arguments, trials=1)  # type: ignore[arg-type]


def test_a_trial_is_compared_at_the_same_tenth(tmp_path: Path) -> None:
    lines = [(1, 0.5), (3, 0.4), (4, None), (10, 0.3)]
    text = "".join(json.dumps({"tenth": t, "score": {"value": v}}) + "\n" for t, v in lines)
    (tmp_path / "scores.jsonl").write_text(text + '{"tenth": 1', encoding="utf-8")
    assert held_out_scores(read_lines(tmp_path / "scores.jsonl")) == {1: 0.5, 3: 0.4, 10: 0.3}


def test_a_process_that_does_not_end_is_ended_without_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_process, "SAVING_TIME", 0.0)
    monkeypatch.setattr(TrainingProcess, "ask_to_stop", lambda self: None)
    with pytest.raises(KeyboardInterrupt), TrainingProcess({"data": "digits"}) as process:
        raise KeyboardInterrupt
    assert not process.running


def test_importance_needs_trials_and_adds_up(tmp_path: Path) -> None:
    search = Search(tmp_path, {}, [Dimension("a", "float", 0, 1), Dimension("b", "float", 0, 1)], "none", 0)
    assert search.importance() == {}
    search.study.sampler = optuna.samplers.RandomSampler(seed=0)
    for _ in range(12):
        trial = search.study.ask()
        a, b = (each.suggest(trial) for each in search.space)
        search.study.tell(trial, 10 * a + 0.1 * b)
    found = search.importance()
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] > found["b"]
