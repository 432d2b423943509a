"""Accuracy under APGD and its time, and those of the adversarial robustness toolbox on the same network.

A small classifier learns Fashion-MNIST, or the digits of scikit-learn, for a few epochs. Both attacks take
the same images, ball, steps and one random start, in one process and in turns; medians of the time. `points`
is how far the accuracies are apart, in percentage points, and `ratio` our time divided by theirs. Our copy of
the network has its weights channels-last in memory, as `danqing attack` puts them. With `--adversarial`, the
network is trained on attacked images, so that most images withstand the attacks.

    python benchmarks/attack_speed.py [--data fashion-mnist] [--images 512] [--epsilon 0.03] [--rounds 3]
"""

import argparse
import copy
import json
import statistics
import time

import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data import open_dataset
from danqing.images import to_float
from danqing.learners.perturbation import Ball, Verdict, pgd
from danqing.randomness import generator
from danqing.recognition.attack.attacks import attack_classifier

LOSSES = {"apgd-ce": "cross_entropy", "apgd-dlr": "difference_logits_ratio"}


def opened(data: str, images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images with their labels, and others with theirs."""
    whole = open_dataset(data)
    order = torch.randperm(len(whole), generator=generator(0, "benchmark"))[: 20_000 + images]
    pixels = to_float(whole.images(order)).contiguous()
    labels = torch.from_numpy(whole.labels_at(order.numpy())).long()
    return pixels[:-images], labels[:-images], pixels[-images:], labels[-images:]


def trained(images: Tensor, labels: Tensor, epochs: int, ball: Ball | None) -> nn.Sequential:
    """Train a small convolutional classifier; ball: of the attacks that it is trained against."""
    torch.manual_seed(0)
    side = -(-images.shape[-1] // 4)
    network = nn.Sequential(
        *(nn.Conv2d(images.shape[1], 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * side**2, 128), nn.ReLU(), nn.Linear(128, int(labels.max()) + 1)),
    )
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for epoch in range(epochs):
        for rows in torch.randperm(len(images), generator=generator(0, "order", epoch)).split(128):
            seen, wanted = images[rows], labels[rows]
            if ball is not None:

                def objective(x: Tensor, some: Tensor, wanted: Tensor = wanted) -> Verdict:
                    value = F.cross_entropy(network(x), wanted[some], reduction="none")
                    return Verdict(value, torch.zeros_like(some, dtype=torch.bool))

                noise = torch.randn(seen.shape, generator=generator(epoch, "noise", int(rows[0])))
                seen = pgd(objective, seen, ball, steps=1, step_size=1.25 * ball.radius, noise=noise)
            loss = F.cross_entropy(network(seen), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--images", type=int, default=512, help="images that are attacked")
    parser.add_argument("--attack", choices=list(LOSSES), default="apgd-ce")
    parser.add_argument("--norm", choices=["linf", "l2"], default="linf")
    parser.add_argument("--epsilon", type=float, default=0.03, help="as a share of the range of values")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--adversarial", action="store_true", help="train on attacked images")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    ball = Ball(arguments.norm, arguments.epsilon)
    *learned, images, labels = opened(arguments.data, arguments.images)
    network = trained(learned[0], learned[1], arguments.epochs, ball if arguments.adversarial else None)
    peer = PyTorchClassifier(
        network,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        int(learned[1].max()) + 1,
        clip_values=(-1, 1),
        device_type="cpu",
    )
    theirs = AutoProjectedGradientDescent(
        peer,
        norm=np.inf if arguments.norm == "linf" else 2,
        eps=ball.radius,
        eps_step=2 * ball.radius,
        max_iter=arguments.steps,
        nb_random_init=1,
        batch_size=128,
        loss_type=LOSSES[arguments.attack],
        verbose=False,
    )
    ours_network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    accuracy = {}
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        parts = zip(images.split(128), labels.split(128), strict=True)
        attacked = [
            attack_classifier(
                arguments.attack, ours_network, *part, ball, first_row=128 * number, steps=arguments.steps
            )
            for number, part in enumerate(parts)
        ]
        seconds["ours"].append(time.perf_counter() - start)
        accuracy["ours"] = float(torch.cat([part.right for part in attacked]).float().mean())
        start = time.perf_counter()
        found = torch.from_numpy(theirs.generate(images.numpy(), labels.numpy()))
        seconds["theirs"].append(time.perf_counter() - start)
        with torch.no_grad():
            accuracy["theirs"] = float((network(found).argmax(1) == labels).float().mean())
    with torch.no_grad():
        clean = float((network(images).argmax(1) == labels).float().mean())
    ours, peers = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
    print(
        json.dumps(
            {
                "data": arguments.data,
                "images": len(images),
                "attack": f"{arguments.attack} {ball.in_words()}, {arguments.steps} steps",
                "threads": torch.get_num_threads(),
                "clean_accuracy": round(clean, 4),
                "accuracy": round(accuracy["ours"], 4),
                "peer_accuracy": round(accuracy["theirs"], 4),
                "points": round(100 * (accuracy["ours"] - accuracy["theirs"]), 2),
                "seconds": round(ours, 2),
                "peer_seconds": round(peers, 2),
                "ratio": round(ours / peers, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
