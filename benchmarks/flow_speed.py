"""Speed of flow matching beside the `UNet2DModel` of diffusers 0.42.1 and the loop of its example.

    python benchmarks/flow_speed.py --peers PEERS/bin/python [training] [sampling] [--preset flow-32]
        [--data digits] [--channels 3] [--turns 5] [--seconds 4] [--threads 2]

`flow_peers.py` says how to make PEERS. The peer works in a process of its own, in turns with ours and in
float32 as its example does, on a U-Net of 64, 128 and 128 channels with two blocks per level and attention
at 8×8. "unet" is our U-Net of that shape in batches of the same size, with its own optimiser, AdamW; the
preset is taken as it is. Ours is the trainer's own step: reading the packed data, the optimiser and the
moving average.

training: images per second, both ratios to the peer, gigaflops of each network per image, forward and
backward (without the products inside attention), and the share of the machine's best matrix product that
ours uses.
sampling: images per second of 16 images at once with at most 24 evaluations of our networks, guidance
included, against DPM-Solver++ with 25. --guidance sets a scale other than the preset's; more evaluations
are then spent at each step, and there are fewer steps. Weights are random, which does not change the speed.
Prints one JSON object per part; a ratio is the median over the turns.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flow_evaluations
import numpy as np
import scoring
import torch
from flow_peers import parameters_of
from peak import peak_flops
from torch.utils.flop_counter import FlopCounterMode

from danqing import families
from danqing.data import Batches, Dataset, open_dataset
from danqing.model.model import Model
from danqing.precision import candidates
from danqing.randomness import generator
from danqing.training.config import RunConfig
from danqing.training.config_reading import parse, resolve
from danqing.training.engine import Engine

CPU = torch.device("cpu")
SIZE, PEER_BATCH, EVALUATIONS, CHUNK, TOTAL = (32, 32), 16, 24, 16, 1_000_000
SAME_UNET = {
    "family": "flow",
    "batch_size": PEER_BATCH,
    "model": {"net": "unet", "widths": (64, 128, 128), "layers": 2, "heads": 16, "conditional": False},
    "optimizer": {"name": "adamw", "learning_rate": 1e-4, "betas": (0.95, 0.999), "weight_decay": 1e-6},
    "training": {"clip_norm": 1.0},
}
Work = Callable[[str, float], float]
"""From "training" or "sampling" and seconds to the images per second of that time."""


class Ours:
    """Our step and our sampling for one configuration."""

    def __init__(self, config: RunConfig, dataset: Dataset, guidance: float | None) -> None:
        config = config.for_data(dataset)
        batches = Batches(dataset, config.batch_size, 0, augment=dataset.info.augment)
        self.engine = Engine(config, batches, CPU, candidates(CPU)[0])
        self.model = Model(families.build(config.model))
        asked = {} if guidance is None else {"guidance_scale": guidance}
        self.options = flow_evaluations.within(self.model, EVALUATIONS, **asked)
        self.steps = 0

    def work(self, kind: str, seconds: float) -> float:
        once = self.train if kind == "training" else self.sample
        done, begun = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            done += once()
        return done / elapsed

    def train(self) -> int:
        batch: int = self.engine.images_per_step
        self.engine.step(self.steps * batch, self.steps, TOTAL)
        self.steps += 1
        return batch

    def sample(self) -> int:
        self.model.sample(CHUNK, seed=1, **self.options)
        return CHUNK

    def evaluations(self) -> float:
        _, found = flow_evaluations.counted(
            self.model, lambda: self.model.sample(CHUNK, seed=1, **self.options)
        )
        return found

    def gigaflops(self) -> float:
        """Of training on one image, forward and backward."""
        batch, (phase,) = self.engine.batches.at(0), self.engine.phases
        with FlopCounterMode(display=False) as counter:
            self.engine.learner.loss(batch, phase, generator(0, "flops")).total.backward()
        return float(round(counter.get_total_flops() / len(batch) / 1e9, 3))


@contextmanager
def diffusers(python: str, images: np.ndarray, threads: int) -> Iterator[tuple[Work, dict[str, Any]]]:
    """Start the peer; what lets it work, and what it says of its network."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images)
        script = str(Path(__file__).with_name("flow_peers.py"))
        command = [python, script, "diffusers", "--images", str(file), "--speed", "--threads", str(threads)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            given, taken = process.stdin, process.stdout

            def answer() -> str:
                line = taken.readline()
                if not line:
                    raise SystemExit(f"The peer ended with exit code {process.wait()}.")
                return line

            def work(kind: str, seconds: float) -> float:
                print(kind, seconds, file=given, flush=True)
                return float(answer())

            ready = answer()
            while not ready.startswith("ready "):
                ready = answer()
            yield work, json.loads(ready.removeprefix("ready "))
            given.close()


def in_turns(works: Mapping[str, Work], kind: str, turns: int, seconds: float) -> dict[str, list[float]]:
    """Images per second of each, turn by turn, after a first one that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            speed = work(kind, seconds)
            if turn:
                speeds[name].append(speed)
    return speeds


def ratio(speeds: Mapping[str, list[float]], name: str) -> float:
    """How many times as fast `name` is as diffusers."""
    pairs = zip(speeds[name], speeds["diffusers"], strict=True)
    return round(statistics.median(ours / theirs for ours, theirs in pairs), 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # argparse holds the absence of parts, an empty list, against the choices.
    parser.add_argument("parts", nargs="*", choices=["training", "sampling", []], metavar="PART")
    parser.add_argument("--peers", required=True, help="the Python of the virtual environment of the peers")
    parser.add_argument("--preset", default="flow-32")
    parser.add_argument("--data", default="digits", help="images to train on, resized to 32×32")
    parser.add_argument("--channels", type=int, default=3, choices=[1, 3])
    parser.add_argument("--guidance", type=float, help="the guidance scale of sampling")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    scoring.pin_threads(arguments.threads)
    dataset = open_dataset(arguments.data, size=SIZE, channels=arguments.channels)
    preset = Ours(resolve(preset=arguments.preset), dataset, arguments.guidance)
    unet = Ours(parse(SAME_UNET), dataset, None)
    precision = candidates(CPU)[0]
    shared = {"threads": arguments.threads, "precision": precision, "channels": arguments.channels}
    with diffusers(arguments.peers, scoring.pixels_of(dataset), arguments.threads) as (theirs, facts):
        works = {"diffusers": theirs, "unet": unet.work, arguments.preset: preset.work}
        for part in arguments.parts or ("training", "sampling"):
            speeds = in_turns(works, part, arguments.turns, arguments.seconds)
            medians = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
            found: dict[str, Any] = {"part": part, "images_per_second": medians, **shared}
            found["ratio"] = {name: ratio(speeds, name) for name in ("unet", arguments.preset)}
            if part == "training":
                peak = peak_flops(precision)
                flops = {"unet": unet.gigaflops(), arguments.preset: preset.gigaflops()}
                found["gigaflops_per_image"] = {"diffusers": facts["training_gigaflops"], **flops}
                found["parameters"] = {"diffusers": facts["parameters"]} | {
                    name: parameters_of(ours.engine.learner)
                    for name, ours in (("unet", unet), (arguments.preset, preset))
                }
                found["peak_teraflops"] = round(peak / 1e12, 2)
                found["model_flops_utilisation"] = {
                    name: round(medians[name] * flops[name] * 1e9 / peak, 3) for name in flops
                }
            else:
                found["options"] = {**preset.model.sample_options, **preset.options}
                found["evaluations"] = {"diffusers": 25, "unet": unet.evaluations()}
                found["evaluations"][arguments.preset] = preset.evaluations()
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
