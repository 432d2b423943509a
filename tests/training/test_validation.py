"""Scoring on held-out images: the best is kept, training stays as it was, and a kill changes nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.data import open_dataset
from danqing.data.splits import hold_out
from danqing.errors import ConfigError, DanqingError, TrainingError
from danqing.evaluation import scores
from danqing.training import config_reading, publication, trainer
from danqing.training.schedule import Budget
from tests.checkpoints import newest
from tests.small_run import SCORED as SMALL

UNSTEADY = {"learning_rate": "0.05", "clip_norm": "0", "ema_half_life_images": "0", "warmup_images": "0"}


class Heard(dq.Listener):
    """Remembers the scores and the sentences."""

    def __init__(self):
        self.scored, self.messages = [], []

    def on_score(self, scored):
        self.scored.append(scored)

    def on_message(self, text):
        self.messages.append(text)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    return draw(tmp_path / "pictures", 120)


def draw(folder, count, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def train(pictures, out, *, images=640, every=128, listener=None, **settings):
    return dq.train(
        pictures,
        preset="vae-32",
        out=out,
        images=images,
        size=(6, 9),
        settings=SMALL | settings,
        evaluate_every=every,
        listener=listener or Heard(),
    )


def lines(run):
    return [json.loads(line) for line in (run.folder / "scores.jsonl").read_text().splitlines()]


def test_the_model_folder_holds_the_best_scored_model(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard, images=1280, **UNSTEADY)
    told = lines(run)
    assert [line["images"] for line in told] == list(range(128, 1281, 128))
    values = [line["score"]["value"] for line in told]
    best = int(np.argmin(values))
    assert 0 < best < len(values) - 1, "a steady run shows nothing here: choose another seed"
    assert run.best["images"] == told[best]["images"]
    model = dq.load(run)
    assert model.facts["images"] == told[best]["images"]
    assert model.facts["data"]["held_out"] == 0.1
    (score,) = scores.read(run.model / "scores.json")
    assert (score.value, score.reference.split, score.reference.count) == (values[best], "held-out", 12)
    assert str(score) in (run.model / "README.md").read_text()
    assert [scored.is_best for scored in heard.scored] == [line["is_best"] for line in told]
    latest = newest(run.folder)[0]
    kept = load_file(run.model / "model.safetensors")
    assert any((latest[f"ema/{name}"] != kept[name]).any() for name in kept)
    assert all((latest[f"best/{name}"] == kept[name]).all() for name in kept)
    assert 0 < run.evaluation_share < 1
    assert run.cost["evaluation_seconds"] == run.evaluation_seconds


def test_a_best_score_reaches_the_model_folder_where_it_falls_on_a_grid(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", images=320, every=320)
    assert run.best["images"] == run.images == 320
    assert [score.value for score in scores.read(run.model / "scores.json")] == [run.best["value"]]


def test_the_last_model_is_kept_where_that_is_asked(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard, **{"evaluation.keep": "last", **UNSTEADY})
    assert run.best is None
    assert dq.load(run).facts["images"] == run.images == 640
    assert len(lines(run)) == 5
    assert [(scored.is_best, scored.best_images) for scored in heard.scored] == [(False, None)] * 5
    with pytest.raises(ConfigError, match="keep"):
        train(pictures, tmp_path / "other", **{"evaluation.keep": "last", "patience_images": 100})


def test_a_score_on_the_images_that_chose_a_model_says_so(pictures, tmp_path):
    for keep, wanted in (("best", True), ("last", False)):
        run = train(pictures, tmp_path / keep, images=256, **{"evaluation.keep": keep})
        found = dq.evaluate(run, pictures, features="pixels", n=16, metrics=["kernel"])
        assert found.headline.reference.split == "held-out"
        assert ("was chosen by its scores on these images" in found.headline.note) == wanted


def test_held_out_images_are_never_learnt_from(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    learnt, judged = hold_out(open_dataset(pictures, size=(6, 9)))
    data = json.loads((run.folder / "run.json").read_text())["data"]
    assert (data["images"], data["fingerprint"]) == (108, learnt.fingerprint)
    assert data["judged"] == {"split": "held-out", "images": 12, "fingerprint": judged.fingerprint}
    assert dq.load(run).facts["data"]["fingerprint"] == learnt.fingerprint


def test_evaluation_leaves_training_as_it_was(pictures, tmp_path):
    """With a validation split of its own, the same images are learnt from with and without evaluation."""
    split = tmp_path / "split"
    draw(split / "train", 60)
    draw(split / "validation", 20, seed=1)
    runs = [train(split, tmp_path / str(every), every=every) for every in (0, 128)]
    weights = [newest(run.folder)[0] for run in runs]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    logs = [(run.folder / "log.jsonl").read_bytes() for run in runs]
    assert logs[0] == logs[1]
    assert not (runs[0].folder / "scores.jsonl").exists()
    assert "held_out" not in dq.load(runs[1]).facts["data"]
    assert scores.read(runs[1].model / "scores.json")[0].reference.split == "validation"


def test_a_run_without_improvement_ends_early_and_goes_on_with_more_patience(pictures, tmp_path):
    def again(patience, images=6400):
        return dq.train(
            pictures,
            preset="vae-32",
            out=tmp_path / "run",
            images=images,
            size=(6, 9),
            settings=SMALL | UNSTEADY,
            evaluate_every=128,
            patience=patience,
            listener=Heard(),
        )

    run = again(256)
    assert run.status == "finished"
    assert run.images == run.best["images"] + 256 < 6400
    assert "has not improved for 256 images" in run.reason
    assert "more --patience" in run.reason
    assert again(256) == run
    longer = again(512)
    assert longer.images == longer.best["images"] + 512
    assert [line["images"] for line in lines(longer)] == list(range(128, longer.images + 1, 128))


def test_a_run_that_dies_between_a_score_and_a_checkpoint_forgets_the_score(pictures, tmp_path, monkeypatch):
    whole = train(pictures, tmp_path / "whole", images=1280, **UNSTEADY)
    best = whole.best["images"]
    evaluate = trainer.Trainer._evaluate

    def die(self):
        evaluate(self)
        if self.position.images == best:
            raise MemoryError("killed")

    monkeypatch.setattr(trainer.Trainer, "_evaluate", die)
    with pytest.raises(MemoryError):
        train(pictures, tmp_path / "run", images=1280, **UNSTEADY)
    monkeypatch.undo()
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    assert dq.load(tmp_path / "run").facts["images"] == best
    run = train(pictures, tmp_path / "run", images=1280, **UNSTEADY)
    for name in ("scores.jsonl", "model/model.safetensors", "model/scores.json", "log.jsonl"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    assert run.best == whole.best


def test_a_score_of_other_weights_is_none_of_the_model(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    model, there = dq.load(run), scores.read(run.model / "scores.json")
    assert publication.holds(run.model, model.family, model.facts)
    assert publication.is_scored(run.model, model.family)
    other = {"weights": "0" * 12}  # as a kill leaves them that falls between scores and weights
    scores.write(run.model / "scores.json", [one.model_copy(update={"settings": other}) for one in there])
    assert not publication.is_scored(run.model, model.family)


def test_a_rollback_forgets_the_scores_of_what_it_undoes(pictures, tmp_path, monkeypatch):
    from danqing.families.vae import VAE

    healthy, steps = VAE.loss, []

    def loss(self, batch, phase, rng):
        losses = healthy(self, batch, phase, rng)
        steps.append(1)
        return type(losses)(losses.total * (torch.nan if len(steps) == broken else 1.0), losses.logged)

    monkeypatch.setattr(VAE, "loss", loss)
    broken = 0
    train(pictures, tmp_path / "whole")
    broken = len(steps) - 5
    steps.clear()
    run = train(pictures, tmp_path / "run")
    assert run.status == "finished"
    assert json.loads((run.folder / "run.json").read_text())["alarms"]
    told = lines(run)
    assert [line["images"] for line in told] == [128, 256, 384, 512, 640]
    best = min(told, key=lambda line: line["score"]["value"])
    assert run.best["images"] == best["images"]
    assert scores.read(run.model / "scores.json")[0].value == best["score"]["value"]


def test_tenths_of_the_budget_and_a_last_score(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", every=None, **{"evaluation.every_images": "tenth"})
    assert [line["images"] for line in lines(run)] == list(range(64, 641, 64))
    odd = train(pictures, tmp_path / "odd", every=500)
    assert [line["images"] for line in lines(odd)] == [512, 640]


@pytest.mark.parametrize("factor", [0.4, 0.75, 1.3, 2.5])
def test_each_tenth_of_a_budget_that_is_corrected_is_scored_once(pictures, tmp_path, monkeypatch, factor):
    """A budget in minutes moves as it goes: here its total is multiplied after a quarter of it."""

    def replan(self, seconds, spent, images, step, pace, most):
        if images == 160:
            self.set(images, round(640 * factor / 16) * 16)

    monkeypatch.setattr(Budget, "replan", replan)
    monkeypatch.setattr(Budget, "begin", lambda self, images, total, step: self.set(images, 640))
    settings = SMALL | {"evaluation.every_images": "tenth"}
    options = {"preset": "vae-32", "minutes": 1, "size": (6, 9), "settings": settings, "listener": Heard()}
    run = dq.train(pictures, out=tmp_path / "run", **options)
    told = [line["tenth"] for line in lines(run)]
    assert run.images == round(640 * factor / 16) * 16
    assert told == sorted(set(told))
    assert told[-1] == 10
    assert lines(run)[-1]["images"] == run.images
    assert len(told) >= 9 or factor < 0.5, "only a budget that shrinks passes over a tenth"


def test_a_larger_budget_has_tenths_of_its_own(pictures, tmp_path):
    settings = {"evaluation.every_images": "tenth"}
    train(pictures, tmp_path / "run", every=None, **settings)
    longer = train(pictures, tmp_path / "run", images=1280, every=None, **settings)
    seen = [line["images"] for line in lines(longer)]
    assert seen == [*range(64, 641, 64), *range(768, 1281, 128)]


@pytest.mark.parametrize("every", [500, 0])
def test_a_run_that_dies_after_its_last_step_is_made_up_for(pictures, tmp_path, monkeypatch, every):
    whole = train(pictures, tmp_path / "whole", every=every)

    def die(self):
        self._save_checkpoint()  # as the clock may have it
        raise MemoryError("killed")

    monkeypatch.setattr(trainer.Trainer, "_evaluate_at_the_end", die)
    with pytest.raises(MemoryError):
        train(pictures, tmp_path / "run", every=every)
    monkeypatch.undo()
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "run/model")
    run = train(pictures, tmp_path / "run", every=every)
    assert (run.status, run.best) == ("finished", whole.best)
    for name in ("model/model.safetensors", "log.jsonl", *(["scores.jsonl"] if every else [])):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    measured = run.model / "neighbours.png"
    measured.write_bytes(b"measured on this model")
    assert train(pictures, tmp_path / "run", every=every, images=320).images == 640
    assert measured.exists()


def test_a_label_that_is_wholly_held_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    for label in ("cat", "dog"):
        draw(tmp_path / "pets" / label, 60, seed=len(list(tmp_path.glob("pets/*"))))
    _, judged = hold_out(open_dataset(tmp_path / "pets", size=(6, 9)))
    (tmp_path / "pets/newt").mkdir()
    rare = tmp_path / "pets/newt/rare.png"
    Image.fromarray(judged.images(np.array([0])).numpy()[0]).save(rare)
    heard = Heard()
    run = train(tmp_path / "pets", tmp_path / "run", images=64, every=64, listener=heard)
    assert dq.load(run).labels == ("cat", "dog")
    assert [text for text in heard.messages if "newt" in text and "cat" not in text]
    heard = Heard()
    train(tmp_path / "pets", tmp_path / "all", images=64, every=0, listener=heard)
    assert [text for text in heard.messages if "1 equal to another" not in text] == []


def test_short_runs_are_not_evaluated_and_extending_them_changes_nothing(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", every=None)
    assert "every_images = 0" in (run.folder / "config.toml").read_text()
    assert run.best is None
    assert not (run.folder / "scores.jsonl").exists()
    longer = train(pictures, run.folder, every=None, images=960)
    assert longer.images == 960
    with pytest.raises(ConfigError, match="every_images: 0 → 128"):
        train(pictures, run.folder, images=1280)
    with pytest.raises(ConfigError, match="has no held-out images"):
        dq.train(
            pictures, preset="vae-32", out=run.folder, images=1280, size=(6, 9), settings=SMALL, patience=9
        )


@pytest.mark.parametrize(
    ("budget", "images", "worth"),
    [
        ({"minutes": 20}, 1000, True),
        ({"minutes": 19}, 1000, False),
        ({"minutes": 60}, 999, False),
        ({"images": 2_000_000}, 5000, True),
        ({"images": 1_999_999}, 5000, False),
        ({"images": 100, "settings": {"patience_images": 50}}, 50, True),
    ],
)
def test_auto_evaluates_long_runs_on_enough_images(budget, images, worth):
    config = config_reading.resolve(preset="vae-32", **budget)
    assert config.evaluation.every_images == "auto"
    assert config.is_worth_evaluating(images) == worth
    assert config.with_evaluation("tenth").evaluation.every_images == "tenth"


def test_what_cannot_be_evaluated_is_refused_before_the_first_step(pictures, tmp_path):
    with pytest.raises(TrainingError, match="too few to score on"):
        train(draw(tmp_path / "few", 30), tmp_path / "few-run")
    with pytest.raises(DanqingError, match="feature network"):
        train(pictures, tmp_path / "run", **{"evaluation.features": "no-such"})
    with pytest.raises(ConfigError, match="needs evaluation"):
        dq.train(pictures, preset="vae-32", out=tmp_path / "x", images=64, evaluate_every=0, patience=10)
    run = train(pictures, tmp_path / "run")
    shutil.rmtree(pictures)
    draw(pictures, 120, seed=5)
    with pytest.raises(TrainingError, match="images differ"):
        train(pictures, run.folder, images=1280)


def test_scores_of_another_network_are_not_mixed_in(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    file = run.folder / "scores.jsonl"
    text = file.read_text()
    sha = lines(run)[0]["score"]["features"]["sha256"]
    file.write_text(text.replace(sha, sha[::-1]))
    with pytest.raises(TrainingError, match="choose another --out"):
        train(pictures, run.folder, images=1280)
    file.write_text(text.replace('"normalization": "x / 255"', '"normalization": "x - 255"'))
    with pytest.raises(TrainingError, match=r"another normalization of images \(x - 255, now x / 255\)"):
        train(pictures, run.folder, images=1280)
