"""The JSON Schema of configuration files, with which editors complete and check them."""

from typing import Any

from danqing import families
from danqing.training.config import RunConfig

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFINITIONS = "#/$defs/{model}"


def schema(family: str | None = None) -> dict[str, Any]:
    """Return the JSON Schema of configuration files, by default for all families.

    What a model takes from the data, such as its labels, is left out. Raises ConfigError for a family that
    does not exist.
    """
    whole = RunConfig.model_json_schema(ref_template=_DEFINITIONS)
    names = [family] if family is not None else families.names()
    sections = {name: _section(name, whole["$defs"]) for name in names}
    whole["required"].remove("model")  # every setting of a model has a default
    whole["properties"]["family"] = {"enum": names, "title": "Family"}
    if family is not None:
        whole["properties"]["model"] = sections[family]
    else:
        whole["properties"]["model"] = {"type": "object", "title": "Model"}
        whole["allOf"] = [
            {
                "if": {"properties": {"family": {"const": name}}, "required": ["family"]},
                "then": {"properties": {"model": section}},
            }
            for name, section in sections.items()
        ]
    return {"$schema": _DIALECT, **whole}


def _section(family: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of the section `model`; what it refers to is added to `definitions`."""
    config = families.config_class(family)
    section = config.model_json_schema(ref_template=_DEFINITIONS)
    definitions |= section.pop("$defs", {})
    for name in config.from_data:
        section["properties"].pop(name, None)
    section.pop("required", None)
    return section
