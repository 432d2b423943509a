"""Latent flow is one run in two stages: cached latents, one model folder, a score of reconstructions."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.cli.run_output import tokenizer_text
from danqing.data import Augment, Batches, open_dataset
from danqing.errors import ConfigError
from danqing.evaluation.features import feature_info
from danqing.evaluation.flattery import was_trained_with
from danqing.evaluation.networks import open_network
from danqing.families.abilities import Compresses
from danqing.families.flow_variants import LatentFlow
from danqing.images import Images, to_float
from danqing.training import codes
from danqing.training.config_reading import resolve
from danqing.training.engine import initialise
from danqing.training.listener import Listener
from danqing.weights import digest

CPU = torch.device("cpu")
LATENT = {
    "batch_size": "16",
    "measure_seconds": "0.001",
    "sample_images": "4",
    "sample_grids": "2",
    "precision": "float32",
    "widths": "[8, 16]",
    "layers": "1",
    "heads": "2",
    "num_steps": "2",
    "tokenizer.settings.features": "4",
    "tokenizer.settings.blocks": "1",
    "tokenizer.settings.latents": "2",
    "tokenizer.settings.downsamplings": "1",
    "tokenizer.settings.batch_size": "16",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Sixty pictures of 8x12 in two classes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / label).mkdir()
        for number in range(30):
            pixels = rng.integers(0, 120, (12, 8, 3), dtype=np.uint8) + (120 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


class Heard(Listener):
    def __init__(self):
        self.plans, self.messages = [], []

    def on_plan(self, plan):
        self.plans.append(plan)

    def on_message(self, text):
        self.messages.append(text)


def train(pictures, out, *, images=640, tokenizer=None, evaluate_every=0, listener=None, **settings):
    return dq.train(
        pictures,
        preset="flow-128",
        out=out,
        images=images,
        size=(8, 12),
        settings=LATENT | settings,
        listener=listener or Listener(),
        tokenizer=tokenizer,
        evaluate_every=evaluate_every,
    )


@pytest.fixture
def autoencoder(pictures):
    dataset = open_dataset(pictures, size=(8, 12))
    settings = {"features": 4, "latents": 3, "downsamplings": 1}
    return dataset, initialise(resolve(preset="vae-latents-128", settings=settings).for_data(dataset)).eval()


def written(family, dataset, views):
    return codes.ensure(family, dataset, views, reads=Compresses, device=CPU, on_progress=lambda *told: None)


def test_cached_latents_equal_fresh_ones_in_every_view(autoencoder, tmp_path):
    dataset, family = autoencoder
    views = codes.views_of(Augment(flip=True), 7, 3)
    found = written(family, dataset, views)
    everything, count = np.arange(len(dataset)), len(dataset)
    plain = family.compress(codes.views_of(Augment(), 0, 1).of(dataset, 0, everything))
    mirrored = family.compress(torch.flip(codes.views_of(Augment(), 0, 1).of(dataset, 0, everything), [3]))
    kinds = set()
    for view in range(3):
        cached = found.at(everything, np.full(count, view))
        assert torch.equal(cached, family.compress(views.of(dataset, view, everything)).half().float())
        for row in range(count):
            same = [torch.equal(cached[row], one[row].half().float()) for one in (plain, mirrored)]
            kinds.add(tuple(same))
    assert kinds == {(True, False), (False, True)}, "each view of an image is the image or its mirror image"
    coded = codes.CodedBatches(dataset, found, batch_size=25, seed=5)
    order = Batches(dataset, 25, 5)
    for seen in (0, 50, 150):  # the second runs across the end of an epoch
        batch = coded.at(seen)
        epochs = np.arange(seen, seen + 25) // count
        assert torch.equal(batch.codes, found.at(order.indices(seen), epochs % 3))
        assert torch.equal(batch.condition.label, order.condition(seen).label)
        assert batch.images.shape == (25, 0, 0, 0)
    assert [path.parent.name for path in (tmp_path / "cache").rglob("*.safetensors")].count("latents") == 1


def test_the_time_to_encode_is_that_of_all_views(autoencoder, monkeypatch):
    dataset, family = autoencoder
    clock = iter([0.0, 5.0, 7.0, 9.5])  # the first time, memory is allocated
    monkeypatch.setattr("danqing.training.codes.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(codes, "_PIXELS_AT_ONCE", 25 * 8 * 12)  # sixty pictures in three parts
    encoding = codes.encoding_of(family, Compresses)
    spent = codes.seconds_to_encode(encoding, dataset, codes.views_of(Augment(flip=True), 7, 4), CPU)
    assert spent == pytest.approx(2.5 * 4 * 3)


def test_statistics_are_those_of_all_cached_latents(autoencoder):
    dataset, family = autoencoder
    with torch.no_grad():
        family.encoder.last.weight[0] = 0  # the first channel carries nothing
    found = written(family, dataset, codes.views_of(Augment(flip=True), 7, 2))
    rows = np.arange(2 * len(dataset))
    latents = found.at(rows % len(dataset), rows // len(dataset)).double()
    assert found.statistics.mean == pytest.approx(latents.mean((0, 2, 3)).tolist(), abs=1e-9)
    deviations = latents.std((0, 2, 3), correction=0).tolist()
    assert found.statistics.deviation[1:] == pytest.approx(deviations[1:], rel=1e-6)
    assert found.statistics.deviation[0] == pytest.approx(0.01 * max(deviations)), "it is not blown up"
    normal = found.statistics.normalize(latents.float())
    assert normal[:, 1:].std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.01)


@pytest.fixture
def photographs(tmp_path):
    """Forty pictures, wide, high and square."""
    folder, rng = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        width, height = [(24, 12), (12, 24), (18, 18), (24, 12)][number % 4]
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("views", [1, 3])
def test_cached_latents_of_several_sizes_equal_fresh_ones(photographs, views):
    dataset = open_dataset(photographs, size=(16, 16), buckets=True)
    assert len({width * height for width, height in dataset.sizes}) == 2, "grids of different lengths"
    settings = {"features": 4, "latents": 3, "downsamplings": 1}
    family = initialise(resolve(preset="vae-latents-128", settings=settings).for_data(dataset)).eval()
    found = written(family, dataset, codes.views_of(Augment(flip=views > 1), 7, views))
    buckets, every = dataset.buckets_at(np.arange(40)), []
    kinds = set()
    for row in range(40):
        pixels = to_float(dataset.full_depth([row]))
        plain, mirrored = (family.compress(each) for each in (pixels, pixels.flip(3)))
        for view in range(views):
            cached = found.at(np.array([row]), np.array([view]), int(buckets[row]))
            assert cached.shape == plain.shape
            kinds.add(tuple(torch.allclose(cached, each, atol=2e-3) for each in (plain, mirrored)))
            every.append(cached[0].flatten(1).double())
    assert kinds == ({(True, False)} if views == 1 else {(True, False), (False, True)})
    values = torch.cat(every, dim=1)
    assert found.statistics.mean == pytest.approx(values.mean(1).tolist(), abs=1e-9), "no padding counts"
    assert found.statistics.deviation == pytest.approx(values.std(1, correction=0).tolist(), rel=1e-6)
    coded, order = codes.CodedBatches(dataset, found, batch_size=8, seed=5), Batches(dataset, 8, 5)
    shapes = set()
    for seen in range(0, 160, 8):
        batch, indices = coded.at(seen), order.indices(seen)
        (bucket,) = set(buckets[indices].tolist())
        view = dataset.order(8, 5).at(seen).epochs % views
        assert torch.equal(batch.codes, found.at(indices, view, bucket))
        shapes.add(tuple(batch.codes.shape[2:]))
    assert shapes == {(height // 2, width // 2) for width, height in dataset.sizes}


@pytest.mark.slow
def test_both_stages_learn_images_of_several_sizes_and_resume(photographs, tmp_path):
    class Stops(Listener):
        def __init__(self, stage, images):
            self.stage, self.images = stage, images

        def on_progress(self, progress):
            if progress.stage.startswith(self.stage) and progress.images >= self.images:
                raise RuntimeError("stopped")

    chosen = LATENT | {"size": "[16, 16]", "batch_size": "8", "tokenizer.settings.batch_size": "8"}
    chosen |= {"checkpoint_seconds": "0.0001", "data.augment.flip": "true"}

    def train(out, listener):
        options = {"size": "auto", "images": 160, "settings": chosen, "listener": listener}
        return dq.train(photographs, preset="flow-128", out=out, evaluate_every=0, **options)

    whole = train(tmp_path / "whole", Listener())
    for stage, images in (("tokenizer", 24), ("prior", 48)):
        with pytest.raises(RuntimeError, match="stopped"):
            train(tmp_path / "parts", Stops(stage, images))
    parts = train(tmp_path / "parts", Listener())
    models = [(run.model / "model.safetensors").read_bytes() for run in (whole, parts)]
    assert models[0] == models[1]
    model = dq.load(whole)
    assert len(model.sizes.own) == 3
    assert model.family.tokenizer.config.sizes == model.sizes.own
    for width, height in (*model.sizes.own, (24, 8)):
        assert model.sample(2, size=(width, height)).array.shape == (2, height, width, 3)


def test_one_run_one_budget_one_model_folder(pictures, tmp_path):
    heard = Heard()
    run = train(pictures, tmp_path / "run", listener=heard, **{"training.ema_lengths": "[0.05, 0.1]"})
    assert (run.images, run.tokenizer["images"]) == (416, 224)
    model = dq.load(run)
    assert isinstance(model.family, LatentFlow)
    alone = dq.load(run.folder / "tokenizer")
    assert digest(model.family.tokenizer.state_dict()) == digest(alone.family.state_dict())
    kept = json.loads((run.model / "config.json").read_text())["model"]["latent_statistics"]
    assert model.family.config.latent_statistics.model_dump(mode="json") == kept
    shown = Images(open_dataset(pictures, size=(8, 12)).images(np.arange(60)))
    latents = model.encode(shown, label=[0] * 60)
    assert latents.std((0, 2, 3)).tolist() == pytest.approx([1, 1], abs=0.15)
    assert run.tokenizer["psnr"] > 5
    reconstructed = f"have a PSNR of {run.tokenizer['psnr']:.1f} dB"
    assert f"Reconstructions of 60 training images by the tokenizer {reconstructed}." in heard.messages
    assert tokenizer_text(run.tokenizer).endswith(f"; its reconstructions {reconstructed}")
    first, second = heard.plans
    assert first.then.codes_seconds > 0 == second.codes_seconds, "the images are encoded between the two"
    assert first.then.images == second.images
    assert first.then.seconds > 2 * first.then.grid_seconds > 0
    told = json.loads((run.folder / "tokenizer/run.json").read_text())["plan"]["then"]
    assert told["codes_seconds"] == first.then.codes_seconds
    report = run.report.read_text()
    assert 'href="tokenizer/report.html"' in report
    assert f"training images have a PSNR of {run.tokenizer['psnr']:.1f} dB" in report
    assert model.labels == ("dark", "light")
    rebuilt = dq.rebuild_ema(run, length=0.07, listener=Listener())
    assert digest(dq.load(rebuilt.model).family.tokenizer.state_dict()) == digest(alone.family.state_dict())
    longer = train(pictures, tmp_path / "run", images=800, **{"training.ema_lengths": "[0.05, 0.1]"})
    assert (longer.images, longer.tokenizer["images"]) == (576, 224)


def test_a_given_autoencoder_is_used_and_others_are_rejected(pictures, tmp_path):
    run = train(pictures, tmp_path / "run")
    for source in (tmp_path / "run/tokenizer", run):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        other = train(pictures, tmp_path / "other", images=64, tokenizer=source)
        assert (other.images, other.tokenizer["weights"]) == (64, run.tokenizer["weights"])
    small = {"net": "mlp", "features": "4", "latents": "4", "measure_seconds": "0.001", "prior": "normal"}
    vector = dq.train(
        pictures,
        preset="vae-32",
        size=(8, 12),
        images=32,
        out=tmp_path / "vae",
        settings=small,
        listener=Listener(),
    )
    with pytest.raises(
        ConfigError, match="is not a tokenizer for a flow: give a VAE with a grid of latents or"
    ):
        train(pictures, tmp_path / "third", tokenizer=vector)
    with pytest.raises(ConfigError, match="This vae is not a tokenizer for a flow: choose a VAE with a grid"):
        train(pictures, tmp_path / "fourth", **{"tokenizer.settings.net": "mlp"})
    with pytest.raises(ConfigError, match="learned from pixels: set mask_share = 0"):
        train(pictures, tmp_path / "fifth", mask_share="0.5")


def test_a_vqvae_is_a_first_stage_before_it_is_quantized(pictures, tmp_path):
    small = {
        "features": "4",
        "blocks": "0",
        "vocabulary": "16",
        "batch_size": "16",
        "measure_seconds": "0.001",
    }
    small |= {"sample_images": "4", "sample_grids": "1", "precision": "float32"}
    tokens = dq.train(
        pictures,
        preset="vqvae-32",
        size=(8, 12),
        images=64,
        out=tmp_path / "vq",
        settings=small,
        listener=Listener(),
    )
    run = train(pictures, tmp_path / "run", images=64, tokenizer=tokens)
    assert dq.load(run).sample(2, seed=1).array.shape == (2, 12, 8, 3)


def test_scores_by_a_network_of_the_first_stage_s_loss_are_marked(pictures, tmp_path):
    scored = {"evaluation.samples": "16", "evaluation.held_out": "0.3"}
    run = train(
        pictures,
        tmp_path / "run",
        images=128,
        evaluate_every=32,
        **scored,
        **{"tokenizer.settings.perceptual": "0.1"},
    )
    model = dq.load(run)
    network = open_network("efficientnet-lite0")
    assert was_trained_with(model, feature_info(network))
    assert run.tokenizer["held_out"]
    found = dq.evaluate(run, pictures, metrics="kernel,psnr", n=20, second_features="pixels")
    assert {one.flattered for one in found.scores if one.metric == "kernel"} == {True, False}
    assert any(one.metric == "psnr" for one in found.scores)
