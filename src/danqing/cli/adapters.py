"""`danqing adapters`: what an adapter is, and models with adapters in their weights."""

from pathlib import Path
from typing import Annotated, Any

import typer

from danqing.cli import output
from danqing.errors import ConfigError

_MERGE = """Examples:

  danqing adapters merge runs/tiles runs/stone:0.8 --out stone-tiles

  danqing adapters merge runs/tiles runs/stone:0.5 runs/gold:0.5 --out both"""
_SHOW = """Examples:

  danqing adapters show runs/stone

  danqing adapters show runs/stone --json"""

app = typer.Typer(
    name="adapters",
    help="Show adapters, and merge them into the models that they belong to.",
    no_args_is_help=True,
)


@app.command("merge", epilog=_MERGE)
def merge(
    base: Annotated[str, typer.Argument(help="The run folder, model folder or hub id of a model.")],
    adapters: Annotated[
        list[str],
        typer.Argument(help="Adapters of that model, each with its weight.", metavar="ADAPTER[:WEIGHT]..."),
    ],
    out: Annotated[Path, typer.Option(help="The folder of the new model.", metavar="DIR")],
    half: Annotated[
        bool, typer.Option("--half", help="Store the weights in 16 bits, which halves the file.")
    ] = False,
    as_json: output.JsonOption = False,
) -> None:
    """Add adapters to the weights of their model, and save the result as a model of its own."""
    import danqing

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: choose another --out.")
    model = danqing.load(base, adapters=adapters)
    folder = model.save(out, half=half)
    found = {"model": folder, "adapters": model.facts["adapters"]}
    output.result(found, output.facts({"Model": folder, "Adapters": found["adapters"]}), as_json=as_json)


@app.command("show", epilog=_SHOW)
def show(
    adapter: Annotated[str, typer.Argument(help="The run folder, folder or hub id of an adapter.")],
    as_json: output.JsonOption = False,
) -> None:
    """Show what an adapter is, what it belongs to, and what it learned from."""
    from danqing.model import adapted
    from danqing.model.folder import plain_facts

    found = adapted.open_adapter(adapter)
    trained = plain_facts(found.config.get("trained"))
    data = trained.get("data", {})
    settings = found.settings
    told: dict[str, Any] = {
        "name": found.name,
        "base": found.base or None,
        "weights": found.base_digest or None,
        "digest": found.digest,
        "rank": found.rank,
        "alpha": settings.get("lora_alpha"),
        "layers": len(found.tensors) // 2,
        "parameters": sum(tensor.numel() for tensor in found.tensors.values()),
        "bytes": sum(tensor.nbytes for tensor in found.tensors.values()),
        "trigger": found.trigger or None,
        "trained": trained,
    }
    rows = {
        "Adapter of": found.base or None,
        "Its weights": f"{found.base_digest[:12]}" if found.base_digest else "unknown",
        "Rank": f"{found.rank}, alpha {settings.get('lora_alpha')}",
        "Layers": f"{told['layers']:,} of {told['parameters']:,} numbers",
        "Trigger": found.trigger,
        "Seen": f"{trained['images']:,} images" if "images" in trained else None,
        "Data": f"{data.get('name', 'unnamed')}, {data.get('images', 0):,} images" if data else None,
        "Licence": data.get("licence"),
    }
    output.result(told, output.facts(rows), as_json=as_json)
