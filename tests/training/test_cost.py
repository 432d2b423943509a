"""What a run took is added up over all the processes that worked on it."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing import machine
from danqing.cli import main
from tests.small_run import SCORED as SMALL


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(120):
        Image.fromarray(rng.integers(0, 256, (9, 6, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


class Burns(dq.Listener):
    """A processor that takes a joule for every step."""

    def __init__(self, package):
        self.counter = package / "energy_uj"

    def on_progress(self, progress):
        self.counter.write_text(str(int(self.counter.read_text()) + 1_000_000))


def test_energy_and_evaluation_add_up_over_a_resumed_run(pictures, tmp_path, monkeypatch):
    package = tmp_path / "powercap/intel-rapl:0"
    package.mkdir(parents=True)
    for name, value in (("name", "package-0"), ("energy_uj", "7"), ("max_energy_range_uj", "25000000")):
        (package / name).write_text(value)
    opened = functools.partial(machine.EnergyMeter.open, folder=package.parent)
    monkeypatch.setattr(machine.EnergyMeter, "open", opened)

    def train(images):
        return dq.train(
            pictures,
            preset="vae-32",
            out=tmp_path / "run",
            images=images,
            size=(6, 9),
            settings=SMALL,
            evaluate_every=160,
            listener=Burns(package),
        )

    first = train(320)
    assert first.cost["energy_wh"] == pytest.approx(20 / 3600)
    assert first.cost["peak_memory_bytes"] > 100_000_000
    longer = train(640)
    assert longer.cost["energy_wh"] == pytest.approx(40 / 3600)
    assert longer.evaluation_seconds > first.evaluation_seconds > 0
    spent = longer.seconds + longer.evaluation_seconds
    assert longer.evaluation_share == longer.evaluation_seconds / spent
    assert longer.cost["core_hours"] >= spent / 3600


def test_the_command_says_what_evaluation_cost_and_how_to_repeat_it(pictures, tmp_path, capsys):
    words = ["train", str(pictures), "--preset", "vae-32", "--size", "6x9", "--out", str(tmp_path / "run")]
    words += ["--images", "640", "--evaluate-every", "160", "--patience", "1000", "--json"]
    for key, value in SMALL.items():
        words += ["--set", f"{key}={value}"]
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 0
    said = capsys.readouterr()
    run = json.loads(said.out)
    assert 0 < run["evaluation_share"] < 1
    assert run["best"]["name"] == "KD-pixels"
    assert run["cost"]["core_hours"] > 0
    assert "KD-pixels" in said.err
    assert "the best so far" in said.err
    command = json.loads((tmp_path / "run/run.json").read_text())["command"]
    assert "--evaluate-every 160 --patience 1000" in command
