"""Two stages are one run: one budget, the same held-out images, a tokenizer that never changes; codes are
what the tokenizer makes of the images.
"""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch
import typer
from filelock import FileLock
from PIL import Image

import danqing as dq
from danqing import machine, presets
from danqing.cli.run_output import leave_if_interrupted
from danqing.cli.show import show
from danqing.data import Augment, Batches, open_dataset
from danqing.errors import ConfigError, TrainingError
from danqing.evaluation.candidate import open_candidate
from danqing.evaluation.reference import open_reference
from danqing.families.abilities import HasTokenizer
from danqing.families.transformer import TransformerConfig
from danqing.families.vqvae import VQVAE
from danqing.training import codes, trainer
from danqing.training.config_reading import resolve
from danqing.training.engine import initialise
from danqing.training.listener import Listener
from danqing.training.requirements import estimate_requirements
from danqing.weights import digest
from tests.small_run import TWO_STAGES

CPU = torch.device("cpu")


class Heard(Listener):
    """Remembers the plans and the stages of a run."""

    def __init__(self):
        self.plans, self.stages, self.messages, self.alarms = [], [], [], []

    def on_plan(self, plan):
        self.plans.append(plan)

    def on_progress(self, progress):
        self.stages.append(progress.stage)

    def on_message(self, text):
        self.messages.append(text)

    def on_alarm(self, text):
        self.alarms.append(text)


def press_ctrl_c():
    """Call what Python calls at Ctrl-C.

    A signal may end a process in which many other tests have left libraries; `tests/e2e/test_resume.py` sends
    it to processes of their own.
    """
    handler = signal.getsignal(signal.SIGINT)
    assert callable(handler), handler
    handler(signal.SIGINT, None)


class Stops(Heard):
    """Presses Ctrl-C after so many images of a stage, or once codes are written."""

    def __init__(self, stage, images=48):
        super().__init__()
        self.stage, self.images = stage, images

    def on_progress(self, progress):
        super().on_progress(progress)
        if progress.stage.startswith(self.stage) and progress.images == self.images:
            press_ctrl_c()

    def on_data(self, done, total, text):
        if self.stage == "codes" and text == "Writing codes" and done == total:
            press_ctrl_c()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A hundred pictures of 8x12, each with a caption in two languages."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = []
    for number in range(100):
        Image.fromarray(rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        text = f"noise number {number % 7}\n第{number % 7}种"
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def train(pictures, out, *, images=960, listener=None, tokenizer=None, evaluate_every=0, **settings):
    return dq.train(
        pictures,
        preset="text2image-32",
        out=out,
        images=images,
        size=(8, 12),
        settings=TWO_STAGES | settings,
        listener=listener or Heard(),
        tokenizer=tokenizer,
        evaluate_every=evaluate_every,
    )


def test_one_run_one_budget_one_model_folder(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard)
    first, second = heard.plans
    assert (first.images, first.then.images) == (336, 624)
    assert (second.images, run.images, run.tokenizer["images"]) == (624, 624, 336)
    assert first.then.parameters == second.parameters
    assert list(dict.fromkeys(heard.stages)) == [first.stage, second.stage]
    model = dq.load(run)
    assert isinstance(model.family, HasTokenizer)
    alone = dq.load(run.folder / "tokenizer")
    assert digest(model.family.tokenizer.state_dict()) == digest(alone.family.state_dict())
    assert set(model.family.config.captions) <= {f"noise number {n}" for n in range(7)} | {
        f"第{n}种" for n in range(7)
    }
    assert any(caption.isascii() for caption in model.family.config.captions)
    assert not all(caption.isascii() for caption in model.family.config.captions)
    own = json.loads((run.folder / "tokenizer/run.json").read_text())
    assert run.seconds > own["progress"]["seconds"]
    assert run.cost["core_hours"] > run.tokenizer["cost"]["core_hours"] >= own["cost"]["core_hours"]
    assert run.cost["peak_memory_bytes"] >= own["cost"]["peak_memory_bytes"]
    facts = json.loads((run.folder / "run.json").read_text())
    assert len(facts["prompts"]) == 4
    report = run.report.read_text()
    assert 'href="tokenizer/report.html"' in report
    assert all(prompt in report for prompt in facts["prompts"])


def test_a_larger_budget_is_for_the_second_stage_alone(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    before = (run.folder / "tokenizer/model/model.safetensors").read_bytes()
    heard = Heard()
    assert train(pictures, tmp_path / "run", listener=heard) == run
    assert "complete" in heard.messages[0]
    longer = train(pictures, tmp_path / "run", images=1600, listener=heard)
    assert (longer.images, longer.tokenizer["images"]) == (1600 - 336, 336)
    assert heard.plans[0].resumed_from == 624
    assert (run.folder / "tokenizer/model/model.safetensors").read_bytes() == before


def test_a_tokenizer_is_brought_along_or_refused(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    for source in (tmp_path / "run/tokenizer", run):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        other = train(pictures, tmp_path / "other", images=320, tokenizer=source)
        assert (other.images, other.tokenizer["images"]) == (320, 0)
        assert other.tokenizer["weights"] == run.tokenizer["weights"]
        assert not (other.folder / "tokenizer").exists()
    vae = {"net": "mlp", "features": "4", "latents": "4", "measure_seconds": "0.001", "prior": "normal"}
    options = {"size": (8, 12), "listener": Heard()}
    plain = dq.train(pictures, preset="vae-32", out=tmp_path / "vae", images=64, settings=vae, **options)
    with pytest.raises(ConfigError, match="is not a tokenizer for a transformer: give a VQ-VAE"):
        train(pictures, tmp_path / "third", tokenizer=plain)
    assert json.loads((tmp_path / "third/run.json").read_text())["status"] == "failed"
    with pytest.raises(ConfigError, match="a vae has no tokenizer"):
        dq.train(pictures, preset="vae-32", images=64, tokenizer=plain, **options)
    options = {"preset": "text2image-32", "images": 64, "tokenizer": dq.load(run), "listener": Heard()}
    for number, (size, settings, mend) in enumerate(
        [
            ((8, 8), {}, "these are 8x8 with 3: add --size 8x12\\."),
            ((8, 12), {"data.channels": "1"}, "these are 8x12 with 1: add --set data.channels=3\\."),
            ((8, 8), {"data.channels": "1"}, "add --size 8x12 --set data.channels=3\\."),
        ]
    ):
        with pytest.raises(ConfigError, match=mend):
            dq.train(
                pictures,
                size=size,
                settings=TWO_STAGES | settings,
                out=tmp_path / f"shape{number}",
                **options,
            )
    with pytest.raises(ConfigError, match="is not in a folder"):
        train(pictures, tmp_path / "third", tokenizer=dq.Model(dq.load(run).family))


def test_a_begun_second_stage_keeps_its_tokenizer_or_goes_no_further(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    other = train(pictures, tmp_path / "other", **{"tokenizer.settings.learning_rate": "1e-4"})
    shutil.move(run.folder / "tokenizer", tmp_path / "kept")
    with pytest.raises(TrainingError, match="is missing"):
        train(pictures, tmp_path / "run", images=1600)
    shutil.copytree(tmp_path / "kept", run.folder / "tokenizer")
    shutil.rmtree(run.folder / "tokenizer/model")
    shutil.copytree(other.folder / "tokenizer/model", run.folder / "tokenizer/model")
    with pytest.raises(TrainingError, match="is not the one that the run"):
        train(pictures, tmp_path / "run", images=1600)
    with pytest.raises(ConfigError, match=r"tokenizer\.share"):
        train(pictures, tmp_path / "run", images=1600, **{"tokenizer.share": "0.5"})


def test_a_preset_that_changes_changes_no_begun_run(pictures, tmp_path, monkeypatch):
    whole = train(pictures, tmp_path / "whole", images=960)
    for name, stops in (("first", "tokenizer"), ("second", "prior")):
        begun = train(pictures, tmp_path / name, images=960, listener=Stops(stops))
        assert begun.status == "interrupted"
    read = presets.read

    def changed(name):
        values = read(name)
        values["optimizer"]["learning_rate"] *= 2
        return values

    monkeypatch.setattr(presets, "read", changed)
    for name in ("first", "second"):
        with pytest.raises(
            ConfigError, match=rf"learning_rate: .* \(--config {tmp_path}/{name}/config\.toml"
        ):
            train(pictures, tmp_path / name)
        file = tmp_path / name / "config.toml"
        ended = dq.train(pictures, config=file, out=file.parent, listener=Heard())
        again = dq.train(pictures, config=file, out=tmp_path / f"{name}-again", listener=Heard())
        for run in (ended, again):
            assert (run.status, run.tokenizer["weights"]) == ("finished", whole.tokenizer["weights"])
            weights = [(each.model / "model.safetensors").read_bytes() for each in (run, whole)]
            assert weights[0] == weights[1]


def test_a_finished_tokenizer_needs_no_checkpoints(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    shutil.rmtree(run.folder / "tokenizer/checkpoints")
    longer = train(pictures, tmp_path / "run", images=1600)
    assert (longer.images, longer.tokenizer["weights"]) == (1600 - 336, run.tokenizer["weights"])
    stopped = train(pictures, tmp_path / "stopped", listener=Stops("prior"))
    for folder in ("tokenizer/checkpoints", "checkpoints"):
        shutil.rmtree(stopped.folder / folder)
    (stopped.folder / "run.json").unlink()  # as if it had been killed before its first step
    with pytest.raises(ConfigError, match=r"tokenizer\.settings\.model\.features: 4 → 8"):
        train(pictures, tmp_path / "stopped", **{"tokenizer.settings.features": "8"})
    ended = train(pictures, tmp_path / "stopped")
    weights = [
        (each.model / "model.safetensors").read_bytes() for each in (ended, train(pictures, tmp_path / "w"))
    ]
    assert weights[0] == weights[1]


def test_what_goes_wrong_in_the_first_stage_names_settings_that_are_its_own(pictures, tmp_path, monkeypatch):
    healthy, calls = VQVAE.loss, []

    def loss(self, batch, phase, rng):
        losses = healthy(self, batch, phase, rng)
        calls.append(1)
        return type(losses)(losses.total * (torch.nan if len(calls) > 15 else 1.0), losses.logged)

    monkeypatch.setattr(VQVAE, "loss", loss)
    heard, own = Heard(), r"optimizer\.learning_rate.*: --set tokenizer\.settings\.KEY=VALUE\.$"
    with pytest.raises(TrainingError, match=f"twice: .*{own}"):
        train(pictures, tmp_path / "run", listener=heard)
    assert re.search(own, heard.alarms[0])
    for folder in ("run", "run/tokenizer"):
        facts = json.loads((tmp_path / folder / "run.json").read_text())
        assert facts["status"] == "failed"
        assert re.search(own, facts["reason"])


def test_a_first_stage_that_does_not_fit_names_its_own_settings(pictures, tmp_path, monkeypatch):
    def counted(*arguments, **options):
        monkeypatch.setattr(machine, "available_memory", lambda device: 1000)
        return estimate_requirements(*arguments, **options)

    monkeypatch.setattr(trainer, "estimate_requirements", counted)
    with pytest.raises(TrainingError, match=r"micro_batch.*: --set tokenizer\.settings\.KEY=VALUE\.$"):
        train(pictures, tmp_path / "run")


def test_ctrl_c_is_heard_between_the_stages_and_the_same_command_goes_on(pictures, tmp_path, capsys):
    whole = train(pictures, tmp_path / "whole")
    for name, heard in (("last", Stops("tokenizer", 336)), ("codes", Stops("codes"))):
        shutil.rmtree(tmp_path / "cache/codes")
        run = train(pictures, tmp_path / name, listener=heard)
        assert (run.status, run.images, run.tokenizer["images"]) == ("interrupted", 0, 336)
        with pytest.raises(typer.Exit):
            leave_if_interrupted(run, as_json=True)
        assert "Interrupted before the first step of its second stage;" in " ".join(
            capsys.readouterr().err.split()
        )
        ended = train(pictures, tmp_path / name)
        weights = [(each.model / "model.safetensors").read_bytes() for each in (ended, whole)]
        assert weights[0] == weights[1]
    stopped = train(pictures, tmp_path / "early", listener=Stops("tokenizer"))
    with pytest.raises(typer.Exit):
        leave_if_interrupted(stopped, as_json=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "Interrupted while its tokenizer was being trained, and saved at 48 images;" in said
    show(str(whole.folder), as_json=False)
    assert "336 images in" in capsys.readouterr().out


def test_a_budget_in_minutes_is_for_both_stages(pictures, tmp_path):
    def begun():
        return dq.train(
            pictures,
            preset="text2image-32",
            out=tmp_path / "run",
            minutes=0.05,
            size=(8, 12),
            settings=TWO_STAGES | {"tokenizer.share": "0.5"},
            listener=Heard(),
        )

    run = begun()
    assert run.status == "finished"
    assert 1.5 < run.seconds < 6
    assert 0.5 < run.tokenizer["seconds"] < 3
    assert begun() == run


def test_scores_say_so_where_a_tokenizer_may_have_seen_what_is_held_out(pictures, tmp_path):
    def cautions(run):
        return open_reference(pictures, open_candidate(run, pictures, n=10, seed=0)).cautions

    scored = {"evaluation.samples": "16", "evaluation.features": "pixels"}
    whole = train(pictures, tmp_path / "whole")
    knows = Heard()
    run = train(
        pictures, tmp_path / "run", tokenizer=whole, evaluate_every=320, images=320, listener=knows, **scored
    )
    assert "that are held out here" in knows.messages[0]
    assert any("its tokenizer learnt from other images" in caution for caution in cautions(run))
    fair = train(pictures, tmp_path / "fair", evaluate_every=320, **scored)
    heard = Heard()
    again = train(
        pictures, tmp_path / "again", tokenizer=fair, evaluate_every=320, images=320, listener=heard, **scored
    )
    assert not any("held out here" in text for text in heard.messages)
    for run in (fair, again):
        assert not any("tokenizer" in caution for caution in cautions(run))


def test_both_stages_hold_out_the_same_images(pictures, tmp_path, monkeypatch):
    scored, coded, ensure = {"evaluation.samples": "16", "evaluation.features": "pixels"}, [], codes.ensure

    def counted(tokenizer, dataset, *arguments, **options):
        coded.append(len(dataset))
        return ensure(tokenizer, dataset, *arguments, **options)

    monkeypatch.setattr(codes, "ensure", counted)
    run = train(pictures, tmp_path / "run", evaluate_every=320, **scored)
    facts = [json.loads((run.folder / part / "run.json").read_text())["data"] for part in (".", "tokenizer")]
    assert facts[0]["fingerprint"] == facts[1]["fingerprint"]
    assert facts[0]["judged"] == facts[1]["judged"]
    assert facts[0]["images"] == 90
    assert not (run.folder / "tokenizer/scores.jsonl").exists()
    assert run.best is not None
    train(pictures, tmp_path / "brought", tokenizer=run, images=320, evaluate_every=320, **scored)
    assert coded == [90, 90]


def test_pixels_are_written_where_there_is_no_tokenizer(pictures, tmp_path):
    run = dq.train(
        pictures,
        config=_without_tokenizer(tmp_path),
        out=tmp_path / "run",
        images=64,
        size=(8, 12),
        settings={key: value for key, value in TWO_STAGES.items() if not key.startswith("tokenizer")},
        listener=Heard(),
    )
    assert run.tokenizer is None
    config = dq.load(run).family.config
    assert isinstance(config, TransformerConfig)
    assert config.tokenizer is None


def _without_tokenizer(folder):
    text = resolve(preset="text2image-32").model_copy(update={"tokenizer": None}).to_toml()
    (folder / "pixels.toml").write_text(text)
    return folder / "pixels.toml"


def test_a_model_of_words_needs_captions(tmp_path):
    (tmp_path / "silent").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 12), (number, 0, 0)).save(tmp_path / f"silent/{number}.png")
    with pytest.raises(ConfigError, match="no image of silent has a caption"):
        train(tmp_path / "silent", tmp_path / "run")


@pytest.fixture
def tokenizer(pictures):
    dataset = open_dataset(pictures, size=(8, 12))
    settings = {"features": 4, "blocks": 0, "vocabulary": 16}
    return dataset, initialise(resolve(preset="vqvae-32", settings=settings).for_data(dataset)).eval()


def written(tokenizer, dataset, views):
    return codes.ensure(tokenizer, dataset, views, device=CPU, on_progress=lambda *told: None)


def test_codes_are_those_of_the_images_in_the_order_of_batches(tokenizer):
    dataset, family = tokenizer
    found = written(family, dataset, codes.views_of(Augment(), 0, 9))
    assert found.views == 1
    coded = codes.CodedBatches(dataset, found, batch_size=30, seed=5, use_texts=True)
    plain = Batches(dataset, 30, 5, use_texts=True)
    for seen in (0, 60, 90, 250):  # the last two run across the end of an epoch
        batch, expected = coded.at(seen), plain.at(seen)
        assert torch.equal(batch.codes, family.tokenize(expected.images))
        assert batch.condition.text == expected.condition.text
        assert batch.images.shape == (30, 0, 0, 0)


def test_a_view_follows_from_seed_image_and_number_and_each_epoch_shows_the_next(tokenizer):
    dataset, family = tokenizer
    views = codes.views_of(Augment(crop=0.3, flip=True), 7, 3)
    found = written(family, dataset, views)
    assert found.views == 3
    whole = views.of(dataset, 1, np.arange(100))
    assert not torch.equal(whole, views.of(dataset, 2, np.arange(100)))
    everything = np.arange(100)
    for view in range(3):
        expected = family.tokenize(views.of(dataset, view, everything))
        assert torch.equal(found.at(everything, np.full(100, view)), expected)
    coded = codes.CodedBatches(dataset, found, batch_size=50, seed=5)
    for epoch in range(5):
        indices = coded.indices(epoch * 100)
        assert torch.equal(coded.at(epoch * 100).codes, found.at(indices, np.full(50, epoch % 3)))


def test_codes_are_kept_until_the_tokenizer_changes(tokenizer, tmp_path):
    dataset, family = tokenizer
    folder = tmp_path / "cache/codes"
    views = codes.views_of(Augment(), 0, 1)
    written(family, dataset, views)
    (only,) = folder.glob("*.safetensors")
    stamp = only.stat().st_mtime_ns
    written(family, dataset, codes.views_of(Augment(), 1, 4))  # nothing is changed, so the seed means nothing
    assert [path.stat().st_mtime_ns for path in folder.glob("*.safetensors")] == [stamp]
    with torch.no_grad():
        next(family.encoder.parameters()).add_(0.01)
    written(family, dataset, views)
    assert len(list(folder.glob("*.safetensors"))) == 2
    stopped = codes.ensure(
        family,
        dataset,
        codes.views_of(Augment(flip=True), 0, 2),
        device=CPU,
        on_progress=lambda *told: None,
        stopped=lambda: True,
    )
    assert stopped is None
    assert len(list(folder.glob("*"))) == 2 + 3  # and their locks: nothing half-written stays


def test_whoever_waits_for_codes_is_told_and_may_stop(tokenizer, tmp_path):
    dataset, family = tokenizer
    views, told = codes.views_of(Augment(), 0, 1), []
    written(family, dataset, views)
    (lock,) = (tmp_path / "cache/codes").glob("*.lock")
    with FileLock(lock):
        found = codes.ensure(
            family,
            dataset,
            views,
            device=CPU,
            on_progress=lambda *heard: told.append(heard),
            stopped=lambda: len(told) == 2,
        )
    assert found is None
    assert told == [(0, 100, "Waiting for another process that writes the same codes")] * 2
    assert written(family, dataset, views).images == 100


def test_images_are_not_mirrored_under_captions_that_are_read(pictures):
    dataset = open_dataset(pictures)
    assert dataset.info.augment.flip
    asked = {"data.augment.flip": True}
    for preset, settings, flip in (
        ("text2image-32", {}, False),
        ("text2image-32", asked, True),
        ("vqvae-32", {}, True),
        ("vae-32", {}, True),
    ):
        config = resolve(preset=preset, settings=settings)
        assert codes.augmentation(config, dataset) == Augment(flip=flip)
