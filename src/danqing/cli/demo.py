"""`danqing demo`: generate images of the newcomer's words, then train a small text-to-image model."""

import itertools
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import MarksOption
from danqing.cli.run_output import leave_if_interrupted, run_payload, run_text, train_with_bar
from danqing.errors import ConfigError
from danqing.trust.settings import MarkSettings

if TYPE_CHECKING:
    from danqing import Model

SOURCE = "shapes:12000"
WORDS = "a red apple"
IMAGES, COLUMNS = 8, 4
OPTIONS: dict[str, Any] = {"top_p": 0.8}
"""How the model of the package samples: fewer surprises give cleaner drawings."""
EXAMPLES = """Examples:

  danqing demo

  danqing demo "a rocket"

  danqing demo 苹果 --no-train

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

NOTE = "* This colour and this shape were never seen together in training."

OF_PACKAGE = """
Your turn: things, animals, people and faces, one or several, in a colour and on a coloured background, such
as "a dog and a bicycle", "a pink cat" or "黄色背景上的火箭"; an empty line goes on."""
OF_SHAPES = f"""
Your turn with the model that was trained here: a number, a size, a colour, a shape, a place, such as
"{NEW_PROMPTS[3]}" or "左边有两个粉色的大菱形"; an empty line ends it."""

NEXT = """Next, use your own images: a folder with captions in a metadata.jsonl.
  danqing data check photos/
  danqing train photos/ --preset text2image-32 --out runs/photos --minutes 30
  danqing sample runs/photos --prompt "what the images should show" --out photos.png"""


def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="What the first images should show, in English or Chinese.",
            show_default=f"asked in a terminal, else {WORDS!r}",
            metavar="[WORDS]",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder for images, page and run; an existing run is resumed.")
    ] = Path("runs/demo"),
    minutes: Annotated[
        float | None, typer.Option(help="How long to train.", show_default="the preset's")
    ] = None,
    train: Annotated[bool, typer.Option(help="Also train a small model of your own.")] = True,
    data: Annotated[
        str, typer.Option(help="How many shapes to train on, for example `shapes:3000`.", hidden=True)
    ] = SOURCE,
    marks: MarksOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Generate images of your words, then train a small text-to-image model.

    The first images take seconds, the training about five minutes.
    """
    from danqing.cli import demo_page
    from danqing.editing.outputs import make_folder

    own_marks = MarkSettings.of(marks)
    make_folder(out)
    asks = not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    pictures = generate_words(" ".join(words or ()).strip(), out, asks=asks, marks=own_marks)
    page = demo_page.write(out, pictures)
    made = {"words": [{"prompt": prompt, "images": path} for path, prompt in pictures.items()], "page": page}
    if not train:
        shown = {"Page": page, "Again": again("demo", [*pictures.values()][-1])}
        output.result(made, output.facts(shown), as_json=as_json)
        return

    import danqing

    run = train_with_bar(data, preset="demo", out=out / "run", minutes=minutes)
    leave_if_interrupted(run, as_json=as_json)
    model = danqing.load(run, marks=own_marks)
    grid = generate_prompts(model, out / "grid.png")
    demo_page.write(out, pictures, grid)
    shown = {"Images": grid, "Page": page, "Again": again(str(run.folder), NEW_PROMPTS[3])}
    used = {"prompts": [*PROMPTS, *NEW_PROMPTS], "never_seen": list(NEW_PROMPTS)}
    payload = {**made, **run_payload(run), "grid": grid, **used}
    output.result(payload, f"{output.facts(run_text(run) | shown)}\n{NEXT}", as_json=as_json)
    if asks:
        progress.say(OF_SHAPES)
        for number in unused_numbers(out, "prompt"):
            if not answer(model, out / f"prompt-{number}.png", seed=number):
                break


def generate_words(words: str, out: Path, *, asks: bool, marks: MarkSettings) -> dict[Path, str]:
    """Generate images of the user's words with the model of the package.

    words: a prompt; "" for none. asks: ask for a prompt if there is none, and for more until an empty line.
    Returns the pictures in `out` with their prompts.
    """
    prompt = words or WORDS
    if asks and not words:
        progress.say(f'What should the images show, in English or Chinese? Press Enter for "{WORDS}".')
        prompt = typer.prompt("Prompt", default=WORDS, show_default=False).strip()
    began = time.perf_counter()
    with progress.Bar() as bar:
        bar.update(0, None, f"Generating {output.printable(prompt)}")  # importing torch takes seconds
        import danqing
        from danqing.machine import use_free_cores
        from danqing.model.shipped import DEMO_FOLDER

        use_free_cores()
        model = danqing.load(DEMO_FOLDER, marks=marks)
        numbers = unused_numbers(out, "words")
        number = next(numbers)
        path = save_images(model, prompt, out / f"words-{number}.png", seed=number, **OPTIONS)
    pictures = {path: prompt}
    seconds = time.perf_counter() - began
    progress.say(output.printable(f'"{prompt}": {path} ({seconds:.0f} seconds)'))
    if asks and not words:
        progress.say(OF_PACKAGE)
        for number in numbers:
            path = out / f"words-{number}.png"
            if not (prompt := answer(model, path, seed=number, **OPTIONS)):
                break
            pictures[path] = prompt
    return pictures


def unused_numbers(out: Path, stem: str) -> Iterator[int]:
    """Yield the numbers that no picture `stem-NUMBER.png` has."""
    return (number for number in itertools.count(1) if not (out / f"{stem}-{number}.png").exists())


def answer(model: "Model", path: Path, *, seed: int, **options: Any) -> str:
    """Ask for a prompt and generate images of it.

    options: of sampling. Returns the prompt, "" if there is none.
    """
    while True:
        try:
            prompt = str(typer.prompt("Prompt", default="", show_default=False)).strip()
        except typer.Abort:  # Ctrl-C, or the end of the input
            return ""
        try:
            if prompt:
                progress.say(f"  {save_images(model, prompt, path, seed=seed, **options)}")
        except ConfigError as error:  # such as a prompt that is too long
            progress.say(str(error), style="yellow")
        else:
            return prompt


def save_images(model: "Model", prompt: str, path: Path, *, seed: int, **options: Any) -> Path:
    """Generate images of a prompt, and save them beside each other.

    options: of sampling. Raises ConfigError for a prompt that is longer than the model reads.
    """
    from danqing.sheet import Sheet

    model.check_prompt(prompt)
    images = model.sample(IMAGES, prompt=prompt, seed=seed, **options)
    note = prompt if prompt.isascii() else ""  # the font of the sheet has no Chinese letters
    return Sheet(images, [""] * len(images), columns=COLUMNS, note=note).save(path)


def generate_prompts(model: "Model", path: Path) -> Path:
    """Generate images of the demo's prompts, and save them as a sheet."""
    from danqing.sheet import Sheet

    progress.say(
        f"Generating {len(PROMPTS)} prompts like those it learnt from, and {len(NEW_PROMPTS)} new ones:"
    )
    progress.say(f'  "{PROMPTS[0]}", "{PROMPTS[1]}", ... and never seen together: "{NEW_PROMPTS[0]}", ...')
    images = model.sample(prompt=[*PROMPTS, *NEW_PROMPTS], seed=0)
    captions = [*PROMPTS, *(f"{prompt}\u00a0*" for prompt in NEW_PROMPTS)]
    return Sheet(images, captions, columns=8, note=NOTE).save(path)


def again(model: str, prompt: str) -> str:
    """Return the command that generates images of a prompt."""
    return shlex.join(["danqing", "sample", model, "--prompt", prompt, "-n", "16", "--out", "more.png"])
