"""A contest judges all alike, can be resumed and repeated, and ranks what intervals part."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danqing.errors import ConfigError, EvaluationError
from danqing.judging.contest import Contest, contest
from tests.service.conftest import MODELS, save


def pictures(folder: Path, n: int, mean: int, seed: int) -> Path:
    """A folder of small pictures of noise around a grey."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(n):
        pixels = np.clip(generator.normal(mean, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    return pictures(tmp_path / "held out", 60, 120, 0)


def run(held_out: Path, *submissions: Path, **more: object) -> Contest:
    given = {"data": held_out, "out": held_out.parent / "contest", "n": 40, "features": "pixels"}
    return contest(submissions, metrics=["kernel", "frechet"], **{**given, **more})  # type: ignore[arg-type]


def test_the_nearest_to_the_held_out_images_is_first_and_only_the_new_is_judged(
    held_out: Path, tmp_path: Path
) -> None:
    near, far = pictures(tmp_path / "near", 40, 121, 1), pictures(tmp_path / "far", 40, 190, 2)
    first = run(held_out, far, near)
    assert [one.name for one in first.places] == ["near", "far"]
    assert [one.ranks for one in first.places] == [(1, 1), (2, 2)]
    assert first.judged == ("far", "near")
    leaderboard = (tmp_path / "contest" / "leaderboard.json").read_bytes()
    table = (tmp_path / "contest" / "leaderboard.md").read_text()
    assert table.index("| near |") < table.index("| far |")
    again = run(held_out, far, near)
    assert again.judged == ()
    assert (tmp_path / "contest" / "leaderboard.json").read_bytes() == leaderboard
    nearer = pictures(tmp_path / "nearer", 40, 120, 3)
    added = run(held_out, nearer)
    assert added.judged == ("nearer",)
    assert {one.name for one in added.places} == {"near", "far", "nearer"}
    fresh = contest(
        [far, near, nearer],
        data=held_out,
        out=tmp_path / "other",
        n=40,
        features="pixels",
        metrics=["kernel", "frechet"],
    )
    assert fresh.to_json() == added.to_json()  # whoever repeats it gets the same
    (near / "000.png").write_bytes((far / "000.png").read_bytes())
    assert run(held_out, near).judged == ("near",)  # it has changed


def test_people_rank_where_all_have_votes(held_out: Path, tmp_path: Path) -> None:
    near, far = pictures(tmp_path / "near", 40, 121, 1), pictures(tmp_path / "far", 40, 190, 2)
    standings = [
        {"name": "far", "rating": 0.8, "interval": [0.5, 1.1]},
        {"name": "near", "rating": -0.8, "interval": [-1.1, -0.5]},
    ]
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "results.json").write_text(json.dumps({"standings": standings}))
    found = run(held_out, near, far, votes=tmp_path / "judged")
    assert found.ranked_by == "people"
    assert [one.name for one in found.places] == ["far", "near"]
    other = pictures(tmp_path / "other", 40, 150, 5)
    assert run(held_out, other, votes=tmp_path / "judged").ranked_by == "kernel"


def test_a_model_is_judged_by_pictures_of_the_same_size(held_out: Path, tmp_path: Path) -> None:
    model = Path(save(MODELS["gan"], tmp_path / "model-of-mine"))
    before = {path: path.read_bytes() for path in model.iterdir()}
    found = run(held_out, model, n=12)
    (place,) = found.places
    assert place.identity.startswith("weights ")
    files = sorted((tmp_path / "contest" / "pictures" / place.name).glob("*.png"))
    assert len(files) == 12
    with Image.open(files[0]) as picture:
        assert picture.size == (8, 8)
    assert {path: path.read_bytes() for path in model.iterdir()} == before  # a submission stays as it is


def test_what_would_not_be_alike_is_refused(held_out: Path, tmp_path: Path) -> None:
    few = pictures(tmp_path / "few", 10, 120, 1)
    with pytest.raises(EvaluationError, match=r"has 10 pictures, and 40 of each"):
        run(held_out, few)
    near = pictures(tmp_path / "near", 40, 121, 1)
    run(held_out, near)
    with pytest.raises(ConfigError, match="holds a contest with other settings"):
        run(held_out, near, seed=1)
    pictures(held_out / "more", 5, 10, 9)
    with pytest.raises(EvaluationError, match="held-out images have changed"):
        run(held_out, pictures(tmp_path / "next", 40, 121, 4))
    with pytest.raises(ConfigError, match="cannot name a submission"):
        contest({"../x": near}, data=held_out, out=tmp_path / "contest")
