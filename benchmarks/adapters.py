"""Fifty images of a new domain: an adapter of a flow model of emoji, beside training from nothing.

    python benchmarks/adapters.py --tiles crawl-tiles.zip [--only NAME ...] [--images NAME=COUNT ...]
        [--group mon] [--few 50] [--preset flow-32] [--set KEY=VALUE ...] [--count 2000] [--scale 1]
        [--threads 2] [--out FOLDER]

The tiles (CC0) of a group are the new domain, on white. `base` learns emoji for 15 minutes, without labels.
From --few tiles, `scratch` learns for 15 minutes from nothing, `adapter` for 3 minutes beside the base
(--preset lora), and `whole` for 3 minutes all weights of the base (--init). From all tiles but the fifth that
is kept for the scores, `scratch-all` and `whole-all` learn for 5 minutes each: what a start from another
domain is worth where images are not few.

Prints one JSON object: for each, the kernel distance on EfficientNet-Lite0 features to tiles that nobody
learned from, with its 95% interval; the share of samples that are near-copies, closer to a training image
than 99% of those tiles are; the images seen; the bytes of the adapter; the largest difference in [-1, 1]
between the adapter beside the weights and in them, of one evaluation and of a sample; and the ratio of
distances. "real" is the same of the tiles that were learned from.

--images adapter=N trains for as many images as an idle machine sees in the minutes, so that the result is the
same on a busy one. --scale 0.01 shortens everything, to try it. What was generated is kept in FOLDER: the
same command continues after an interruption.
"""

import argparse
import functools
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import image_zip
import numpy as np
import scoring
import torch
from numpy.typing import NDArray
from PIL import Image

import danqing as dq
from danqing.data.batch import Condition
from danqing.evaluation.kernel import kernel_distance
from danqing.families.base import Family
from danqing.model import adapted
from danqing.nets import adapters
from danqing.randomness import generator

SIZE = (32, 32)
BASE, ADAPTER = "base", "adapter"
MINUTES = {
    BASE: 15.0,
    "scratch": 15.0,
    ADAPTER: 3.0,
    "whole": 3.0,
    "scratch-all": 5.0,
    "whole-all": 5.0,
}
TEST_SHARE, NEAR = 0.2, 0.01
"""The share of the tiles that nobody learns from, and of these that count as near-copies."""


def tiles(archive: Path, group: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the tiles of a group by name, on white."""
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            if name.startswith(f"images/{group}/") and name.endswith(".png"):
                tile = Image.open(io.BytesIO(files.read(name))).convert("RGBA").resize(SIZE)
                white = Image.new("RGBA", SIZE, "#ffffff")
                white.alpha_composite(tile)
                yield name, np.asarray(white.convert("RGB"))


def parts(archive: Path, group: str, few: int, out: Path) -> dict[str, Path]:
    """Write the tiles that are learned from and those that are not; returns their files by name."""
    every = list(tiles(archive, group))
    order = torch.randperm(len(every), generator=generator(0, "tiles")).tolist()
    test = order[: max(2, round(TEST_SHARE * len(order)))]
    rest = order[len(test) :]
    chosen = {"few": rest[:few], "all": rest, "test": test}
    return {
        name: image_zip.write(
            out / f"{group}-{name}-{len(rows)}.zip", [(f"{row:05d}.png", every[row][1]) for row in rows]
        )
        for name, rows in chosen.items()
    }


def trained(
    data: str | Path,
    out: Path,
    budget: scoring.Budget,
    count: int,
    **options: Any,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train a run; its samples, and what the training was."""
    run = scoring.train(data, out=out, size=SIZE, evaluate_every=0, **budget.settings, **options)
    facts = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
    return dq.load(run).sample(count, seed=1).array, facts


def near_copies(samples: np.ndarray, training: np.ndarray, unseen: np.ndarray) -> float:
    """Return the share of samples closer to a training image than all but few unseen images are."""
    ours, theirs, real = (scoring.features(images).double() for images in (samples, unseen, training))
    limit = torch.cdist(theirs, real).min(1).values.quantile(NEAR)
    return round(float((torch.cdist(ours, real).min(1).values < limit).double().mean()), 4)


def merging_errors(base: Path, run: Path) -> dict[str, float]:
    """Return the largest differences between an adapter beside the weights and in them.

    Of one evaluation from noise, and of whole samples, whose steps enlarge differences in rounding.
    """
    beside, within = (dq.load(base).family for _ in range(2))
    adapter = adapted.open_adapter(run)
    adapters.put(beside, adapters.Added(adapter.tensors, adapter.settings, 1.0), "own")
    merged = adapted.with_adapters(within, [adapted.Weighted(adapter, 1.0)])
    assert isinstance(merged, Family)
    known = dq.load(base).sample_options
    exact = {"precision": "float32"} if "precision" in known else {}
    once = {"sampler": "euler", "num_steps": 1} if "num_steps" in known else {}

    def difference(**options: Any) -> float:
        with torch.inference_mode():
            one, other = (
                each.eval().sample(Condition(), seeds=range(16), **exact, **options)
                for each in (beside, merged)
            )
        return float((one - other).abs().max())

    return {"merging_error": difference(**once), "merging_error_of_samples": difference()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--group", default="mon", help="which tiles: mon, dngn, item, player or effect")
    parser.add_argument("--few", type=int, default=50)
    parser.add_argument("--preset", default="flow-32", help="of the base and of training from nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(MINUTES), default=list(MINUTES))
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT", help="budgets in images")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the adapter")
    parser.add_argument("--count", type=int, default=2000, help="how many images are judged")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    files = parts(arguments.tiles, arguments.group, arguments.few, out)
    pixels = {name: scoring.pixels_of(dq.open_dataset(file, size=SIZE)) for name, file in files.items()}
    known = dict(one.split("=", 1) for one in arguments.images)
    preset, base = arguments.preset, out / "run-base"
    own = dict(setting.split("=", 1) for setting in arguments.set)
    plain: dict[str, Any] = {"preset": preset, "settings": {"conditional": "false"}}
    how: dict[str, tuple[str | Path, dict[str, Any]]] = {
        BASE: ("emoji", plain),
        "scratch": (files["few"], plain),
        ADAPTER: (files["few"], {"preset": "lora", "init": base, "settings": own}),
        "whole": (files["few"], {**plain, "init": base}),
        "scratch-all": (files["all"], plain),
        "whole-all": (files["all"], {**plain, "init": base}),
    }
    results: dict[str, Any] = {"group": arguments.group, "tiles": {n: len(p) for n, p in pixels.items()}}
    unseen = scoring.features(pixels["test"])
    results["real"] = scoring.told(kernel_distance(scoring.features(pixels["few"]), unseen))
    chosen = [name for name in MINUTES if name in arguments.only]
    if not (base / "model").exists() and chosen[0] != BASE:
        chosen = [BASE, *chosen]
    for name in chosen:
        data, options = how[name]
        minutes = MINUTES[name] * arguments.scale
        budget = scoring.Budget(minutes, int(known[name]) if name in known else None)
        make: Callable[[], tuple[np.ndarray, dict[str, Any]]] = functools.partial(
            trained, data, out / f"run-{name}", budget, arguments.count, **options
        )
        samples, facts = scoring.kept(out, name, minutes, make)
        learned = pixels["all" if name.endswith("-all") else "few"]
        results[name] = {
            "kernel_distance": scoring.told(kernel_distance(scoring.features(samples), unseen)),
            "near_copies": near_copies(samples, learned, pixels["test"]),
            **facts,
        }
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    if ADAPTER in results:
        file = out / f"run-{ADAPTER}" / "model" / "adapter_model.safetensors"
        results[ADAPTER]["bytes"] = file.stat().st_size
        results[ADAPTER] |= merging_errors(base, out / f"run-{ADAPTER}")
    for ours, theirs in ((ADAPTER, "scratch"), ("whole", "scratch"), ("whole-all", "scratch-all")):
        if ours in results and theirs in results:
            one, other = (results[name]["kernel_distance"]["value"] for name in (ours, theirs))
            results[f"{ours}_to_{theirs}"] = round(one / other, 3) if other > 0 else None
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
