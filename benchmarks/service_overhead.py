"""Overhead of the service: requests to a model that computes nothing, from one client and from many.

python benchmarks/service_overhead.py [--litserve PYTHON]

PYTHON: the interpreter of an environment with litserve installed. Its server then serves the same model, but
returns a picture that was encoded in advance. Both are measured in turns.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service_client import Client, load, quantile, summary
from service_process import ServiceProcess, free_port

FAMILY = '''
"""A model that computes nothing."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danqing.families.base import Batch, Condition, Family, FamilyConfig, Losses, Phase


class BlankConfig(FamilyConfig):
    """Its name alone."""

    family: Literal["blank"] = "blank"


class Blank(Family):
    """Paints grey."""

    config: BlankConfig

    def __init__(self, config: BlankConfig) -> None:
        super().__init__()
        self.config = config
        self.canvas = nn.Parameter(torch.zeros(1, config.channels, config.height, config.width))

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("nothing", modules=()),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        return Losses(self.canvas.sum(), {})

    def sample(self, condition: Condition, *, seeds: Sequence[int], **options: Any) -> Tensor:
        return self.canvas.expand(len(seeds), -1, -1, -1)
'''
# The process that speaks HTTP must not import torch: only the worker registers the family.
SITE = """
import sys
if "danqing.service.engine.worker" in sys.orig_argv:
    from danqing import families
    families.REGISTRY["blank"] = ("blank_family", "Blank", "BlankConfig")
"""
LITSERVE = """
import base64, struct, sys, zlib
import litserve

def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

SIDE = 8
ROWS = zlib.compress(b"".join(b"\\0" + b"\\x80" * 3 * SIDE for _ in range(SIDE)))
HEADER = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
PNG = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", HEADER) + chunk(b"IDAT", ROWS) + chunk(b"IEND", b"")
PICTURE = base64.b64encode(PNG).decode()
BATCH = int(sys.argv[2])

class Blank(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["prompt"]

    def predict(self, prompts):
        return [PICTURE] * len(prompts) if BATCH > 1 else PICTURE

    def encode_response(self, picture):
        return {"created": 0, "data": [{"b64_json": picture}]}

if __name__ == "__main__":
    api = Blank(max_batch_size=BATCH, batch_timeout=0.002 if BATCH > 1 else 0.0,
                api_path="/v1/images/generations")
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="error")
"""


def write_blank(folder: Path) -> str:
    """Return the folder of a model that computes nothing, next to the module that registers its family."""
    (folder / "blank_family.py").write_text(FAMILY)
    (folder / "sitecustomize.py").write_text(SITE)
    write = (
        "import sys; from danqing import families; from danqing.model.model import Model\n"
        "families.REGISTRY['blank'] = ('blank_family', 'Blank', 'BlankConfig')\n"
        "config = families.parse_config({'family': 'blank', 'width': 8, 'height': 8, 'channels': 3})\n"
        "model = Model(families.build(config)); model.save(sys.argv[1], model.sample(1))"
    )
    path = folder / "blank"
    with on_path(folder):
        subprocess.run([sys.executable, "-c", write, path], check=True)
    return str(path)


@contextlib.contextmanager
def on_path(folder: Path) -> Iterator[None]:
    """Let processes started within a block also import from a folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [before])])
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def danqing(folder: Path) -> Iterator[str]:
    """Start our service; yield its address."""
    with on_path(folder), ServiceProcess(folder, {"blank": write_blank(folder)}) as service:
        yield service.url


@contextlib.contextmanager
def litserve(python: str, folder: Path, batch: int) -> Iterator[str]:
    """Start LitServe's; yield its address."""
    script, port = folder / f"litserve_{batch}.py", free_port()
    script.write_text(LITSERVE)
    process = subprocess.Popen(
        [python, script, str(port), str(batch)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:  # it is several processes, which outlive the first
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def latency(client: Client, request: bytes, count: int) -> dict[str, float]:
    """Measure the milliseconds of sequential requests."""
    times = [(await client.send(request)).seconds * 1000 for _ in range(count)]
    return {f"p{100 * q:g}_ms": round(quantile(times, q), 3) for q in (0.5, 0.9, 0.99)}


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    client = Client(url)
    request = client.request("/v1/images/generations", {"prompt": "", "n": 1})
    deadline = time.monotonic() + 120
    while (first := await client.send(request)).status != 200:
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} answers {first.status}: {first.body.decode(errors='replace')}")
        await asyncio.sleep(0.2)
    await load(client, request, 8, 1.0)  # warm
    alone = await latency(client, request, arguments.requests)
    together = summary(*await load(client, request, arguments.clients, arguments.seconds))
    client.close()
    return {"one client": alone, f"{arguments.clients} clients": together}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--litserve", default="", metavar="PYTHON")
    parser.add_argument("--requests", type=int, default=3000, help="of the one client")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            servers = {"danqing": danqing(folder)}
            for batch in (1, 64) if arguments.litserve else ():
                servers[f"litserve, batches of {batch}"] = litserve(arguments.litserve, folder, batch)
            for server, started in servers.items():
                with started as url:
                    told = asyncio.run(measure(url, arguments))
                print(json.dumps({"round": number, "server": server, **told}), flush=True)


if __name__ == "__main__":
    main()
