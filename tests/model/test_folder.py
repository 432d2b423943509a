"""A model folder reads back the same pictures; every way to tamper with it is refused in its own words."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import danqing as dq
from danqing import weights
from danqing.errors import ConfigError, ModelError
from danqing.families import build, parse_config
from danqing.model.model import Model


def small_model(**changes):
    torch.manual_seed(0)
    values = {"family": "vae", "net": "mlp", "width": 9, "height": 7, "channels": 3, "latents": 4}
    family = build(parse_config({**values, **changes}))
    for parameter in family.parameters():  # fresh weights may ignore the label, or be zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Model(family, {"images": 12, "data": {"name": "squares <b>"}})


@pytest.fixture
def folder(tmp_path):
    return small_model(labels=["cat", "dog"], label_frequencies=[0.5, 0.5]).save(tmp_path / "model")


def test_a_saved_model_paints_the_same_pictures(folder):
    model = small_model(labels=["cat", "dog"], label_frequencies=[0.5, 0.5])
    loaded = dq.load(folder)
    assert np.array_equal(model.sample(5, seed=3).array, loaded.sample(5, seed=3).array)
    assert loaded.facts["images"] == 12
    names = {"config.json", "model.safetensors", "README.md", "samples.png", "scores.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert "&lt;b&gt;" in (folder / "README.md").read_text()


def test_a_picture_depends_on_its_seed_and_label_alone(folder):
    model = dq.load(folder)
    many = model.sample(40, seed=1).array
    assert np.array_equal(model.sample(3, seed=1).array, many[:3])
    assert np.array_equal(model.sample(17, seed=1).array, many[:17])
    seeds = list(range(100, 120))
    forwards = model.sample(20, seeds=seeds, label="dog").array
    assert np.array_equal(model.sample(20, seeds=seeds[::-1], label="dog").array, forwards[::-1])
    assert not np.array_equal(model.sample(20, seeds=seeds, label="cat").array, forwards)


def test_latents_go_there_and_back(folder):
    model = dq.load(folder)
    images = model.sample(3, seed=1, label="cat")
    latents = model.encode(images, label="cat")
    assert latents.shape == (3, 4)
    assert model.reconstruct(images, label=["cat", 1, 0]).array.shape == images.array.shape
    there, back = (model.reconstruct(given, label="cat").array for given in (images, images[::-1]))
    assert np.abs(there.astype(int) - back[::-1]).max() <= 1
    line = model.interpolate(images[:1], images[1:2], steps=5, label="cat")
    assert np.abs(line.array[0].astype(int) - model.reconstruct(images[:1], label="cat").array[0]).max() <= 1
    assert len(line) == 5
    assert np.abs(line.array[4].astype(int) - model.reconstruct(images[1:2], label="cat").array[0]).max() <= 1
    assert len(model.traverse(images, latent=2, values=[-1, 1], label="dog")) == 6


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m.sample(2, label="horse"), "does not know the label 'horse'"),
        (lambda m: m.sample(2, label=7), "does not know the label 7"),
        (lambda m: m.sample(2, label=["cat"]), "one label, or one per image"),
        (lambda m: m.sample(0), "at least one"),
        (lambda m: m.sample(2, seeds=[1]), "one seed per image"),
        (lambda m: m.sample(2, sharpness=3), "option 'sharpness'"),
        (lambda m: m.reconstruct(m.sample(2)), "give the label of each image"),
        (lambda m: m.interpolate(m.sample(1), m.sample(1), steps=1, label=0), "at least 2 steps"),
        (lambda m: m.encode(m.sample(2)[:0], label=[]), "at least one image"),
        (lambda m: m.encode(dq.Images(np.zeros((1, 4, 4, 3), np.uint8)), label=0), "resize"),
    ],
)
def test_a_wrong_wish_is_answered_with_one_sentence(folder, call, sentence):
    with pytest.raises(ConfigError, match=sentence):
        call(dq.load(folder))


def tamper_pickle(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weights": list(range(100))}, protocol=4))


def tamper_torch_zip(folder):
    torch.save({"a": torch.zeros(3)}, folder / "model.safetensors")


def tamper_only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def tamper_longer(folder):
    with open(folder / "model.safetensors", "ab") as file:
        file.write(b"\x00" * 1000)


def tamper_shorter(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def tamper_no_json(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:8] + b"x" + content[9:])


def tamper_header(folder):
    header = b'{"a":' + b"[" * 100_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def tamper_entry(**values):
    """Another entry for the first tensor in the header of the weights."""

    def tamper(folder):
        content = (folder / "model.safetensors").read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        header[first(header.keys() - {"__metadata__"})].update(values)
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[end:])

    return tamper


def tamper_tensors(change):
    def tamper(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return tamper


def tamper_config(change):
    def tamper(folder):
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return tamper


def tamper_tokenizer(side, depth):
    """Transformers that have transformers for tokenizers, `depth` of them, and a codebook at the end."""

    def change(config):
        shape = {"width": side, "height": side, "channels": 1}
        model = {"family": "vqvae", **shape, "features": 8, "vocabulary": 16, "downsamplings": 1}
        for _ in range(depth):
            model = {"family": "transformer", **shape, "condition": "none", "tokenizer": model}
        config["model"] = model

    return tamper_config(change)


def tamper_link(folder):
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)


def first(tensors):
    return sorted(tensors)[0]


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (tamper_pickle, "pickle"),
        (tamper_torch_zip, "pickle"),
        (tamper_only_pickle, "only pickled weights"),
        (tamper_longer, "larger than its header says"),
        (tamper_shorter, "cut short"),
        (tamper_no_json, "not JSON"),
        (tamper_link, "leads out of its folder"),
        (tamper_tensors(lambda t: t.update(extra=torch.zeros(2))), "weights that this model does not have"),
        (tamper_tensors(lambda t: t.pop(first(t))), "lacks weights"),
        (tamper_tensors(lambda t: t.update({first(t): torch.zeros(1, 2, 3)})), "do not belong together"),
        (tamper_config(lambda c: c["model"].update(latents=60_000, net="conv", features=1024)), "weights"),
        (tamper_config(lambda c: c["model"].update(family="os")), "no family called"),
        (tamper_config(lambda c: c["model"].update(__class__="x")), "__class__"),
        (tamper_config(lambda c: c.pop("model")), "not the configuration"),
        (tamper_config(lambda c: c["model"].update(label_frequencies=[-1, 2])), "label_frequencies"),
        (tamper_tokenizer(8, depth=2), "that this version knows"),
        (tamper_tokenizer(8, depth=200), "that this version knows"),
        (tamper_tokenizer(4096, depth=1), "4,194,304 codes, too many"),
        (tamper_header, "not JSON"),
        (tamper_entry(shape=[-1]), "other fields"),
        (tamper_entry(shape=[float("inf")]), "other fields"),
        (tamper_entry(shape=[2**62, 2**62, 0]), "other fields"),
        (tamper_entry(shape=["3"]), "other fields"),
        (tamper_entry(data_offsets=[8, 4]), "other fields"),
        (tamper_entry(data_offsets=[0, 10**400]), r"other fields|cut short"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "is not a model folder"),
    ],
)
def test_what_was_tampered_with_is_refused(folder, tamper, sentence):
    tamper(folder)
    with pytest.raises(ModelError, match=sentence):
        dq.load(folder)


def test_bits_per_dim_is_asked_of_the_model(folder):
    model = dq.load(folder)
    images = model.sample(3, label="cat")
    one, many = (model.bits_per_dim(images, "cat", samples=k) for k in (1, 64))
    assert one.shape == (3,)
    assert float(many.mean()) < float(one.mean())


SCORE = {"name": "KD-pixels", "value": 12345.6, "interval": [1.0, 2.0], "higher_is_better": False}


def scored(folder):
    digest = weights.digest(dq.load(folder).family.state_dict())
    score = {**SCORE, "settings": {"weights": digest[:12]}}
    (folder / "scores.json").write_text(json.dumps([score]))
    (folder / "neighbours.png").write_bytes(b"a picture")
    return score


def test_scores_go_with_a_model_that_is_saved_elsewhere(folder, tmp_path):
    score = scored(folder)
    model = dq.load(folder)
    copy = model.save(tmp_path / "copy")
    assert json.loads((copy / "scores.json").read_text()) == [score]
    assert (copy / "neighbours.png").read_bytes() == b"a picture"
    assert "| KD-pixels | 12,346 | 1 to 2 | lower |" in (copy / "README.md").read_text()
    next(model.family.parameters()).data += 1
    changed = model.save(tmp_path / "changed")  # what was measured is not true of other weights
    assert json.loads((changed / "scores.json").read_text()) == []
    assert not (changed / "neighbours.png").exists()
    (folder / "neighbours.png").unlink()
    (folder / "neighbours.png").symlink_to("/etc/hostname")
    assert not (dq.load(folder).save(tmp_path / "again") / "neighbours.png").exists()


@pytest.mark.parametrize(
    "content",
    ["[", '{"a": 1}', "[3]", "[NaN]", '[{"settings": [1]}]', '[{"name": 1, "value": 2, "interval": 3}]'],
)
def test_damaged_scores_do_not_keep_a_model_from_being_saved(folder, content):
    model = dq.load(folder)
    (folder / "scores.json").write_text(content)
    model.save(folder)
    assert isinstance(json.loads((folder / "scores.json").read_text()), list)
    assert np.array_equal(dq.load(folder).sample(2).array, model.sample(2).array)


def test_odd_facts_of_a_stranger_are_left_out(folder):
    tamper_config(
        lambda c: c.update(
            trained={
                **{"images": "x", "seed": 1, "note": [1]},
                "data": {"images": "y", "prepared": {"channels": "z", "fit": "pad", "alpha": {}}},
            }
        )
    )(folder)
    model = dq.load(folder)
    assert model.facts == {"seed": 1, "data": {"prepared": {"fit": "pad"}}}
    assert model.save(folder.parent / "again").exists()


def test_names_that_are_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "nothing", "../../etc", "owner/../../etc", "/etc/passwd"):
        with pytest.raises(ModelError):
            dq.load(name)
    with pytest.raises(ModelError, match="the hub did not return it"):
        dq.load("nobody/nothing")


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_format_names_the_version_that_reads_it(folder):
    rewrite_config(folder, format=2, danqing_version="0.9.1", model="laid out otherwise")
    with pytest.raises(ModelError, match=r"danqing 0\.9\.1 in format 2.*pip install danqing==0\.9\.1"):
        dq.load(folder)
    rewrite_config(folder, danqing_version="0.9.1 --index-url https://example.org")
    with pytest.raises(ModelError, match=r"run pip install --upgrade danqing\.$"):
        dq.load(folder)
    rewrite_config(folder, format="two")
    with pytest.raises(ModelError, match="not a number"):
        dq.load(folder)


def test_a_folder_without_a_format_number_is_of_the_first_format(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config.pop("format") == 1
    (folder / "config.json").write_text(json.dumps(config))
    assert dq.load(folder).sample(1).array.shape == (1, 7, 9, 3)


def test_a_model_of_half_the_size_paints_almost_the_same_pictures(tmp_path):
    model = small_model()
    whole, half = model.save(tmp_path / "whole"), model.save(tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert load_file(half / "model.safetensors").keys() == load_file(whole / "model.safetensors").keys()
    images = [dq.load(folder).sample(4, seed=1).array.astype(int) for folder in (whole, half)]
    assert np.abs(images[0] - images[1]).mean() < 0.5
    next(model.family.parameters()).data.fill_(1e6)
    with pytest.raises(ModelError, match="float16 cannot hold"):
        model.save(tmp_path / "large", half=True)
