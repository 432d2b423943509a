"""`danqing demo`: train a small text-to-image model, then generate images of what you type."""

import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.train import leave_if_interrupted, run_payload, run_text, train_with_bar

if TYPE_CHECKING:
    from danqing import Model

SOURCE = "shapes:12000"
EXAMPLES = """Examples:

  danqing demo

  danqing demo --minutes 2 --out runs/quick"""

PROMPTS = (
    "a large red heart in the centre",
    "two small blue stars at the top",
    "four small green squares at the bottom right",
    "a small yellow ring at the top left",
    "three large purple crosses in the centre",
    "two large orange circles on the left",
    "a large black ring at the bottom",
    "four small pink diamonds in the centre",
)
"""Colours and shapes that occur together in training: a few minutes should be enough for these."""

NEW_PROMPTS = (
    "a large red diamond in the centre",
    "two small orange stars at the top",
    "three small yellow hearts at the bottom",
    "a large green cross on the right",
    "four small blue rings in the centre",
    "a large purple circle at the top left",
    "two large pink squares in the centre",
    "three small black triangles on the left",
)
"""Colours and shapes that never occur together: they need each word to be understood by itself."""

GUIDANCE = 2.0
NOTE = "* This colour and this shape were never seen together in training."

NEXT = """Next, use your own images: a folder with captions in a metadata.jsonl.
  danqing data check photos/
  danqing train photos/ --preset text2image-32 --out runs/photos --minutes 30
  danqing sample runs/photos --prompt "what the images should show" --out photos.png"""


def demo(
    out: Annotated[Path, typer.Option(help="The run folder; an existing run is resumed.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[
        float | None, typer.Option(help="How long to train.", show_default="the preset's")
    ] = None,
    data: Annotated[
        str, typer.Option(help="How many shapes to train on, for example `shapes:3000`.", hidden=True)
    ] = SOURCE,
    as_json: output.JsonOption = False,
) -> None:
    """Train a small text-to-image model, and generate images from prompts.

    This takes about five minutes.
    """
    import danqing

    run = train_with_bar(data, preset="demo", out=out, minutes=minutes)
    leave_if_interrupted(run, as_json=as_json)
    model = danqing.load(run)
    grid = paint_prompts(model, out / "grid.png")
    text = output.facts(run_text(run) | {"Images": grid, "Again": again(out)})
    asked = {"prompts": [*PROMPTS, *NEW_PROMPTS], "never_seen": list(NEW_PROMPTS)}
    output.result({**run_payload(run), "grid": grid, **asked}, f"{text}\n{NEXT}", as_json=as_json)
    if not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        converse(model, out)


def paint_prompts(model: "Model", path: Path) -> Path:
    """Generate the demo's prompts, and save them as a sheet."""
    from danqing.sheet import Sheet

    progress.say(
        f"Generating {len(PROMPTS)} prompts like those it learnt from, and {len(NEW_PROMPTS)} new ones:"
    )
    progress.say(f'  "{PROMPTS[0]}", "{PROMPTS[1]}", ... and never seen together: "{NEW_PROMPTS[0]}", ...')
    images = model.sample(prompt=[*PROMPTS, *NEW_PROMPTS], seed=0, guidance_scale=GUIDANCE)
    captions = [*PROMPTS, *(f"{prompt}\u00a0*" for prompt in NEW_PROMPTS)]
    return Sheet(images, captions, columns=8, note=NOTE).save(path)


def converse(model: "Model", out: Path) -> None:
    """Ask for prompts until an empty line; generate four images of each."""
    from danqing.sheet import Sheet

    progress.say(
        "\nYour turn: a number, a size, a colour, a shape, a place (in English or Chinese), such as "
        f'"{NEW_PROMPTS[3]}" or "左边有两个粉色的大菱形"; an empty line ends it.'
    )
    for number in itertools.count(1 + len(list(out.glob("prompt-*.png")))):
        try:
            prompt = typer.prompt("Prompt", default="", show_default=False).strip()
        except typer.Abort:  # Ctrl-C, or the end of the input
            return
        if not prompt:
            return
        images = model.sample(4, prompt=prompt, seed=number, guidance_scale=GUIDANCE)
        path = Sheet(images, [""] * 4, columns=4, note=prompt if prompt.isascii() else "").save(
            out / f"prompt-{number}.png"
        )
        progress.say(f"  {path}")


def again(out: Path) -> str:
    """Return the command that generates images with the demo's model."""
    words = ["danqing", "sample", str(out), "--prompt", NEW_PROMPTS[3], "--guidance", f"{GUIDANCE:g}"]
    return shlex.join([*words, "-n", "16", "--out", "more.png"])
