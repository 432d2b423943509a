"""What `danqing --help` shows: all commands, in a sentence each.

It needs neither Typer nor the modules of the commands, which take longer to import than it takes to read.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

from danqing.locale import line_breaks, translate_exactly

COMMANDS = {
    "Start": {
        "demo": "Generate images of your words, then train a small text-to-image model.",
        "doctor": "Show versions, devices, threads, extras and settings, with their problems.",
        "presets": "List the named configurations, or print one.",
        "show": "Show what a model or a run is, and its options.",
    },
    "Data and training": {
        "data": "Check images before training on them; write shards; "
        "list and download the built-in data sets.",
        "train": "Train a model on your images.",
        "compare": "Compare families on your images, under the same budget and measured alike.",
        "tune": "Search for the settings whose model comes closest to held-out images.",
        "distill": "Turn a flow model into one that samples in a few steps.",
        "ema": "Rebuild a run's model with another EMA length.",
        "report": "Write a run's report.html again, and print its path.",
        "adapters": "Show adapters, and merge them into the models that they belong to.",
        "cache": "List and delete caches of your data sets; Danqing makes them again when it needs them.",
    },
    "Generate and edit": {
        "sample": "Generate images with a trained model.",
        "fill": "Fill a part of each image; every pixel outside of it stays unchanged.",
        "vary": "Make a variation of each image.",
        "stylize": "Give images the style of another image.",
        "translate": "Turn images into others, as a model has learned it.",
        "upscale": "Enlarge images by the scale that the model learned.",
        "enhance": "Restore images: remove what damaged the copies that the model learned from, or noise.",
        "reconstruct": "Encode real images with a model, decode them again, and show both.",
    },
    "Recognize and search": {
        "predict": "Recognize images: labels with calibrated probabilities, objects or masks.",
        "index": "Build an index of images, or bring one up to date.",
        "search": "Find images by an image or by words, near-duplicates, and groups.",
    },
    "Measure": {
        "evaluate": "Score a model, or a folder of pictures, against real images.",
        "judge": "Let people judge models, folders and real images, blindly, in the browser.",
        "contest": "Judge models and folders alike, and write a leaderboard.",
        "attack": "Measure how well a model withstands attacks, corruptions and other images.",
        "explain": "Explain a model's answers, or what a generator has learned, on one page.",
    },
    "Export and serve": {
        "export": "Export a model to run without PyTorch, and check the result.",
        "shrink": "Measure smaller and faster forms of a model, and keep the best.",
        "serve": "Serve models and indexes through the OpenAI API.",
        "replicas": "Keep services running on the nodes of a Ray cluster, all with one database.",
        "keys": "Manage the keys of your service: create, list and revoke them.",
        "audit": "See what was done on your service, and check that nobody changed its log.",
    },
    "Protect": {
        "verify": "Verify where images come from: ours, other, none or broken.",
        "sign": "Sign a model, or check its signature.",
        "seal": "Encrypt a model for the keys of recipients or with a passphrase.",
        "unseal": "Decrypt a sealed model to a folder.",
        "authority": "Manage the certificates that sign generated images: create, rotate and export them.",
        "filter": "Measure the filters of prompts and images (docs/trust.md).",
    },
}
"""The commands below the titles of the overview, each with the first sentence of its help."""
OPTIONS = {
    "--version": "Print the version and exit.",
    "--quiet": "Print only the result and errors.",
    "--verbose": "Also print versions and the tracebacks of errors.",
    "--install-completion": "Install completion for the current shell.",
    "--show-completion": "Show completion for the current shell, to copy it or customize the installation.",
    "--help": "Show this message and exit.",
}
_PURPOSE = "Train a generative model on a folder of images, on your own machine."
_ENDING = "Start with: danqing demo"
_SHORT = {"--quiet": "-q", "--verbose": "-v", "--help": "-h"}
_USAGE = "danqing [OPTIONS] COMMAND [ARGS]..."
COMPLETION = "_DANQING_COMPLETE"
"""The variable with which a shell asks for completions."""
_FEWEST_COLUMNS = 40


def is_wanted(words: Sequence[str]) -> bool:
    """Return whether some words after `danqing` ask for the overview."""
    return list(words) in ([], ["--help"], ["-h"]) and COMPLETION not in os.environ


def text() -> str:
    """Return the overview in the chosen language, as wide as the terminal."""
    columns = max(shutil.get_terminal_size().columns, _FEWEST_COLUMNS)
    options = {", ".join(filter(None, (_SHORT.get(name), name))): OPTIONS[name] for name in OPTIONS}
    width = max(len(name) for rows in COMMANDS.values() for name in rows)
    sections = (
        [translate_exactly("Usage: ") + _USAGE],
        _lines(_PURPOSE, columns),
        *([_title(title), *_rows(rows, width, columns)] for title, rows in COMMANDS.items()),
        [_title("Options"), *_rows(options, max(map(len, options)), columns)],
        [translate_exactly(_ENDING)],
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _title(english: str) -> str:
    title = translate_exactly(english)
    return f"\033[1m{title}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else title


def _rows(rows: Mapping[str, str], width: int, columns: int) -> Iterator[str]:
    """Names and sentences in two columns; width: of the first."""
    for name, sentence in rows.items():
        first, *others = _lines(sentence, columns - width - 4)
        yield f"  {name:{width}}  {first}"
        yield from (" " * (width + 4) + line for line in others)


def _lines(english: str, columns: int) -> list[str]:
    """A sentence in the chosen language, divided into lines."""
    sentence = translate_exactly(english)
    places = [0, *line_breaks.divide_line(sentence, columns), len(sentence)]
    return [sentence[start:end].rstrip() for start, end in itertools.pairwise(places)]
