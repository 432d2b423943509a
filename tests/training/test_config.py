"""Settings reach the right place, configurations read back as they were written, mistakes are named."""

import pytest

from danqing import presets
from danqing.errors import ConfigError
from danqing.training import config as configs


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_complete_and_survives_a_round_trip(name, tmp_path):
    config = configs.resolve(preset=name)
    for key in ("batch_size", "seed", "optimizer", "schedule"):
        assert key in presets.read(name), f"{name} leaves out {key}"
    assert presets.describe(name)["description"]
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml(), encoding="utf-8")
    assert configs.from_toml(file) == config


def test_settings_find_their_section_by_a_bare_name_a_path_or_a_section():
    config = configs.resolve(
        preset="vae-32",
        settings={
            "net": "mlp",
            "optimizer.learning_rate": "1e-5",
            "optimizer": "sgd",
            "data.augment.flip": "true",
        },
    )
    assert (config.model.net, config.optimizer.learning_rate, config.optimizer.name) == ("mlp", 1e-5, "sgd")
    assert config.data.augment is not None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"learning_rat": "1"}, "learning_rate"),
        ({"name": "adam"}, "optimizer.name or schedule.name"),
        ({"learning_rate": "-1"}, "greater than 0"),
        ({"net": "transformer"}, "net"),
        ({"batch_size": "10", "accumulate": "3"}, "multiple of training.accumulate"),
    ],
)
def test_a_mistaken_setting_is_named(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        configs.resolve(preset="vae-32", settings=settings)


def test_a_budget_is_given_once():
    with pytest.raises(ConfigError, match="not both"):
        configs.resolve(preset="vae-32", images=10, minutes=1.0)
    with pytest.raises(ConfigError, match="not both"):
        configs.resolve(preset="vae-32", minutes=1.0, settings={"images": "10"})
    with pytest.raises(ConfigError, match="not both"):
        configs.parse({**presets.read("vae-32"), "images": 10, "minutes": 1.0})
    assert configs.resolve(preset="vae-32", minutes=1.0).images is None
    for budget in ({"images": "10"}, {"minutes": "0.5"}):
        config = configs.resolve(preset="vae-32", settings=budget)
        assert {"images": config.images, "minutes": config.minutes} == {
            "images": None,
            "minutes": None,
            **{key: float(value) for key, value in budget.items()},
        }


def test_what_does_not_fit_together_is_named_without_the_whole_table():
    with pytest.raises(ConfigError) as refused:
        configs.resolve(preset="vae-32", settings={"every_images": 0, "patience_images": 10})
    assert str(refused.value) == "evaluation: patience_images needs evaluation.every_images."


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="vae-32"):
        configs.resolve(preset="vae-33")


def test_differences_name_what_changed_and_pass_over_the_budget():
    before, after = (configs.resolve(preset="vae-32", images=n, seed=n) for n in (1, 2))
    assert configs.differences(before, after) == ["seed: 1 → 2"]
