"""Train a preset, score it, and print its entry for the table of measured runs.

    python benchmarks/measured_run.py --preset flow-32 --data DIR --out FOLDER [--name Fashion-MNIST]
        [--minutes 5 | --images COUNT] [--metric frechet] [--samples 5000] [--machine "two cores"]
        [--source docs/results.md] [--add]

The score is against the data's test split, or what `danqing evaluate` takes if there is none. `--images`
trains for as many images as an idle machine sees in `--minutes`, so that a busy machine has the same result.
`--add` appends the entry to `training/measured_runs.toml`, and `danqing train` then names the run before
similar ones. The same command continues after an interruption.
"""

import argparse
import json
from pathlib import Path

import scoring
import tomli_w

import danqing as dq
from danqing import atomic
from danqing.training.config_reading import from_toml
from danqing.training.measured_runs import TABLE, MeasuredRun
from danqing.training.run_folder import RunFolder

METRICS = {"frechet": "Fréchet distance", "kernel": "kernel distance"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", help="the name of the data in the entry; by default, of its folder")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metric", default="frechet", choices=sorted(METRICS))
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--machine", default="two cores")
    parser.add_argument("--source", default="docs/results.md")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="append the entry to the table")
    options = parser.parse_args()
    scoring.pin_threads(options.threads)
    budget = scoring.Budget(options.minutes, options.images)
    run = scoring.train(
        options.data,
        preset=options.preset,
        out=options.out,
        seed=options.seed,
        evaluate_every=0,
        **budget.settings,
    )
    scores = dq.evaluate(run, options.data, metrics=[options.metric], n=options.samples).scores
    score = next(score for score in scores if score.metric == options.metric)
    config = from_toml(RunFolder(run.folder).config_file)
    assert config.size is not None
    entry = MeasuredRun(
        preset=options.preset,
        family=config.family,
        data=options.name or Path(options.data).name,
        size=config.size,
        minutes=options.minutes,
        images=run.images,
        machine=options.machine,
        metric=METRICS[options.metric],
        score=float(f"{score.value:.4g}"),
        source=options.source,
    )
    values = entry.model_dump(mode="json")
    text = tomli_w.dumps({"runs": [values]})
    if options.add:
        atomic.write_text(TABLE, f"{TABLE.read_text(encoding='utf-8')}\n{text}")
    facts = {"images_per_second": round(run.images_per_second), "interval": score.interval, "how": str(score)}
    print(json.dumps({"entry": values, **facts}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
