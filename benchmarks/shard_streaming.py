"""Training speed from a throttled store of shards, as a share of that from a local folder.

A million small images are cut from real ones (`--data`, a zip or folder of JPEGs) and written as tars, which
the peer webdataset reads, and as shards of about the same size. A server in a process of its own answers each
request after 20 ms, with 200 MB/s for all of them. A small network is then trained on batches of 256 images,
in processes of their own, in turns: from the local shards, from the server, and by webdataset from the local
tars and from the server. Printed are the images per second by the clock and by processor time, after the
first 30 seconds.

    python benchmarks/shard_streaming.py --data cifar10-jpeg.zip [--images 1000000] [--seconds 60]

`--work` keeps the files for another call, otherwise they are deleted. webdataset is left out if it is not
installed.
"""

import argparse
import http.server
import importlib.util
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE, WINDOW, BATCH = 16, 16, 256
RATE, LATENCY = 200e6, 0.02
WARM = 30.0


def crops(data: Path, count: int) -> Iterator[bytes]:
    """Yield crops of the images as JPEG files, always the same ones."""
    if data.suffix == ".zip":
        archive = zipfile.ZipFile(data)
        names = sorted(
            name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))
        )
        files: list[Any] = [lambda name=name: archive.read(name) for name in names]
    else:
        files = [path.read_bytes for path in sorted(data.rglob("*.jp*g"))]
    each, rng = -(-count // len(files)), np.random.default_rng(0)
    made = 0
    for file in files[: min(len(files), count)]:
        image = Image.open(io.BytesIO(file())).convert("RGB")
        for _ in range(min(each, count - made)):
            left, top = (int(rng.integers(0, max(1, side - SIDE + 1))) for side in image.size)
            out = io.BytesIO()
            image.crop((left, top, left + SIDE, top + SIDE)).save(
                out, "JPEG", quality=int(rng.integers(80, 96))
            )
            made += 1
            yield out.getvalue()


def prepare(data: Path, work: Path, count: int, size: int) -> None:
    """Write the tars and the shards, unless they are there."""
    from danqing.data.shards.writer import write_shards

    tars = work / "tars"
    if not (work / "tars.done").exists():
        tars.mkdir(parents=True, exist_ok=True)
        files, number = crops(data, count), 0
        while part := list(itertools.islice(files, size // 1536)):
            with tarfile.open(tars / f"{number:06d}.tar", "w") as archive:
                for place, content in enumerate(part):
                    entry = tarfile.TarInfo(f"{number:06d}{place:06d}.jpg")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
            number += 1
        (work / "tars.done").touch()
    begun, spent = time.perf_counter(), time.process_time()
    found = write_shards(tars, work / "shards", size=size)
    seconds, busy = time.perf_counter() - begun, time.process_time() - spent
    print(
        f"{found.images['train']:,} images in {found.shards} shards of {found.bytes / 1e6:.0f} MB in all, ",
        end="",
    )
    print(f"written in {seconds:.0f} s ({busy:.0f} s of processor time)", flush=True)


class Throttle:
    """Lets bytes pass at a rate, for all connections together."""

    def __init__(self) -> None:
        self._lock, self._free = threading.Lock(), time.monotonic()

    def wait(self, count: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / RATE
            pause = self._free - time.monotonic()
        if pause > 0:
            time.sleep(pause)


def serve(folder: Path) -> None:
    """Serve a folder with range requests, and print the port."""
    throttle = Throttle()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            time.sleep(LATENCY)
            path = folder / self.path.strip("/")
            if not path.is_file():
                self.send_error(404)
                return
            length = path.stat().st_size
            first, last = 0, length - 1
            if asked := self.headers.get("Range"):
                start, _, end = asked.removeprefix("bytes=").partition("-")
                first, last = int(start), min(int(end or last), last)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(last - first + 1))
            self.send_header("Content-Range", f"bytes {first}-{last}/{length}")
            self.end_headers()
            with path.open("rb") as file:
                file.seek(first)
                left = last - first + 1
                while left > 0 and (block := file.read(min(left, 2**18))):
                    throttle.wait(len(block))
                    self.wfile.write(block)
                    left -= len(block)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def batches_of_danqing(place: str) -> Iterator[Any]:
    from danqing.data import Batches, open_dataset

    dataset = open_dataset(place, stream_over=0, window=WINDOW)
    batches = Batches(dataset, BATCH, seed=0)
    for step in itertools.count():
        yield batches.at(step * BATCH).images


def batches_of_webdataset(place: str) -> Iterator[Any]:
    import torch
    import webdataset

    names = json.loads((Path(os.environ["SHARD_BENCHMARK"]) / "tars.json").read_text())
    remote = place.startswith("http")
    urls = [f"pipe:curl -s {place}/{name}" if remote else f"{place}/{name}" for name in names]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0, empty_check=False).repeat()
    samples = data.shuffle(10_000).decode("rgb8").to_tuple("jpg")
    stream = iter(samples)
    while True:
        part = [image for (image,) in itertools.islice(stream, BATCH)]
        yield torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(kind: str, place: str, seconds: float) -> None:
    """Train a small network, and print what was reached after the first seconds."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, 2, 1),
        torch.nn.SiLU(),
        torch.nn.Conv2d(32, 32, 3, 2, 1),
        torch.nn.SiLU(),
        torch.nn.Upsample(scale_factor=4),
        torch.nn.Conv2d(32, 3, 3, 1, 1),
    )
    optimizer = torch.optim.Adam(net.parameters())
    batches = {"danqing": batches_of_danqing, "webdataset": batches_of_webdataset}[kind](place)
    begun = time.monotonic()
    first, waited, images, mark, cpu = 0.0, 0.0, 0, 0.0, 0.0
    while time.monotonic() - begun < seconds:
        asked = time.monotonic()
        batch = next(batches)
        first = first or time.monotonic() - begun
        if mark:
            waited += time.monotonic() - asked
        loss = (net(batch) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if mark:
            images += len(batch)
        elif time.monotonic() - begun > min(WARM, seconds / 2):
            mark, cpu = time.monotonic(), time.process_time()
    clock = time.monotonic() - mark
    result = {
        "first": first,
        "rate": images / clock,
        "per_cpu": images / (time.process_time() - cpu),
        "waited": waited / clock,
    }
    print(json.dumps(result), flush=True)
    os._exit(0)  # threads of libraries may still wait for the server


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    if len(sys.argv) > 1 and sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3], float(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10**6)
    parser.add_argument("--shard-bytes", type=int, default=4 * 2**20)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each process, of which 30 are warming"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        os.environ["DANQING_CACHE"], os.environ["SHARD_BENCHMARK"] = str(work / "cache"), str(work)
        prepare(arguments.data, work, arguments.images, arguments.shard_bytes)
        (work / "tars.json").write_text(json.dumps(sorted(path.name for path in (work / "tars").iterdir())))
        measure(work, arguments.seconds, arguments.rounds)


def measure(work: Path, seconds: float, rounds: int) -> None:
    kinds = [("danqing", "shards")]
    if importlib.util.find_spec("webdataset") is not None:
        kinds.append(("webdataset", "tars"))
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _, (kind, folder) in itertools.product(range(rounds), kinds):
        me = [sys.executable, __file__]
        with subprocess.Popen(
            [*me, "serve", str(work / folder)], stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            probe = next(path.name for path in (work / folder).iterdir() if path.suffix in (".dqs", ".tar"))
            begun = time.perf_counter()
            length = len(urllib.request.urlopen(f"{url}/{probe}").read())
            rate = length / (time.perf_counter() - begun - LATENCY)
            for name, place in (("local", str(work / folder)), (f"store ({rate / 1e6:.0f} MB/s)", url)):
                shutil.rmtree(work / "cache" / "shards", ignore_errors=True)
                told = subprocess.run(
                    [*me, "train", kind, place, str(seconds)], stdout=subprocess.PIPE, check=True
                )
                result = json.loads(told.stdout.splitlines()[-1])
                found.setdefault((kind, name.split()[0]), []).append(result)
                speed = (
                    f"{result['rate']:7.0f} images/s, {result['per_cpu']:7.0f} per second of processor time"
                )
                pauses = f"first batch after {result['first']:.1f} s, waited {result['waited']:.0%}"
                print(f"{kind:10} {name:18} {speed}, {pauses}", flush=True)
            server.kill()
    for kind, _ in kinds:
        for name in ("rate", "per_cpu"):
            local, store = (
                sum(one[name] for one in found[kind, place]) / rounds for place in ("local", "store")
            )
            print(f"{kind}: from the store {store / local:.3f} of the local {name}")


if __name__ == "__main__":
    main()
