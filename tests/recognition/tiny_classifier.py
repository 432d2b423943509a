"""A small convolutional classifier of 8x8 digits, trained in a second: real enough to be attacked."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danqing.data import open_dataset
from danqing.images import to_float
from danqing.randomness import generator


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """All digits as images `[n, 1, 8, 8]` in [-1, 1], with their labels."""
    data = open_dataset("digits")
    rows = range(len(data))
    return to_float(data.images(rows)).contiguous(), torch.from_numpy(data.labels_at(rows)).long()


@functools.cache
def classifier() -> nn.Module:
    """A network that learned the digits but for the last 400."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
    images, labels = digits()
    images, labels = images[:-400], labels[:-400]
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for epoch in range(8):
        order = torch.randperm(len(images), generator=generator(0, "order", epoch))
        for rows in order.split(64):
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)
