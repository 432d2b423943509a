"""`danqing presets`: the named configurations, and the TOML of one to copy."""

import json
from typing import Annotated

import typer

from danqing.cli import output

EXAMPLES = """Examples:

  danqing presets

  danqing presets gan-32 > mine.toml

  danqing train photos/ --config mine.toml --out runs/mine

  danqing presets --schema > danqing.schema.json"""


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="A preset, to print its TOML; with --schema, a family."),
    ] = None,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Print the JSON Schema of configuration files, for all families or for NAME."
        ),
    ] = False,
    as_json: output.JsonOption = False,
) -> None:
    """List the named configurations, or print one."""
    if schema:
        from danqing.training import config_schema

        found = config_schema.schema(name)
        output.result(found, json.dumps(found, indent=2, ensure_ascii=False), as_json=as_json, is_source=True)
        return
    from danqing import presets as room

    if name is not None:
        from danqing.training import config_reading

        if name in room.overlays():
            text = room.overlay_text(name)
            output.result({"name": name, "toml": text}, text.rstrip(), as_json=as_json)
            return
        toml = config_reading.resolve(preset=name).to_toml()  # with the defaults that the preset leaves
        output.result({**room.describe(name), "toml": toml}, toml, as_json=as_json, is_source=True)
        return
    known = [room.describe(each) for each in room.names()]
    rows = {each["name"]: each["description"] for each in known}
    rows |= {each: str(room.read_overlay(each)["description"]) for each in room.overlays()}
    output.result({"presets": known, "overlays": room.overlays()}, output.facts(rows), as_json=as_json)
