"""The range that a data set was read with goes with the model, and is used for all later images."""

import json
from pathlib import Path

import numpy as np
import pytest

import danqing
from danqing.cli import main
from danqing.errors import ConfigError
from danqing.evaluation import candidates
from danqing.training import config_reading
from danqing.training.listener import Listener
from tests.image_files.test_depths import tiff
from tests.small_run import SMALL


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path_factory.mktemp("cache")))


def slices(folder: Path, count: int, high: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(high)
    for number in range(count):
        values = rng.integers(-1000, high, (8, 8), dtype=np.int16)
        (folder / f"{number:03d}.tif").write_bytes(tiff(values))
    return folder


def test_a_model_keeps_the_range_of_its_images_and_other_images_are_read_in_it(tmp_path: Path) -> None:
    data, others = slices(tmp_path / "data", 20, 2000), slices(tmp_path / "others", 20, 0)
    out = tmp_path / "run"
    run = danqing.train(
        data, preset="vae-32", out=out, settings=SMALL, size=(8, 8), images=32, listener=Listener()
    )
    model = danqing.load(run.model)
    low, high = model.value_range or (0, 0)
    assert -1000 <= low < -990
    assert 1900 < high <= 2000
    facts = json.loads((out / "run.json").read_text())["data"]
    assert facts["range"] == [low, high]
    assert facts["depth"] == 16
    candidate = candidates.open_candidate(model, others, n=4, seed=0)
    reference = candidates.open_reference(others, candidate)
    assert reference.images.range == (low, high)
    assert reference.images.full_depth(range(20)).float().max() / 65535 < 0.36
    same = candidates.open_reference(data, candidate, split="train")
    assert candidates.learnt_from(candidate, same.images)


def test_the_range_is_a_setting_that_is_checked() -> None:
    chosen = config_reading.resolve(preset="gan-32", settings={"data.range": "[-1000, 400]"})
    assert chosen.data.range == (-1000, 400)
    assert config_reading.parse(chosen.plain()).data.range == (-1000, 400)
    with pytest.raises(ConfigError, match="the lower one first"):
        config_reading.resolve(preset="gan-32", settings={"data.range": "[400, -1000]"})


def test_data_check_takes_a_range_and_reports_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = slices(tmp_path / "data", 5, 2000)
    for words, expected in (([], "16 bits, from -"), (["--range", "-1000:400"], "from -1000 (black) to 400")):
        with pytest.raises(SystemExit) as left:
            main(["data", "check", str(data), *words])
        assert not left.value.code
        assert expected in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["data", "check", str(data), "--range", "wide"])
    assert left.value.code
    assert "two numbers" in capsys.readouterr().err
