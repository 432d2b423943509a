"""A run that is killed again and again ends as one that never was: bit for bit, by the same command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import forked
from tests.checkpoints import newest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixty small pictures in two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for label in ("left", "right"):
        (folder / label).mkdir()
        for number in range(36 if label == "left" else 24):
            pixels = rng.integers(0, 90, (8, 8, 3), dtype=np.uint8)
            half = pixels[:, :4] if label == "left" else pixels[:, 4:]
            half += 120
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def command(pictures, out, *settings, checkpoint_seconds="0.05"):
    words = [sys.executable, "-m", "danqing", "train", str(pictures), "--out", str(out), "--seed", "3"]
    words += [
        "--size",
        "8",
        "--set",
        "batch_size=16",
        "--set",
        "sample_images=16",
        "--set",
        "log_every_steps=7",
    ]
    words += ["--set", f"checkpoint_seconds={checkpoint_seconds}", "--set", "measure_seconds=0.01"]
    return [*words, *settings]


def environment(tmp_path):
    """One thread, a cache of its own, and no coverage, which other tests measure: it would slow each run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    return kept | {"DANQING_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def train(words, env):
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done


def finish(words, env):
    """Train to the end where PyTorch is imported already."""
    process = forked.start(words[3:], env)
    process.join(900)
    assert process.exitcode == 0, " ".join(words)


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights, averages, optimiser state, log and model of two run folders are the same, byte for byte."""
    last = [newest_checkpoint(run) for run in (one, other)]
    assert last[0] == last[1]
    tensors = [newest(run)[0] for run in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    different = [n for n in tensors[0] if tensors[0][n].numpy().tobytes() != tensors[1][n].numpy().tobytes()]
    assert not different
    snapshots = [{p.name: p.read_bytes() for p in (run / "snapshots").glob("*")} for run in (one, other)]
    assert snapshots[0] == snapshots[1]
    kinds = {name.partition("/")[0] for name in tensors[0]}
    assert {"family", "ema", "optimizer"} <= kinds
    assert (one / "log.jsonl").read_bytes() == (other / "log.jsonl").read_bytes()
    assert (one / "model/model.safetensors").read_bytes() == (other / "model/model.safetensors").read_bytes()
    for name in ("scores.jsonl", "model/scores.json"):
        assert [(run / name).exists() for run in (one, other)] in ([True] * 2, [False] * 2)
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes()
    spent = [json.loads((run / "run.json").read_text()).get("privacy") for run in (one, other)]
    assert spent[0] == spent[1]
    potentials = [run / "transport.safetensors" for run in (one, other)]
    if potentials[0].exists() or potentials[1].exists():
        assert potentials[0].read_bytes() == potentials[1].read_bytes()
    grids = [{p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (one, other)]
    assert grids[0] == grids[1]


GAN = ["--preset", "gan-32", "--set", "generator_features=4", "--set", "discriminator_features=4"]
GAN += ["--set", "precision=bfloat16"]  # "auto" measures, and may choose otherwise in another process
MODERN = ["--preset", "gan-64", "--set", "generator_features=4", "--set", "discriminator_features=4"]
MODERN += ["--set", "precision=float32", "--set", "scales=2", "--set", "grow=[4, 8]"]
VAE = ["--preset", "vae-32", "--set", "features=4", "--set", "prior_features=16", "--set", "latents=8"]
VAE += ["--set", "precision=float32"]
FLOW = ["--preset", "flow-32", "--set", "widths=[8, 16]", "--set", "layers=1", "--set", "heads=2"]
FLOW += ["--set", "precision=float32", "--set", "guide=true", "--set", "num_steps=2"]
GROWING = ["--preset", "flow-32", "--set", "widths=[8, 16]", "--set", "layers=1", "--set", "heads=2"]
GROWING += ["--set", "precision=float32", "--set", "num_steps=2", "--set", "grow=[4, 8]"]
GROWING += ["--set", "grow_fractions=[0.3, 0.7]"]  # some kills in either size
REGRESSION = ["--task", "upscale", "--set", "features=8", "--set", "blocks=1", "--degrade", "shrink2,noise"]
REGRESSION += ["--set", "precision=float32", "--set", "discriminator_features=4"]
REGRESSION += ["--set", "adversarial_share=0.5"]  # some kills before the finish, and some in it
PAIRED = [
    "--set",
    "conditional=false",
    "--set",
    "transport=semidiscrete",
]  # potentials in a file of their own
UNPAIRED = ["--preset", "translation-64", "--domains", "left:right", "--set", "widths=[4, 8]"]
UNPAIRED += ["--set", "blocks=1", "--set", "discriminator_features=4", "--set", "precision=float32"]
UNPAIRED += ["--set", "data.augment.flip=true", "--set", "evaluation.held_out=0.5"]
EVALUATED = ["--evaluate-every", "1504", "--set", "evaluation.samples=16"]
EVALUATED += ["--set", "evaluation.features=pixels", "--set", "evaluation.held_out=0.2"]
AVERAGED = ["--set", "ema_lengths=[0.05, 0.1]"]  # 313 steps: 9 snapshots, and a length chosen at the end


@pytest.mark.parametrize(
    ("family", "kills", "images", "settings"),
    [
        ("gan", 6, 6000, GAN),
        ("modern", 3, 5000, MODERN),
        ("vae", 3, 5000, [*VAE, *EVALUATED, *AVERAGED]),
        ("flow", 3, 5000, [*FLOW, *PAIRED, *AVERAGED]),
        ("growing", 3, 5000, [*GROWING, *EVALUATED]),
        ("private", 3, 1600, [*FLOW, "--private", "epsilon=8,delta=1e-3"]),
        ("unpaired", 3, 5000, [*EVALUATED, *UNPAIRED]),
        ("regression", 3, 5000, [*REGRESSION, *EVALUATED]),
    ],
)
def test_resume_after_kill_is_bit_identical(pictures, tmp_path, family, kills, images, settings):
    env = environment(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*settings, "--images", str(images)]
    finish(command(pictures, whole, *settings, checkpoint_seconds="60"), env)
    words = command(pictures, killed, *settings)
    kill_again_and_again(words, env, killed, random.Random(family), kills, images)
    assert_equal_runs(whole, killed)
    assert len(list((killed / "snapshots").glob("*"))) == (9 if "ema_lengths" in str(settings) else 0)


def kill_again_and_again(words, env, killed, rng, kills, images):
    """Kill a command as often, evenly over its run, and let it finish then."""
    for kill in range(1, kills + 1):
        due = f"images-{images * kill // (kills + 1):012d}"
        process, deadline = forked.start(words[3:], env), time.monotonic() + 600
        while newest_checkpoint(killed) < due and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert kill_now(process), "the run was over before it had been killed often enough"
        assert newest_checkpoint(killed) >= due
    finish(words, env)


def test_a_killed_distillation_is_bit_identical_and_computes_its_trajectories_once(pictures, tmp_path):
    env, teacher = environment(tmp_path), tmp_path / "teacher"
    finish(command(pictures, teacher, *FLOW[:-4], "--images", "320"), env)
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def words(out, cache, checkpoint_seconds):
        options = ["--data", str(pictures), "--out", str(out), "--steps", "2", "--images", "4000"]
        options += ["--trajectories", "100", "--set", "model.solution.discriminator_features=4"]
        options += ["--set", f"checkpoint_seconds={checkpoint_seconds}"]
        return [sys.executable, "-m", "danqing", "distill", str(teacher), *options], env | {
            "DANQING_CACHE": str(tmp_path / cache)
        }

    finish(*words(whole, "own", 60))
    again, own_env = words(killed, "cache", 0.05)
    kill_again_and_again(again, own_env, killed, random.Random(5), 3, 4000)
    assert_equal_runs(whole, killed)
    files = [list((tmp_path / cache / "trajectories").glob("*.safetensors")) for cache in ("own", "cache")]
    assert [len(found) for found in files] == [1, 1]
    assert files[0][0].name == files[1][0].name
    assert files[0][0].read_bytes() == files[1][0].read_bytes()


def kill_now(process):
    """Kill a forked command; returns whether it was still at work."""
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads need two cores")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_resumed_run_keeps_its_number_of_threads(pictures, tmp_path, threads):
    env = environment(tmp_path) | {"OMP_NUM_THREADS": str(threads)}
    other = env | {"OMP_NUM_THREADS": str(3 - threads)}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = [*VAE, "--images", "2000"]
    finish(command(pictures, whole, *settings, checkpoint_seconds="60"), env)
    words = command(pictures, killed, *settings)
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while newest_checkpoint(killed) < "images-000000000100":
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it had been killed"
    said = " ".join(train(words, other).stderr.split())
    assert f"began with {threads} thread" in said
    assert json.loads((killed / "run.json").read_text())["hardware"]["threads"] == threads
    assert_equal_runs(whole, killed)


def newest_checkpoint(run: Path) -> str:
    return max((path.name for path in (run / "checkpoints").glob("images-*")), default="")


def test_ctrl_c_saves_and_the_same_command_goes_on(pictures, tmp_path):
    env = environment(tmp_path)
    words = command(pictures, tmp_path / "run", *GAN, "--images", "3200", "--json")
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while newest_checkpoint(tmp_path / "run") < "images-000000000500":
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command" in errors
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run/report.html").exists()
    result = json.loads(train(words, env).stdout)
    assert result["images"] == 3200
    finish(command(pictures, tmp_path / "whole", *GAN, "--images", "3200"), env)
    for extra in (tmp_path / "run/samples").iterdir():  # the grid at the moment of the interruption
        if not (tmp_path / "whole/samples" / extra.name).exists():
            extra.unlink()
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


WORDS = ["--preset", "text2image-32", "--images", "6000", "--set", "precision=float32"]
WORDS += [
    "--set",
    "layers=1",
    "--set",
    "heads=2",
    "--set",
    "model.features=16",
    "--set",
    "model.text.length=8",
]
WORDS += [
    "--set",
    "model.text.vocabulary=300",
    "--set",
    "data.augment.flip=true",
    "--set",
    "tokenizer.views=256",
]
WORDS += ["--set", "tokenizer.settings.features=4", "--set", "tokenizer.settings.blocks=1"]
WORDS += ["--set", "tokenizer.settings.vocabulary=16", "--set", "tokenizer.settings.batch_size=16"]

LATENT = ["--preset", "flow-128", "--images", "6000", "--set", "precision=float32"]
LATENT += ["--set", "widths=[8, 16]", "--set", "layers=1", "--set", "heads=2", "--set", "num_steps=2"]
LATENT += ["--set", "data.augment.flip=true", "--set", "tokenizer.views=256"]
LATENT += ["--set", "tokenizer.settings.features=4", "--set", "tokenizer.settings.blocks=1"]
LATENT += ["--set", "tokenizer.settings.latents=2", "--set", "tokenizer.settings.downsamplings=1"]
LATENT += ["--set", "tokenizer.settings.batch_size=16", "--set", "tokenizer.settings.adversarial=0.5"]
LATENT += ["--set", "tokenizer.settings.adversarial_start_images=500"]
LATENT += ["--set", "tokenizer.settings.discriminator_features=4", *AVERAGED]


@pytest.fixture
def captioned(pictures, tmp_path):
    """The same pictures in one folder, each with a caption in two languages."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    lines = []
    for side, chinese in (("left", "左边"), ("right", "右边")):
        for picture in sorted((pictures / side).iterdir()):
            name = f"{side}{picture.name}"
            (folder / name).write_bytes(picture.read_bytes())
            lines.append(json.dumps({"file_name": name, "text": f"light on the {side}\n{chinese}亮"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("settings", [WORDS, LATENT], ids=["codes", "latents"])
def test_two_stages_killed_in_each_and_in_between_are_bit_identical(captioned, tmp_path, settings):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = command(captioned, killed, *settings)
    finish(command(captioned, whole, *settings, checkpoint_seconds="60"), environment(tmp_path / "whole's"))
    env, rng = environment(tmp_path), random.Random(4)

    def newest_codes():
        kinds = [path for kind in ("codes", "latents") for path in (tmp_path / "cache" / kind).glob(".*.tmp")]
        return max((path.name for path in kinds), default="")

    def of_tokenizer():
        return newest_checkpoint(killed / "tokenizer")

    def of_prior():
        return newest_checkpoint(killed)

    for watched in (of_tokenizer, of_tokenizer, newest_codes, of_prior, of_prior):
        before, deadline = watched(), time.monotonic() + 600
        process = forked.start(words[3:], env)
        while watched() in (before, "") and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.01 if watched == newest_codes else 0.1))
        assert kill_now(process), "the run was over before it had been killed often enough"
        assert of_tokenizer()
        assert bool(of_prior()) == (watched == of_prior)
    finish(words, env)
    assert_equal_runs(whole, killed)
    assert_equal_runs(whole / "tokenizer", killed / "tokenizer")


def test_ctrl_c_in_the_first_stage_leaves_honest_facts_and_the_same_command_goes_on(captioned, tmp_path):
    env, run = environment(tmp_path), tmp_path / "run"
    words = command(captioned, run, *WORDS, "--json")
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while newest_checkpoint(run / "tokenizer") < "images-000000000100":
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "while its tokenizer was being trained" in errors
    facts = json.loads((run / "run.json").read_text())
    assert (facts["status"], facts["progress"]["images"]) == ("interrupted", 0)
    assert facts["tokenizer"]["status"] == "interrupted"
    assert 100 <= facts["tokenizer"]["images"] == json.loads(said)["tokenizer"]["images"] < 2100
    assert facts["cost"]["core_hours"] > 0
    assert (run / "report.html").exists()
    result = json.loads(train(words, env).stdout)
    assert result["status"] == "finished"
    assert result["tokenizer"]["images"] + result["images"] >= 6000
    assert result["cost"]["core_hours"] > result["tokenizer"]["cost"]["core_hours"] > 0
