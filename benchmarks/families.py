"""Families on one data set: quality, variety, copies, speed and memory, and a picture of what they generate.

    python benchmarks/families.py --data emoji --size 64 --presets gan-64 flow-64 vae-64 --out FOLDER
        [--minutes 45] [--images NAME=COUNT ...] [--set [NAME:]KEY=VALUE ...] [--name emoji] [-n 5000]
        [--picture docs/images/families-emoji.png] [--add] [--threads 1]

Every preset trains for the minutes in FOLDER/NAME; --images NAME=N trains it for as many images as an idle
machine sees in them, so that a busy machine has the same result. It is then scored as `danqing evaluate` does
it, against the data's test split or what the run held out. The speed of sampling is measured at the end, of
all models in turns, 64 images at once with the preset's own options.

Prints one JSON object, and a Markdown table of it on stderr. --picture draws real images and those of each
family, whose seeds and labels are the same; nothing is chosen. --add appends the runs to
`training/measured_runs.toml`, and `danqing train` then names them before similar ones. What was measured is
kept in FOLDER: the same command continues after an interruption.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scoring
import tomli_w

import danqing as dq
from danqing import atomic
from danqing.data.splits import open_held
from danqing.evaluation.scores import Score
from danqing.images import Images
from danqing.sheet import Sheet
from danqing.training.config_reading import from_toml
from danqing.training.measured_runs import TABLE, MeasuredRun
from danqing.training.outcome import Run
from danqing.training.run_folder import RunFolder

METRICS = {"frechet": "Fréchet distance", "kernel": "kernel distance"}
NEVER = 10**9
"""More images than a run sees: held-out images are scored only at its end."""
SHOWN = 36
SAMPLED = 64
TURNS = 3
ROWS = {
    "kernel": "kernel distance ↓",
    "frechet": "Fréchet distance ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density ↑",
    "coverage": "coverage ↑",
    "diversity": "diversity within a label (real: 1)",
    "memorised/copies": "copies of training images",
}


def trained(preset: str, arguments: argparse.Namespace) -> Run:
    budget = scoring.budgets(arguments.minutes, arguments.images)(preset)
    settings = {}
    for key, _, value in (one.partition("=") for one in arguments.set):
        name, _, key = key.rpartition(":")
        if name in ("", preset):
            settings[key] = value
    return scoring.train(
        arguments.data,
        preset=preset,
        size=(arguments.size, arguments.size),
        settings={"evaluation.keep": "last", **settings},
        evaluate_every=NEVER,
        out=arguments.out / preset,
        **budget.settings,
    )


def scored(run: Run, arguments: argparse.Namespace) -> list[Score]:
    """Return all scores of a run, which are measured once."""
    file = arguments.out / f"{run.folder.name}.json"
    if not file.exists():
        scores = dq.evaluate(run, arguments.data, n=arguments.count).scores
        atomic.write_json(file, [score.model_dump(mode="json") for score in scores])
    return [Score.model_validate(score) for score in json.loads(file.read_text())]


def sampling_speeds(runs: dict[str, Run]) -> dict[str, float]:
    """Return the images per second of sampling with each run's model, the medians of some turns."""
    models = {name: dq.load(run) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.sample(SAMPLED, seed=turn)
            if turn:  # the first warms up
                found[name].append(SAMPLED / (time.perf_counter() - start))
    return {name: median(rates) for name, rates in found.items()}


def picture(runs: dict[str, Run], arguments: argparse.Namespace) -> Sheet:
    """Draw real images, which nobody was trained with, and those of each run, in one grid each."""
    held = open_held(arguments.data, 0.1, size=(arguments.size, arguments.size)).judged
    rows = np.random.default_rng(0).permutation(len(held))[:SHOWN]
    grids = {"real images": Images(held.images(rows))}
    for name, run in runs.items():
        grids[name] = dq.load(run).sample(SHOWN, seed=1)
    return Sheet(
        Images(np.stack([np.asarray(images.grid().convert("RGB")) for images in grids.values()])),
        list(grids),
        columns=2,
    )


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the results as Markdown, one column for each run."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in found) + " |", "|---" * (len(found) + 1) + "|"]
    for metric, title in ROWS.items():
        values = [one["scores"].get(metric) for one in found.values()]
        if any(values):
            cells = [_cell(value) for value in values]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    for key, title in (
        ("images", "images seen"),
        ("sampled_per_second", "sampling, images per second"),
        ("megabytes", "peak memory in training, MB"),
        ("parameters", "parameters, millions"),
    ):
        lines.append(f"| {title} | " + " | ".join(f"{one[key]:,}" for one in found.values()) + " |")
    return "\n".join(lines)


def _cell(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    ends = f" ({value['interval'][0]:.4g} to {value['interval'][1]:.4g})" if value["interval"] else ""
    return f"{value['value']:.4g}{ends}"


def entry(
    run: Run, score: Score, *, preset: str, data: str, minutes: float, machine: str, source: str
) -> dict[str, Any]:
    """Return the entry of a run for the table, whose score is of one of METRICS."""
    config = from_toml(RunFolder(run.folder).config_file)
    assert config.size is not None
    measured = MeasuredRun(
        preset=preset,
        family=config.family,
        data=data,
        size=config.size,
        minutes=minutes,
        images=run.images,
        machine=machine,
        metric=METRICS[score.metric],
        score=float(f"{score.value:.4g}"),
        source=source,
    )
    return measured.model_dump(mode="json")


def add(values: dict[str, Any]) -> None:
    """Append an entry to the table unless it is there."""
    text, known = tomli_w.dumps({"runs": [values]}), TABLE.read_text(encoding="utf-8")
    if text not in known:
        atomic.write_text(TABLE, f"{known}\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", help="what the data is called; by default, as its folder")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--presets", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--minutes", type=float, default=45.0)
    parser.add_argument("--images", nargs="*", default=[], metavar="NAME=COUNT")
    parser.add_argument("--set", nargs="*", default=[], metavar="[NAME:]KEY=VALUE")
    parser.add_argument("-n", dest="count", type=int, default=5000, help="how many images are scored")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--metric", default="kernel", choices=sorted(METRICS))
    parser.add_argument("--machine", default="one core")
    parser.add_argument("--source", default="docs/results.md")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = arguments.name or Path(arguments.data).stem
    runs: dict[str, Run] = {}
    found: dict[str, dict[str, Any]] = {}
    for preset in arguments.presets:
        runs[preset] = run = trained(preset, arguments)
        scores = scored(run, arguments)
        found[preset] = {
            "images": run.images,
            "minutes": arguments.minutes,
            "parameters": round(dq.load(run).info()["parameters"] / 1e6, 2),
            "megabytes": round((run.cost.get("peak_memory_bytes") or 0) / 1e6),
            "scores": {
                score.metric: {"value": score.value, "interval": score.interval, "how": str(score)}
                for score in scores
                if score.metric in ROWS
            },
        }
        print(preset, json.dumps(found[preset], ensure_ascii=False), file=sys.stderr, flush=True)
        if arguments.add:
            score = next(score for score in scores if score.metric == arguments.metric)
            facts = {"minutes": arguments.minutes, "machine": arguments.machine, "source": arguments.source}
            add(entry(run, score, preset=preset, data=data, **facts))
    for preset, rate in sampling_speeds(runs).items():
        found[preset]["sampled_per_second"] = round(rate, 1)
    print(table(found), file=sys.stderr)
    if arguments.picture:
        picture(runs, arguments).save(arguments.picture)
    print(json.dumps(found, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
