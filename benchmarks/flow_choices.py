"""What decides the preset `flow-32`: one setting changed at a time, everything else as it is.

    python benchmarks/flow_choices.py --data DIR --choice net [--minutes 5] [--images N] [--seeds 1]
        [--only NAME ...] [--set KEY=VALUE ...] [--out FOLDER]

net, optimizer, prediction, times and transport train a run for each variant; transport without labels, since
pairing harms where there are labels, and with a sampler that adds no noise. ema trains one run, whose
averages of several lengths are computed afterwards, and one for each half-life. guidance and steps train one
run, or two where the guide is an early copy, and sample it in several ways, within 25 evaluations per image
unless the name says how many. DIR holds 32×32 images with a test split. Prints a line and, at the end, one
JSON object: Fréchet distance on EfficientNet-Lite0 features, precision and recall of 5,000 images against the
test split, evaluations per image, images seen and images per second; with --seeds, means over as many runs.

--images trains every run on so many images: then only the choice differs, and not how fast it is; with
--minutes its speed counts too. What was generated is kept in FOLDER: the same command continues after an
interruption, and choices with the same FOLDER share the run of the preset.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring

import danqing as dq
from danqing.data import open_dataset

SIZE, EVALUATIONS = (32, 32), 25
PRESET = "preset"
"""The name of what is changed in nothing."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train and to sample.

    settings: of the preset. options: of `sample`. length: of the average, computed after training.
    evaluations: the most for each image; None takes `num_steps` from the options.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    length: float | None = None
    evaluations: int | None = EVALUATIONS

    def run_name(self) -> str:
        """Return the name of the folder of its run, the same for the same settings."""
        words = [f"{key.rpartition('.')[2]}={value}" for key, value in self.settings.items()]
        return "-".join(["run", *words]).replace("/", "_").replace(" ", "")


def trained(variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Variant]:
    return {name: Variant(settings=settings) for name, settings in variants.items()}


def sampled(variants: Mapping[str, Mapping[str, Any]], **settings: Any) -> dict[str, Variant]:
    return {name: Variant(settings=settings, options=options) for name, options in variants.items()}


SHORT_LENGTHS = (0.02, 0.05, 0.1, 0.15, 0.2)
AVERAGED = {"training.ema_lengths": [0.05, 0.1]}
UNLABELLED = {"model.conditional": False}
CHOICES: dict[str, dict[str, Variant]] = {
    "net": trained(
        {
            PRESET: {},
            "4x4-tokens": {"model.widths": [16, 32, 96, 192], "model.layers": 4, "model.heads": 3},
            "narrow": {"model.widths": [16, 64, 128], "model.layers": 4},
            "deep": {"model.layers": 6},
            "dit": {"model.net": "dit", "model.widths": [256], "model.layers": 6, "model.patch": 4},
            "dit-128": {"model.net": "dit", "model.widths": [128], "model.layers": 6, "model.patch": 4},
            "unet": {"model.net": "unet", "model.widths": [32, 64, 64], "model.layers": 2},
            "unet-128": {"model.net": "unet", "model.widths": [64, 128, 128], "model.layers": 2},
        }
    ),
    "optimizer": trained(
        {
            PRESET: {},
            **{
                f"{name}-{rate:g}": {"optimizer.name": name, "optimizer.learning_rate": rate}
                for name, rates in (("muon", (3e-3, 6e-3, 2e-2)), ("adamw", (3e-4, 1e-3, 2e-3)))
                for rate in rates
            },
            "5-ns-steps": {"optimizer.ns_steps": 5},
            **{f"batch-{size}": {"batch_size": size} for size in (16, 64)},
        }
    ),
    "prediction": trained(
        {
            PRESET: {},
            **{
                f"{prediction}-{times}": {"model.prediction": prediction, "model.times": times}
                for prediction in ("image", "residual", "velocity", "noise")
                for times in ("logit_normal", "uniform")
            },
            "vp-noise": {"model.path": "vp", "model.prediction": "noise"},
            "edm": {"model.path": "edm"},
        }
    ),
    "times": trained(
        {
            PRESET: {},
            "uniform": {"model.times": "uniform"},
            **{f"mean-{mean:g}": {"model.time_mean": mean} for mean in (-0.4, 0, 1.2)},
            "mean-0.6-deviation-1.4": {"model.time_deviation": 1.4},
        }
    ),
    "transport": {
        f"{name}-{count}-evaluations": Variant(
            settings={**UNLABELLED, "model.transport": name}, options={"sampler": "ab2"}, evaluations=count
        )
        for count in (EVALUATIONS, 8)
        for name in ("none", "minibatch", "semidiscrete")
    },
    "ema": trained(
        {
            PRESET: {},
            **{
                f"half-life-{images}": {"training.ema_half_life_images": images}
                for images in (500, 1000, 4000, 8000)
            },
        }
    )
    | {f"length-{length:g}": Variant(settings=AVERAGED, length=length) for length in SHORT_LENGTHS},
    "guidance": sampled(
        {
            PRESET: {},
            **{f"{scale:g}": {"guidance_scale": scale} for scale in (1, 1.25, 1.5, 2)},
            **{
                f"{scale:g}-within": {"guidance_scale": scale, "guidance_start": 0.2, "guidance_end": 0.8}
                for scale in (1.25, 1.5, 2)
            },
        }
    )
    | {
        f"{name}-{scale:g}": variant
        for scale in (1.25, 1.5, 2)
        for name, variant in sampled(
            {"guide": {"guidance": "guide", "guidance_scale": scale}}, **{"model.guide": True}
        ).items()
    },
    "steps": sampled(
        {
            sampler: {"sampler": sampler, "guidance_scale": 1}
            for sampler in ("euler", "heun", "midpoint", "ab2", "dpm++", "stochastic")
        }
    )
    | {
        f"{sampler}-{count}-evaluations": Variant(
            options={"sampler": sampler, "guidance_scale": 1}, evaluations=count
        )
        for sampler in ("euler", "heun", "ab2", "dpm++")
        for count in (4, 8, 12)
    }
    | sampled({f"shift-{shift:g}": {"time_shift": shift} for shift in (0.5, 0.75, 1.5, 2)})
    | {"adaptive": Variant(options={"sampler": "adaptive"}, evaluations=None)},
}


def generated(
    data: str, variant: Variant, seed: int, arguments: argparse.Namespace, out: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train unless it is done, then sample; the samples, and what the training was."""
    budget = scoring.Budget(arguments.minutes, arguments.images)
    asked = dict(setting.split("=", 1) for setting in arguments.set)
    run = scoring.train(
        data,
        preset=arguments.preset,
        seed=seed,
        settings={**asked, **variant.settings},
        out=out / f"{variant.run_name()}-seed-{seed}",
        size=SIZE,
        **budget.settings,
    )
    if variant.length is not None:
        dq.rebuild_ema(run.folder, length=variant.length)
    model = dq.load(run)
    options = dict(variant.options)
    if variant.evaluations is not None:
        options = flow_evaluations.within(model, variant.evaluations, **options)
    samples, evaluations = flow_evaluations.counted(
        model, lambda: model.sample(arguments.count, seed=1, **options)
    )
    facts = {"images": run.images, "images_per_second": round(run.images_per_second), "options": options}
    return samples.array, {**facts, "evaluations": evaluations}


def mean(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the facts of the first with the means of all for each score."""
    means = {
        key: round(statistics.mean(one[key] for one in found), 4)
        for key in ("frechet_distance", "precision", "recall", "images")
    }
    distances = {"of_seeds": [one["frechet_distance"] for one in found]} if len(found) > 1 else {}
    return {**found[0], **means, **distances}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--choice", required=True, choices=list(CHOICES))
    parser.add_argument("--preset", default="flow-32")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", type=int, help="train on this number of images instead")
    parser.add_argument("--seeds", type=int, default=1, help="how often each is trained")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of all")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the variants")
    parser.add_argument("--count", type=int, default=5000, help="how many images are judged")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs, the samples and grids here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    variants = CHOICES[arguments.choice]
    if unknown := [name for name in arguments.only or () if name not in variants]:
        raise SystemExit(f"{', '.join(unknown)}: choose from {', '.join(variants)}.")
    reference = scoring.pixels_of(open_dataset(arguments.data, size=SIZE, split="test"))
    results: dict[str, Any] = {"threads": arguments.threads, "minutes": arguments.minutes}
    for name in arguments.only or variants:
        found = []
        for seed in range(arguments.seeds):
            kept, facts = scoring.kept(
                out,
                f"{arguments.choice}-{name}-seed-{seed}",
                arguments.minutes,
                functools.partial(generated, arguments.data, variants[name], seed, arguments, out),
            )
            found.append({**scoring.score(kept, reference), **facts})
        results[name] = mean(found)
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
