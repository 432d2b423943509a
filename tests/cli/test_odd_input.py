"""Names and files as people really give them: misspelled, cut short, nested, and after `~`."""

import zipfile
from pathlib import Path

import pytest

import danqing as dq
from danqing import presets
from danqing.cli import main, output
from danqing.data import open_dataset
from danqing.errors import ConfigError, DanqingError, DataError, ModelError
from danqing.model import folder as model_folder
from danqing.training.config_reading import full_name, resolve
from danqing.training.label_advice import advice
from danqing.training.run_folder import RunFolder
from danqing.training.tasks import TASKS
from tests.data.pictures import png, write


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_tilde_is_the_home_folder_also_where_a_shell_leaves_it(home: Path) -> None:
    write(home / "photos", [f"{n}.png" for n in range(4)])
    with pytest.raises(SystemExit) as left:
        main(["data", "check", "~/photos", "--faces", "0", "--card=~/card.md", "--grid", "~/grid.png"])
    assert left.value.code == 0
    assert (home / "card.md").exists()
    assert (home / "grid.png").exists()
    images = dq.Images(open_dataset("~/photos").images([0, 1]).numpy())
    images.save("~/two.png")
    images.save_each("~/each")
    assert RunFolder("~/run").path == home / "run"
    with pytest.raises(ModelError, match=str(home / "nothing")):
        dq.load("~/nothing")
    assert {path.name for path in home.iterdir()} >= {"two.png", "each"}
    assert not (home / "~").exists()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        (lambda: presets.path("gan-23"), "Did you mean gan-32?"),
        (lambda: full_name("batchsize", "gan"), "Did you mean batch_size?"),
        (lambda: open_dataset("fashon-mnist"), "Did you mean fashion-mnist?"),
        (lambda: open_dataset("photoss/"), "Did you mean photos?"),
        (lambda: dq.train("photos", task="clasify", out="run"), "Did you mean classify?"),
    ],
)
def test_a_misspelled_name_gets_the_nearest(wrong, meant: str, home: Path) -> None:  # type: ignore[no-untyped-def]
    write(home / "photos", ["0.png"])
    with pytest.raises(DanqingError) as error:
        wrong()
    assert str(error.value).endswith(meant)


def test_a_name_that_is_near_none_gets_all_of_them() -> None:
    with pytest.raises(ConfigError, match=r"Choose one of .*gan-32, .*lora"):
        presets.path("xyzzy")
    with pytest.raises(ConfigError, match=f"Choose one of {', '.join(TASKS)}"):
        dq.train("photos", task="xyzzy", out="run")


def test_archives_that_cannot_be_read_say_what_to_do(home: Path) -> None:
    with zipfile.ZipFile("inner.zip", "w") as archive:
        archive.writestr("a.png", png(0))
    with zipfile.ZipFile("outer.zip", "w") as archive:
        archive.write("inner.zip")
    (home / "cut.zip").write_bytes((home / "inner.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="unpack the archives in it first"):
        open_dataset("outer.zip")
    with pytest.raises(DataError, match=r"cut short, damaged or not a zip archive .*: get a complete copy"):
        open_dataset("cut.zip")


def test_images_that_cannot_be_read_do_not_count_as_few_images(home: Path) -> None:
    write(home / "photos", [f"{n:02d}.png" for n in range(30)])
    (home / "photos" / "x.png").write_bytes(png(0)[:40])
    (home / "photos" / "drawing").write_bytes(png(1))
    notes = open_dataset("photos").info.report.notes
    assert notes[0] == "1 file is not an image by its ending and was left out."
    assert notes[1].startswith("There are only 30 images")


def test_rare_labels_and_missing_scores_are_said_before_training(home: Path) -> None:
    write(
        home / "pets", [f"{'bird' if n == 0 else 'cat' if n % 2 else 'dog'}/{n:02d}.png" for n in range(30)]
    )
    dataset = open_dataset("pets")
    few, scores = advice(dataset, resolve(preset="classify-32"), is_scored=False)
    assert few == (
        "Labels with fewer than 5 images are hardly learned: bird (1). Add images of them, or leave them out."
    )
    assert "this run has no scores" in scores
    assert list(advice(dataset, resolve(preset="classify-32"), is_scored=True)) == [few]
    assert list(advice(dataset, resolve(preset="gan-32"), is_scored=False)) == []


def test_a_folder_of_runs_names_one_of_them(home: Path) -> None:
    (home / "runs" / "cats").mkdir(parents=True)
    (home / "runs" / "cats" / "config.toml").write_text("")
    with pytest.raises(ModelError, match=r"it holds runs, so name one of them, such as .*cats"):
        model_folder.read(home / "runs")


def test_a_value_of_several_lines_stays_in_its_column() -> None:
    assert output.facts({"A": "1\n  b", "Long name": "c"}) == "A          1\n           b\nLong name  c\n"
