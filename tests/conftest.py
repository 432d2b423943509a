"""What the tests of several packages need."""

import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from PIL import Image

# Named, so that no run takes fewer because the machine is busy; torch reads it once.
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core, whatever it inherits
    os.environ["OMP_NUM_THREADS"] = "1"

os.environ["DANQING_LANG"] = "en"  # whatever the language of the machine; tests of others set it themselves

# Tests of marks request them. Others compare pixels and files, and write no keys into the home folder.
os.environ["DANQING_MARKS"] = "none"
os.environ["DANQING_TRUST"] = os.path.join(tempfile.gettempdir(), f"danqing-trust-of-tests-{os.getpid()}")

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share it, and the user's own is left alone
    os.environ["DANQING_CACHE"] = os.path.join(tempfile.gettempdir(), f"danqing-cache-of-tests-{os.getpid()}")

# A busy machine is no reason for a test to fail.
hypothesis.settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any speed")

_STARTED = time.monotonic()
_SLOW_TESTS_MINUTES = float(os.environ.get("DANQING_SLOW_TESTS_MINUTES", "inf"))

HOSTILE = "<script>document.title='broken'</script>"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test that would start after DANQING_SLOW_TESTS_MINUTES: a slow machine ends in time."""
    if time.monotonic() - _STARTED > 60 * _SLOW_TESTS_MINUTES and item.get_closest_marker("slow"):
        pytest.skip(f"no slow test starts after {_SLOW_TESTS_MINUTES:g} minutes")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the caches of the tests."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["DANQING_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _no_trust_folder_remains() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["DANQING_TRUST"], ignore_errors=True)


@pytest.fixture
def written_run(tmp_path: Path) -> Path:
    """A run folder as a trainer leaves it, with hostile names, written by hand: no training needed."""
    folder = tmp_path / "a run & <b>more"
    (folder / "samples").mkdir(parents=True)
    noise = random.Random(0)
    log, timing = [], []
    for step in range(1, 301):
        share = step / 300
        log.append(
            {
                "images": step * 640,
                "step": step * 10,
                "learning_rate": 2e-4 * (1 + math.cos(math.pi * share)) / 2,
                "discriminator/loss": 0.7 + 0.6 * math.exp(-8 * share) + noise.gauss(0, 0.04),
                "discriminator/r1": 0.02 + 0.1 * share + abs(noise.gauss(0, 0.01)),
                "generator/loss": 1.4 - 0.5 * math.exp(-6 * share) + noise.gauss(0, 0.06),
                "vae/nll": 2500 * math.exp(-6 * share) + 40 + noise.gauss(0, 3),
                "vae/kl": 1e-5 + 4e-5 * share,
            }
        )
        timing.append(
            {"images": step * 640, "seconds": step * 0.9, "images_per_second": noise.gauss(700, 15)}
        )
    write_lines(folder / "log.jsonl", log)
    write_lines(folder / "timing.jsonl", timing)
    for frame in range(5):
        picture = Image.effect_noise((272, 272), 90 - 20 * frame).convert("RGB")
        picture.save(folder / "samples" / f"{frame * 48_000:09d}.png")
    Image.radial_gradient("L").convert("RGB").save(folder / "samples" / "data.png")
    labels = {"cat": 1200, "狗": 860, HOSTILE: 31} | {
        f"breed {number}": 30 - number // 2 for number in range(44)
    }
    facts = {
        "version": "0.1.0",
        "status": "interrupted",
        "reason": None,
        "command": "danqing train 'pets & more/' --preset gan-32 --out runs/pets",
        "data": {
            "name": "pets",
            "source": "/home/someone/pets & more",
            "images": 2748,
            "width": 32,
            "height": 32,
            "channels": 3,
            "labels": labels,
            "fingerprint": "9f2c41d07a55",
            "licence": "CC BY-SA 4.0",
            "citation": "Someone, <i>Pets</i>, 2024.",
            "skipped": [["broken.png", "the file ends too early"], [f"{HOSTILE}.png", "not an image"]],
        },
        "hardware": {
            "device": "cpu",
            "processor": "A processor",
            "cores": 2,
            "threads": 2,
            "memory_bytes": 24_000_000_000,
            "system": "Linux",
            "python": "3.11.7",
            "torch": "2.13.0",
        },
        "plan": {
            "parameters": {"generator": 1_061_000, "discriminator": 660_000},
            "memory_bytes": 812_000_000,
            "images": 300_000,
            "seconds": 430.0,
            "images_per_second": 698.0,
            "precision": "bfloat16",
        },
        "progress": {"images": 192_000, "seconds": 271.2, "images_per_second": 708.1},
        "alarms": [{"images": 64_000, "text": "The discriminator has won: raise r1 to 1.0."}],
        "cost": {"core_hours": 0.151, "energy_wh": None},
    }
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "config.toml").write_text(
        'family = "gan"\nsize = [32, 32]\nbatch_size = 64\n\n[model]\nnet = "dcgan"\n', encoding="utf-8"
    )
    return folder


@pytest.fixture
def scored_run(written_run: Path) -> Path:
    """The same with held-out scores of which the second is the best, measured scores, and neighbours."""
    folder = written_run
    lines = []
    for number, (value, is_best) in enumerate([(0.08, True), (0.0234, True), (0.031, False), (None, False)]):
        score = {"name": "KD-pixels", "value": value, "reference": {"count": 512, "split": "held-out"}}
        lines.append({"images": 40_000 * (number + 1), "is_best": is_best, "score": score})
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images": 1')
    measured = [
        {
            "metric": "kernel",
            "name": "KD-pixels",
            "value": 0.0219,
            "interval": [0.0181, 0.0263],
            "higher_is_better": False,
            "headline": True,
            "text": f"KD-pixels 0.0219: 10,000 images of {HOSTILE}",
            "note": "Small data.",
        },
        {"metric": "precision", "name": f"precision {HOSTILE}", "value": 0.71, "higher_is_better": True},
        {"name": "nothing", "value": None},
        "no score",
    ]
    (folder / "model").mkdir()
    (folder / "model/scores.json").write_text(json.dumps(measured))
    Image.radial_gradient("L").save(folder / "model/neighbours.png")
    facts = json.loads((folder / "run.json").read_text())
    facts["progress"]["evaluation_seconds"] = 30.1
    facts["cost"] = {
        "core_hours": 0.2,
        "energy_wh": 12.5,
        "peak_memory_bytes": 1_300_000_000,
        "evaluation_seconds": 30.1,
    }
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def write_lines(path: Path, lines: list[dict[str, float]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
