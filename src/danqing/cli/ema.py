"""`danqing ema`: the model of a run again, with its weights averaged over another length."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from danqing.cli import output
from danqing.cli.arguments import DeviceOption
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing ema runs/photos

  danqing ema runs/photos --length 0.12"""


def ema(
    run: Annotated[
        Path, typer.Argument(help="A run folder, of a run that has ended and was trained with ema_lengths.")
    ],
    length: Annotated[
        str,
        typer.Option(
            help="Width of the average as a share of the run, 0.01 to 0.28; best scores several.",
            metavar="L|best",
        ),
    ] = "best",
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Rebuild a run's model with another EMA length."""
    from danqing.training.rebuild import rebuild_ema

    done = rebuild_ema(run, length=_parse(length), device=device)
    payload = {
        "run": run,
        "model": done.model,
        "length": done.length,
        "images": done.images,
        "scores": {f"{each:g}": value for each, value in sorted(done.scores.items())},
        "text": done.text,
    }
    output.result(payload, output.facts({"Average": done.text, "Model": done.model}), as_json=as_json)


def _parse(text: str) -> float | Literal["best"]:
    """Read `"0.12"` or `"best"`; raises ConfigError."""
    if text == "best":
        return "best"
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--length {text} is not valid: write a number such as 0.1, or best.") from error
