"""Commands in forks of a process that has imported PyTorch already, for tests that start many and kill them.

Such a process begins to work at once, where `python -m danqing` first imports for seconds. It is not measured
by coverage, which would slow it and of which a killed process leaves nothing.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

_METHOD = multiprocessing.get_context("forkserver")
_PRELOADED = ["danqing.cli.commands", *(f"danqing.cli.{name}" for name in ("train", "compare", "tune"))]
_PRELOADED += ["danqing.training.run", "danqing.studies.compare", "danqing.studies.tune"]
_PRELOADED += ["torch._dynamo"]  # which optimisers import
_COVERAGE = {"COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"}


def start(words: list[str], environment: Mapping[str, str] | None = None) -> BaseProcess:
    """Start a command; the process can be killed and joined.

    words: those after `danqing`.
    environment: what differs from the environment of this process.
    """
    whole = {**os.environ, **(environment or {})}
    return call(_run, words, {name: whole[name] for name in whole.keys() - _COVERAGE})


def call(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function of a module in such a process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _COVERAGE:
            patch.delenv(name, raising=False)
        _METHOD.set_forkserver_preload(_PRELOADED)
        forkserver.ensure_running()
    process = _METHOD.Process(target=function, args=arguments)
    process.start()
    return process


def _run(words: list[str], environment: dict[str, str]) -> None:
    import torch

    from danqing.cli import main

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # PyTorch has read it before
    silent = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(silent, number)
    main(words)
