"""Settings reach the right place, configurations read back as they were written, mistakes are named."""

import pytest

from danqing import presets
from danqing.errors import ConfigError
from danqing.families.vae import VAEConfig
from danqing.service import settings
from danqing.training import config_reading
from danqing.training.config import differences


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_complete_and_survives_a_round_trip(name, tmp_path):
    config = config_reading.resolve(preset=name)
    for key in ("batch_size", "seed", "optimizer", "schedule"):
        assert key in presets.read(name), f"{name} leaves out {key}"
    assert presets.describe(name)["description"]
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert config_reading.from_toml(file) == config


def test_settings_find_their_section_by_a_bare_name_a_path_or_a_section():
    config = config_reading.resolve(
        preset="vae-32",
        settings={
            "net": "mlp",
            "optimizer.learning_rate": "1e-5",
            "optimizer": "sgd",
            "data.augment.flip": "true",
        },
    )
    assert isinstance(config.model, VAEConfig)
    assert (config.model.net, config.optimizer.learning_rate, config.optimizer.name) == ("mlp", 1e-5, "sgd")
    assert config.data.augment is not None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rat": "1"}, "learning_rate"),
        ({"name": "adam"}, "optimizer.name or schedule.name"),
        ({"learning_rate": "-1"}, "greater than 0"),
        ({"net": "transformer"}, "net"),
        ({"micro_batch": "0"}, "greater than or equal to 1"),
    ],
)
def test_a_mistaken_setting_is_named(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_reading.resolve(preset="vae-32", settings=settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tokenizer.settings.images": "3"}, "tokenizer.share of the run's budget"),
        ({"tokenizer.settings.minutes": "3"}, "tokenizer.share of the run's budget"),
        ({"tokenizer.settings.size": "[8, 8]"}, "set size of the run"),
        ({"tokenizer.settings.data.augment.flip": "false"}, r"set data\.augment\.flip of the run"),
        ({"tokenizer.settings.samples": "20"}, r"set evaluation\.samples of the run"),
        ({"tokenizer.settings.vocabulari": "20"}, "Did you mean vocabulary"),
        ({"tokenizer.settings.net": "mlp"}, "no setting called 'net'"),
        ({"tokenizer.settings": "3"}, r"tokenizer\.settings: .*dictionary"),
        ({"tokenizer.preset": "3"}, r"tokenizer\.preset: .*string"),
        ({"tokenizer.preset": "vae-33"}, "no preset called 'vae-33'"),
        ({"share": "0.5"}, r"Did you mean tokenizer\.share"),
    ],
)
def test_what_a_tokenizer_cannot_be_told_is_named_before_the_data_is_read(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_reading.resolve(preset="text2image-32", settings=settings)


def test_a_tokenizer_is_written_down_whole_and_its_settings_can_be_changed_there(tmp_path):
    file = tmp_path / "config.toml"
    given = {"tokenizer.settings.features": "8", "tokenizer.settings.learning_rate": "1e-4"}
    first = config_reading.resolve(preset="demo", settings=given)
    whole = first.tokenizer.settings
    assert (whole["family"], whole["model"]["features"], whole["model"]["vocabulary"]) == ("vqvae", 8, 256)
    assert (whole["optimizer"]["learning_rate"], whole["optimizer"]["name"]) == (1e-4, "adamw")
    assert whole["batch_size"] == presets.read("vqvae-32")["batch_size"]
    file.write_text(first.to_toml(), encoding="utf-8")
    assert config_reading.from_toml(file) == first
    for key in ("tokenizer.settings.features", "tokenizer.settings.model.features"):
        changed = config_reading.resolve(config=file, settings={key: "16"})
        assert changed.tokenizer.preset == ""
        assert differences(first, changed) == ["tokenizer.settings.model.features: 8 → 16"]
    with pytest.raises(ConfigError, match=r"remove \[tokenizer\.settings\] to take the preset vqvae-64"):
        config_reading.resolve(config=file, settings={"tokenizer.preset": "vqvae-64"})


def test_a_budget_is_given_once():
    with pytest.raises(ConfigError, match="not both"):
        config_reading.resolve(preset="vae-32", images=10, minutes=1.0)
    with pytest.raises(ConfigError, match="not both"):
        config_reading.resolve(preset="vae-32", minutes=1.0, settings={"images": "10"})
    with pytest.raises(ConfigError, match="not both"):
        config_reading.parse({**presets.read("vae-32"), "images": 10, "minutes": 1.0})
    assert config_reading.resolve(preset="vae-32", minutes=1.0).images is None
    for budget in ({"images": "10"}, {"minutes": "0.5"}):
        config = config_reading.resolve(preset="vae-32", settings=budget)
        assert {"images": config.images, "minutes": config.minutes} == {
            "images": None,
            "minutes": None,
            **{key: float(value) for key, value in budget.items()},
        }


def test_what_does_not_fit_together_is_named_without_the_whole_table():
    with pytest.raises(ConfigError) as refused:
        config_reading.resolve(preset="vae-32", settings={"every_images": 0, "patience_images": 10})
    assert str(refused.value) == "evaluation: patience_images needs evaluation.every_images."


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="vae-32"):
        config_reading.resolve(preset="vae-33")


def test_differences_name_what_changed_and_pass_over_the_budget():
    before, after = (config_reading.resolve(preset="vae-32", images=n, seed=n) for n in (1, 2))
    assert differences(before, after) == ["seed: 1 → 2"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "needs a family"),
        ({"family": 3}, "needs a family"),
        ({"family": "vae", "model": "mlp"}, "`model` must be a table"),
    ],
)
def test_a_configuration_without_a_family_or_with_no_table_for_it_is_a_sentence(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_reading.parse(values)


def test_a_configuration_file_that_cannot_be_read_is_a_sentence(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("family = ")
    with pytest.raises(ConfigError, match=r"broken\.toml cannot be read"):
        config_reading.resolve(config=broken)
    with pytest.raises(ConfigError, match=r"There is no configuration file at .*missing\.toml"):
        config_reading.resolve(config=tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="not both"):
        config_reading.resolve(config=broken, preset="vae-32")


def test_a_mistake_in_a_file_names_the_nearest_setting(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('family = "vae"\nbatchsize = 8\n[extra]\nx = 1\n')
    with pytest.raises(ConfigError) as raised:
        config_reading.from_toml(path)
    assert str(raised.value) == (
        "batchsize: there is no such setting, the nearest is batch_size; extra: there is no such setting."
    )
    path.write_text("[limits]\nbody_byte = 1\n")
    with pytest.raises(ConfigError, match=r"limits.body_byte: .* the nearest is limits.body_bytes\."):
        settings.checked(settings.read(path))
