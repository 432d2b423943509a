"""Emoji from captions: `flow-text-64` beside `text2image-32`, each trained for as long, on unseen captions.

    python benchmarks/quality_flow_text.py [--minutes 60] [--guidance 1 2] [--presets NAME ...]
        [--images NAME=COUNT ...] [--set [NAME:]KEY=VALUE ...] --out FOLDER

Each holds a part of the emoji out of training, and the prompts are captions that neither has seen.
`grid.png` shows 64 of them, drawn evenly and with nothing chosen: beside each other the real emoji, what
the first preset generates and what the second does, in its own size enlarged. Prints one JSON object: how
often the right caption is found among 100 for generated and for real held-out images (`prompt-agreement`),
with the preset's own guidance; images seen; images per second of training, and of sampling with the
preset's own options.

--guidance writes a grid for each scale. --images flow-text-64=N trains for as many images as an idle
machine sees in the minutes; for the other, count those of both stages and set `tokenizer.share` to the
tokenizer's. The same command continues an interrupted run.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
from quality_emoji import COLUMNS, DATA, PROMPTS, english

import danqing as dq
from danqing.data.splits import Held, open_held
from danqing.images import Images
from danqing.model.model import Model
from danqing.sheet import Sheet

PRESETS = ("flow-text-64", "text2image-32")
HELD_OUT = 0.15
"""More than by default: what is held out follows from the pixels, so that the two sets of images differ."""
SIDE, GAP = 64, 2
JUDGED = 2000
"""As many images as prompt agreement reads at most."""


def held_by(model: Model) -> Held:
    config = model.family.config
    return open_held(DATA, HELD_OUT, size=(config.width, config.height))


def unseen(models: list[Model]) -> list[str]:
    """Draw captions that no model was trained with."""
    held = [held_by(model) for model in models]
    common = {*english(held[0].judged, np.arange(len(held[0].judged)))}
    for each in held:
        common &= {*english(each.judged, np.arange(len(each.judged)))}
        common -= {*english(each.training, np.arange(len(each.training)))}
    order = np.random.default_rng(0).permutation(len(common))[:PROMPTS]
    return [sorted(common)[row] for row in order]


def real_images(model: Model, prompts: list[str]) -> np.ndarray:
    """Return the real emoji with these captions."""
    judged = held_by(model).judged
    captions = english(judged, np.arange(len(judged)))
    return judged.images(np.array([captions.index(prompt) for prompt in prompts])).numpy()


def settings_of(preset: str, given: list[str], first: str) -> dict[str, str]:
    """Return the settings among `[NAME:]KEY=VALUE` that are the preset's."""
    named = [part if ":" in part.split("=")[0] else f"{first}:{part}" for part in given]
    own = [part.removeprefix(f"{preset}:") for part in named if part.startswith(f"{preset}:")]
    return dict(part.split("=", 1) for part in own)


def enlarged(images: np.ndarray) -> np.ndarray:
    """Repeat the pixels of images up to 64×64."""
    times = SIDE // images.shape[1]
    return images.repeat(times, axis=1).repeat(times, axis=2)


def grid(prompts: list[str], columns: list[np.ndarray]) -> Sheet:
    """Return a sheet with the columns beside each other for each prompt."""
    gap = np.full((len(prompts), SIDE, GAP, 3), 255, np.uint8)
    parts = [part for column in columns for part in (enlarged(column), gap)]
    return Sheet(Images(np.concatenate(parts[:-1], axis=2)), prompts, columns=COLUMNS // 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="[NAME:]KEY=VALUE", help="of a preset or the first"
    )
    parser.add_argument("--guidance", type=float, nargs="*", default=[], help="scales to draw grids with")
    parser.add_argument("--evaluate-every", type=int, default=25_000, help="images; the best is kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    budget = scoring.budgets(arguments.minutes, arguments.images)
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    models: dict[str, Model] = {}
    for preset in arguments.presets:
        settings = settings_of(preset, arguments.set, arguments.presets[0])
        run = scoring.train(
            DATA,
            preset=preset,
            settings={"evaluation.held_out": HELD_OUT, **settings},
            evaluate_every=arguments.evaluate_every,
            out=arguments.out / preset,
            **budget(preset).settings,
        )
        models[preset] = dq.load(run)
        results[preset] = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
        results[preset]["tokenizer"] = run.tokenizer
    prompts = unseen(list(models.values()))
    results["prompts"] = len(prompts)
    real = real_images(models[arguments.presets[0]], prompts)
    for scale in (None, *arguments.guidance):
        options = {} if scale is None else {"guidance_scale": scale}
        columns = [real]
        for preset, model in models.items():
            begun = time.perf_counter()
            images, evaluations = flow_evaluations.counted(
                model, functools.partial(model.sample, prompt=prompts, seed=0, **options)
            )
            columns.append(images.array)
            if scale is None:
                seconds = time.perf_counter() - begun
                results[preset] |= {"sampled_per_second": round(len(prompts) / seconds, 2)}
                results[preset] |= {"evaluations": evaluations, "options": model.sample_options}
        name = "grid.png" if scale is None else f"grid-guidance-{scale:g}.png"
        grid(prompts, columns).save(arguments.out / name)
    for preset, model in models.items():
        found = dq.evaluate(model, DATA, metrics="prompt-agreement", features="pixels", n=JUDGED, seed=1)
        results[preset] |= {score.metric: score.to_json() for score in found.scores}
    print(json.dumps(results, indent=2, default=str))


if __name__ == "__main__":
    main()
