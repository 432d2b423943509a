"""Translation that has learned from no pairs, by command: from two domains, and from labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.cli import main
from danqing.errors import ConfigError
from danqing.training.run_files import read_json

SIDE = 8
SHARED = {"batch_size": "8", "measure_seconds": "0.001", "sample_images": "8", "sample_grids": "1"}
SHARED |= {"precision": "float32", "evaluation.samples": "16", "evaluation.features": "pixels"}
UNPAIRED = {"widths": "[4, 8]", "blocks": "1", "discriminator_features": "4", **SHARED}
FLOW = {"widths": "[8]", "heads": "2", "layers": "1", "net": "dit", "patch": "4", "num_steps": "2", **SHARED}


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark images and fewer bright ones, with a test split."""
    folder, rng = tmp_path_factory.mktemp("animals"), np.random.default_rng(0)
    for split, kind, count in (
        ("train", "dark", 60), ("train", "bright", 40), ("test", "dark", 12), ("test", "bright", 15),
    ):  # fmt: skip
        for number in range(count):
            pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8) + 150 * (kind == "bright")
            path = folder / split / kind / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def train(capsys: pytest.CaptureFixture[str], *words: object, **settings: str) -> str:
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    code, out, err = run(capsys, "train", *words, *options, "--size", SIDE)
    assert code == 0, err
    return out


def test_two_domains_from_training_to_translation_evaluation_and_report(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (data, "--domains", "dark:bright", "--preset", "translation-64", "--images", 320)
    settings = UNPAIRED | {"evaluation.held_out": "0.3"}
    out = train(capsys, *words, "--evaluate-every", 160, "--out", "bright", **settings)
    assert "danqing translate bright image.png --out translated.png" in out
    facts = read_json(tmp_path / "bright/run.json")
    assert (facts["data"]["images"], facts["data"]["judged"]["images"]) == (28, 12)
    assert facts["data"]["source_images"] == "42 of another domain (dark:bright)"
    page = (tmp_path / "bright/report.html").read_text(encoding="utf-8")
    assert "Source and output after 320 images" in page
    card = (tmp_path / "bright/model/README.md").read_text(encoding="utf-8")
    assert "![Each source image, and what the model makes of it](samples.png)" in card
    assert "model.translate(images, seed=1)" in card

    code, _, err = run(capsys, "translate", "bright", data / "test/dark", "--out", "made")
    assert code == 0, err
    assert len(list(Path("made").rglob("*.png"))) == 12
    found = danqing.evaluate("bright", data, metrics="frechet,kernel", features="pixels")
    for score in found.scores:
        assert score.reference is not None
        assert (score.reference.split, score.images) == ("test", 15)
        assert score.settings["images"] == "translations of the reference's source images"
    everything = danqing.evaluate("bright", data, features="pixels", n=10)
    assert everything.left_out["psnr"] == "the source images have no true targets"
    held = danqing.evaluate("bright", data, split="held-out", metrics="kernel", features="pixels")
    assert held.scores[0].reference is not None
    assert held.scores[0].reference.fingerprint == facts["data"]["judged"]["fingerprint"]
    code, _, err = run(capsys, "reconstruct", "bright", data, "--out", "grid.png")
    assert code == 2
    assert "have no true targets to compare with" in err.replace("\n", " ")


def test_domains_suit_their_model_alone(data: Path, tmp_path: Path) -> None:
    options = {"size": (SIDE, SIDE), "images": 16, "out": tmp_path / "run"}
    for preset, settings, sentence in (
        ("gan-32", {"data.domains": "dark:bright"}, "A gan does not learn from two domains"),
        ("flow-pairs-64", {"data.domains": "dark:bright"}, "A flow does not learn from two domains"),
        ("translation-64", {}, "name two labels or class folders by --domains SOURCE:TARGET"),
        ("translation-64", {"data.degrade": "blur"}, "A translation does not restore images"),
        ("translation-64", {"data.domains": "dark:bright", "data.pairs": "a:b"}, "need no partners"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            danqing.train(data, preset=preset, settings=settings, **options)


def test_a_model_with_labels_translates_from_one_to_another(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = tmp_path / "flow"
    train(capsys, data, "--preset", "flow-32", "--images", 640, "--out", flow, **FLOW)
    images = data / "test/dark"
    words = ("translate", flow, images / "000.png", "--from", "dark")
    for label in ("bright", "dark"):
        code, _, err = run(capsys, *words, "--to", label, "--out", tmp_path / f"{label}.png")
        assert code == 0, err
    bright, dark = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("bright", "dark"))
    assert not np.array_equal(bright, dark)
    again = tmp_path / "again.png"
    danqing.translate(flow, images / "000.png", out=again, source_label="dark", label="bright")
    assert again.read_bytes() == (tmp_path / "bright.png").read_bytes()
    code, out, _ = run(
        capsys, *words[:2], images, "--from", "dark", "--to", "bright", "--set", "strength=0",
        "--out", tmp_path / "same", "--json",
    )  # fmt: skip
    assert (code, len(json.loads(out)["written"])) == (0, 12)
    for path in images.iterdir():
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
    code, _, err = run(capsys, *words[:3], "--to", "bright", "--out", tmp_path / "x.png")
    assert code == 2
    assert "say which label the images have (source_label, --from)" in err.replace("\n", " ")
