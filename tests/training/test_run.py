"""A run folder defends itself: other settings, other images, other writers, full and read-only disks, broken
losses.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing import threads
from danqing.errors import ConfigError, DanqingError, TrainingError
from danqing.training import outcome
from danqing.training.json_lines import AppendedLines
from danqing.training.run_files import read_json
from danqing.training.run_folder import RunFolder
from tests import checkpoints
from tests.small_disk import DANQING, needs_mount, with_disk
from tests.small_run import SMALL


class Heard(dq.Listener):
    """Remembers what a run said."""

    def __init__(self):
        self.messages, self.alarms, self.plans, self.progress = [], [], [], []

    def on_message(self, text):
        self.messages.append(text)

    def on_alarm(self, text):
        self.alarms.append(text)

    def on_plan(self, plan):
        self.plans.append(plan)

    def on_progress(self, progress):
        self.progress.append(progress)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def train(pictures, out, *, images=640, listener=None, **settings):
    return dq.train(
        pictures,
        preset="vae-32",
        out=out,
        images=images,
        size=(6, 9),
        settings=SMALL | settings,
        listener=listener,
    )


def test_a_run_leaves_everything_that_is_promised(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard)
    assert (run.status, run.images) == ("finished", 640)
    present = {path.name for path in run.folder.iterdir()}
    assert {
        "config.toml",
        "log.jsonl",
        "samples",
        "checkpoints",
        "tensorboard",
        "report.html",
        "model",
    } <= present
    grids = sorted(path.name for path in (run.folder / "samples").iterdir())
    assert grids == ["000000000.png", "000000320.png", "000000640.png", "data.png"]
    assert run.final["images"] == 640
    assert heard.plans[0].images == 640
    assert sum(heard.plans[0].parameters.values()) > 0
    assert [p.images for p in heard.progress] == list(range(16, 641, 16))
    samples = dq.load(run).sample(5, seed=1)
    assert samples.array.shape == (5, 9, 6, 3)
    assert samples.array.dtype == np.uint8


def test_the_same_call_again_is_complete_and_a_larger_budget_goes_on(pictures, tmp_path):
    first = train(pictures, tmp_path / "run")
    heard = Heard()
    again = train(pictures, tmp_path / "run", listener=heard)
    assert again == first
    assert "complete" in heard.messages[0]
    longer = train(pictures, tmp_path / "run", images=960, listener=heard)
    assert longer.images == 960
    assert heard.plans[-1].resumed_from == 640


def test_a_budget_in_minutes_is_kept(pictures, tmp_path):
    run = dq.train(pictures, preset="vae-32", out=tmp_path / "run", minutes=0.05, size=(6, 9), settings=SMALL)
    assert run.status == "finished"
    assert 1.5 < run.seconds < 6


def test_other_settings_are_refused_by_name_and_nothing_is_lost(pictures, tmp_path):
    first = train(pictures, tmp_path / "run")
    with pytest.raises(ConfigError, match="batch_size: 16 → 8"):
        train(pictures, tmp_path / "run", batch_size="8", images=960)
    assert train(pictures, tmp_path / "run") == first


def test_other_images_are_refused(pictures, tmp_path):
    train(pictures, tmp_path / "run")
    (pictures / "0.png").unlink()
    with pytest.raises(TrainingError, match="images differ"):
        train(pictures, tmp_path / "run", images=960)


def test_a_run_goes_on_with_the_same_images_at_another_place(pictures, tmp_path):
    train(pictures, tmp_path / "run")
    moved = pictures.rename(tmp_path / "moved")
    assert train(moved, tmp_path / "run", images=960).images == 960
    again = dq.train(moved, config=tmp_path / "run" / "config.toml", out=tmp_path / "run", images=976)
    assert again.images == 976
    (moved / "0.png").unlink()
    other = moved.rename(tmp_path / "other")
    before = (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(TrainingError, match=f"images differ.*{moved}"):
        train(other, tmp_path / "run", images=992)
    assert (tmp_path / "run" / "config.toml").read_text() == before
    assert f'source = "{moved}"' in before


def test_images_without_a_label_among_labelled_ones_are_pointed_out(pictures, tmp_path):
    for label in ("cat", "dog"):
        (pictures / label).mkdir()
        shutil.copy(pictures / "0.png", pictures / label / "a.png")
        shutil.copy(pictures / "1.png", pictures / label / "b.png")
    with pytest.raises(ConfigError, match="12 of 16 images have no label"):
        train(pictures, tmp_path / "run")
    assert train(pictures, tmp_path / "free", conditional="false", images=160).status == "finished"


def test_a_second_process_is_refused(pictures, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with folder.locked(), pytest.raises(TrainingError, match="Another process"):
        train(pictures, tmp_path / "run")


def test_what_a_killed_process_left_half_written_is_cleared_when_the_run_goes_on(pictures, tmp_path):
    run = RunFolder(train(pictures, tmp_path / "run", images=320).folder)
    halves = [
        folder / ".000000160.png.x1.tmp" for folder in (run.path, run.samples, run.checkpoints, run.model)
    ]
    for half in halves:
        half.write_bytes(b"half")
    halves.append(run.checkpoints / ".images-000000000400.tmp")
    halves[-1].mkdir()
    (halves[-1] / "rank-0-of-1.safetensors").write_bytes(b"half")
    train(pictures, tmp_path / "run", images=640)
    assert not any(half.exists() for half in halves)


@pytest.mark.parametrize("name", [".config.toml.x1.tmp", ".lock", "samples"])
def test_a_run_that_was_killed_at_birth_can_begin_again(pictures, tmp_path, name):
    half = tmp_path / "run" / name
    half.parent.mkdir()
    half.mkdir() if name == "samples" else half.write_bytes(b"half")
    assert train(pictures, tmp_path / "run", images=160).status == "finished"
    assert half.exists() == (".tmp" not in name)


def test_many_processes_may_look_at_a_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(RunFolder(tmp_path / "run").create) for _ in range(200)]
    assert [future.result() for future in done] == [None] * 200


def test_a_run_that_was_killed_over_its_report_gets_it_from_the_same_command(pictures, tmp_path):
    run = train(pictures, tmp_path / "run", images=320)
    written = (run.folder / "report.html").read_text()
    for left in ("of an earlier end", None):
        (run.folder / "report.html").unlink()
        if left:
            (run.folder / "report.html").write_text(left)
        train(pictures, tmp_path / "run", images=320)
        assert len((run.folder / "report.html").read_text()) == len(written)


def test_a_folder_that_is_no_run_is_not_written_into(pictures, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="not empty"):
        train(pictures, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", ["/proc/run", "/dev/null/run"])
def test_a_place_that_cannot_be_written_to_is_refused(pictures, out):
    with pytest.raises(DanqingError, match="cannot be written to"):
        train(pictures, out)


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(pictures, tmp_path):
    whole = train(pictures, tmp_path / "whole", images=960)
    run = train(pictures, tmp_path / "run", checkpoint_seconds="0.0001", images=960)
    newest = sorted((run.folder / "checkpoints").glob("images-*"))[-1]
    part = newest / "rank-0-of-1.safetensors"
    part.write_bytes(part.read_bytes()[:1000])
    facts = RunFolder(run.folder)
    facts.update_facts(status="running")
    heard = Heard()
    again = train(pictures, run.folder, images=960, checkpoint_seconds="0.0001", listener=heard)
    assert newest.name in heard.messages[0]
    assert again.final == whole.final
    paths = [path / "model/model.safetensors" for path in (again.folder, whole.folder)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_broken_loss_goes_back_once_with_a_smaller_step_then_stops_with_the_reason(
    pictures, tmp_path, monkeypatch
):
    from danqing.families.vae import VAE

    healthy, calls = VAE.loss, []

    def loss(self, batch, phase, rng):
        losses = healthy(self, batch, phase, rng)
        calls.append(1)
        broken = len(calls) in breaks
        return type(losses)(losses.total * (torch.nan if broken else 1.0), losses.logged)

    monkeypatch.setattr(VAE, "loss", loss)
    breaks = {60}  # the estimate before the run takes some calls as well
    heard = Heard()
    run = train(pictures, tmp_path / "once", images=3200, listener=heard)
    assert run.status == "finished"
    assert run.images == 3200
    assert "half of optimizer.learning_rate" in heard.alarms[0]
    assert run.final["learning_rate"] < 1e-3

    calls.clear()
    breaks = set(range(60, 1000))
    with pytest.raises(TrainingError, match="twice: lower"):
        train(pictures, tmp_path / "twice", images=3200)
    facts = json.loads((tmp_path / "twice/run.json").read_text())
    assert facts["status"] == "failed"
    assert "twice" in facts["reason"]
    assert (tmp_path / "twice/report.html").exists()
    assert np.isfinite(dq.load(tmp_path / "twice").sample(2).array).all()


@needs_mount
@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_keeps_the_last_good_state(pictures, tmp_path):
    """A real file system of a few megabytes fills up while the run writes; after making room, it goes on."""
    disk = tmp_path / "disk"
    settings = SMALL | {"features": "8", "checkpoint_seconds": "0.001"}
    words = [*DANQING, "train", str(pictures), "--preset", "vae-32", "--size", "6x9"]
    words += ["--out", str(disk / "run"), "--images", "3200"]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    script = f"""
        dd if=/dev/zero of={disk}/ballast bs=1M count=38 2>/dev/null
        "$@" 2> {tmp_path}/full.txt; echo $? > {tmp_path}/full.code
        ls {disk}/run/checkpoints > {tmp_path}/kept.txt
        rm {disk}/ballast
        "$@" 2> {tmp_path}/after.txt; echo $? > {tmp_path}/after.code
        cp {disk}/run/run.json {tmp_path}/run.json
    """
    with_disk(disk, "40m", script, *words)
    assert (tmp_path / "full.code").read_text().strip() == "2", (tmp_path / "full.txt").read_text()
    errors = " ".join((tmp_path / "full.txt").read_text().split())
    assert "No space left" in errors
    assert "same command" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "after.code").read_text().strip() == "0", (tmp_path / "after.txt").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"


def test_a_run_whose_checkpoints_are_gone_keeps_its_model(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    before = (run.model / "model.safetensors").read_bytes()
    shutil.rmtree(run.folder / "checkpoints")
    with pytest.raises(TrainingError, match="are missing"):
        train(pictures, tmp_path / "run", images=960)
    assert (run.model / "model.safetensors").read_bytes() == before


def test_a_gradient_that_is_no_number_never_reaches_the_model_folder(pictures, tmp_path, monkeypatch):
    from danqing.training.engine import Engine

    healthy, steps = Engine.step, []

    def step(self, images, *arguments, **options):
        result = healthy(self, images, *arguments, **options)
        if images == 624:  # the last step: no further loss would tell
            steps.append(1)
            if len(steps) == 1:
                next(self.learner.decoder.parameters()).data.fill_(torch.nan)
        return result

    monkeypatch.setattr(Engine, "step", step)
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard)
    assert "half of optimizer.learning_rate" in heard.alarms[0]
    assert run.images == 640
    weights = load_file(run.model / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


def test_a_size_that_is_too_small_is_a_sentence(pictures, tmp_path):
    with pytest.raises(DanqingError, match="greater than or equal to 4"):
        dq.train(pictures, preset="vae-32", out=tmp_path / "run", images=64, size=(3, 3), settings=SMALL)


def test_a_new_run_takes_the_free_cores_and_an_old_one_its_own(pictures, tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    free = iter((2, 1))
    monkeypatch.setattr(threads, "free_cores", lambda: next(free))
    torch.set_num_threads(3)
    try:
        heard = Heard()
        run = train(pictures, tmp_path / "run", images=320, listener=heard)
        assert "2 of 3 threads" in heard.messages[0]
        assert torch.get_num_threads() == 3
        heard = Heard()
        train(pictures, tmp_path / "run", listener=heard)
        assert "began with 2 threads" in heard.messages[0]
        assert RunFolder(run.folder).facts()["hardware"]["threads"] == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        train(pictures, tmp_path / "other", listener=(heard := Heard()))
        assert not heard.messages
        assert RunFolder(tmp_path / "other").facts()["hardware"]["threads"] == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xae", b"[3]", b"[" * 100_000, b'{"progress": {}}', b'{"progress": [], "status": "finished"}'],
)
def test_a_damaged_run_json_is_an_error_in_one_sentence(content, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"run\.json is damaged"):
        outcome.read_run(tmp_path)


def test_a_run_reads_back_from_its_folder(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    assert outcome.read_run(tmp_path / "run") == run
    with pytest.raises(TrainingError, match="not a run folder"):
        outcome.read_run(Path(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2, "version": "0.9.1"},
        {"format": 0, "version": "0.9.1"},
        {"version": "0.9.1", "setting": "colour"},
        {"version": "0.9.1", "tensor": "family/decoder"},
    ],
    ids=["newer format", "older format", "other settings", "other weights"],
)
def test_a_run_of_another_version_is_rejected_with_the_version_that_resumes_it(pictures, tmp_path, changes):
    run = train(pictures, tmp_path / "run", images=64)
    facts = json.loads((run.folder / "run.json").read_text())
    assert (facts["format"], facts["version"]) == (1, dq.__version__)
    if "setting" in changes:
        config = run.folder / "config.toml"
        config.write_text(config.read_text().replace("[model]\n", "[model]\ncolour = 3\n"))
    if "tensor" in changes:
        tensors, state = checkpoints.newest(run.folder)
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(changes["tensor"])}
        checkpoints.write(run.folder / "checkpoints", 64, kept, state)
    altered = facts | {name: changes[name] for name in ("format", "version") if name in changes}
    (run.folder / "run.json").write_text(json.dumps(altered))
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    words = r"written by danqing 0\.9\.1: install that version .*\(pip install danqing==0\.9\.1\)"
    with pytest.raises(TrainingError, match=words):
        train(pictures, tmp_path / "run", images=128)
    kept = {path: path.read_bytes() for path in before if path.suffix == ".safetensors"}
    assert kept.items() <= before.items()


def test_a_run_without_a_budget_says_how_to_give_one(pictures, tmp_path):
    config = tmp_path / "endless.toml"
    config.write_text('family = "vae"\n')
    with pytest.raises(TrainingError, match="--minutes 5, or --images 200000"):
        dq.train(pictures, config=config, out=tmp_path / "run", size=(6, 9), settings=SMALL)


def test_a_run_in_a_thread_trains_without_signal_handlers(pictures, tmp_path):
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(train, pictures, tmp_path / "run", images=64).result()
    assert (run.status, run.images) == ("finished", 64)


def test_a_log_that_lost_lines_is_an_error(tmp_path):
    log = AppendedLines(tmp_path / "log.jsonl")
    log.append({"images": 1})
    log.cut(log.length)
    with pytest.raises(TrainingError, match="has lost lines"):
        log.cut(log.length + 1)
    log.close()


@pytest.mark.parametrize("content", ["{", "[1]", None])
def test_facts_that_cannot_be_read_are_empty(tmp_path, content):
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    assert read_json(file) == {}
