"""`evaluate` from end to end on real digits: models, folders, splits, files, mistakes."""

import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import danqing as dq
from danqing.data.splits import hold_out
from danqing.errors import DanqingError, DataError, EvaluationError
from danqing.evaluation.candidate import is_model, open_candidate
from danqing.evaluation.evaluate import METRICS, Evaluation, evaluate, score_samples
from danqing.evaluation.features import extract
from danqing.evaluation.networks import open_network
from danqing.evaluation.reference import open_reference
from danqing.evaluation.score_folders import save_scores
from danqing.evaluation.scores import Score, read
from danqing.images import Images
from danqing.model.model import Model
from tests.evaluation.models import small_model

SMALL = {
    **{"net": "mlp", "features": 16, "prior_features": 16, "couplings": 2, "latents": 8, "batch_size": 64},
    **{"measure_seconds": 0.01, "sample_grids": 1, "sample_images": 4, "precision": "float32"},
}
DISTANCES = ["kernel", "frechet", "precision", "recall"]


def write(folder: Path, pixels: np.ndarray, labels: list[str] | None = None) -> Path:
    """Pictures as files, in a folder per label where there are labels."""
    for number, picture in enumerate(pixels):
        path = folder / (labels[number] if labels else "") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.squeeze()).save(path)
    return folder


def only_tested(folder: Path, count: int) -> Path:
    """Data with a test split of some digits and no other."""
    pictures = write(folder.with_name(f"{folder.name} pictures"), digit_pixels(np.arange(count)))
    folder.mkdir()
    with tarfile.open(folder / "test-000.tar", "w") as shard:
        for path in sorted(pictures.iterdir()):
            shard.add(path, path.name)
    return folder


ORDER = np.random.default_rng(0).permutation(1797)  # as they come, digits are sorted by who wrote them


def digit_pixels(rows: np.ndarray) -> np.ndarray:
    return dq.open_dataset("digits").images(ORDER[rows]).numpy()


def digit_labels(rows: np.ndarray) -> list[int]:
    return dq.open_dataset("digits").labels_at(ORDER[rows]).tolist()


@pytest.fixture(scope="module")
def split_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits to learn from and 200 to judge by, with labels."""
    folder = tmp_path_factory.mktemp("digits")
    for split, rows in (("train", np.arange(300)), ("test", np.arange(300, 500))):
        write(folder / split, digit_pixels(rows), [f"digit {label}" for label in digit_labels(rows)])
    return folder


@pytest.fixture(scope="module")
def vae_run(split_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional VAE that has seen a few digits."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    dq.train(split_digits, preset="vae-32", size=(8, 8), images=1280, out=out, settings=SMALL)
    return out


def by_metric(found: Evaluation) -> dict[str, Score]:
    return {score.metric: score for score in found.scores}


@pytest.fixture(scope="module")
def evaluated(vae_run: Path, split_digits: Path) -> Evaluation:
    return evaluate(vae_run, split_digits, features="pixels", n=300)


def test_a_model_is_scored_by_all_that_applies(evaluated: Evaluation) -> None:
    found = by_metric(evaluated)
    wanted = {"kernel", "frechet", "precision", "recall", "density", "coverage", "diversity", "psnr"}
    wanted |= {"reconstruction-error", "bits-per-dim", "duplicates"}
    attacks = {"membership", "membership/samples"}
    wanted |= attacks | {f"{attack}/tpr" for attack in attacks} | {f"{attack}/epsilon" for attack in attacks}
    wanted |= {"memorised", "memorised/pixels", "memorised/copies", "duplicates/near", "duplicates/training"}
    assert wanted <= found.keys()
    assert evaluated.left_out.keys() == {
        *("frechet-infinity", "frechet-per-class", "classifier-score", "perceptual", "ssim", "ms-ssim"),
        *("classification-accuracy", "label-agreement", "token-nll", "composition", "prompt-agreement"),
    }
    for score in evaluated.scores:
        assert score.reference is not None
        assert (score.reference.split, score.reference.count, score.reference.name) == (
            *("test", 200),
            "digits0",
        )
        if score.metric.endswith("/epsilon"):  # is itself the end of an interval
            assert score.interval is None
        else:
            assert score.interval is not None
            assert score.interval[0] <= score.value + 1e-9
            assert score.value <= score.interval[1] + 1e-9
        assert score.candidate == "vae (vae, 1,280 images seen)"
        assert set(score.versions) >= {"danqing", "torch", "numpy"}
    assert found["kernel"].features is not None
    assert found["psnr"].features is None
    assert evaluated.headline == found["kernel"]
    assert evaluated.headline.headline
    assert "fewer than 10,000" in evaluated.reason
    assert 0 < found["bits-per-dim"].value < 16


def test_the_model_folder_gets_scores_card_and_picture(evaluated: Evaluation, vae_run: Path) -> None:
    folder = vae_run / "model"
    assert set(evaluated.files) == {folder / name for name in ("neighbours.png", "scores.json", "README.md")}
    assert read(folder / "scores.json") == evaluated.scores
    card = (folder / "README.md").read_text()
    assert "| **KD-pixels** |" in card
    assert "](neighbours.png)" in card
    assert card.count("split test") == len(evaluated.scores)
    assert Image.open(folder / "neighbours.png").width > 500
    assert not list(folder.glob(".*"))


def test_the_same_seed_gives_the_same_scores(
    vae_run: Path, split_digits: Path, evaluated: Evaluation, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = evaluate(dq.load(vae_run), split_digits, features="pixels", n=300, out=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    same = [score.model_copy(update={"candidate": ""}) for score in evaluated.scores]
    assert [score.model_copy(update={"candidate": ""}) for score in again.scores] == same
    other = evaluate(
        dq.load(vae_run), split_digits, features="pixels", n=300, seed=1, metrics=DISTANCES
    ).headline
    assert other.value != evaluated.headline.value


def test_new_scores_replace_their_like_and_keep_the_others(
    vae_run: Path, split_digits: Path, evaluated: Evaluation
) -> None:
    before = len(read(vae_run / "model" / "scores.json"))
    evaluate(vae_run, split_digits, metrics=["kernel"], features="pixels", n=300)
    assert len(read(vae_run / "model" / "scores.json")) == before
    evaluate(vae_run, split_digits, metrics=["kernel"], features="pixels", n=200)
    scores = read(vae_run / "model" / "scores.json")
    assert len(scores) == before + 1
    assert [score.images for score in scores if score.headline] == [200]
    model = dq.load(vae_run)
    for parameter in model.family.parameters():
        parameter.data += 0.01
    model.save(vae_run / "model")  # other weights: what was measured is not true of them
    assert read(vae_run / "model" / "scores.json") == []
    assert "None measured yet" in (vae_run / "model" / "README.md").read_text()
    assert not (vae_run / "model" / "neighbours.png").exists()


def test_the_training_set_against_itself_is_perfect() -> None:
    found = by_metric(evaluate("digits", "digits", features="pixels", metrics=[*DISTANCES, "duplicates"]))
    assert found["frechet"].value < 1e-6
    assert found["kernel"].value < 0
    assert found["precision"].value == found["recall"].value == 1
    assert found["duplicates/training"].value == 1
    assert found["kernel"].note.startswith("measured on images that may have been learnt from")


def test_copies_are_told_from_fresh_images(split_digits: Path, tmp_path: Path) -> None:
    rows = np.arange(200)
    half = np.where(rows % 2, rows, rows + 1000)
    copies = write(tmp_path / "copies", digit_pixels(rows))
    mixed = write(tmp_path / "mixed", digit_pixels(half))
    fresh = write(tmp_path / "fresh", digit_pixels(rows + 1000))
    metrics = ["memorised", "duplicates"]
    told = {
        folder.name: by_metric(evaluate(folder, split_digits, metrics=metrics, features="pixels", out=folder))
        for folder in (copies, mixed, fresh)
    }
    for space in ("", "/pixels"):
        assert told["copies"][f"memorised{space}"].value > 0.99
        assert told["copies"][f"memorised/copies{space}"].value == 1
        low, high = told["mixed"][f"memorised/copies{space}"].interval or (0, 0)
        assert low <= 0.5 <= high + 0.02
        low, high = told["fresh"][f"memorised{space}"].interval or (0, 0)
        assert low < 0.5 < high
        assert told["fresh"][f"memorised/copies{space}"].value < 0.05
    assert [told[name]["duplicates/training"].value for name in ("copies", "mixed", "fresh")] == [1, 0.5, 0]
    assert told["copies"]["duplicates"].value == 0
    assert (fresh / "neighbours.png").exists()


def test_a_collapsed_folder_is_full_of_duplicates(split_digits: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one", np.repeat(digit_pixels(np.array([1200])), 50, 0))
    found = by_metric(evaluate(one, split_digits, metrics=["duplicates", "recall"], features="pixels"))
    assert found["duplicates"].value == 49 / 50
    assert found["duplicates/near"].value == 1
    assert found["recall"].value < 0.05


def test_labelled_images_are_judged_by_a_classifier(
    split_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.evaluation.judges.classifier._EPOCHS", (15, 15))
    rows = np.arange(600, 800)
    labels = digit_labels(rows)
    names = [f"digit {label}" for label in labels]
    wrong = [f"digit {(label + 1) % 10}" for label in labels]
    metrics = ["label-agreement", "frechet-per-class", "diversity", "classification-f1"]
    right = by_metric(
        evaluate(
            write(tmp_path / "right", digit_pixels(rows), names),
            split_digits,
            metrics=metrics,
            features="pixels",
        )
    )
    swapped = by_metric(
        evaluate(
            write(tmp_path / "wrong", digit_pixels(rows), wrong),
            split_digits,
            metrics=metrics[:2],
            features="pixels",
        )
    )
    assert right["classification-accuracy"].value > 0.6
    assert right["classification-f1"].value > 0.6
    agreement = right["label-agreement"]
    assert agreement.value > 0.6 > 0.1 > swapped["label-agreement"].value
    assert agreement.settings["per_class"].keys() == set(names)
    assert agreement.settings["on_real_images"] > 0.6
    assert right["frechet/digit 3"].value < swapped["frechet/digit 3"].value
    assert right["frechet/digit 3"].images == names.count("digit 3")
    assert abs(right["diversity"].value - 1) < 0.15


def test_splits_are_chosen_and_said(split_digits: Path, tmp_path: Path) -> None:
    def reference(
        model: Model, data: str | Path, split: str | None = None
    ) -> tuple[str, tuple[str, ...], int, bool]:
        opened = open_reference(data, open_candidate(model, data, n=10, seed=0), split=split)
        training = -1 if opened.open_training is None else len(opened.open_training())
        return opened.info.split, opened.cautions, training, opened.is_held_out

    caution = "measured on images that may have been learnt from"
    model = small_model(width=8, height=8, channels=1)
    assert reference(model, split_digits) == ("test", (), 300, True)
    assert reference(model, split_digits, "train") == ("train", (caution,), 300, False)
    assert reference(model, split_digits, "all") == ("all", (caution,), 500, False)
    assert reference(model, "digits") == ("train", (caution,), 1797, False)
    validation = write(tmp_path / "validation", digit_pixels(np.arange(20)))
    write(tmp_path / "train", digit_pixels(np.arange(20, 60)))
    assert reference(model, validation.parent) == ("validation", (), 40, True)
    assert reference(model, only_tested(tmp_path / "alone", 30)) == ("test", (), -1, False)
    whole = dq.open_dataset("digits", size=(8, 8))
    learnt, _ = hold_out(whole, 0.1)
    kept = Model(model.family, {"data": {"fingerprint": learnt.fingerprint, "held_out": 0.1}})
    assert reference(kept, "digits") == ("held-out", (), len(learnt), True)
    assert reference(kept, "digits", "held-out") == ("held-out", (), len(learnt), True)
    assert reference(kept, "digits", "train") == ("train", (caution,), 1797, False)
    assert reference(kept, split_digits)[::2] == ("test", 300)
    stranger = Model(model.family, {"data": {"fingerprint": "0" * 64}})
    (told,) = reference(stranger, "digits")[1]
    assert told.startswith(caution)
    assert "learnt from others, and these may be among them" in told
    grown = Model(model.family, {"data": {"fingerprint": "0" * 64, "held_out": 0.1}})
    learnt_others, lost = reference(grown, "digits")[1]
    assert learnt_others == told
    assert "held out can no longer be told from the others" in lost
    with pytest.raises(EvaluationError, match="did not keep a part"):
        reference(model, "digits", "held-out")
    with pytest.raises(EvaluationError, match="can no longer be told from the others"):
        reference(grown, "digits", "held-out")
    with pytest.raises(DataError, match="no validation split"):
        reference(model, split_digits, "validation")
    with pytest.raises(DataError, match="There is no split 'some'"):
        reference(model, split_digits, "some")


def test_the_data_is_read_as_the_run_read_it(tmp_path: Path) -> None:
    pictures = write(tmp_path / "wide", np.random.default_rng(0).integers(0, 256, (40, 8, 16, 3), np.uint8))
    settings = SMALL | {"fit": "pad", "background": "#204060", "batch_size": 8}
    run = dq.train(pictures, preset="vae-32", size=(8, 8), images=16, out=tmp_path / "run", settings=settings)
    candidate = open_candidate(run, pictures, n=10, seed=0)
    reference = open_reference(pictures, candidate)
    facts = dq.load(run).facts["data"]
    assert reference.info.fingerprint == facts["fingerprint"]
    corner = reference.images.images(np.arange(1))[0, 0, 0].tolist()
    assert corner == [0x20, 0x40, 0x60]
    alone = shutil.copytree(run.model, tmp_path / "alone")
    for elsewhere in (alone, dq.load(run)):  # without the run's configuration beside it
        again = open_reference(pictures, open_candidate(elsewhere, pictures, n=10, seed=0))
        assert (again.info, again.cautions) == (reference.info, reference.cautions)
    config = json.loads((alone / "config.json").read_text())
    config["trained"]["data"]["prepared"]["fit"] = "to be tied"
    (alone / "config.json").write_text(json.dumps(config))
    told = open_reference(pictures, open_candidate(alone, pictures, n=10, seed=0))
    assert told.info.count == 40
    assert "learnt from others" in told.cautions[0]


def test_training_images_are_read_where_a_score_needs_them(split_digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(split_digits / "test", data / "test")
    (data / "train").mkdir()
    (data / "train" / "broken.png").write_bytes(b"no picture")
    model = small_model(width=8, height=8, channels=1)
    assert evaluate(model, data, metrics="kernel", features="pixels", n=50).headline.metric == "kernel"
    with pytest.raises(DataError, match="can be read"):
        evaluate(model, data, metrics="duplicates", features="pixels", n=50)


def test_test_images_are_not_taken_for_training_images(split_digits: Path, tmp_path: Path) -> None:
    data, out = only_tested(tmp_path / "data", 60), tmp_path / "scores"
    found = evaluate(split_digits, data, metrics="duplicates", features="pixels", out=out)
    assert by_metric(found).keys() == {"duplicates", "duplicates/near"}
    assert found.neighbours is None


def test_a_picture_that_nobody_gets_is_not_drawn(split_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("danqing.evaluation.evaluate.draw_neighbour_sheet")
    found = evaluate("digits", split_digits, metrics="duplicates,memorised", features="pixels", n=50)
    assert (found.neighbours, found.files) == (None, [])


def test_of_many_real_images_some_are_drawn_by_the_seed(
    split_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danqing.evaluation.reference.MOST_REFERENCE", 150)
    first, again, other = (
        evaluate("digits", split_digits, metrics="kernel", features="pixels", n=50, seed=seed)
        for seed in (0, 0, 1)
    )
    drawn = first.headline.reference
    assert drawn is not None
    assert drawn.count == 150
    assert first.headline == again.headline
    assert other.headline.reference is not None
    assert other.headline.reference.fingerprint != drawn.fingerprint
    assert "150 of 200 images were drawn from the test split" in first.notes
    copied = evaluate("digits", "digits", metrics="duplicates", features="pixels", n=300)
    assert by_metric(copied)["duplicates/training"].value == 1  # all were searched, not 150


def test_pictures_are_told_from_models(vae_run: Path, split_digits: Path, tmp_path: Path) -> None:
    assert is_model(vae_run)
    assert is_model(vae_run / "model")
    assert is_model(Path("someone/cats"))
    assert not is_model(split_digits)
    assert not is_model(Path("emoji/faces"))
    assert not is_model(Path("emoji:faces"))
    assert not is_model(tmp_path)


def test_grey_pictures_of_coloured_things_are_not_judged_in_grey(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (30, 8, 8, 3), np.uint8)
    grey = np.repeat(colour.mean(3, keepdims=True).astype(np.uint8), 3, 3)
    real, pale = write(tmp_path / "real", colour), write(tmp_path / "pale", grey[..., 0])
    found = evaluate(pale, real, metrics=["frechet"], features="pixels").headline
    assert found.value > 1


def test_sizes_and_channels_that_differ_are_brought_together(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (30, 20, 12, 4), np.uint8)
    large, small = write(tmp_path / "large", pixels), write(tmp_path / "small", pixels[:, ::2, ::2, 0])
    for one, other in ((large, small), (small, large)):
        found = evaluate(one, other, metrics=["kernel"], features="pixels")
        assert found.headline.reference is not None
        assert found.headline.reference.count == found.headline.images == 30
    write(tmp_path / "small" / "more", pixels[:5, :9, :9])
    found = evaluate(small, large, metrics=["kernel"], features="pixels", size=(6, 6))
    assert any("Sizes differ" in note for note in found.notes)


def test_broken_pictures_are_left_out_and_counted(split_digits: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "some", digit_pixels(np.arange(60)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "empty.png").write_bytes(b"")
    found = evaluate(folder, split_digits, metrics=["kernel"], features="pixels")
    assert found.headline.images == 60
    assert found.headline.settings["unreadable"] == 2
    assert any(note.endswith("left out: 2") for note in found.notes)


def test_a_part_of_many_pictures_is_drawn_by_the_seed(split_digits: Path) -> None:
    values = [
        evaluate("digits", split_digits, metrics=["kernel"], features="pixels", n=60, seed=seed).headline
        for seed in (0, 0, 1)
    ]
    assert values[0] == values[1]
    assert values[0].images == 60
    assert values[2].value != values[0].value


def test_a_users_own_network_is_welcome(split_digits: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    found = evaluate("digits", split_digits, metrics=["frechet"], features=network, n=100)
    assert found.headline.name.startswith("FD-")
    assert found.headline.name != "FID"


def test_large_sets_have_the_frechet_distance_as_their_headline(
    monkeypatch: pytest.MonkeyPatch, split_digits: Path
) -> None:
    monkeypatch.setattr("danqing.evaluation.evaluate.SMALL", 100)
    found = evaluate("digits", split_digits, metrics=["kernel", "frechet"], features="pixels", n=100)
    assert found.headline.metric == "frechet"
    assert "Fréchet distance is the number to quote" in found.reason


MISTAKES: list[tuple[dict[str, object], str]] = [
    ({"metrics": ["frechet", "beauty"]}, "There is no metric 'beauty': choose from kernel, frechet"),
    ({"metrics": "fd"}, "There is no metric 'fd': did you mean frechet? There are kernel, frechet"),
    ({"metrics": ["kid"]}, "did you mean kernel?"),
    ({"metrics": "Frechet_Distance"}, "did you mean frechet?"),
    ({"metrics": "precison"}, "did you mean precision?"),
    ({"metrics": [" "]}, "Name at least one metric"),
    ({"features": "eyes"}, "There is no feature network 'eyes'"),
    ({"data": "/no/where"}, "There is no data at /no/where"),
    ({"candidate": "/no/where"}, "There is no data at /no/where"),
    ({"n": 1}, "at least two images"),
    ({"metrics": ["bits-per-dim"]}, "bits-per-dim cannot be measured: only a model has a likelihood"),
    ({"metrics": ["psnr"]}, "psnr cannot be measured: only a model can reconstruct images"),
    ({"metrics": ["classifier-score"]}, "pixels ends in no classifier"),
    ({"data": "digits", "metrics": ["memorised"]}, "no real images that were not learnt from"),
    ({"data": "digits", "metrics": ["label-agreement"]}, "no real images that were not learnt from"),
    ({"data": "digits", "metrics": ["classification-f1"]}, "no real images that were not learnt from"),
    ({"metrics": ["label-agreement"]}, "do not share two labels by name"),
    ({"precision": "float16"}, "There is no precision 'float16'"),
    ({"device": "abacus"}, "There is no device 'abacus'"),
    ({"out": "/dev/null/scores"}, "/dev/null/scores cannot be made"),
    ({"size": (0, 3)}, "out of range"),
]


@pytest.mark.parametrize(("changes", "sentence"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_a_mistake_is_one_sentence(changes: dict[str, object], sentence: str, split_digits: Path) -> None:
    usual: dict[str, object] = {"candidate": "digits", "data": split_digits, "features": "pixels", "n": 50}
    with pytest.raises(DanqingError) as caught:
        evaluate(**{**usual, **changes})  # type: ignore[arg-type]
    message = str(caught.value)
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no files"),
        ({"a.png": b"no picture"}, "No image of folder can be read"),
        ({"notes.txt": b"no picture"}, "holds no images"),
        ({"config.json": b"{}"}, "is not the configuration of a Danqing model"),
        ({"config.toml": b"[data"}, "is not a model folder"),
    ],
)
def test_a_hopeless_folder_is_one_sentence(
    files: dict[str, bytes], sentence: str, split_digits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(DanqingError) as caught:
        evaluate(folder, split_digits, features="pixels")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_written_costs_no_scores(vae_run: Path, split_digits: Path, tmp_path: Path) -> None:
    def score(out: Path | None = None) -> Evaluation:
        return evaluate(folder, split_digits, metrics="kernel", features="pixels", n=50, out=out)

    folder = shutil.copytree(vae_run / "model", tmp_path / "model")
    scores = folder / "scores.json"
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()  # where nothing can be written, even by an administrator
    late = score()
    assert late.headline.metric == "kernel"
    assert late.files == [scores]
    assert any("not all could be written" in note for note in late.notes)
    (folder / "README.md").rmdir()
    (folder / ".writable").mkdir()
    scores.unlink()
    early = score(out=tmp_path / "out")
    assert early.files == [tmp_path / "out" / "scores.json"]
    assert any("not kept" in note for note in early.notes)
    assert not scores.exists()
    (tmp_path / "out" / ".writable").mkdir()
    with pytest.raises(EvaluationError, match="choose another --out"):
        score(out=tmp_path / "out")
    scores.write_text("[")
    with pytest.raises(DataError, match="move it away"):
        score()


def test_evaluations_at_once_keep_each_others_scores(
    split_digits: Path, tmp_path: Path, evaluated: Evaluation
) -> None:
    candidate = open_candidate("digits", split_digits, n=10, seed=0)
    several = [evaluated.headline.model_copy(update={"seed": seed}) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        done = [pool.submit(save_scores, [score], None, candidate, [tmp_path]) for score in several]
    assert all(future.result() == ([tmp_path / "scores.json"], []) for future in done)
    assert {score.seed for score in read(tmp_path / "scores.json")} == set(range(12))


def test_a_score_takes_the_place_of_one_with_an_earlier_versions_normalization(
    split_digits: Path, tmp_path: Path, evaluated: Evaluation
) -> None:
    candidate, new = open_candidate("digits", split_digits, n=10, seed=0), evaluated.headline
    assert new.features is not None
    old = new.features.model_copy(update={"normalization": "", "resizer": "antialiased bicubic to 16x16"})
    save_scores([new.model_copy(update={"features": old, "value": 3.0})], None, candidate, [tmp_path])
    save_scores([new], None, candidate, [tmp_path])
    assert read(tmp_path / "scores.json") == [new]
    legacy = new.features.model_copy(update={"resizer": "legacy bilinear to 16x16, clamped to 0..255"})
    save_scores([new.model_copy(update={"features": legacy})], None, candidate, [tmp_path])
    assert len(read(tmp_path / "scores.json")) == 2


@pytest.mark.parametrize(
    ("suffix", "scale", "cautions"),
    [
        (".png", 1, []),
        (".jpg", 1, ["these images are JPEG and the reference is PNG: traces of compression"]),
        (".png", 3, ["these images had at most 24x24 pixels before they were resized and the reference at"]),
    ],
)
def test_files_of_another_kind_or_size_are_a_caution_at_every_score(
    split_digits: Path, tmp_path: Path, suffix: str, scale: int, cautions: list[str]
) -> None:
    for number, pixels in enumerate(digit_pixels(np.arange(60))):
        image = Image.fromarray(pixels.squeeze()).resize((8 * scale, 8 * scale))
        image.save(tmp_path / f"{number}{suffix}", quality=90)
    found = evaluate(tmp_path, split_digits, metrics="kernel,precision", features="pixels", size=(8, 8))
    for caution in cautions:
        assert all(caution in score.note for score in found.scores)
        assert any(caution in note for note in found.notes)
    if not cautions:
        assert not any("these images" in note for note in found.notes)


def test_scores_of_other_pictures_leave_their_folder(split_digits: Path, tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / name, digit_pixels(np.arange(start, start + 60)))
        for name, start in (("first", 600), ("second", 800))
    )

    def told(pictures: Path, seed: int) -> list[tuple[str, int]]:
        evaluate(pictures, split_digits, metrics="kernel", features="pixels", n=50, seed=seed, out=tmp_path)
        return [(score.candidate, score.seed) for score in read(tmp_path / "scores.json")]

    assert told(first, 0) == [(str(first), 0)]
    assert told(first, 1) == [(str(first), 1), (str(first), 0)]
    assert told(second, 0) == [(str(second), 0)]


def test_nothing_measured_says_why(split_digits: Path, tmp_path: Path) -> None:
    two = write(tmp_path / "two", digit_pixels(np.arange(2)), ["digit 1", "digit 2"])
    with pytest.raises(EvaluationError, match="Nothing could be measured: there are too few images"):
        evaluate(two, split_digits, metrics="frechet-per-class", features="pixels")
    with pytest.raises(EvaluationError, match="is not a model, and only a model's run holds images out"):
        evaluate(two, split_digits, split="held-out", features="pixels")


def test_one_picture_is_too_few(split_digits: Path, tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", digit_pixels(np.arange(1)))
    with pytest.raises(EvaluationError, match="at least 2 images on either side, and there are 1"):
        evaluate(alone, split_digits, features="pixels")


def test_a_model_paints_its_own_size_alone(split_digits: Path) -> None:
    with pytest.raises(EvaluationError, match="leave --size out"):
        evaluate(small_model(), split_digits, size=(8, 8), features="pixels")


def test_samples_are_scored_within_training_without_a_trace() -> None:
    network, digits = open_network("pixels"), dq.open_dataset("digits")
    features = extract(digits, network, keep=True)
    model = small_model(width=8, height=8, channels=1)
    state = torch.get_rng_state()
    first = score_samples(model, features, network, metric="kernel", n=100, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == score_samples(model, features, network, metric="kernel", n=100, seed=3)
    frechet = score_samples(model, features, network, metric="frechet", n=100, seed=3)
    assert (frechet.metric, frechet.name, frechet.images, frechet.seed) == ("frechet", "FD-pixels", 100, 3)
    assert first.value > 0.1
    assert json.loads(json.dumps(first.to_json()))["features"]["sha256"] == network.sha256


def test_a_folder_of_the_models_samples_scores_as_the_model(
    vae_run: Path, split_digits: Path, tmp_path: Path
) -> None:
    model = dq.load(vae_run)
    images = model.sample(60, seed=0)
    assert isinstance(images, Images)
    images.save_each(tmp_path / "each")
    painted = evaluate(model, split_digits, metrics=DISTANCES, features="pixels", n=60)
    saved = evaluate(tmp_path / "each", split_digits, metrics=DISTANCES, features="pixels")
    assert [score.value for score in painted.scores] == pytest.approx([score.value for score in saved.scores])


def test_every_metric_is_measured_or_left_out_under_the_name_that_requests_it(evaluated: Evaluation) -> None:
    measured = {score.metric.partition("/")[0] for score in evaluated.scores}
    assert measured | evaluated.left_out.keys() == METRICS.keys()
    assert not measured & evaluated.left_out.keys()


def test_a_folder_of_images_with_a_config_of_something_else_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"any")
    (tmp_path / "config.json").write_text('{"camera": "x100"}')
    assert not is_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"family": "gan"}}')
    assert is_model(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.toml").write_text('name = "of another tool"')
    assert not is_model(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert is_model(tmp_path)
