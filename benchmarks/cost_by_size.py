"""What training and sampling cost at each size of images, beside what was estimated before the first step.

    python benchmarks/cost_by_size.py --out FOLDER [--families flow gan vae] [--sizes 32 64 128 256]
        [--data emoji] [--seconds 60] [--threads 2] [--plot docs/images/cost-by-size.svg]

Every family and size trains for about `--seconds`, each in its own process, with the preset of that size, or
with the largest preset below it and `--size`. A process before it takes one step, to know how many images
that is. A third one samples from the model. Prints one JSON object. For each family and size it holds:
seconds per 1,000 images of training (without grids) and of sampling, the peaks of memory, the share of the
time that grids took, and the ratios of estimate to measurement for the time and the peak of training. At the
end come the largest deviations; the goals are 0.20 for time and 0.15 for memory. A run of two stages
counts as one: the estimate is what was known before the first step of the first, encoding included.

What was measured is kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import scoring

from danqing import atomic, presets
from danqing.training.report.curves import COLOURS, HEIGHT, WIDTH, Series, chart

TIME_GOAL, MEMORY_GOAL = 0.20, 0.15
STYLE = """
text { font: 11px sans-serif; fill: #5c5c5c; } .title { font-size: 13px; fill: #222; }
.grid { stroke: #dddddd; } polyline { fill: none; stroke: currentColor; stroke-width: 1.8; }
.raw, .cursor { display: none; } .c1 { color: #1f6690; } .c2 { color: #b93a25; } .c3 { color: #2f7d5b; }
.c4 { color: #96690f; } .c5 { color: #74498c; } circle { fill: currentColor; }
"""
FIGURES = {
    "training_seconds": "Training, seconds per 1,000 images",
    "sampling_seconds": "Sampling, seconds per 1,000 images",
    "training_peak_megabytes": "Peak memory of training, MB",
}


def preset_for(family: str, side: int) -> str:
    """The preset of a family for images of that side, or the largest one below it."""
    sides = sorted(
        int(found[1])
        for name in presets.names()
        if (found := re.fullmatch(rf"{family}-(\d+)", name)) and int(found[1]) <= side
    )
    if not sides:
        raise SystemExit(f"The family {family} has no preset for {side}x{side} pixels or fewer.")
    return f"{family}-{sides[-1]}"


def train(preset: str, side: int, images: int, data: str, out: Path) -> dict[str, Any]:
    """Train in this process; the plan, and what the run took."""
    import danqing as dq

    plans = []

    class Keeps(dq.Listener):
        def on_plan(self, plan: Any) -> None:
            plans.append(plan)

    run = scoring.train(
        data, preset=preset, size=(side, side), images=images, out=out, evaluate_every=0, listener=Keeps()
    )
    plan, then = plans[0], plans[0].then
    first = run.tokenizer["images"] if run.tokenizer else 0
    speeds = [one.images_per_second for one in (plan, then) if one is not None]
    return {
        "batch_size": plan.batch_size,
        "images_per_second": statistics.harmonic_mean(speeds),
        "grid_seconds": sum(each.grid_seconds for each in plans),
        "estimated_seconds": plan.seconds + (then.seconds + then.codes_seconds if then else 0),
        "estimated_bytes": max(one.memory_bytes for one in (plan, then) if one is not None),
        "micro_batch": plan.micro_batch,
        "checkpointing": plan.checkpointing,
        "precision": plan.precision,
        "seconds": run.seconds,
        "images": first + run.images,
        "peak_bytes": run.cost["peak_memory_bytes"],
    }


def sample(run: Path, seconds: float) -> dict[str, Any]:
    """Sample in this process; seconds per 1,000 images, and the peak of memory."""
    import danqing as dq
    from danqing import machine

    model = dq.load(run)
    chunk = model.family.chunk
    model.sample(chunk)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        model.sample(chunk, seed=count)
        count += chunk
    spent = time.perf_counter() - started
    return {
        "seconds_per_thousand": 1000 * spent / count,
        "peak_bytes": machine.peak_memory(model.device),
    }


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Run a part of this benchmark in a process of its own, whose peak of memory is its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(family: str, side: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one family at one size."""
    preset, folder = preset_for(family, side), options.out / f"{family}-{side}"
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was interrupted
    same = ["--out", str(folder), "--data", options.data, "--threads", str(options.threads)]

    def part(name: str, *more: str) -> dict[str, Any]:
        return in_a_process("--part", name, "--preset", preset, "--sizes", str(side), *same, *more)

    first = part("train", "--images", "1")
    images = max(20 * first["batch_size"], round(first["images_per_second"] * options.seconds))
    trained = part("train", "--images", str(images))
    sampled = part("sample", "--seconds", str(max(2.0, options.seconds / 10)))
    grids = 10 * trained["grid_seconds"]
    return {
        "preset": preset,
        "training_seconds": round(1000 * (trained["seconds"] - grids) / trained["images"], 3),
        "sampling_seconds": round(sampled["seconds_per_thousand"], 3),
        "training_peak_megabytes": round(trained["peak_bytes"] / 1e6),
        "sampling_peak_megabytes": round(sampled["peak_bytes"] / 1e6),
        "share_of_grids": round(grids / trained["seconds"], 3),
        "time_ratio": round(trained["estimated_seconds"] / trained["seconds"], 3),
        "memory_ratio": round(trained["estimated_bytes"] / trained["peak_bytes"], 3),
        **{name: trained[name] for name in ("images", "micro_batch", "checkpointing", "precision")},
    }


def plot(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One SVG of all figures, over the side of the images."""
    families = sorted({name.rpartition("-")[0] for name in results})
    parts, high = [], HEIGHT + 34
    for number, (key, title) in enumerate(FIGURES.items()):
        series = []
        for family in families:
            own = sorted(
                (int(name.rpartition("-")[2]), one[key])
                for name, one in results.items()
                if name.rpartition("-")[0] == family
            )
            series.append(Series(family, [float(side) for side, _ in own], [value for _, value in own]))
        body = re.search(r"<svg[^>]*>(.*)</svg>", chart(title, series), re.DOTALL)
        assert body is not None
        parts.append(
            f'<g transform="translate(0 {number * high})"><text class="title" x="10" y="18">{escape(title)}'
            f'</text><g transform="translate(0 24)">{body[1]}</g></g>'
        )
    keys = "".join(
        f'<g class="c{number % COLOURS + 1}"><circle cx="{60 + 90 * number}" cy="10" r="4"/>'
        f'<text x="{70 + 90 * number}" y="14">{escape(family)}</text></g>'
        for number, family in enumerate(families)
    )
    height = len(FIGURES) * high + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" '
        f'height="{2 * height}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'{"".join(parts)}<g transform="translate(0 {len(FIGURES) * high})">{keys}</g></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--families", nargs="+", default=["flow", "gan", "vae"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128, 256])
    parser.add_argument("--data", default="emoji")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    parser.add_argument("--part", choices=["train", "sample"], help=argparse.SUPPRESS)
    parser.add_argument("--preset", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scoring.pin_threads(options.threads)
    if options.part == "train":
        out = options.out / ("first" if options.images == 1 else "run")
        print(json.dumps(train(options.preset, options.sizes[0], options.images, options.data, out)))
        return
    if options.part == "sample":
        print(json.dumps(sample(options.out / "run", options.seconds)))
        return
    results: dict[str, Any] = {}
    for family in options.families:
        for side in options.sizes:
            file = options.out / f"{family}-{side}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(file, measure(family, side, options))
            results[f"{family}-{side}"] = json.loads(file.read_text())
            print(f"{family}-{side}", results[f"{family}-{side}"], file=sys.stderr, flush=True)
    if options.plot:
        atomic.write_text(options.plot, plot(results))
    worst = {
        name: round(max(abs(one[f"{name}_ratio"] - 1) for one in results.values()), 3)
        for name in ("time", "memory")
    }
    within = worst["time"] <= TIME_GOAL and worst["memory"] <= MEMORY_GOAL
    print(json.dumps({"results": results, "largest_deviation": worst, "within_goals": within}, indent=2))


if __name__ == "__main__":
    main()
