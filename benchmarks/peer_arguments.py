"""The arguments of the processes that train a peer, as the benchmarks that start them pass them."""

import argparse
from collections.abc import Iterable
from pathlib import Path


def add(parser: argparse.ArgumentParser, peers: Iterable[str], *, minutes: float) -> None:
    """Add the arguments that all of these processes have.

    peers: whom the process can train. minutes: of training, by default.
    """
    parser.add_argument("name", choices=list(peers))
    parser.add_argument("--tuned", action="store_true", help="for a budget of minutes")
    parser.add_argument("--images", type=Path, required=True, help="a .npy file of training images")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--budget", type=int, help="train on this number of images instead")
    parser.add_argument("--count", type=int, default=5000, help="how many samples")
    parser.add_argument("--flip", action="store_true", help="mirror half of the training images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(), help="where to write samples and facts")
