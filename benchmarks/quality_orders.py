"""Quality of a transformer in raster order, in masked order, and with all key heads, after equal images.

    python benchmarks/quality_orders.py --data DIR [--images 60000] [--tokenizer MODEL] [--seeds 5]

All use one tokenizer (preset `vqvae-32`, five minutes, unless a model is given). Each transformer has the
preset `transformer-32` and sees the same number of training images: in raster order, in raster order with
three key heads instead of the preset's one, and in masked order. Prints one JSON object: for each, the
Fréchet distance on EfficientNet-Lite0 features between the test images and as many samples with the same
labels, as the mean over `--seeds`; for masked order also after several numbers of steps, with one seed;
minutes of training and images per second of sampling. `ratio`, last, is the distance of masked order with its
default number of steps divided by that of raster order.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scoring
import torch

import danqing as dq
from danqing.data import open_dataset
from danqing.images import Images
from danqing.model.model import Model

VARIANTS = {
    "raster": {},
    "raster_all_key_heads": {"model.key_value_heads": "0"},
    "masked": {"model.order": "masked"},
}
STEPS = (8, 12, 16, 32)


def painted(model: Model, labels: np.ndarray, test: np.ndarray, seeds: int, **options: Any) -> dict[str, Any]:
    """Return the distance of samples with these labels to the test images, as the mean over seeds from 1 up.

    Also returns the distance of each seed, and images per second.
    """
    distances, seconds = [], 0.0
    for seed in range(1, seeds + 1):
        begun = time.perf_counter()
        samples = model.sample(label=labels.tolist(), seed=seed, **options)
        seconds += time.perf_counter() - begun
        distances.append(scoring.distance(samples.array, test))
    return {
        "frechet_distance": round(float(np.mean(distances)), 2),
        "of_seeds": distances,
        "images_per_second": round(seeds * len(labels) / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=60_000, help="that each transformer learns from")
    parser.add_argument("--minutes", type=float, default=5.0, help="of the tokenizer")
    parser.add_argument("--tokenizer", help="a trained one")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1, help="how often each paints")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--out", type=Path, help="keep the runs and the grids here")
    arguments = parser.parse_args()
    out = arguments.out or Path(tempfile.mkdtemp())
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    tokenizer = arguments.tokenizer
    if tokenizer is None:
        run = scoring.train(
            arguments.data, preset="vqvae-32", minutes=arguments.minutes, evaluate_every=0, out=out / "codes"
        )
        tokenizer = str(run.folder / "model")

    dataset = open_dataset(arguments.data, size=(32, 32), split="test")
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[: arguments.samples])
    test, labels = dataset.images(rows).numpy(), dataset.labels_at(rows)
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "samples": len(rows)}
    rebuilt = dq.load(tokenizer).reconstruct(Images(test))
    results["reconstructions"] = scoring.distance(rebuilt.array, test)
    for name in arguments.only:
        run = scoring.train(
            arguments.data,
            preset="transformer-32",
            tokenizer=tokenizer,
            images=arguments.images,
            settings=settings | VARIANTS[name],
            evaluate_every=0,
            out=out / name,
        )
        model = dq.load(run)
        model.sample(64, label=[row % len(model.labels) for row in range(64)]).save(out / f"{name}.png")
        found = results[name] = {
            "minutes": round(run.seconds / 60, 1),
            **painted(model, labels, test, arguments.seeds),
        }
        if "num_steps" in model.sample_options:
            found |= {f"{steps}_steps": painted(model, labels, test, 1, num_steps=steps) for steps in STEPS}
        print(json.dumps({name: found}), flush=True)
    if {"raster", "masked"} <= results.keys():
        ours, raster = results["masked"]["frechet_distance"], results["raster"]["frechet_distance"]
        results["ratio"] = round(ours / raster, 3)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
