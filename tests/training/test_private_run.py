"""A private run: what it spends, how it resumes, what it writes, and what it rejects."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant, RDPAccountant
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing import families
from danqing.errors import ConfigError, TrainingError
from danqing.evaluation.candidate import open_candidate
from danqing.evaluation.score_folders import writable_folders
from danqing.training import privacy
from danqing.training.config_reading import resolve
from danqing.training.privacy import Mechanism
from danqing.training.private_rules import check
from tests.small_run import SMALL
from tests.training.test_run import Heard

OPTIONS = {"epsilon": 8, "delta": 1e-3}


class KilledError(Exception):
    """Stands for the end of a process in the middle of a step."""


class DiesAt(Heard):
    """Ends a run after some images, as a kill would: nothing is saved."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def on_progress(self, progress):
        if progress.images >= self.images:
            raise KilledError


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(90):
        folder = tmp_path / "pictures" / ("many" if number % 3 else "few")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "pictures"


def train(pictures, out, *, images=160, listener=None, private=OPTIONS, secure=False, **settings):
    return dq.train(
        pictures,
        preset="vae-32",
        out=out,
        images=images,
        size=(6, 9),
        settings=SMALL | {"log_every_steps": "2"} | settings,
        private=private,
        secure=secure,
        listener=listener or Heard(),
    )


def weights(run):
    return load_file(run.model / "model.safetensors")


def same(first, second):
    return all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


@pytest.mark.parametrize("secure", [False, True])
def test_a_killed_run_resumes_with_the_same_epsilon_and_weights(pictures, tmp_path, secure):
    with pytest.raises(KilledError):
        train(pictures, tmp_path / "killed", listener=DiesAt(80), secure=secure)
    if secure:  # another folder would have another key
        shutil.copytree(tmp_path / "killed", tmp_path / "whole")
    whole = train(pictures, tmp_path / "whole", secure=secure)
    killed = train(pictures, tmp_path / "killed", secure=secure)
    assert same(whole, killed)
    assert whole.privacy == killed.privacy
    assert 0.97 * 8 < whole.privacy["epsilon"] <= 8
    assert whole.privacy["steps"] == 10
    key = whole.folder / "private.key"
    assert key.exists() == secure
    if secure:
        assert key.stat().st_mode & 0o777 == 0o600
        other = train(pictures, tmp_path / "other", secure=True)
        assert not same(whole, other)
        assert (other.folder / "private.key").read_text() != key.read_text()
        said = json.dumps(
            (whole.folder / "run.json").read_text() + (whole.folder / "report.html").read_text()
        )
        assert key.read_text() not in said


def test_an_interrupted_run_has_spent_less_and_never_spends_more_than_requested(pictures, tmp_path):
    with pytest.raises(KilledError):
        train(pictures, tmp_path / "run", listener=DiesAt(48))
    begun = json.loads((tmp_path / "run/model/config.json").read_text())["trained"]["privacy"]
    assert begun["epsilon"] == 0.0
    heard = Heard()
    run = train(pictures, tmp_path / "run", images=400, listener=heard)
    assert run.images == 160
    assert run.privacy["epsilon"] <= 8
    assert any("chosen for 160 images, and it ends there" in text for text in heard.messages)
    (tmp_path / "run/privacy.json").unlink()
    with pytest.raises(TrainingError, match=r"privacy\.json is missing or damaged"):
        train(pictures, tmp_path / "run", images=500)


def test_nothing_of_the_images_is_written_beside_the_weights(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard, images=480)
    assert not (run.folder / "samples/data.png").exists()
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert set(log[-1]) == {
        "images",
        "step",
        "learning_rate",
        "autoencoder/gradient_norm",
        "autoencoder/noisy_gradient_norm",
    }
    model = json.loads((run.model / "config.json").read_text())
    assert model["model"]["label_frequencies"] == []
    assert {"seed", "domain"}.isdisjoint(model["trained"])
    assert "fingerprint" not in model["trained"]["data"]
    assert heard.alarms == []
    card = (run.model / "README.md").read_text()
    assert re.search(r"Differential privacy: epsilon = (7\.9\d|8), delta = 0\.001 for each training", card)
    assert "This covers the model folder" in (run.folder / "report.html").read_text()
    loaded = dq.load(run)
    assert loaded.facts["privacy"]["noise_multiplier"] > 0
    candidate = open_candidate(run, pictures, n=2, seed=0, size=None, device="cpu", on_progress=None)
    scored, notes = writable_folders(candidate, None)
    assert scored == []
    assert "private model" in notes[0]


def test_the_accountant_agrees_with_opacus_and_with_the_reference_value():
    mechanism = Mechanism(
        delta=1e-5, noise_multiplier=1.1, sample_rate=256 / 60_000, per_step=2, most_steps=2500
    )
    accountant = PRVAccountant()
    accountant.history = [(1.1, 256 / 60_000, 5000)]
    assert mechanism.spent(2500) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)
    assert mechanism.spent(2500) == pytest.approx(1.375, rel=0.01)
    bound = RDPAccountant()
    bound.history = [(1.1, 256 / 60_000, 5000)]
    assert mechanism.spent(2500) < bound.get_epsilon(1e-5)
    assert mechanism.spent(0) == 0 < mechanism.spent(100) < mechanism.spent(200)


@pytest.mark.parametrize(
    ("preset", "settings", "reason"),
    [
        ("vqvae-32", {}, "averages of its codes"),
        ("gan-32", {}, "Batch norm in the generator of dcgan"),
        ("gan-64", {}, "the generator too learns from real images"),
        ("gan-64", {"loss": "hinge"}, "Penalties on the discriminator"),
        ("flow-128", {}, "first stage of a model of two stages"),
        ("flow-32", {"transport": "minibatch"}, "compares all images of a batch"),
        ("flow-32", {"grow": [16, 32]}, "leave grow out"),
        ("flow-text-64", {}, "captions or attributes"),
        ("transformer-16", {"order": "masked"}, "one number of steps"),
        ("vae-32", {"adversarial": 0.5}, "set adversarial=0"),
        ("vae-32", {"data.attributes": ["age"]}, "captions or attributes"),
        ("vae-32", {"data.clean": "list.csv"}, "comparing images with each other"),
        ("vae-32", {"evaluation.every_images": 1000}, "measured without noise"),
        ("vae-32", {"training.checkpointing": "on"}, "set checkpointing=auto"),
        ("translation-64", {}, "learns from real images"),
        ("upscale-64", {}, "has not been made private"),
        ("flow-upscale-64", {}, "show real images beside its results"),
        ("classify-32", {}, "Batch norm mixes the images of a batch"),
        ("embed-32", {}, "Batch norm mixes the images of a batch"),
        ("detect-64", {}, "has not been made private"),
        ("style-128", {}, "has not been made private"),
    ],
)
def test_what_cannot_be_private_is_rejected_with_its_reason(preset, settings, reason):
    config = resolve(preset=preset, settings=settings | {"private.epsilon": 8})
    with pytest.raises(ConfigError, match=f"This run cannot be private. .*{reason}"):
        check(config)
    check(resolve(preset=preset, settings=settings))


def test_settings_that_do_not_suit_the_images_are_rejected(pictures, tmp_path):
    for wanted, settings, message in (
        (OPTIONS, {"batch_size": "128"}, "more than its 90 images"),
        ({"epsilon": 8, "delta": 0.02}, {}, r"too large for 90 images.*set private\.delta=1e-03"),
        ({"epsilon": 1e-4, "delta": 1e-5}, {}, r"raise private\.epsilon"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(pictures, tmp_path / "run", private=wanted, **settings)
    with pytest.raises(ConfigError, match="Only a private run has a secret key"):
        train(pictures, tmp_path / "run", private=None, secure=True)
    public = train(pictures, tmp_path / "public", private=None)
    with pytest.raises(ConfigError, match="has learned from pictures too"):
        dq.train(pictures, out=tmp_path / "tuned", init=public, images=160, settings=SMALL, private=OPTIONS)
    options = {"settings": SMALL, "images": 160}
    others = tmp_path / "others"
    others.mkdir()
    for path in sorted(pictures.rglob("*.png"))[:40]:
        Image.open(path).rotate(90).save(others / path.name)
    between = dq.train(others, out=tmp_path / "between", init=public, **options)
    with pytest.raises(ConfigError, match="has learned from another model, which may know pictures"):
        dq.train(pictures, out=tmp_path / "tuned", init=between, private=OPTIONS, **options)


@pytest.mark.parametrize("epsilon", [3, 30, 1000])
def test_the_least_noise_is_found_by_few_evaluations(epsilon):
    """Each evaluation takes seconds, at a fixed error longer for a larger epsilon."""
    where = {"sample_rate": 0.2, "count": 10, "delta": 1e-5}
    privacy._epsilon.cache_clear()
    noise = privacy._noise_multiplier(epsilon, **where)
    assert privacy._epsilon.cache_info().misses <= 16
    assert privacy._epsilon(noise, **where) <= epsilon < privacy._epsilon(0.998 * noise, **where)


def test_the_announcement_of_one_step_is_in_the_singular():
    config = resolve(preset="gan-32", settings={"private.epsilon": 8, "batch_size": 1})
    mechanism = Mechanism(delta=1e-5, noise_multiplier=1.1, sample_rate=0.5, per_step=1, most_steps=1)
    assert "each of 2 images, after 1 step of about 1 image with 1.1 times" in privacy.announcement(
        config, mechanism, 2
    )
    many = mechanism.model_copy(update={"most_steps": 1200})
    assert "after 1,200 steps of about 1 image with" in privacy.announcement(config, many, 2)


def test_the_noise_suits_the_steps_of_every_phase_that_sees_data():
    settings = {"net": "mlp", "loss": "hinge", "r1": 0, "r2": 0, "discriminator_steps": 3}
    config = resolve(preset="gan-32", settings=settings | {"private.epsilon": 4, "private.delta": 1e-4})
    model = config.model.model_copy(update={"width": 8, "height": 8, "channels": 1})
    mechanism = Mechanism.settle(config, 2000, families.build_learner(model).phases(), steps=5)
    assert mechanism.per_step == 3
    assert 0.97 * 4 < mechanism.spent(5) <= 4


def test_without_opacus_a_private_run_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ConfigError, match=r"pip install 'danqing\[private\]'"):
        check(resolve(preset="vae-32", settings={"private.epsilon": 8}))
