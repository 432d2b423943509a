"""A run that trains an adapter: an ordinary run whose result is a small file that the ecosystem loads."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing import families
from danqing.cli import main
from danqing.data.batch import Condition
from danqing.errors import ConfigError, ModelError
from danqing.model import adapted
from danqing.nets import adapters
from danqing.training import adapting
from danqing.training.config_reading import resolve
from danqing.training.run_folder import RunFolder
from tests.training.heard import Heard

TINY: dict[str, Any] = {
    "batch_size": 8,
    "measure_seconds": 0.001,
    "sample_images": 4,
    "sample_grids": 1,
    "precision": "float32",
}
QUICK = {**TINY, "learning_rate": 2e-2, "warmup_images": 0, "ema_half_life_images": 50}
FLOW = {**TINY, "widths": [8, 16], "layers": 1, "heads": 2}


def pictures(folder: Path, *, low: int, labels: tuple[str, ...] = ("",), captions: str = "") -> Path:
    """Noise of a brightness, 24 images of each label."""
    rng = np.random.default_rng(low)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(low, low + 60, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
            if captions:
                (folder / label / f"{number}.txt").write_text(captions)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dq.Run, dq.Run, Path]:
    """A tiny flow model of dark images, an adapter of it for bright ones, and a folder."""
    folder = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANQING_CACHE", str(folder / "cache"))
        dark, bright = pictures(folder / "dark", low=0), pictures(folder / "bright", low=190)
        base = dq.train(
            dark,
            preset="flow-32",
            settings=FLOW,
            size=(8, 8),
            images=80,
            out=folder / "base",
            listener=Heard(),
        )
        options: dict[str, Any] = {"preset": "lora", "init": base.folder, "settings": QUICK, "images": 160}
        adapter = dq.train(bright, **options, out=folder / "bright-adapter", listener=Heard())
    return base, adapter, folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def brightness(model: dq.Model, **options: Any) -> float:
    return float(model.sample(8, seed=3, **options).array.mean())


def test_an_adapter_begins_as_its_base_bit_for_bit_and_learns(made: tuple[dq.Run, dq.Run, Path]) -> None:
    base, run, _ = made
    model, plain = dq.load(run), dq.load(base)
    assert brightness(model) > brightness(plain) + 20
    assert brightness(plain.with_adapters([(run.folder, 0.0)])) == brightness(plain)
    grid = np.asarray(Image.open(run.folder / "samples" / "000000000.png"))
    images = dq.Images(plain.sample(4, seed=0).array)
    assert np.array_equal(grid, np.asarray(images.grid()))
    # Nothing but the adapter is kept.
    tensors = load_file(run.model / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in tensors)
    assert not (run.model / "model.safetensors").exists()
    newest = max((run.folder / "checkpoints").iterdir())
    names = {name for file in newest.glob("*.safetensors") for name in load_file(file)}
    kept = [name for name in names if name.startswith(("family/", "ema/"))]
    assert kept
    assert all(".lora_" in name for name in kept)
    assert "The model before, with the same seeds" in run.report.read_text(encoding="utf-8")
    facts = RunFolder(run.folder).facts()["init"]
    assert facts["weights"] == adapters.digest(plain.family)
    assert "stay as they are" in facts["text"]


def test_a_run_of_an_adapter_resumes_bit_for_bit(made: tuple[dq.Run, dq.Run, Path], tmp_path: Path) -> None:
    base, whole, folder = made
    options: dict[str, Any] = {"preset": "lora", "init": base.folder, "settings": QUICK, "images": 160}
    with pytest.raises(RuntimeError, match="stopped"):
        dq.train(folder / "bright", **options, out=tmp_path / "parts", listener=Heard(stop_at=80))
    resumed = dq.train(folder / "bright", **options, out=tmp_path / "parts", listener=Heard())
    one, other = (load_file(run.model / "adapter_model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_peft_loads_an_adapter_and_gives_the_same_images(made: tuple[dq.Run, dq.Run, Path]) -> None:
    peft = pytest.importorskip("peft")
    base, run, _ = made
    ours = dq.load(run).family
    theirs = peft.PeftModel.from_pretrained(dq.load(base).family, run.model).base_model.model.eval()
    with torch.inference_mode():
        images = [each.sample(Condition(), seeds=[1, 2], precision="float32") for each in (ours, theirs)]
    assert torch.allclose(*images, atol=1e-5)
    read = dq.load(run).with_adapters([])
    assert np.array_equal(read.sample(2, seed=1).array, dq.load(run).sample(2, seed=1).array)


def test_two_adapters_add_up_in_proportion_to_their_weights(made: tuple[dq.Run, dq.Run, Path]) -> None:
    base, run, folder = made
    plain = dq.load(base)
    both = plain.with_adapters([f"{run.folder}:0.5", (run.folder, 0.3)])
    once = plain.with_adapters([f"{run.folder}:0.8"])
    for name, tensor in once.family.state_dict().items():
        assert torch.allclose(tensor.float(), both.family.state_dict()[name].float(), atol=1e-6), name
    loaded = dq.load(base, adapters=[f"{run.folder}:0.8"])
    assert np.array_equal(loaded.sample(2, seed=1).array, once.sample(2, seed=1).array)
    saved = dq.load(once.save(folder / "merged"))
    assert np.array_equal(saved.sample(2, seed=1).array, once.sample(2, seed=1).array)
    assert adapters.digest(dq.load(run).family) == adapters.digest(plain.with_adapters([run.folder]).family)


def test_an_adapter_of_another_model_is_refused(made: tuple[dq.Run, dq.Run, Path], tmp_path: Path) -> None:
    _, run, _ = made
    with pytest.raises(ModelError, match="was trained on the weights"):
        dq.load("demo").with_adapters([run.folder])
    with pytest.raises(ModelError, match="is not an adapter"):
        dq.load("demo").with_adapters([tmp_path])
    with pytest.raises(ConfigError, match="between -4 and 4"):
        dq.load(run).with_adapters([f"{run.folder}:11"])
    gone = tmp_path / "gone"
    gone.mkdir()
    for file in run.model.iterdir():
        (gone / file.name).write_bytes(file.read_bytes())
    settings = json.loads((gone / "adapter_config.json").read_text())
    (gone / "adapter_config.json").write_text(
        json.dumps({**settings, "base_model_name_or_path": str(tmp_path / "nowhere")})
    )
    with pytest.raises(ModelError, match="no longer at"):
        dq.load(gone)
    (gone / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(gone)}))
    with pytest.raises(ModelError, match="and so on"):
        dq.load(gone)


def test_an_adapter_has_the_size_that_its_preset_promises() -> None:
    config = resolve(preset="flow-32")
    model = config.model.model_copy(update={"width": 32, "height": 32})
    with torch.device("meta"):
        learner = families.build(model)
    rank = resolve(preset="flow-32", settings={"init": '"x"', "adapter.rank": 6}).adapter
    assert rank is not None
    assert 4 * adapting.size(learner, rank) < 390_000


@pytest.mark.parametrize("preset", ["gan-32", "vae-32", "transformer-16"])
def test_any_family_with_linear_layers_or_convolutions_gets_adapters(preset: str, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", low=100)
    own = {
        "gan-32": {"net": "mlp"},
        "vae-32": {"net": "conv", "features": 4, "latents": 4},
        "transformer-16": {"layers": 1, "heads": 2, "model.features": 16},
    }[preset]
    base = dq.train(
        data,
        preset=preset,
        settings={**TINY, **own},
        size=(8, 8),
        images=16,
        out=tmp_path / "base",
        listener=Heard(),
    )
    options: dict[str, Any] = {"preset": "lora", "init": base, "settings": {**TINY, "adapter.rank": 2}}
    run = dq.train(data, **options, images=32, out=tmp_path / "adapter", listener=Heard())
    plain, before = dq.load(base), dq.load(base).family.state_dict()
    zero = plain.with_adapters([(run.folder, 0)])
    assert np.array_equal(zero.sample(2, seed=1).array, plain.sample(2, seed=1).array)
    after = dq.load(run).family.state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    counted = [name for name in before if "running" in name]
    assert all(torch.equal(after[name], before[name]) for name in counted)


def test_a_first_stage_has_no_adapters(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", low=100)
    settings = {**TINY, "model.features": 4, "blocks": 0, "vocabulary": 16}
    base = dq.train(
        data,
        preset="vqvae-32",
        settings=settings,
        size=(8, 8),
        images=16,
        out=tmp_path / "b",
        listener=Heard(),
    )
    with pytest.raises(ConfigError, match="Adapters are for models that generate images"):
        dq.train(
            data, preset="lora", init=base, settings=TINY, images=16, out=tmp_path / "a", listener=Heard()
        )


def test_labels_of_new_images_are_labels_of_the_model(tmp_path: Path) -> None:
    named = pictures(tmp_path / "named", low=0, labels=("cat", "dog"))
    base = dq.train(
        named,
        preset="flow-32",
        settings=FLOW,
        size=(8, 8),
        images=16,
        out=tmp_path / "base",
        listener=Heard(),
    )
    options: dict[str, Any] = {"preset": "lora", "init": base, "images": 16, "listener": Heard()}
    pets = pictures(tmp_path / "pets", low=100, labels=("Dog", "bird"))
    with pytest.raises(ConfigError, match="the label bird, which the model does not know"):
        dq.train(pets, **options, settings=TINY, out=tmp_path / "pets-adapter")
    own = {"init": '"' + str(base.folder) + '"', "adapter.trigger": "cat"}
    config = adapting.completed(resolve(preset="flow-32", settings=own), dq.open_dataset(pets, size=(8, 8)))
    assert config.model.labels == ("cat", "dog")
    tell = adapting.told(config, dq.open_dataset(pets, size=(8, 8)))
    assert tell is not None
    assert tell(Condition(label=torch.tensor([0, 1, 0])), 3).label.tolist() == [1, 0, 1]
    birds = pictures(tmp_path / "birds", low=100)
    with pytest.raises(ConfigError, match=r"adapter\.trigger=LABEL"):
        dq.train(birds, **options, settings=TINY, out=tmp_path / "birds-adapter")
    run = dq.train(
        birds, **options, settings={**TINY, "adapter.trigger": "cat"}, out=tmp_path / "cats-adapter"
    )
    assert set(dq.load(run).drawn_labels(range(20)).tolist()) == {0}


def test_a_trigger_word_stands_before_captions_and_the_model_s_own_images_keep_theirs(tmp_path: Path) -> None:
    words = pictures(tmp_path / "words", low=0, captions="a dark square")
    own = {**FLOW, "condition": "text", "model.text.length": 8, "model.text.vocabulary": 300}
    base = dq.train(
        words, preset="flow-32", settings=own, size=(8, 8), images=16, out=tmp_path / "base", listener=Heard()
    )
    new = pictures(tmp_path / "new", low=150, captions="a bright square")
    settings = {**TINY, "adapter.trigger": "zzq", "adapter.prior": 0.25, "adapter.prior_images": 6}
    run = dq.train(
        new, preset="lora", init=base, settings=settings, images=32, out=tmp_path / "a", listener=Heard()
    )
    assert dq.load(run).config.captions == ("zzq, a bright square",)
    folder = RunFolder(run.folder)
    from danqing.training.config_reading import from_toml
    from danqing.training.run_batches import Material, open_batches

    config = from_toml(folder.config_file)
    dataset = dq.open_dataset(new, size=(8, 8))
    completed = adapting.completed(config, dataset)
    material = Material(completed, dataset, None, None, folder, torch.device("cpu"))
    batch = open_batches(material, Heard(), is_begun=True).at(0)
    assert batch.condition.text == ("zzq, a bright square",) * 6 + ("a dark square",) * 2
    # The model's own images are those that it samples.
    prior = load_file(folder.prior_file)["images"]
    assert prior.shape == (6, 8, 8, 3)


def test_the_command_shows_adapters_samples_with_them_and_merges_them(
    made: tuple[dq.Run, dq.Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run, _ = made

    def command(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert not ended.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    told = json.loads(command("adapters", "show", run.folder, "--json"))
    assert told["rank"] == 6
    assert told["weights"] == dq.load(base).family.digest()
    folder = tmp_path / "merged"
    command("adapters", "merge", base.folder, f"{run.folder}:0.5", "--out", folder)
    options = ("-n", 2, "--seed", 1, "--marks", "none")
    for place, words in (("a", [folder]), ("b", [base.folder, "--adapter", f"{run.folder}:0.5"])):
        command("sample", *words, "--each", tmp_path / place, *options)
    one, other = (
        [np.asarray(Image.open(file)) for file in sorted((tmp_path / place).glob("*.png"))] for place in "ab"
    )
    assert len(one) == 2
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    assert "adapter" in command("presets", "lora")


def test_few_images_are_a_reason_to_recommend_an_adapter(tmp_path: Path) -> None:
    config = resolve(preset="flow-32")
    assert "--init MODEL --preset lora" in (adapting.advice(50, config) or "")
    assert adapting.advice(5000, config) is None
    assert adapting.advice(50, resolve(preset="classify-32")) is None
    begun = resolve(preset="flow-32", settings={"init": '"runs/base"'})
    assert "add --preset lora" in (adapting.advice(50, begun) or "")
    with pytest.raises(ConfigError, match="add --init MODEL"):
        dq.train(pictures(tmp_path / "data", low=0), preset="lora", out=tmp_path / "run", listener=Heard())


def test_copies_of_a_network_share_what_an_adapter_leaves_as_it_is(made: tuple[dq.Run, dq.Run, Path]) -> None:
    base, run, _ = made
    network = copy.deepcopy(dq.load(base).family)
    adapter = adapted.open_adapter(run.folder)
    layers = adapters.targets(network, ["network"])
    adapters.attach(network, layers, adapters.Base("", ""), rank=2, alpha=2, seed=0)
    other = adapters.copied(network)
    fixed, state, copied = adapters.fixed(network), network.state_dict(), other.state_dict()
    for name, tensor in state.items():
        assert (tensor.data_ptr() == copied[name].data_ptr()) == (name in fixed), name
    assert len(fixed) + len(adapters.tensors(network)) == len(state)
    assert adapter.rank == 6
    assert adapters.targets(network, ["network"], ["*.attention.*"])
    with pytest.raises(ConfigError, match="no linear layer or convolution called"):
        adapters.targets(network, ["network"], ["nothing"])
