"""Exported models give the pictures of the model in PyTorch, and a wrong export is not written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.compress import parity, result_folder
from danqing.compress.runtime import load
from danqing.errors import ConfigError, ModelError
from danqing.model.model import Model
from tests.compress import tiny


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    model = tiny.model_of(tiny.GAN)
    return model, dq.export(model, tmp_path_factory.mktemp("gan") / "out")


def test_a_gan_gives_the_same_pictures_without_torch(gan: tuple[Model, Path]) -> None:
    model, folder = gan
    exported = load(folder, marks="none")
    for wanted in ({}, {"label": "dog", "truncation": 0.5}):
        expected = model.sample(19, seed=4, **wanted)
        assert np.abs(expected.array.astype(int) - exported.sample(19, seed=4, **wanted).array).max() <= 1
    assert np.array_equal(exported.sample(3, seed=4).array, exported.sample(19, seed=4).array[:3])


def test_requests_are_checked_by_the_rules_of_the_model(gan: tuple[Model, Path]) -> None:
    model, folder = gan
    exported = load(folder)
    for wanted in ({"truncation": 2.0}, {"label": "cow"}, {"size": (9, 9)}, {"prompt": "a cat"}, {"n": 0}):
        with pytest.raises(ConfigError) as ours:
            exported.sample(**wanted)
        with pytest.raises(ConfigError) as theirs:
            model.sample(**wanted)
        if "size" not in wanted:
            assert str(ours.value) == str(theirs.value)
    with pytest.raises(ConfigError, match="does not know the option"):
        exported.sample(seamless="x")


def test_the_command_samples_and_marks_an_export_without_loading_torch(
    gan: tuple[Model, Path], tmp_path: Path
) -> None:
    code = (
        "import sys; from danqing.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    environment = {"DANQING_TRUST": str(tmp_path / "trust"), "PYTHONPATH": ":".join(sys.path)}
    picture, marks = str(tmp_path / "a.png"), "eu,credentials=off"
    command = ["sample", str(gan[1]), "-n", "1", "--label", "cat", "--out", picture, "--marks", marks]
    subprocess.run([sys.executable, "-c", code, *command], check=True, env=environment)
    expected = gan[0].sample(1, seed=0, label="cat").array[0]
    assert np.abs(np.asarray(Image.open(picture)).astype(int) - expected).max() <= 1
    packet = Image.open(tmp_path / "a.png").info["XML:com.adobe.xmp"]
    assert "trainedAlgorithmicMedia" in packet
    assert load(gan[1]).declaration("sample").licence == "CC0"


def test_the_parity_check_covers_three_batches(gan: tuple[Model, Path]) -> None:
    told = json.loads((gan[1] / "export.json").read_text())
    assert [check["batch"] for check in told["parity"]["checks"]] == [1, 3, 16]
    assert max(check["error"] for check in told["parity"]["checks"]) <= told["parity"]["tolerance"] == 1e-4
    assert {file.name for file in gan[1].iterdir()} == {"export.json", "README.md", "generate.onnx"}


def test_a_file_that_was_changed_is_rejected(gan: tuple[Model, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in gan[1].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "generate.onnx").write_bytes(b"0" + (copy / "generate.onnx").read_bytes()[1:])
    with pytest.raises(ModelError, match="not the file that was exported"):
        load(copy)
    told = json.loads((copy / "export.json").read_text())
    for wrong in (told | {"format": 99}, told | {"graphs": 3}, [], told | {"files": {"../x": "0"}}):
        (copy / "export.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelError):
            load(copy)
    with pytest.raises(ModelError, match=r"has no export\.json"):
        load(tmp_path)


def test_an_export_that_differs_is_not_written(
    gan: tuple[Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match=r"graph generate differs from the model by .* \(batch"):
        dq.export(gan[0], tmp_path / "out", to="openvino")
    assert not list(tmp_path.iterdir())


def test_a_result_replaces_an_earlier_one_or_leaves_it(tmp_path: Path) -> None:
    out, made = tmp_path / "out", tmp_path / ".out.tmp"
    for folder, name in ((out, "old"), (made, "new")):
        folder.mkdir()
        (folder / name).touch()
    with pytest.raises(OSError, match="missing"):
        result_folder.publish(tmp_path / "missing", out)
    assert [file.name for file in out.iterdir()] == ["old"]
    result_folder.publish(made, out)
    assert [file.name for file in out.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [out]


def test_what_cannot_be_exported_is_rejected_before_any_work(
    gan: tuple[Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").touch()
    for wanted, reason in (
        ({"out": tmp_path}, "has other files"),
        ({"to": "onnx", "precision": "bf16"}, "does not compute in bf16"),
        ({"to": "coreml"}, "no target"),
        ({"sizes": [(9, 9)]}, "does not sample 9x9"),
    ):
        with pytest.raises(ConfigError, match=reason):
            dq.export(gan[0], **{"out": tmp_path / "new", **wanted})
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for here in (".", tmp_path / "here"):
        with pytest.raises(ConfigError, match="in use as the current folder"):
            dq.export(gan[0], here)


@pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ, reason="OpenVINO does not know of the limit, and asks for more"
)
def test_openvino_in_bf16_records_what_fewer_bits_cost(gan: tuple[Model, Path], tmp_path: Path) -> None:
    exported = load(dq.export(gan[0], tmp_path / "out", to="openvino", precision="bf16"), marks="none")
    assert 1e-5 < max(check.error for check in exported.manifest.parity.lowered) < 0.1
    expected = gan[0].sample(5, seed=4).array.astype(int)
    assert np.abs(expected - exported.sample(5, seed=4).array).max() <= 3
