"""Quality after minutes: does the preset `text2image-32` generate combinations that it never saw?

    python benchmarks/quality_text2image.py [--data shapes] [--minutes 20] [--guidance 1 2 5] [--out FOLDER]

Both stages are trained within the minutes, on this machine. The prompts are captions of the test split, whose
combinations of colour and shape are held out of training, and a program reads every attribute back. Prints
one JSON object: `composition`, the share of attributes that are as requested, with its interval and the share
of each attribute; `composition_all`, the share of images with all five right; the same for the tokenizer's
reconstructions of test images, which no prior can exceed by much; images per second of both stages; and the
same for other guidance scales, if `--guidance` names some. `ratio`, last, is the composition divided by 0.9.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import danqing as dq
from danqing.data import open_dataset
from danqing.families.abilities import HasTokenizer
from danqing.families.base import Family
from danqing.images import Images
from danqing.model.model import Model

GOAL = 0.9


def composition(model: Model, data: str, n: int) -> dict[str, Any]:
    """Return the shares of attributes and of images that are as their captions say, with intervals."""
    found = dq.evaluate(model, data, metrics="composition", features="pixels", n=n, seed=1)
    score, every = (
        next(one for one in found.scores if one.metric == name) for name in ("composition", "composition-all")
    )
    return {
        "composition": round(score.value, 4),
        "interval": score.interval,
        "all": round(every.value, 4),
        "interval_of_all": every.interval,
        **score.settings["per_attribute"],
        "on_real_images": score.settings["on_real_images"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="shapes", help="shapes, or shapes:50000 for as many to learn from")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--preset", default="text2image-32")
    parser.add_argument("--images", type=int, default=1000, help="how many are generated and read")
    parser.add_argument("--guidance", type=float, nargs="*", default=[], help="other scales to try")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--out", type=Path, help="keep the run and a grid here")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp())
    settings = dict(setting.split("=", 1) for setting in arguments.set)

    begun = time.perf_counter()
    run = dq.train(
        arguments.data,
        preset=arguments.preset,
        minutes=arguments.minutes,
        settings=settings,
        evaluate_every=0,
        out=out / "run",
    )
    results: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "minutes": arguments.minutes,
        "minutes_in_all": round((time.perf_counter() - begun) / 60, 2),
        "images": run.images,
        "images_per_second": round(run.images_per_second),
        "tokenizer": run.tokenizer,
    }
    model = dq.load(run)
    assert isinstance(model.family, HasTokenizer)
    assert isinstance(model.family.tokenizer, Family)
    tokenizer = Model(model.family.tokenizer, model.facts)
    results["reconstructions"] = composition(tokenizer, arguments.data, arguments.images)
    test = open_dataset(
        arguments.data, size=(model.family.config.width, model.family.config.height), split="test"
    )
    rows = np.random.default_rng(0).permutation(len(test))[:64]
    texts = test.texts(np.sort(rows))
    assert texts is not None
    asked = [text.split("\n")[number % 2] for number, text in enumerate(texts)]  # English, Chinese, in turns
    Images(test.images(np.sort(rows)).numpy()).save(out / "real.png")
    default, config = model.sample_options["guidance_scale"], model.family.config
    scales: dict[str, Any] = {}
    for scale in [default, *arguments.guidance]:
        model.family.config = config.model_copy(update={"guidance_scale": scale})
        started = time.perf_counter()
        model.sample(len(asked), prompt=asked, seed=1).save(out / f"guidance-{scale:g}.png")
        speed = {"images_per_second": round(len(asked) / (time.perf_counter() - started), 1)}
        scales[f"{scale:g}"] = composition(model, arguments.data, arguments.images) | speed
    results["guidance"] = scales
    measured = scales[f"{default:g}"]
    results["composition"], results["interval"] = measured["composition"], measured["interval"]
    results["composition_all"] = measured["all"]
    results["ratio"] = round(measured["composition"] / GOAL, 3)
    print(json.dumps(results, indent=2, default=str))


if __name__ == "__main__":
    main()
