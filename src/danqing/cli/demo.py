"""`danqing demo`: the whole walk in one word, on images that come with the package."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output
from danqing.cli.train import leave_if_interrupted, run_payload, run_text, train_with_bar

SOURCE = "emoji:faces"
EXAMPLES = """Examples:

  danqing demo

  danqing demo --minutes 2 --out runs/quick"""

NEXT = """Now your own images, a folder of them (sub-folders become labels):
  danqing data check photos/
  danqing train photos/ --out runs/photos --minutes 30
  danqing sample runs/photos --out photos.png"""


def demo(
    out: Annotated[Path, typer.Option(help="The run folder; the same folder again resumes.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="How long to train.", show_default="as the preset says")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Train a small model on emoji faces in about five minutes, and paint with it."""
    import danqing

    run = train_with_bar(SOURCE, preset="demo", out=out, minutes=minutes)
    leave_if_interrupted(run, as_json=as_json)
    grid = out / "grid.png"
    danqing.load(run).sample(64).save(grid)
    text = output.facts(run_text(run) | {"Images": grid, "Again": again(out)})
    output.result({**run_payload(run), "grid": grid}, f"{text}\n{NEXT}", as_json=as_json)


def again(out: Path) -> str:
    """The command that paints other images with the demo's model."""
    return shlex.join(["danqing", "sample", str(out), "--seed", "1", "--out", "more.png"])
