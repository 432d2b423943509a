"""Speed, start and memory of exported models, beside PyTorch.

    python benchmarks/export_speed.py [--preset gan-32] [--size 32] [--rounds 7] [--images 64] [--threads 1]

The networks of a preset, which nobody trained, sample in one process: PyTorch in bfloat16, ONNX Runtime in
float32 and OpenVINO in bfloat16, in turns and in changing order, so that other load on the machine affects
all. The median of each, and its ratio to PyTorch, are printed. Then a process without PyTorch is started for
each export: the seconds from its start to its first picture, and its resident memory beyond that of an
interpreter with the same model's files in memory.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FIRST_PICTURE = """
import sys
from danqing.compress.runtime import load
load(sys.argv[1], marks="none", threads=int(sys.argv[2])).sample(1, seed=1)
assert "torch" not in sys.modules
kilobytes = next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]
print(int(kilobytes) * 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="gan-32")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64, help="how many each runtime samples in a round")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments)
    print(json.dumps(found, indent=2))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """Return the speeds of all runtimes, and the starts of those without PyTorch."""
    import torch

    import danqing as dq
    from danqing import families, presets
    from danqing.compress.runtime import load
    from danqing.model.model import Model
    from danqing.precision import autocast

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    preset = presets.read(arguments.preset)
    shape = {"width": arguments.size, "height": arguments.size, "channels": 3}
    config = families.parse_config({"family": preset["family"], **preset["model"], **shape})
    model = Model(families.build(config)).unmarked()
    model.family.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    onnx = dq.export(model, folder / "onnx", to="onnx")
    openvino = dq.export(model, folder / "openvino", to="openvino", precision="bf16")
    exported = {
        "onnxruntime float32": load(onnx, marks="none", threads=arguments.threads),
        "openvino bf16": load(openvino, marks="none", threads=arguments.threads),
    }
    own: dict[str, Any] = {"precision": "bfloat16"} if "precision" in model.sample_options else {}

    def torch_bf16() -> None:
        with autocast("bfloat16", model.device):
            model.sample(arguments.images, seed=1, **own)

    runs: dict[str, Callable[[], object]] = {"torch bf16": torch_bf16}
    for name, each in exported.items():
        runs[name] = functools.partial(each.sample, arguments.images, seed=1)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(arguments.rounds):
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        for name in order:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: statistics.median(
            torch_s / own_s for torch_s, own_s in zip(seconds["torch bf16"], times, strict=True)
        )
        for name, times in seconds.items()
    }
    return {
        "preset": arguments.preset,
        "images_per_second": {
            name: round(arguments.images / statistics.median(times), 1) for name, times in seconds.items()
        },
        "ratio_to_torch_bf16": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "start": {path.name: start_of(path, arguments.threads) for path in (onnx, openvino)},
    }


def start_of(folder: Path, threads: int) -> dict[str, float]:
    """Return the seconds to the first picture (the best of 3), and megabytes beyond the files."""
    files = sum(file.stat().st_size for file in folder.iterdir())
    seconds, resident = [], 0
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-c", _FIRST_PICTURE, str(folder), str(threads)]
        resident = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        seconds.append(time.perf_counter() - start)
    return {"seconds": round(min(seconds), 2), "megabytes_beyond_model": round((resident - files) / 1e6, 1)}


if __name__ == "__main__":
    main()
