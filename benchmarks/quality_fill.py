"""Filling: a flow that learned with masks beside three classical methods and RePaint, 25 to 50% masked.

    python benchmarks/quality_fill.py --data DIR [--preset flow-32] [--minutes 15] [--out FOLDER]
    python benchmarks/quality_fill.py --data emoji --preset flow-64 --minutes 30 --out FOLDER

The preset trains with `mask_share` for the minutes, on the training images; the test images, or the
held-out ones where there are none, are then masked: a rectangle in half of them, strokes of a brush in the
others. Prints one JSON object: for each method the mean distance inside the mask, the evaluations of the
network per image and the seconds per image. The distance is that of the metric `perceptual`, on
EfficientNet-Lite0, where each place of a feature map counts by how much of it is masked. The others are
OpenCV's Telea and Navier–Stokes with a radius of 3, scikit-image's biharmonic equation (`pip install
opencv-python-headless==5.0.0.93 scikit-image`), and RePaint on the same model, which is then told nothing
of the mask: 250 steps, 10 resamplings of 10 steps each. RePaint fills the first --repaint images alone;
ours on the same ones is `ours_like_repaint`. The ratios are of our distance to theirs. `changed_outside`
counts, in so many random cases as --cases, the bytes outside of the mask that filling changed. The run and
what each method filled are kept in FOLDER, with a sheet: the same command continues. --options fills a
second time with options of `danqing fill`. `distance_of_rest` leaves out the images on which its defaults
were chosen.
"""

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
import torch
from numpy.typing import NDArray
from repaint import repaint
from torch.nn import functional as F

import danqing as dq
from danqing.data import Dataset
from danqing.data.splits import has_split, open_held, open_if_there
from danqing.evaluation.contract import HasStages
from danqing.evaluation.networks import open_network
from danqing.families.base import Condition
from danqing.families.flow_variants import Flow
from danqing.images import Images, to_float, to_uint8
from danqing.model.model import Model
from danqing.randomness import generator
from danqing.sheet import Sheet

LEAST, MOST = 0.25, 0.5
RADIUS = 3
"""Of OpenCV's methods, as in its tutorial."""
AT_ONCE = 64
HELD_OUT_AT = 100_000
"""A run is scored after every so many images where it must hold some out."""
TUNED_ON = 200
"""How many images of Fashion-MNIST, the first ones, the defaults of filling were chosen on."""
Filled = tuple[np.ndarray, dict[str, Any]]
TITLES = {
    "biharmonic": "scikit-image, biharmonic",
    "navier-stokes": "OpenCV, Navier-Stokes",
    "telea": "OpenCV, Telea",
}
SHOWN, ENLARGED = 12, 2


def random_masks(count: int, height: int, width: int) -> NDArray[np.bool_]:
    """Draw masks bool `[count, h, w]` that cover between a quarter and a half of an image."""
    rng = np.random.default_rng(0)
    return np.stack([(_rectangle, _strokes)[i % 2](height, width, rng) for i in range(count)])


def _rectangle(height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    while not LEAST <= mask.mean() <= MOST:
        mask[:] = False
        area, aspect = rng.uniform(LEAST, MOST), math.exp(rng.uniform(-0.7, 0.7))
        rows = min(height, round(height * math.sqrt(area * aspect)))
        columns = min(width, round(width * math.sqrt(area / aspect)))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        mask[top : top + rows, left : left + columns] = True
    return mask


def _strokes(height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Walk with a round brush until enough is covered."""
    rows, columns = np.indices((height, width))
    mask, goal = np.zeros((height, width), np.bool_), rng.uniform(LEAST, MOST - 0.05)
    radius = min(height, width) / 12
    y, x, angle = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, 2 * math.pi)
    while mask.mean() < goal:
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        angle += rng.normal(0, 0.5)
        y, x = (y + radius * math.sin(angle)) % height, (x + radius * math.cos(angle)) % width
    return mask


def distance_inside(images: np.ndarray, targets: np.ndarray, masks: NDArray[np.bool_]) -> list[float]:
    """Return the perceptual distance of each pair, places weighted by their masked share."""
    network = open_network("efficientnet-lite0")
    assert isinstance(network, HasStages)
    found: list[float] = []
    for start in range(0, len(images), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        ours, real = (network.stages(torch.from_numpy(x[rows])) for x in (images, targets))
        mask = torch.from_numpy(masks[rows])[:, None].double()
        total = torch.zeros(len(mask), dtype=torch.float64)
        for a, b in zip(ours, real, strict=True):
            difference = (F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(1)
            weight = F.interpolate(mask, a.shape[2:], mode="area")[:, 0]
            total += (difference * weight).sum((1, 2)) / weight.sum((1, 2))
        found += (total / len(ours)).tolist()
    return found


def by_image(
    fill: Callable[[np.ndarray, NDArray[np.bool_]], np.ndarray],
    images: np.ndarray,
    masks: NDArray[np.bool_],
) -> Filled:
    """Fill one image `[h, w, c]` after the other."""
    begun = time.perf_counter()
    filled = [np.asarray(fill(one, mask)).reshape(one.shape) for one, mask in zip(images, masks, strict=True)]
    seconds = (time.perf_counter() - begun) / len(images)
    return np.stack(filled), {"evaluations": 0, "seconds_per_image": round(seconds, 4)}


def opencv(method: str, image: np.ndarray, mask: NDArray[np.bool_]) -> np.ndarray:
    import cv2

    flag = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}[method]
    filled: np.ndarray = cv2.inpaint(image, mask.astype(np.uint8), RADIUS, flag)
    return filled


def biharmonic(image: np.ndarray, mask: NDArray[np.bool_]) -> np.ndarray:
    from skimage.restoration import inpaint_biharmonic

    filled: np.ndarray = inpaint_biharmonic(image / 255.0, mask, channel_axis=-1)
    return np.where(mask[..., None], (filled * 255).round().clip(0, 255), image).astype(np.uint8)


def ours(
    model: Model,
    images: np.ndarray,
    masks: NDArray[np.bool_],
    labels: list[str] | None,
    options: Mapping[str, Any],
) -> Filled:
    begun = time.perf_counter()
    filled, evaluations = flow_evaluations.counted(
        model, lambda: model.fill(Images(images), masks, label=labels, seed=1, **options)
    )
    seconds = (time.perf_counter() - begun) / len(images)
    return filled.array, {"evaluations": evaluations, "seconds_per_image": round(seconds, 4)}


def by_repaint(
    model: Model, images: np.ndarray, masks: NDArray[np.bool_], labels: NDArray[np.int64] | None
) -> Filled:
    """Fill with the same model, which is told the label as ours is, and not the mask."""
    family = model.family
    assert isinstance(family, Flow)
    plain = {**family.sample_defaults(), "guidance_scale": 1}
    begun, evaluations, filled = time.perf_counter(), 0, []
    for start in range(0, len(images), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        pixels = to_float(torch.from_numpy(images[rows]))
        condition = Condition(label=None if labels is None else torch.from_numpy(labels[rows]))
        velocity = family._velocity(condition, pixels.shape, plain)
        mask = torch.from_numpy(masks[rows])[:, None].float()
        with torch.no_grad():
            found, evaluations = repaint(velocity, pixels, mask, generator(0, "repaint", start))
        filled.append(to_uint8(found).numpy())
    seconds = (time.perf_counter() - begun) / len(images)
    return np.concatenate(filled), {"evaluations": evaluations, "seconds_per_image": round(seconds, 4)}


def changed_outside(model: Model, images: np.ndarray, cases: int) -> int:
    """Count the bytes outside of random masks that filling changed, with one step each."""
    rng, changed = np.random.default_rng(1), 0
    label = model.labels[0] if model.labels else None
    for start in range(0, cases, 1000):
        count = min(1000, cases - start)
        chosen = images[rng.integers(len(images), size=count)]
        shares = rng.random((count, 1, 1))  # nearly nothing to nearly everything
        masks = rng.random((count, *images.shape[1:3])) < shares
        filled = model.fill(Images(chosen), masks, label=label, seed=start, num_steps=1).array
        changed += int((filled != chosen)[~masks].sum())
    return changed


def judged_images(data: str, size: tuple[int, int]) -> Dataset:
    """Return the images that training never sees."""
    return open_if_there(data, "test", size=size) or open_held(data, size=size).judged


def sheet(strips: Mapping[str, np.ndarray]) -> Sheet:
    """Return a sheet with a row for each method, of images on which the defaults were not chosen."""
    first = min(TUNED_ON, len(next(iter(strips.values()))) - SHOWN)
    rows = [
        np.concatenate(list(images[first : first + SHOWN]), axis=1).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        for images in strips.values()
    ]
    return Sheet(Images(np.stack(rows)), list(strips), columns=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--preset", default="flow-32")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--images", type=int, help="train on this number of images instead")
    parser.add_argument("--mask-share", type=float, default=0.5, help="of the images learned with a mask")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the preset")
    parser.add_argument("--options", nargs="*", default=[], metavar="KEY=VALUE", help="of `danqing fill`")
    parser.add_argument("--count", type=int, default=500, help="how many images are filled")
    parser.add_argument("--repaint", type=int, default=64, help="how many of them RePaint fills")
    parser.add_argument("--cases", type=int, default=10_000, help="masks to look for changed bytes with")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the run and the filled images here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    budget = scoring.Budget(arguments.minutes, arguments.images)
    settings: dict[str, Any] = dict(setting.split("=", 1) for setting in arguments.set)
    run = scoring.train(
        arguments.data,
        preset=arguments.preset,
        settings={"mask_share": arguments.mask_share, "evaluation.keep": "last", **settings},
        evaluate_every=None if has_split(arguments.data, "test") else HELD_OUT_AT,
        out=out / "run",
        **budget.settings,
    )
    model = dq.load(run)
    config = model.family.config
    judged = judged_images(arguments.data, (config.width, config.height))
    rows = np.sort(np.random.default_rng(0).permutation(len(judged))[: arguments.count])
    images, masks = judged.images(rows).numpy(), random_masks(len(rows), config.height, config.width)
    names = [judged.label_names[label] for label in judged.labels_at(rows)] if model.labels else None
    labels = np.array([model.labels.index(name) for name in names]) if names else None

    few = slice(arguments.repaint)
    methods: dict[str, Callable[[], Filled]] = {
        "ours": functools.partial(ours, model, images, masks, names, {}),
        "telea": functools.partial(by_image, functools.partial(opencv, "telea"), images, masks),
        "navier-stokes": functools.partial(
            by_image, functools.partial(opencv, "navier-stokes"), images, masks
        ),
        "biharmonic": functools.partial(by_image, biharmonic, images, masks),
        "repaint": functools.partial(
            by_repaint, model, images[few], masks[few], None if labels is None else labels[few]
        ),
    }
    results: dict[str, Any] = {"threads": arguments.threads, "images_seen": run.images, "count": len(images)}
    results["mean_masked"] = round(float(masks.mean()), 3)
    if arguments.options:
        options = {
            key: json.loads(value) if value[:1].isdigit() else value
            for key, value in (pair.split("=", 1) for pair in arguments.options)
        }
        methods["ours-" + "-".join(arguments.options)] = functools.partial(
            ours, model, images, masks, names, options
        )
    distances: dict[str, list[float]] = {}
    filled_by: dict[str, np.ndarray] = {}
    for name, make in methods.items():
        filled, facts = scoring.kept(out, name, arguments.minutes, make)
        filled_by[name] = filled
        distances[name] = distance_inside(filled, images[: len(filled)], masks[: len(filled)])
        results[name] = {"distance_inside": round(float(np.mean(distances[name])), 4), **facts}
        if rest := distances[name][TUNED_ON:]:
            results[name]["distance_of_rest"] = round(float(np.mean(rest)), 4)
    hidden = np.where(masks[..., None], 128, images).astype(np.uint8)
    strips = {"images": images, "with masks": hidden, "danqing fill": filled_by["ours"]}
    strips |= {title: filled_by[name] for name, title in TITLES.items()}
    sheet(strips).save(out / "sheet.png")
    like_repaint = float(np.mean(distances["ours"][few]))
    results["ours_like_repaint"] = round(like_repaint, 4)
    results["ratios"] = {
        name: round(results["ours"]["distance_inside"] / results[name]["distance_inside"], 3)
        for name in ("telea", "navier-stokes", "biharmonic")
    }
    results["ratios"]["repaint"] = round(like_repaint / results["repaint"]["distance_inside"], 3)
    evaluations = results["ours"]["evaluations"] / results["repaint"]["evaluations"]
    results["evaluations_to_repaint"] = round(evaluations, 4)
    results["cases"] = arguments.cases
    results["changed_outside"] = changed_outside(model, images, arguments.cases)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
