"""A service in its own process, with untrained models, for benchmarks that try to break it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import psutil
import tomli_w
import torch

from danqing import families
from danqing.model.model import Model

SIDE = 16
LABELS = ("circle", "square", "star")
_SHAPE = {"width": SIDE, "height": SIDE, "channels": 3}
_TOKENIZER = {"family": "vqvae", **_SHAPE, "features": 8, "blocks": 0, "downsamplings": 1, "vocabulary": 64}
_CONFIGS: dict[str, dict[str, Any]] = {
    "masked": {
        "family": "transformer",
        "order": "masked",
        **_SHAPE,
        "layers": 2,
        "features": 32,
        "heads": 2,
        "labels": LABELS,
        "tokenizer": _TOKENIZER,
    },
    "painter": {  # as large as the preset transformer-32
        "family": "transformer",
        "width": 32,
        "height": 32,
        "channels": 3,
        "layers": 4,
        "features": 192,
        "heads": 3,
        "key_value_heads": 1,
        "labels": LABELS,
        "tokenizer": {"family": "vqvae", "width": 32, "height": 32, "channels": 3, "downsamplings": 2},
    },
    "vae": {"family": "vae", **_SHAPE, "channels": 4, "net": "mlp", "features": 4, "latents": 4},
}


def write_models(folder: Path) -> dict[str, str]:
    """Save a tiny and a normal transformer, and a VAE with an alpha channel; return folders by name."""
    found = {}
    for name, config in _CONFIGS.items():
        torch.manual_seed(0)
        family = families.build(families.parse_config(config))
        family.drop_training_only()
        model = Model(family)
        found[name] = str(model.save(folder / name, model.sample(1)))
    return found


class ServiceProcess:
    """`danqing serve` with a configuration, which can be started and killed repeatedly."""

    def __init__(self, folder: Path, models: Mapping[str, str], port: int = 0, **settings: Any) -> None:
        self._log = folder / "service.log"
        self._config = folder / "service.toml"
        values = {"models": dict(models), "port": port, "data": str(folder / "data"), **settings}
        self._config.write_text(tomli_w.dumps(values))
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[str]

    def start(self) -> None:
        """Start the service; return when it answers."""
        command = [sys.executable, "-m", "danqing", "serve", "--config", str(self._config), "--json"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        if not told:
            raise SystemExit(f"The service did not start: {self._log.read_text()[-2000:]}")
        self.url = json.loads(told)["url"].rstrip("/")

    def kill(self) -> None:
        """Kill the server, as in a power cut; its worker then notices that it is gone."""
        self._process.kill()
        self._process.wait()

    def kill_worker(self) -> bool:
        """Kill the worker; return whether there was one."""
        for child in self._process_and_children()[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGKILL)
                return True
        return False

    def processor_seconds(self) -> float:
        """Return the processor time of its processes so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self._process_and_children())

    def stop(self) -> None:
        """Stop the service, and wait until it has ended."""
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def memory(self) -> dict[str, float]:
        """Return the resident megabytes of the server and of its worker."""
        names = ("server", "worker")
        found = [process.memory_info().rss / 1e6 for process in self._process_and_children()]
        return dict(zip(names, found, strict=False))

    def _process_and_children(self) -> list[psutil.Process]:
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self.stop()

    def lines(self) -> Iterator[str]:
        """Return the log of the service."""
        with self._log.open(errors="replace") as log:
            yield from log


def free_port() -> int:
    """Return an unused port, for a service that must come back at the same address."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_root() -> bool:
    """Return whether file systems may be mounted here."""
    return hasattr(os, "getuid") and os.getuid() == 0
