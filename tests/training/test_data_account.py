"""Whoever trains sees how many images were found, used and left out, and why."""

import io
from pathlib import Path

import pytest
from PIL import Image

from danqing.cli import main
from tests.data.pictures import write
from tests.small_run import SMALL


def data(folder: Path) -> Path:
    """Images of which one is damaged, twenty are of another split, and one lies outside."""
    names = [f"train/{'ab'[n % 2]}/{n:03d}.png" for n in range(120)] + [f"test/a/{n}.png" for n in range(20)]
    write(folder, [*names, "loose.png"])
    (folder / "train" / "a" / "000.png").write_bytes(b"")
    return folder


SETTINGS = [
    word
    for key, value in SMALL.items()
    if key not in ("prior", "latents", "features")
    for word in ("--set", f"{key}={value}")
]
ACCOUNT = (
    "141 found: 119 used, 1 skipped (1 × The file is empty), 20 in the test split, "
    "1 outside the folders of the splits"
)


def run(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0


def test_training_and_its_report_account_for_every_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run(["train", str(data(tmp_path / "data")), "--images", "64", "--out", str(out), *SETTINGS])
    said = " ".join(capsys.readouterr().err.split())
    assert f"Images: {ACCOUNT}." in said
    assert "Labels: the names of folders." in said
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (ACCOUNT, "train/a/000.png", "The file is empty", "loose.png"):
        assert words in page


def test_a_warning_about_few_images_reaches_who_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    data = write(tmp_path / "data", [f"{n}.png" for n in range(30)])
    run(["train", str(data), "--images", "64", "--out", str(out), *SETTINGS])
    few = "There are only 30 images: a model will copy them rather than learn from them."
    assert few in " ".join(capsys.readouterr().err.split())
    assert few in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_comparing_and_tuning_account_for_every_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data(tmp_path / "data")
    common = ["--images", "64", "--set", "precision=float32", "--set", "evaluation.samples=16"]
    run(
        ["compare", str(folder), "--presets", "gan-32", "--out", str(tmp_path / "compared"), "-n", "16",
         "--features", "pixels", "--set", "net=mlp", "--size", "8", *common]
    )  # fmt: skip
    assert f"Images: {ACCOUNT}." in " ".join(capsys.readouterr().err.split())
    assert ACCOUNT in (tmp_path / "compared" / "compare.html").read_text(encoding="utf-8")
    space = tmp_path / "space.toml"
    space.write_text("[learning_rate]\nlow = 1e-4\nhigh = 1e-3\n")
    run(
        ["tune", str(folder), "--space", str(space), "--trials", "1", "--out", str(tmp_path / "tuned"),
         "--set", "net=mlp", "--set", "evaluation.features=pixels", "--size", "8", *common]
    )  # fmt: skip
    assert f"Images: {ACCOUNT}." in " ".join(capsys.readouterr().err.split())


def test_a_preset_that_reads_text_says_where_captions_were_sought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(8):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
    with pytest.raises(SystemExit) as left:
        main(
            ["train", str(folder), "--preset", "text2image-32", "--size", "8", "--out", str(tmp_path / "run")]
        )
    assert left.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "looked for in a metadata table (there is none) and text files beside the images (there are none)"
        in said
    )
