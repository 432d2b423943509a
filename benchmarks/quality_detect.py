"""Detection after some minutes: `--task detect` on the drawn scenes, whose boxes are exact.

    python benchmarks/quality_detect.py [--data streets cells] [--minutes 15] [--size 128] [--images COUNT]
        [--set KEY=VALUE ...] [--out FOLDER]

It learns from the 4,000 training images of each set and is scored on the 500 test images. Prints one JSON
object: for each data set the mAP50 and the mAP over overlaps from 0.5 to 0.95, with 95% intervals, and the
images seen. --images trains for as many images as an idle machine sees in the minutes. The runs are kept in
FOLDER: the same command continues after an interruption.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import scoring
from scoring import Budget

import danqing as dq


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["streets", "cells"])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, help="a budget in images instead")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    out = scoring.folder_for(arguments.out)
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    results: dict[str, Any] = {"minutes": arguments.minutes, "threads": arguments.threads}
    for data in arguments.data:
        run = scoring.train(
            data,
            task="detect",
            size=(arguments.size, arguments.size),
            settings={"evaluation.every_images": 0, **settings},
            out=out / data.replace(":", "-"),
            **Budget(arguments.minutes, arguments.images).settings,
        )
        found = dq.evaluate(run, data, split="test")
        results[data] = {
            score.metric: [round(value, 4) for value in (score.value, *(score.interval or ()))]
            for score in found.scores
            if "/" not in score.metric
        }
        facts = {"images": run.images, "images_per_second": round(run.images_per_second, 1)}
        results[data] |= facts | {"judged": found.scores[0].images}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
