"""The JSON Schema accepts every preset and rejects what the configuration rejects."""

from typing import Any

import pytest

from danqing import families, presets
from danqing.errors import ConfigError
from danqing.training import config_reading
from danqing.training.config_schema import schema

jsonschema = pytest.importorskip("jsonschema")


def is_valid(values: dict[str, Any], family: str | None) -> bool:
    found = schema(family)
    jsonschema.Draft202012Validator.check_schema(found)
    return bool(jsonschema.Draft202012Validator(found).is_valid(values))


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_is_valid_as_it_is_and_in_full(name: str) -> None:
    values = presets.read(name)
    for family in (None, values["family"]):
        assert is_valid(values, family)
        assert is_valid(config_reading.parse(values).plain(), family)


def test_what_is_wrong_for_the_family_is_invalid() -> None:
    values = presets.read("vae-32")
    for section in (
        {"model": {"bta": 2}},
        {"model": {"num_steps": 5}},
        {"model": {"labels": ["cat"]}},
        {"sede": 1},
    ):
        for family in (None, "vae"):
            assert not is_valid({**values, **section}, family)
    assert not is_valid(values, "gan")
    assert is_valid({"family": "vae"}, None)


def test_the_schema_of_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="no family called 'dog'"):
        schema("dog")
    assert schema()["properties"]["family"]["enum"] == families.names()
