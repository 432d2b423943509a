"""A contestant of `busy_machine.py`: a process that does one kind of work until it is stopped.

    python benchmarks/busy_contestant.py gan training [--data digits]

It prints "ready" on stdout when everything is loaded and warm. Each line on stdin is then a number of seconds
to work; it answers with the images per second of that time.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from gan_speed import CONFIG, plain_loop

from danqing import families
from danqing.data import Batches, Dataset, open_dataset
from danqing.evaluation.networks import open_network
from danqing.families.abilities import Tokenizes
from danqing.families.base import Family
from danqing.images import Images
from danqing.model.model import Model
from danqing.training.codes import CodedBatches, Codes, batch_options
from danqing.training.config_reading import parse, resolve
from danqing.training.engine import Engine

PRESETS = {"gan": "gan-32", "vae": "vae-32", "vqvae": "vqvae-32", "transformer": "transformer-32"}
CPU = torch.device("cpu")
WARM_SECONDS = 0.8
PAINTED, READ = 64, 256
"""How many images one piece of work samples, and how many it gives to the feature network."""
Work = tuple[Callable[[], object], int]
"""A piece of work, and its number of images."""


def plain(dataset: Dataset) -> Work:
    """Return a step of a typical tutorial's DCGAN, in float32."""
    config = parse(CONFIG).for_data(dataset)
    engine = Engine(config, Batches(dataset, config.batch_size, 0), CPU, "float32")
    return plain_loop(engine), config.batch_size


def engine_of(family: str, dataset: Dataset) -> Engine:
    """Return the trainer's engine for a preset; a transformer learns random codes."""
    config = resolve(preset=PRESETS[family])
    if config.tokenizer is None:
        config = config.for_data(dataset)
        return Engine(config, Batches(dataset, **batch_options(config, dataset, CPU)), CPU, "bfloat16")
    tokenizer = families.build(parse(config.tokenizer.settings).for_data(dataset).model)
    assert isinstance(tokenizer, Tokenizes)
    config = config.for_data(dataset, {"tokenizer": tokenizer.config.model_dump()})
    shape = (len(dataset), *tokenizer.code_shape)
    codes = np.random.default_rng(0).integers(0, tokenizer.vocabulary, shape)
    batches = CodedBatches(
        dataset, Codes(lambda places: codes[places], len(dataset)), **batch_options(config, dataset, CPU)
    )
    return Engine(config, batches, CPU, "bfloat16")


def training(family: str, dataset: Dataset) -> Work:
    """Return a step of the trainer's engine."""
    engine, steps = engine_of(family, dataset), 0

    def step() -> None:
        nonlocal steps
        engine.step(steps * engine.images_per_step, steps, 1_000_000)
        steps += 1

    return step, engine.images_per_step


def sampling(family: str, dataset: Dataset) -> Work:
    """Sample images from a model with random weights; a tokenizer reconstructs images."""
    learner = engine_of(family, dataset).learner
    assert isinstance(learner, Family)
    model = Model(learner)
    if not model.family.has_prior:
        pictures = Images(dataset.images(np.arange(PAINTED)).numpy())
        return lambda: model.reconstruct(pictures), PAINTED
    return lambda: model.sample(PAINTED, seed=1), PAINTED


def evaluation(dataset: Dataset) -> Work:
    """Compute features with the default network, which takes most of the time of a score."""
    network, pixels = open_network("auto"), dataset.images(np.arange(READ))
    return lambda: network.features(pixels), READ


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=[*PRESETS, "plain", "features"])
    parser.add_argument("task", choices=["training", "sampling", "evaluation"])
    parser.add_argument("--data", default="digits", help="images to work on, resized to 32×32")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    dataset = open_dataset(arguments.data, size=(32, 32))
    if arguments.task == "evaluation":
        work, images = evaluation(dataset)
    elif arguments.family == "plain":
        work, images = plain(dataset)
    else:
        work, images = {"training": training, "sampling": sampling}[arguments.task](arguments.family, dataset)
    speed(work, images, WARM_SECONDS)
    print("ready", flush=True)
    for line in sys.stdin:
        print(speed(work, images, float(line)), flush=True)


def speed(work: Callable[[], object], images: int, seconds: float) -> float:
    """Measure images per second over this many seconds of work."""
    start, pieces = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not pieces:
        work()
        pieces += 1
    return pieces * images / elapsed


if __name__ == "__main__":
    main()
