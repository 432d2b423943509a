"""The EMA length of a run: chosen at its end on held-out images, and again by hand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.cli import main
from danqing.errors import ConfigError, TrainingError
from danqing.evaluation import scores
from danqing.model import folder as model_folder
from danqing.training.run_folder import RunFolder
from danqing.training.snapshots import FEWEST_STEPS
from tests.checkpoints import newest
from tests.small_run import SCORED

AVERAGED = SCORED | {"ema_lengths": "[0.05, 0.1]"}
LONG = 16 * FEWEST_STEPS * 13


class Heard(dq.Listener):
    """Remembers scores and sentences."""

    def __init__(self) -> None:
        self.scored: list[float | None] = []
        self.messages: list[str] = []

    def on_score(self, scored: object) -> None:
        self.scored.append(getattr(scored, "ema_length", None))

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def train(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dq.Run]:
    """Train a small run once for each configuration, and return it."""
    runs = tmp_path_factory.mktemp("runs")

    def train(name: str, images: int = 640, every: int = 320, **settings: str) -> dq.Run:
        return dq.train(
            pictures,
            preset="vae-32",
            out=runs / name,
            images=images,
            size=(6, 9),
            settings=AVERAGED | settings,
            evaluate_every=every,
            listener=Heard(),
        )

    return train


@pytest.fixture(scope="module")
def long_run(train: Callable[..., dq.Run]) -> dq.Run:
    return train("long", images=LONG, every=LONG // 2)


@pytest.fixture
def copied(long_run: dq.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(long_run.folder, tmp_path / "run"))


def newest_checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return newest(run)[0]


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_publishes_the_length_that_scores_best(long_run: dq.Run) -> None:
    lines = [json.loads(line) for line in (long_run.folder / "scores.jsonl").read_text().splitlines()]
    last = {line["ema_length"]: line["score"]["value"] for line in lines if line["images"] == LONG}
    assert lines[0]["ema_length"] == 0.05
    assert {0.03, 0.05} <= last.keys()
    best = min(lines, key=lambda line: line["score"]["value"])
    assert long_run.ema is not None
    assert long_run.best is not None
    assert (long_run.ema["length"], long_run.best["images"]) == (best["ema_length"], best["images"])
    assert dict(long_run.ema["scores"]) == last
    assert dq.load(long_run).facts["ema_length"] == best["ema_length"]
    (score,) = scores.read(long_run.model / "scores.json")
    assert score.value == best["score"]["value"]
    report = long_run.report.read_text(encoding="utf-8")
    assert long_run.ema["text"] in report
    assert "chosen among 0." in report or "scores better than 0." in report
    assert f"EMA length: {best['ema_length']}" in (long_run.model / "README.md").read_text()


def test_a_length_by_hand_replaces_the_model_and_best_brings_it_back(copied: Path, long_run: dq.Run) -> None:
    done = dq.rebuild_ema(copied, length=0.1, listener=Heard())
    assert (done.length, done.images, dict(done.scores)) == (0.1, LONG, {})
    model = dq.load(copied)
    assert model.facts["ema_length"] == 0.1
    assert "chosen_by" not in model.facts["data"]
    assert equal(load_file(copied / "model/model.safetensors"), below(newest_checkpoint(copied), "ema-0.1/"))
    assert scores.read(copied / "model/scores.json") == []
    assert done.text in (copied / "report.html").read_text(encoding="utf-8")
    assert "that model is kept" not in (copied / "report.html").read_text(encoding="utf-8")
    heard = Heard()
    best = dq.rebuild_ema(copied, listener=heard)
    assert heard.scored == []  # the run has scored them
    assert long_run.ema is not None
    assert (best.length, best.text) == (long_run.ema["length"], long_run.ema["text"])
    for name in ("model.safetensors", "scores.json", "samples.png"):
        assert (copied / "model" / name).read_bytes() == (long_run.model / name).read_bytes()
    facts = RunFolder(copied).facts()
    assert (facts["ema"], facts["best"]) == (long_run.ema, long_run.best)


def test_any_length_between_is_near_the_kept_ones(copied: Path) -> None:
    kept = newest_checkpoint(copied)
    dq.rebuild_ema(copied, length=0.07, listener=Heard())
    found = load_file(copied / "model/model.safetensors")
    first, second = (below(kept, prefix) for prefix in ("ema/", "ema-0.1/"))

    def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
        return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5

    assert 0 < distance(found, first) < distance(second, first)
    assert 0 < distance(found, second) < distance(second, first)


def test_a_model_whose_last_weights_are_kept_can_be_chosen_by_hand(
    train: Callable[..., dq.Run], tmp_path: Path
) -> None:
    run = train("last", images=LONG, every=LONG, **{"evaluation.keep": "last"})
    assert run.ema is not None
    assert (run.ema["length"], run.ema["scores"]) == (0.05, [[0.05, run.ema["scores"][0][1]]])
    heard = Heard()
    done = dq.rebuild_ema(run, listener=heard)
    assert heard.scored[0] == 0.05
    assert done.scores[done.length] == min(done.scores.values())
    assert dq.load(run).facts["data"]["chosen_by"] == "held-out"


def test_without_held_out_images_the_first_length_is_published(train: Callable[..., dq.Run]) -> None:
    run = train("short", every=0)
    assert run.ema is not None
    assert "the first of training.ema_lengths" in run.ema["text"]
    assert equal(load_file(run.model / "model.safetensors"), below(newest_checkpoint(run.folder), "ema/"))
    for length, words in ((0.02, "too few snapshots"), (0.5, "not between"), ("best", "no images out")):
        with pytest.raises(TrainingError, match=words):
            dq.rebuild_ema(run, length=length, listener=Heard())  # type: ignore[arg-type]
    assert dq.rebuild_ema(run, length=0.1, listener=Heard()).length == 0.1


def test_what_cannot_be_rebuilt_is_rejected(
    train: Callable[..., dq.Run], copied: Path, tmp_path: Path
) -> None:
    half_life = train("half-life", every=0, ema_lengths="[]")
    assert half_life.ema is None
    with pytest.raises(TrainingError, match="half-life"):
        dq.rebuild_ema(half_life, length=0.1, listener=Heard())
    with pytest.raises(TrainingError, match="not a run folder"):
        dq.rebuild_ema(tmp_path, length=0.1, listener=Heard())
    whole = tmp_path / "two stages"
    (whole / "checkpoints").mkdir(parents=True)
    (whole / "checkpoints/images-000000000001.safetensors").write_bytes(b"")
    shutil.copytree(copied, whole / "tokenizer")
    with pytest.raises(TrainingError, match="trained on the codes"):
        dq.rebuild_ema(whole / "tokenizer", length=0.1, listener=Heard())
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(TrainingError, match=r"checkpoints of the run in .* are gone"):
        dq.rebuild_ema(copied, length=0.1, listener=Heard())
    for lengths, words in (("[0.1]", "at least two"), ("[0.1, 0.05]", "must ascend"), ("[0.1, 0.5]", "0.28")):
        with pytest.raises(ConfigError, match=words):
            train("none", ema_lengths=lengths)


def test_a_first_stage_is_rebuilt_with_its_reconstructions(pictures: Path, tmp_path: Path) -> None:
    settings = {
        name: AVERAGED[name] for name in ("batch_size", "measure_seconds", "sample_images", "ema_lengths")
    }
    small = {"features": "4", "blocks": "0", "vocabulary": "16", "precision": "float32"}
    run = dq.train(
        pictures,
        preset="vqvae-32",
        out=tmp_path / "run",
        images=320,
        size=(8, 12),
        settings=settings | small,
        evaluate_every=0,
        listener=Heard(),
    )
    before = (run.model / "samples.png").read_bytes()
    dq.rebuild_ema(run, length=0.1, listener=Heard())
    assert equal(load_file(run.model / "model.safetensors"), below(newest_checkpoint(run.folder), "ema-0.1/"))
    assert (run.model / "samples.png").read_bytes() != before


def test_the_command_says_what_it_did(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as left:
            main(["ema", str(copied), *words])
        return left.value.code, capsys.readouterr().out

    code, said = run("--length", "0.1", "--json")
    found = json.loads(said)
    assert (code, found["length"], found["images"]) == (0, 0.1, LONG)
    code, said = run()
    assert code == 0
    assert "held-out images" in said
    assert run("--length", "wide")[0] == 2
    assert model_folder.read_learner(copied / "model")[1]["ema_length"] != 0.1
