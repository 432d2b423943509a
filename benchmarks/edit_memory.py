"""Peak memory of each editing verb on a large file: at most 1.5 GB for 12 million pixels.

Each verb edits one file in a process of its own, from the command that reads the file to the file that is
written. The peak is that of all memory that the process ever held (VmHWM of Linux), and stands next to what
the verb states before it starts.

    python benchmarks/edit_memory.py [--verbs fill vary] [--kinds rgb8 rgba16] [--marks none] [--narrow]

Models are untrained and have the networks of the presets. `--narrow` makes networks narrow and lets flow
models evaluate once, which is many times faster; what grows with the image stays the same.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import danqing as dq
from danqing import families, presets
from danqing.editing import files
from danqing.editing.batch import BatchResult, Plan
from danqing.editing.contract import Values
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer

LIMIT = 1.5e9
SHAPE: dict[str, Any] = {"width": 64, "height": 64, "channels": 3}
FLOW: dict[str, Any] = {"family": "flow", "mask_share": 0.3, "num_steps": 4}
NARROW: dict[str, dict[str, Any]] = {
    "flow": {"net": "dit", "patch": 8, "widths": [16], "layers": 1, "heads": 2, "num_steps": 1},
    "regression": {"features": 8, "blocks": 2},
    "translation": {"widths": [8, 8], "blocks": 1},
    "style": {"features": 4, "blocks": 1},
}
AVERAGES = {"source_channels": 3, "source_scale": 4, "source_is_average": True}
GREY = {"source_channels": 1, "source_is_average": True}
KINDS: dict[str, tuple[str, type[np.uint8 | np.uint16], int]] = {
    "rgb8": ("JPEG", np.uint8, 3),
    "rgba8": ("PNG", np.uint8, 4),
    "rgba16": ("TIFF", np.uint16, 4),
}

Edit = Callable[[Path, Path, dict[str, Any]], Any]
VERBS: dict[str, Edit] = {
    "fill": lambda image, out, more: dq.fill(
        untrained(FLOW), image, out=out, box=middle(image), grow=16, feather=16, **more
    ),
    "fill all": lambda image, out, more: dq.fill(
        untrained(FLOW), image, out=out, box=(0, 0, 10**6, 10**6), grow=16, feather=16, **more
    ),
    "vary": lambda image, out, more: dq.vary(untrained(FLOW), image, out=out, **more),
    "vary in tiles": lambda image, out, more: dq.vary(untrained(FLOW), image, out=out, tile=1024, **more),
    "enhance": lambda image, out, more: dq.enhance(of_preset("enhance-64"), image, out=out, **more),
    "enhance flow": lambda image, out, more: dq.enhance(
        of_preset("flow-enhance-64", source_channels=3), image, out=out, **more
    ),
    "zero-shot": lambda image, out, more: dq.enhance("zero-shot", image, out=out, **more),
    "translate": lambda image, out, more: dq.translate(of_preset("translate-64"), image, out=out, **more),
    "translate flow": lambda image, out, more: dq.translate(
        of_preset("flow-pairs-64", source_channels=3), image, out=out, **more
    ),
    "unpaired": lambda image, out, more: dq.translate(
        of_preset("translation-64"), image, out=out, tile=256, **more
    ),
    "colorize": lambda image, out, more: dq.translate(
        of_preset("colorize-64", **GREY), image, out=out, **more
    ),
    "colorize flow": lambda image, out, more: dq.translate(
        of_preset("flow-colorize-64", **GREY), image, out=out, **more
    ),
    "style": lambda image, out, more: dq.stylize(None, image, style=3, out=out, **more),
    "style image": lambda image, out, more: dq.stylize(
        None, image, style_image=style_image(out), out=out, **more
    ),
    "trained style": lambda image, out, more: dq.stylize(saved_style(out), image, out=out, **more),
    "upscale": lambda image, out, more: dq.upscale(
        of_preset("upscale-64", **AVERAGES), image, out=out, **more
    ),
    "upscale flow": lambda image, out, more: dq.upscale(
        of_preset("flow-upscale-64", **AVERAGES), image, out=out, **more
    ),
}
"""From the path of a file, that of the result, and further options to an edit; its models are untrained."""
SLOW = ("upscale flow", "enhance flow")
"""Those with more than ten thousand windows, which are measured on request."""


def untrained(config: dict[str, Any]) -> Model:
    """Build a model with random weights, which takes as much memory as a trained one."""
    torch.manual_seed(0)
    narrow = NARROW[config["family"]] if os.environ.get("NARROW") else {}
    return Model(families.build(families.parse_config({**SHAPE, **config, **narrow})))


def of_preset(name: str, **config: Any) -> Model:
    """Build a model with the network of a preset."""
    preset = presets.read(name)
    return untrained({"family": preset["family"], **preset["model"], **config})


def style_image(out: Path) -> Path:
    """Write an image that has a style."""
    path = out.with_name("style.png")
    path.write_bytes(files.write(np.full((64, 64, 3), 99, np.uint8), files.FileStyle("PNG")))
    return path


def saved_style(out: Path) -> Path:
    """Save a network for a style."""
    torch.manual_seed(0)
    narrow = NARROW["style"] if os.environ.get("NARROW") else {}
    config = {**SHAPE, "family": "style", **narrow}
    learner = families.build_learner(families.parse_config(config))
    return Recognizer(learner, {"task": "style"}).save(out.with_name("style-model"))


def middle(image: Path) -> tuple[int, int, int, int]:
    """Return the box of the middle of an image, a quarter of its pixels."""
    from danqing.image_files import inspect

    width, height = inspect(image).size
    return width // 4, height // 4, width // 2, height // 2


def write_image(path: Path, kind: str, size: tuple[int, int]) -> None:
    """Write a smooth image with some noise."""
    name, dtype, channels = KINDS[kind]
    width, height = size
    top, rng = np.iinfo(dtype).max, np.random.default_rng(0)
    shape = (height, width, channels)
    values: Values = np.empty(shape, np.uint8) if dtype is np.uint8 else np.empty(shape, np.uint16)
    across = np.linspace(0, 0.8, width, dtype=np.float32)[:, None]
    for row in range(height):
        noise = rng.random((width, channels), dtype=np.float32) * 0.1
        values[row] = (across + noise + 0.1 * row / height) * top
    path.write_bytes(files.write(values, files.FileStyle(name)))


def measure(verb: str, image: Path, out: Path, marks: str) -> dict[str, float]:
    """Edit an image; return the peak of this process and what was stated, in bytes, and the seconds."""
    stated: list[int] = []

    def note(plan: Plan) -> None:
        stated.append(plan.peak_bytes)

    started = time.perf_counter()
    result = VERBS[verb](image, out, {"on_plan": note, "marks": marks})
    seconds = time.perf_counter() - started
    if isinstance(result, BatchResult) and result.failed:
        raise SystemExit(str(result.failed))
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return {"peak": int(found[1]) * 1024, "stated": stated[0] if stated else 0, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = [verb for verb in VERBS if verb not in SLOW]
    parser.add_argument("--verbs", nargs="+", default=chosen, choices=list(VERBS), metavar="VERB")
    parser.add_argument("--kinds", nargs="+", default=["rgb8", "rgba16"], choices=list(KINDS))
    parser.add_argument("--size", type=int, nargs=2, default=[4000, 3000], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--marks", default="eu", help="as of the commands")
    parser.add_argument("--narrow", action="store_true")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        verb, image, out, marks = arguments.measure
        print(json.dumps(measure(verb, Path(image), Path(out), marks)))
        return
    megapixels = arguments.size[0] * arguments.size[1] / 1e6
    print(f"{'verb':<14} {'image':<8} {'peak MB':>8} {'stated MB':>10} {'seconds':>8}")
    within = True
    with tempfile.TemporaryDirectory() as temporary:
        for kind in arguments.kinds:
            ending = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}[KINDS[kind][0]]
            image = Path(temporary) / f"{kind}{ending}"
            write_image(image, kind, tuple(arguments.size))
            for verb in arguments.verbs:
                out = image.with_stem(f"{kind} {verb}")
                command = [sys.executable, __file__, "--measure", verb, str(image), str(out), arguments.marks]
                own = {"DANQING_TRUST": f"{temporary}/trust", **({"NARROW": "1"} if arguments.narrow else {})}
                told = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}
                ).stdout
                found = json.loads(told)
                within &= found["peak"] < LIMIT
                print(
                    f"{verb:<14} {kind:<8} {found['peak'] / 1e6:>8,.0f} {found['stated'] / 1e6:>10,.0f} "
                    f"{found['seconds']:>8.1f}",
                    flush=True,
                )
    limit = f"{LIMIT / 1e9:g} GB at {megapixels:g} million pixels"
    print(f"All are below {limit}." if within else f"Some are above {limit}.")


if __name__ == "__main__":
    main()
