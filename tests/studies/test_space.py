"""What a search space may say, and the sentence for each mistake in it."""

from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.errors import ConfigError
from danqing.studies import space as spaces
from danqing.studies.space import Dimension
from danqing.training import config_reading

CONFIG = config_reading.resolve(preset="vae-32", images=1000)


def read(tmp_path: Path, text: str) -> tuple[Dimension, ...]:
    (tmp_path / "space.toml").write_text(text, encoding="utf-8")
    return spaces.read(tmp_path / "space.toml", CONFIG)


def test_names_are_resolved_as_set_does_and_kinds_follow_the_setting(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "[optimizer.learning_rate]\nlow = 1e-4\nhigh = 1e-2\nlog = true\n"
        "[beta]\nlow = 0\nhigh = 1\n"
        "[model.features]\nlow = 16\nhigh = 64\nstep = 16\n"
        "[batch_size]\nchoices = [32, 64]\n"
        "[optimizer.betas]\nchoices = [[0.0, 0.99], [0.9, 0.999]]\n",
    )
    kinds = {each.name: each.kind for each in found}
    assert kinds == {
        "optimizer.learning_rate": "float",
        "model.beta": "float",
        "model.features": "int",
        "batch_size": "choice",
        "optimizer.betas": "choice",
    }


MISTAKES = [
    ("", "names no setting to search"),
    ("[optimizer.learning_rat]\nlow = 1e-4\nhigh = 1e-2", "Did you mean optimizer.learning_rate"),
    ("[model.beta]\nlow = 0.1\nhihg = 1.0", "unknown key 'hihg': did you mean high?"),
    ("[model.beta]\nlow = 1.0\nhigh = 0.1", "low must be the smaller one"),
    ("[model.beta]\nlow = 0.1", "needs low and high as numbers"),
    ("[model.beta]\nlow = '0.1'\nhigh = 1.0", "needs low and high as numbers"),
    ("[model.beta]\nlow = 0.1\nhigh = inf", "needs low and high as numbers"),
    ("[model.beta]\nlow = 0.0\nhigh = 1.0\nlog = true", "a logarithm needs low above 0"),
    ("[model.beta]\nlow = 0.1\nhigh = 1.0\nlog = 'yes'", "write true or false"),
    ("[model.beta]\nlow = 0.1\nhigh = 1.0\nstep = 0", "step = 0: give a number above 0"),
    ("[model.beta]\nlow = 0.1\nhigh = 1.0\nlog = true\nstep = 0.1", "both log and step"),
    ("[model.net]\nchoices = ['mlp']", "at least two choices"),
    ("[model.net]\nchoices = ['mlp', 'mlp']", "the same choice twice"),
    ("[model.net]\nchoices = ['mlp', 'hybrid']\nlow = 1", "both choices and low"),
    ("[model.net]\nchoices = [{a = 1}, {a = 2}]", "a table among its choices"),
    ("[model.net]\nchoices = ['abacus', 'loom']", "No value of [model.net] can be used"),
    ("[model.beta]\n", "is empty"),
    ("[optimizer]\nlearning_rate = 0.1", "unknown key 'learning_rate': it takes"),
    ("beta = 0.1", "give each setting a table"),
    ("[seed]\nlow = 1\nhigh = 9", "cannot be searched"),
    ("[beta]\nlow = 0.1\nhigh = 1.0\n[model.beta]\nlow = 0.1\nhigh = 1.0", "names model.beta twice"),
    ("[model", "cannot be read"),
]


@pytest.mark.parametrize(("text", "sentence"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=25, deadline=None)
@given(
    low=st.floats(1e-6, 1e3), factor=st.floats(1.01, 1e4), log=st.booleans(), seed=st.integers(0, 2**32 - 1)
)
def test_what_is_suggested_lies_in_the_space_and_repeats(
    low: float, factor: float, log: bool, seed: int
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    dimensions = [
        Dimension("a", "float", low, low * factor, log),
        Dimension("b", "int", 2, 30, step=4),
        Dimension("c", "choice", choices=([0.0, 0.99], [0.9, 0.999], "text", 3, True)),
    ]
    chosen = []
    for _ in range(2):
        trial = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed)).ask()
        chosen.append([each.suggest(trial) for each in dimensions])
    assert chosen[0] == chosen[1]
    number, whole, choice = chosen[0]
    assert low <= number <= low * factor
    assert whole in range(2, 31, 4)
    assert choice in dimensions[2].choices
