"""Runs on shards: streamed images, resumed in mid-epoch, and codes with the tokenizer that made them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import danqing as dq
from danqing.cluster.place import Place
from danqing.cluster.world import World
from danqing.errors import ConfigError, TrainingError
from danqing.training.config_reading import from_toml
from danqing.training.following import _Follower
from danqing.training.run_data import open_data
from danqing.training.run_files import read_json
from danqing.training.run_folder import RunFolder
from tests.data.shards.making import folder_of
from tests.small_run import SCORED, SMALL, TWO_STAGES

STREAMED = {"data.stream_over": "0", "data.window": "3", "training.checkpoint_seconds": "1e-9"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("places")
        patch.setenv("DANQING_CACHE", str(place / "cache"))
        folder_of(place / "in")
        dq.shard(place / "in", place / "shards", size=2048)
    return place


@pytest.fixture(autouse=True)
def cache(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(places / "cache"))


class Stopping(dq.Listener):
    """Ends a run, as a second Ctrl-C does, once it has seen some images."""

    def __init__(self, images: int) -> None:
        self.images = images

    def on_progress(self, progress) -> None:
        if progress.images >= self.images:
            raise KeyboardInterrupt


def test_a_run_on_streamed_shards_resumes_in_mid_epoch_bit_for_bit(places: Path, tmp_path: Path) -> None:
    def train(out: str, listener: dq.Listener) -> dq.Run:
        settings = {**SCORED, **STREAMED, "evaluation.every_images": "160"}
        return dq.train(
            str(places / "shards"),
            preset="vae-32",
            out=tmp_path / out,
            size=(8, 8),
            images=320,
            settings=settings,
            listener=listener,
        )

    whole = train("whole", dq.Listener())
    with pytest.raises(KeyboardInterrupt):
        train("resumed", Stopping(176))
    resumed = train("resumed", dq.Listener())
    assert whole.best is not None
    assert resumed.best == whole.best
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    told = read_json(RunFolder(whole.folder).path / "run.json")["data"]
    assert told["judged"]["split"] == "held-out"
    assert told["images"] == 108
    assert any("streamed from shards, 3 at a time" in note for note in told["notes"])


@pytest.mark.slow
def test_a_transformer_learns_from_codes_in_shards_with_the_tokenizer_that_made_them(
    places: Path, tmp_path: Path
) -> None:
    small = {name: value for name, value in SMALL.items() if name not in ("net", "prior", "latents")}
    settings = {**small, "model.blocks": "0", "model.vocabulary": "16"}
    first, second = (
        dq.train(
            str(places / "in"),
            preset="vqvae-32",
            out=tmp_path / name,
            size=(8, 8),
            images=images,
            evaluate_every=0,
            settings=settings,
            listener=dq.Listener(),
        )
        for name, images in (("first", 32), ("second", 64))
    )
    codes = dq.shard(places / "in", tmp_path / "codes", what="codes", tokenizer=first.folder, size=1024)
    assert sum(codes.images.values()) == 120
    assert codes.images.keys() == {"train", "validation"}
    two = {key: value for key, value in TWO_STAGES.items() if not key.startswith("tokenizer")}

    def train(tokenizer: Path | None, **more: str) -> dq.Run:
        return dq.train(
            str(tmp_path / "codes"),
            preset="transformer-32",
            out=tmp_path / "run",
            size=(8, 8),
            images=64,
            evaluate_every=0,
            tokenizer=tokenizer,
            settings={**two, **STREAMED, **more},
            listener=dq.Listener(),
        )

    with pytest.raises(ConfigError, match=r"were not made by .*second"):
        train(second.folder)
    run = train(first.folder)
    assert run.status == "finished"
    assert dq.load(run).sample(1).array.shape == (1, 8, 8, 3)
    config = from_toml(RunFolder(run.folder).config_file).model_dump(mode="json")
    other = _Follower(World(Place(1, 2, 1, 2)), torch.device("cpu"), open_data)
    with pytest.raises(TrainingError, match=r"Process 2 finds other images at .*codes"):
        other.open(config, "of other images")
    rows = np.arange(3)
    found = other._codes("").at(rows, np.zeros(3, np.int64))  # another process reads the shards too
    stream = other._dataset.stream
    assert stream is not None
    assert torch.equal(found, torch.from_numpy(stream.codes_at(rows).astype(np.int64)))
    options = {"out": tmp_path / "vae", "size": (8, 8), "settings": dict(SMALL)}
    with pytest.raises(ConfigError, match="hold codes of a tokenizer"):
        dq.train(str(tmp_path / "codes"), preset="vae-32", **options)
