"""The choice of `danqing shrink` beside forms that are exported and timed by hand.

    python benchmarks/shrink.py MODEL --data DATA [--split test] [--rounds 7] [--images 320] [-n 640]

`dq.shrink` chooses a form. Then each form is written by hand, with `Model.save` and `dq.export`, and all are
timed in turns, in another order in each round. Printed are the speed of each form as a multiple of PyTorch in
float32, the ratio of the chosen form to the fastest of all, the bytes of each form as a share of the
original's, the Fréchet distance of its samples as a multiple of the original's, the seconds that `dq.shrink`
took, and the load of the machine before and after.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run folder or a model folder")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test", help="of the data, with which samples are compared")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=320, help="how many each form samples in a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-n", type=int, default=640, help="how many images are scored")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments), indent=2))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was chosen, and what was measured of all forms by hand."""
    import torch

    import danqing as dq
    from danqing.compress.forms import needed_bytes, open_form

    torch.set_num_threads(arguments.threads)
    load = [os.getloadavg()[0]]
    start = time.perf_counter()
    found = dq.shrink(arguments.model, arguments.data, n=arguments.n, split=arguments.split)
    seconds = time.perf_counter() - start
    model = dq.load(arguments.model).unmarked()
    folders = by_hand(model, folder)
    samplers = {name: open_form(path) for name, path in folders.items()}
    seeds = list(range(arguments.images))
    times: dict[str, list[float]] = {name: [] for name in samplers}
    for sample in samplers.values():
        sample(seeds[:16])
    for number in range(arguments.rounds):
        names = list(samplers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            samplers[name](seeds)
            times[name].append(time.perf_counter() - start)
    original = times["PyTorch"]
    speeds = {
        name: statistics.median(a / b for a, b in zip(original, own, strict=True))
        for name, own in times.items()
    }
    chosen = found.chosen or "PyTorch"
    sizes = {name: needed_bytes(path) for name, path in folders.items()}
    distances = {name: frechet(sample, arguments) for name, sample in samplers.items()}
    return {
        "chosen": chosen,
        "verdict": found.verdict,
        "seconds_of_shrink": round(seconds, 1),
        "chosen_of_fastest": round(speeds[chosen] / max(speeds.values()), 3),
        "times_as_fast": {name: round(speed, 2) for name, speed in speeds.items()},
        "times_as_fast_in_shrink": {one.name: round(one.speedup, 2) for one in found.forms},
        "share_of_bytes": {name: round(size / sizes["PyTorch"], 3) for name, size in sizes.items()},
        "frechet": round(distances["PyTorch"], 2),
        "times_the_frechet": {
            name: round(value / distances["PyTorch"], 3) for name, value in distances.items()
        },
        "load": [round(one, 1) for one in (*load, os.getloadavg()[0])],
    }


def by_hand(model: Any, folder: Path) -> dict[str, Path]:
    """Write all forms of a model with the public functions; return their folders by name."""
    import danqing as dq
    from danqing.model.model import Model

    images = model.sample(4)
    found = {"PyTorch": model.save(folder / "torch", images)}
    found["PyTorch fp16 weights"] = model.save(folder / "half", images, half=True)
    if "precision" not in model.sample_options:
        fast = Model(model.family, {**model.facts, "sampling_precision": "auto"}).unmarked()
        found["PyTorch bf16"] = fast.save(folder / "bf16", images, half=True)
    exports = {
        "onnx": {"ONNX float32": "float32", "ONNX fp16 weights": "fp16", "ONNX int8": "int8"},
        "openvino": {
            "OpenVINO float32": "float32",
            "OpenVINO fp16 weights": "fp16",
            "OpenVINO bf16": "bf16",
        },
    }
    for target, precisions in exports.items():
        for name, precision in precisions.items():
            out = folder / f"{target}-{precision}"
            found[name] = dq.export(model, out, to=target, precision=precision)  # type: ignore[arg-type]
    return found


def frechet(sample: Any, arguments: argparse.Namespace) -> float:
    """Return the Fréchet distance of a form's samples from real images."""
    import numpy as np

    import danqing as dq
    from danqing.compress.measuring import seeds_of
    from danqing.evaluation.features import extract
    from danqing.evaluation.frechet import frechet_distance
    from danqing.evaluation.generated_images import store_images
    from danqing.evaluation.image_sets import spread_evenly
    from danqing.evaluation.networks import open_network

    images = sample(seeds_of(0, arguments.n))
    n, height, width, channels = images.shape
    network = open_network()
    size = (width, height)
    real = dq.open_dataset(arguments.data, split=arguments.split, size=size, channels=channels)
    real = real.subset(spread_evenly(len(real), min(len(real), 2000)))
    stored = store_images([images], (n, height, width, channels), np.full(n, -1), ())
    return frechet_distance(extract(stored, network, keep=False), extract(real, network, keep=True)).value


if __name__ == "__main__":
    main()
