"""A model of pairs from training to translation, evaluation and report, by command."""

import json
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.cli import main
from danqing.cli.run_output import next_command
from danqing.errors import ConfigError
from danqing.images import Images
from danqing.training.run_files import read_json

SIDE = 8
SETTINGS = {"widths": "[8]", "heads": "2", "layers": "1", "net": "dit", "patch": "4", "num_steps": "2"}
SETTINGS |= {"batch_size": "16", "measure_seconds": "0.001", "sample_images": "8", "sample_grids": "1"}
SETTINGS |= {"precision": "float32", "evaluation.samples": "16", "evaluation.features": "pixels"}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(cache))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark squares and their bright counterparts, with a test split below the two folders."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for split, count in (("train", 120), ("test", 30)):
        for number in range(count):
            dark = np.full((SIDE, SIDE, 3), rng.integers(0, 100, 3), dtype=np.uint8)
            dark[2:6, 2:6] += rng.integers(0, 30, dtype=np.uint8)
            for name, pixels in (("dark", dark), ("bright", 255 - dark)):
                path = folder / name / split / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> danqing.Run:
    out, patch = tmp_path_factory.mktemp("runs") / "bright", pytest.MonkeyPatch()
    patch.setenv("DANQING_CACHE", str(cache))
    settings = SETTINGS | {"data.pairs": "dark:bright"}
    options = {"preset": "flow-pairs-64", "size": (SIDE, SIDE), "images": 640, "evaluate_every": 320}
    found = danqing.train(data, out=out, settings=settings, **options)
    patch.undo()
    return found


def test_the_command_that_follows_training_translates(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", data, "--pairs", "dark:bright", "--preset", "flow-pairs-64", "--size", SIDE]
    words += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    code, out, _ = run(capsys, *words, "--images", 64, "--out", "pairs")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("Next"))
    following = shlex.split(line)[1:]
    assert following == ["danqing", "translate", "pairs", str(data / "dark"), "--out", "translated"]
    assert run(capsys, *following[1:])[0] == 0
    assert len(list(Path("translated").rglob("*.png"))) == 150
    assert next_command(Path("pairs"), sources="image.png").endswith("image.png --out translated.png")
    assert next_command(Path("run")) == "danqing sample run --out grid.png"
    upscaled = next_command(Path("run"), sources="a.png", task="upscale")
    assert upscaled == "danqing upscale run a.png --out upscaled.png"


def test_an_image_a_folder_and_a_zip_are_translated_alike(
    trained: danqing.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = sorted((data / "dark/test").iterdir())[:5]
    given = tmp_path / "given"
    for path in sources:
        (given / "deep").mkdir(parents=True, exist_ok=True)
        (given / "deep" / path.name).write_bytes(path.read_bytes())
    (given / "deep/broken.png").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "given.zip", "w") as archive:
        for path in sorted((given / "deep").iterdir()):
            archive.write(path, f"deep/{path.name}")
    found = []
    for number, source in enumerate((given, tmp_path / "given.zip")):
        out = tmp_path / str(number)
        code, printed, _ = run(
            capsys, "translate", trained.folder, source, "--seed", 5, "--out", out, "--json"
        )
        told = json.loads(printed)
        assert (code, list(told["failed"])) == (1, ["deep/broken.png"])
        assert [Path(file) for file in told["written"].values()] == [
            out / "deep" / path.name for path in sources
        ]
        found.append([Path(file).read_bytes() for file in told["written"].values()])
    assert found[0] == found[1]
    single = tmp_path / "new/one.png"
    assert run(capsys, "translate", trained.folder, sources[0], "--seed", 5, "--out", single)[0] == 0
    made = np.asarray(Image.open(single))
    assert np.array_equal(made, danqing.translate(trained.model, sources[0], seed=5))
    several = tmp_path / "several"
    assert run(capsys, "translate", trained.folder, sources[0], "-n", 2, "--out", several)[0] == 0
    assert len(list(several.rglob("*.png"))) == 2


def test_mistakes_are_one_sentence(
    trained: danqing.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = data / "dark/test/000.png"
    for words, sentence in (
        ((tmp_path / "none.png", "--out", "x.png"), "none.png"),
        ((image, "--set", "truncation=1", "--out", tmp_path / "x.png"), "truncation"),
        ((image, "--label", "cat", "--out", tmp_path / "x.png"), "label"),
    ):
        code, out, err = run(capsys, "translate", trained.folder, *words)
        assert (code, out) == (2, "")
        assert sentence in err.replace("\n", " ")
    assert run(capsys, "upscale", trained.folder, image, "--out", tmp_path / "x.png")[0] == 2


def test_a_model_of_pairs_is_evaluated_against_the_true_targets(
    trained: danqing.Run, data: Path, tmp_path: Path
) -> None:
    wanted = "frechet,kernel,absolute-error,psnr,perceptual"
    found = danqing.evaluate(trained.folder, data, metrics=wanted, features="efficientnet-lite0")
    scores = {score.metric: score for score in found.scores}
    targets = danqing.open_dataset(data, split="test", pairs="dark:bright", size=(SIDE, SIDE))
    model, rows = danqing.load(trained.model), np.arange(30)
    made = model.translate(Images(targets.source_images(rows)), seeds=rows.tolist()).array
    off = np.abs(made / 255 - targets.images(rows).numpy() / 255).mean()
    assert scores["absolute-error"].value == pytest.approx(off, abs=1e-6)
    assert scores["absolute-error"].name == "absolute translation error"
    assert scores["psnr"].name == "PSNR of translations"
    assert scores["perceptual"].name == "PD-efficientnet-lite0 of translations"
    assert scores["frechet"].name == "FD-efficientnet-lite0"
    for score in found.scores:
        assert score.reference is not None
        assert (score.reference.split, score.images) == ("test", 30)
    assert scores["kernel"].settings["images"] == "translations of the reference's source images"
    assert "translations of the source images" in scores["kernel"].note
    assert not any("learnt from" in score.note for score in found.scores)
    everything = danqing.evaluate(trained.model, data, features="pixels", n=20)
    assert "model that translates has no samples" in everything.left_out["duplicates"]
    copy = model.save(tmp_path / "elsewhere/model")
    alone = danqing.evaluate(copy, data, metrics="absolute-error")
    assert alone.scores[0].value == pytest.approx(off, abs=1e-6)
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "model.translate(images, seed=1)" in card
    assert "pipeline_tag: image-to-image" in card
    assert (copy / "samples.png").read_bytes() == (trained.model / "samples.png").read_bytes()


def test_the_images_that_the_run_held_out_are_found_again(trained: danqing.Run, data: Path) -> None:
    found = danqing.evaluate(trained.folder, data, split="held-out", metrics="psnr")
    facts = read_json(trained.folder / "run.json")
    assert found.scores[0].reference is not None
    assert found.scores[0].reference.fingerprint == facts["data"]["judged"]["fingerprint"]


def test_the_report_shows_source_output_and_target(trained: danqing.Run) -> None:
    page = trained.report.read_text(encoding="utf-8")
    assert "Source, output and target after 640 images" in page
    assert "Source images and their targets, as the model saw them" in page
    assert "reconstructions" not in page
    assert trained.translates
    grid = Image.open(trained.model / "samples.png")
    cell = np.asarray(grid).astype(int)
    scale = 96 // (3 * SIDE)
    first = cell[scale : scale * (SIDE + 1) : scale, scale : scale * (3 * SIDE + 1) : scale]
    source, target = first[:, :SIDE], first[:, 2 * SIDE :]
    assert np.array_equal(source, 255 - target)


def test_models_of_pairs_are_compared_with_one_another_alone(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compare models of pairs only with one another"):
        danqing.compare(data, presets=["flow-pairs-64", "gan-64"], images=64, out=tmp_path / "mixed")
    settings = SETTINGS | {"data.pairs": "dark:bright"}
    own = [name for name in settings if name.startswith("evaluation.f")]
    settings = {name: value for name, value in settings.items() if name not in own}
    found = danqing.compare(
        data,
        presets=["flow-pairs-64"],
        size=(SIDE, SIDE),
        images=64,
        n=16,
        features="pixels",
        second_features="none",
        settings=settings,
        out=tmp_path / "alone",
    )
    (one,) = found.contestants
    assert (one.status, one.error) == ("finished", "")
    assert one.measured["sampling_speed"] > 0
