"""A student of half the width beside the same model trained alone for as long.

    python benchmarks/student.py MODEL --data DATA --minutes 5 [-n 2000] [--seed 0]

MODEL is a run folder. Two models of half its width are trained on the same data, one with the run as its
teacher and one without. They train in turns on one machine, each for the same minutes, with the same settings
and seed. Printed are the Fréchet and kernel distances of both and of the teacher from held-out images, the
ratio of the two, the images that each has seen, and the load of the machine.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a run folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("-n", type=int, default=2000, help="how many images are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a folder that keeps both runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments.out or Path(folder), arguments), indent=2))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train both and score all."""
    from danqing.compress.student import train_student

    models = {"teacher": arguments.model}
    load = {}
    for name in ("student", "alone"):
        is_alone = name == "alone"
        load[name] = [os.getloadavg()[0]]
        out = folder / name
        shared: dict[str, Any] = {"minutes": arguments.minutes, "seed": arguments.seed}
        models[name] = train_student(arguments.model, arguments.data, out, is_alone=is_alone, **shared)
        load[name].append(os.getloadavg()[0])
    scores = {name: score(model, arguments) for name, model in models.items()}
    ratio = scores["student"]["frechet"] / scores["alone"]["frechet"]
    return {"student_of_alone": round(ratio, 3), **scores, "load": load}


def score(model: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the distances of a model from held-out images, its parameters and the images it has seen."""
    import danqing as dq

    found = dq.evaluate(model, arguments.data, metrics="frechet,kernel", n=arguments.n, seed=arguments.seed)
    info = dq.load(model).info()
    seen = {"parameters": info["parameters"], "images_seen": info["trained"].get("images", 0)}
    return {one.metric: round(one.value, 4) for one in found.scores} | seen


if __name__ == "__main__":
    main()
