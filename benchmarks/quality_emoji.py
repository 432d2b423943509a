"""Quality of the preset `text2image-32` on captions of emoji that it never saw.

    python benchmarks/quality_emoji.py [--minutes 25] [--set KEY=VALUE ...] --out FOLDER

A tenth of the emoji is held out of both stages. 64 of these, drawn evenly, give the prompts; `grid.png` shows
each next to the image that the model generates from its caption, without selection. Prints one JSON object:
nats per code of training and of held-out images, given their own caption, another image's and none; how often
the right caption is found among 100 for generated and for real held-out images (`prompt-agreement`); images
seen.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

import danqing as dq
from danqing.data.dataset import Dataset
from danqing.data.splits import open_held
from danqing.families.abilities import Tokenizes
from danqing.images import Images
from danqing.model.model import Model
from danqing.sheet import Sheet

DATA, SIZE = "emoji", (32, 32)
PROMPTS, COLUMNS = 64, 8


def nats_per_code(model: Model, dataset: Dataset, codes: int) -> dict[str, float]:
    """Compute nats per code given the image's own caption, its neighbour's, and none."""
    rows = drawn(dataset, 256)
    images, own = Images(dataset.images(rows).numpy()), english(dataset, rows)
    asked = {"own": own, "another": own[1:] + own[:1], "none": [""] * len(own)}
    return {
        name: round(float(model.token_nll(images, prompt=texts).mean()) / codes, 4)
        for name, texts in asked.items()
    }


def drawn(dataset: Dataset, count: int) -> np.ndarray:
    """Draw rows evenly, in order."""
    return np.sort(np.random.default_rng(0).permutation(len(dataset))[:count])


def english(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """Return the first caption of each row."""
    texts = dataset.texts(rows)
    assert texts is not None
    return [text.split("\n")[0] for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--evaluate-every", type=int, default=25_000, help="images; the best is kept")
    parser.add_argument("--tokenizer", help="a trained one that saw none of the held-out images")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    run = dq.train(
        DATA,
        preset="text2image-32",
        minutes=arguments.minutes,
        settings=dict(setting.split("=", 1) for setting in arguments.set),
        tokenizer=arguments.tokenizer,
        evaluate_every=arguments.evaluate_every,
        out=arguments.out / "run",
    )
    model = dq.load(run)
    held = open_held(DATA, size=SIZE)
    rows = drawn(held.judged, PROMPTS)
    prompts, real = english(held.judged, rows), held.judged.images(rows).numpy()
    codes = math.prod(cast(Tokenizes, model.family.tokenizer).code_shape)
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "images": run.images,
        "tokenizer": run.tokenizer,
        "training": nats_per_code(model, held.training, codes),
        "held_out": nats_per_code(model, held.judged, codes),
    }
    for scale in arguments.guidance:
        painted = model.sample(prompt=prompts, seed=0, guidance_scale=scale)
        gap = np.full((PROMPTS, SIZE[1], 2, 3), 255, np.uint8)
        sides = np.concatenate([real, gap, painted.array], axis=2)
        pairs = Images(sides.repeat(2, axis=1).repeat(2, axis=2))
        Sheet(pairs, prompts, columns=COLUMNS).save(arguments.out / f"grid-{scale:g}.png")
    found = dq.evaluate(model, DATA, metrics="prompt-agreement", features="pixels", seed=1)
    results |= {score.metric: score.to_json() for score in found.scores}
    print(json.dumps(results, indent=2, default=str))


if __name__ == "__main__":
    main()
