"""`--marks` of commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from danqing import families
from danqing.cli import main
from danqing.images import Images
from danqing.model.model import Model
from danqing.trust.verify import Verdict, verify


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_TRUST", str(tmp_path / "trust"))
    config = families.parse_config(
        {"family": "vae", "width": 32, "height": 32, "channels": 3, "features": 8, "latents": 4}
    )
    torch.manual_seed(0)
    return Model(families.build(config)).save(tmp_path / "tiny", Images(np.zeros((1, 32, 32, 3), np.uint8)))


def test_commands_mark_what_they_write_as_the_user_chooses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, each, varied = tmp_path / "grid.png", tmp_path / "each", tmp_path / "varied.png"
    assert run("sample", folder, "-n", 2, "--out", grid, "--each", each, "--marks", "eu") == 0
    assert run("vary", folder, each / "0.png", "--out", varied, "--marks", "eu") == 0
    for path in (grid, each / "0.png", each / "1.png", varied):
        assert verify(path).verdict is Verdict.OURS, path
    plain, labelled = tmp_path / "plain.png", tmp_path / "labelled.png"
    assert run("sample", folder, "-n", 1, "--seed", 7, "--out", plain) == 0  # the environment says none
    monkeypatch.setenv("DANQING_MARKS", "cn,watermark=off")
    assert run("sample", folder, "-n", 1, "--seed", 7, "--out", labelled) == 0
    assert not Image.open(plain).info.get("xmp")
    before, after = (np.asarray(Image.open(path)) for path in (plain, labelled))
    assert np.array_equal(before[:16], after[:16])
    assert not np.array_equal(before[16:], after[16:])
    assert b"c2pa" not in labelled.read_bytes()


@pytest.mark.parametrize("command", ["sample", "vary", "reconstruct"])
def test_unknown_marks_are_rejected_before_a_model_is_loaded(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = ["missing", *([] if command == "sample" else [tmp_path / "a.png"])]
    assert run(command, *words, "--out", tmp_path / "b.png", "--marks", "usa") == 2
    assert "choose eu, cn, both as eu,cn, or none" in capsys.readouterr().err.replace("\n", " ")
