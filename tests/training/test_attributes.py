"""From a table of attributes to images that show what is requested, for each family that reads them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing as dq
from danqing.cli import main
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.requested_attributes import OutsideTrainingWarning
from danqing.training.outcome import Run
from tests.small_run import SMALL

COMMON = {
    **SMALL,
    "sample_grids": "1",
    "attributes": '["age", "side"]',
    "learning_rate": "3e-3",
    "ema_half_life_images": "500",
    "augment": "{}",  # a mirror image would have its light on the other side
}
FAMILIES = {
    "vae": ("vae-32", {**COMMON, "model.features": "8"}),
    "gan": (
        "gan-32",
        {
            **{key: value for key, value in COMMON.items() if key not in ("features", "prior")},
            "generator_features": "8",
            "discriminator_features": "8",
            "learning_rate": "1e-3",
        },
    ),
    "transformer": (
        "transformer-16",
        {
            **{key: COMMON[key] for key in COMMON if key not in ("net", "features", "latents", "prior")},
            "layers": "1",
            "heads": "2",
            "model.features": "32",
        },
    ),
}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are brighter the greater the age, on one side; some have no age."""
    folder = tmp_path_factory.mktemp("people")
    rows = []
    for number in range(96):
        age, side = 20 + number % 8 * 10, ("left", "right")[number // 8 % 2]
        pixels = np.zeros((4, 4), np.uint8)
        pixels[:, 0:2] = 2.5 * age
        pixels = pixels if side == "left" else pixels[:, ::-1]
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{number}.png")
        rows.append([f"{number}.png", "" if number % 11 == 0 else age, side])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "age", "side"], *rows])
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, people: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    preset, settings = FAMILIES[request.param]
    out = tmp_path_factory.mktemp(request.param) / "run"
    return dq.train(people, preset=preset, settings=settings, images=5600, out=out, size=(4, 4))


def brightness(images: Images) -> tuple[float, float]:
    """The mean of the left and of the right half."""
    left, right = images.array[:, :, :2].mean(), images.array[:, :, 2:].mean()
    return float(left), float(right)


def test_images_show_the_attributes_that_are_requested(run: Run) -> None:
    model = dq.load(run.folder)
    young, old, other = (
        brightness(model.sample(48, attributes={"age": age, "side": side}))
        for age, side in ((25, "left"), (85, "left"), (85, "right"))
    )
    assert old[0] > young[0] + 40
    assert old[0] > old[1] + 40
    assert other[1] > other[0] + 40
    alone = model.sample(seeds=[7, 8], attributes=[{"age": 25}, {"age": 85}])
    assert np.array_equal(alone.array[1:], model.sample(seeds=[8], attributes={"age": 85}).array)
    assert model.info()["attributes"][0]["name"] == "age"
    with pytest.warns(OutsideTrainingWarning, match="age 130 is outside of the training images"):
        model.sample(attributes={"age": 130})


def test_the_command_line_takes_and_shows_attributes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    out = ("-n", "4", "--out", str(tmp_path / "grid.png"))
    code, told, said = command(
        "sample", str(run.folder), *out, "--attribute", "age=130", "--attribute", "side=Left", "--json"
    )
    assert code == 0
    assert json.loads(told)["attributes"] == {"age": "130", "side": "Left"}
    assert said.count("age 130 is outside of the training images") == 1
    code, _, said = command("sample", str(run.folder), *out, "--attribute", "aeg=3")
    assert code == 2
    assert "does not know the attribute 'aeg': it knows age, side" in said
    assert "name=value" in command("sample", str(run.folder), *out, "--attribute", "age")[2]
    shown = command("show", str(run.folder))[1]
    assert "age (number, " in shown
    assert "side (2 categories: left, right)" in shown
    assert "Attribute: age (number" in (run.folder / "model" / "README.md").read_text()


def test_rows_of_a_table_carry_attributes(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(table: Path, *words: str) -> tuple[int, str, str]:
        given = (
            "sample",
            str(run.folder),
            "--prompts",
            str(table),
            "--each",
            str(tmp_path / "each"),
            "--json",
        )
        with pytest.raises(SystemExit) as ended:
            main((*given, *words))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err.replace("\n", " ")

    model = dq.load(run.folder)
    rows = [
        ({"age": 25, "side": "left"}, 2, 3),
        ({"side": "right"}, 3, 0),
        ({"age": 85, "side": "left"}, 1, 0),
    ]
    expected = [model.sample(n, attributes=given, seed=seed).array for given, n, seed in rows]
    (tmp_path / "a.csv").write_text("Age,side,n,seed\n25,Left,2,3\n,right,3,\n85,,1,\n")
    lines = [{"age": 25, "side": "left", "n": 2, "seed": 3}, {"age": None, "side": "right", "n": 3}]
    lines += [{"age": 85, "n": 1}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name in ("a.csv", "a.jsonl"):
        code, told, _ = command(tmp_path / name, "--attribute", "SIDE=left")
        assert code == 0
        files = json.loads(told)["files"]
        assert [Path(file).name for file in files] == [
            "0-0.png",
            "0-1.png",
            "1-0.png",
            "1-1.png",
            "1-2.png",
            "2-0.png",
        ]
        found = np.stack([np.asarray(Image.open(file))[:, :, None] for file in files])
        assert np.array_equal(found, np.concatenate(expected))
        assert json.loads(told)["prompts"][1]["attributes"] == {"side": "right"}
    for content, sentence in (
        ("age,n\nold,1\n", "line 2: The attribute age is a number and cannot be 'old'"),
        ("aeg,n\n3,1\n", "line 2, has no prompt"),
        ("age,kind\n30,cap\n", "does not know the option 'kind'"),
        ("prompt,age\na cat,30\n", "leave the prompt out"),
    ):
        (tmp_path / "wrong.csv").write_text(content)
        code, _, said = command(tmp_path / "wrong.csv")
        assert (code, sentence in said) == (2, True), said


def test_who_reads_no_attributes_refuses_them(people: Path, tmp_path: Path) -> None:
    settings = {"attributes": '["age"]', "conditional": "false"}
    with pytest.raises(ConfigError, match="A gan does not learn from attributes: leave"):
        dq.train(people, preset="gan-32", settings=settings, images=16, out=tmp_path / "run", size=(4, 4))
