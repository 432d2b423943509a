"""`danqing serve` for its operator: settings, start, limits below HTTP, stop."""

import collections
import contextlib
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from danqing.cli import serve as verb
from danqing.errors import ConfigError
from danqing.service import settings

SMALL = """
import asyncio, types
from danqing.service.observability.metrics import Metrics
from fastapi import FastAPI, Request, Response
from danqing.service.http import http1, server, slow_readers
http1.PATIENCE = http1.KEEP_ALIVE = slow_readers.SECONDS = 0.3
app = FastAPI()
app.add_middleware(slow_readers.SlowReaderLimit)
app.state.service = types.SimpleNamespace(draining=asyncio.Event(), metrics=Metrics())
app.get("/")(lambda: {})
app.get("/metrics")(lambda: Response(app.state.service.metrics.text()))

@app.post("/")
async def count(request: Request):
    return len(await request.body())

app.post("/refused")(lambda: Response(status_code=401))
app.get("/large")(lambda: Response(bytes(100_000_000)))

server.serve(app, "127.0.0.1", 0, drain=5, on_ready=lambda url: print(url, flush=True))
"""


STUBBORN = """
import asyncio, contextlib, sys, types
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from danqing.service.access.keys import Keys
from danqing.service.http import server
from danqing.service.http.gate import Gate
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings
from danqing.service.storage.database import Database

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    print("its parts stop", flush=True)
    await asyncio.sleep(60)

app = FastAPI(lifespan=lifespan)
app.add_middleware(Gate, settings=Settings(models={"gan": "gan"}))
keys = Keys(Database(f"sqlite:///{sys.argv[1]}/service.db"))
app.state.service = types.SimpleNamespace(draining=asyncio.Event(), keys=keys, metrics=Metrics())

@app.get("/request")
async def slow():
    print("it answers", flush=True)
    await asyncio.sleep(60)

@app.get("/answer")
async def endless():
    async def chunks():
        yield b"begun"
        await slow()
    return StreamingResponse(chunks())

server.serve(app, "127.0.0.1", 0, drain=60, on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def running(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of ours, and the first line that it writes."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[str, int]]:
    """Where an application without models listens."""
    with running("-c", SMALL) as (_, line):
        url = httpx.URL(line.strip())
        yield url.host, url.port or 0


def answer_to(address: tuple[str, int], *parts: bytes) -> bytes:
    with socket.create_connection(address, timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_requests_that_are_on_their_way_are_answered_and_then_it_stops(
    models: dict[str, str], tmp_path: Path
) -> None:
    words = ("-m", "danqing", "serve", models["gan"], "--port", "0", "--data", str(tmp_path), "--json")
    with running(*words) as (process, line):
        told = json.loads(line)
        assert told["models"] == ["gan"]
        url = httpx.URL(told["url"])
        workers = psutil.Process(process.pid).children()
        assert workers
        body = json.dumps({"model": "gan", "prompt": ""}).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nhost: {url.host}:{url.port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection((url.host, url.port or 0), timeout=60) as connection:
            connection.sendall(head.encode() + body[:5])
            assert httpx.get(url.join("/healthz")).json() == {"status": "ok"}
            process.send_signal(signal.SIGTERM)
            for line in process.stderr or ():
                if '"draining"' in line:
                    break
            connection.sendall(body[5:])
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert received.startswith(b"HTTP/1.1 200")
        assert b"b64_json" in received
        assert process.wait(30) == 0
        assert psutil.wait_procs(workers, timeout=60)[1] == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(url.join("/healthz"))


def test_it_stops_before_it_has_started(models: dict[str, str], tmp_path: Path) -> None:
    words = ("-m", "danqing", "serve", models["gan"], "--port", "0", "--data", str(tmp_path), "--json")
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (workers := psutil.Process(process.pid).children()):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert "Traceback" not in complaints
    assert psutil.wait_procs(workers, timeout=60)[1] == []


@pytest.mark.parametrize("waits_for", ["a request", "an answer", "its parts"])
def test_a_second_signal_stops_it_at_once_without_a_traceback(waits_for: str, tmp_path: Path) -> None:
    with running("-c", STUBBORN, str(tmp_path)) as (process, line):
        assert process.stdout is not None
        url, received = httpx.URL(line.strip()), b""
        with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
            if waits_for != "its parts":
                path = waits_for.split()[1]
                connection.sendall(f"GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
                assert process.stdout.readline() == "it answers\n"
            process.send_signal(signal.SIGTERM)
            if waits_for == "its parts":
                assert process.stdout.readline() == "its parts stop\n"
            else:
                time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=10)
            with contextlib.suppress(ConnectionResetError):
                received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert process.returncode == 0
    assert "Traceback" not in complaints
    if waits_for == "a request":
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b'"The service is stopping: retry."' in received


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--host", "0.0.0.0"), "danqing keys create"),
        (("--port", "TAKEN"), "choose another --host or --port"),
        (("--database-url", "mysql://somewhere/x"), "sqlite"),
    ],
)
def test_what_cannot_start_is_refused_with_one_sentence(
    models: dict[str, str], tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [str(taken.getsockname()[1]) if word == "TAKEN" else word for word in options]
        port = () if "--port" in options else ("--port", "0")
        done = subprocess.run(
            [sys.executable, "-m", "danqing", "serve", models["gan"], "--data", tmp_path, *port, *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr
    assert done.stdout == ""


def test_a_machine_that_lacks_what_keeps_the_limits_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    with pytest.raises(ConfigError, match=r"needs httptools: run pip install 'danqing\[serve\]'"):
        verb.serve(["model"])
    monkeypatch.setattr(verb, "PLATFORM", "win32")
    with pytest.raises(ConfigError, match="WSL"):
        verb.serve(["model"])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other habits")
def test_memory_of_large_pictures_is_given_back() -> None:
    code = """
import psutil
from danqing.service.http import server
server.tune_malloc()
large = b"x" * 4_000_000
del large
before = psutil.Process().memory_info().rss
pictures, small = [], []
for number in range(25):
    pictures.append(b"x" * (4_000_000 - number))
    small.append(b"x" * 10_000)
most = psutil.Process().memory_info().rss
del pictures
print(most - before > 90e6, psutil.Process().memory_info().rss - before < 10e6)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_the_process_that_speaks_http_never_imports_torch() -> None:
    code = "import sys, danqing.service.app, danqing.service.http.server; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_the_command_line_changes_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    file = tmp_path / "service.toml"
    file.write_text(
        'port = 9000\ndata = "things"\n[models]\ncats = "cats"\nhub = "someone/model"\n'
        '[aliases]\n"dall-e-2" = "cats"\n[limits]\nn = 4\n[engine]\nthreads = 2\n'
    )
    chosen = verb.read_settings(
        file, models={"dogs": "runs/dogs"}, aliases={}, port=1, engine={"device": "cpu"}
    )
    assert chosen.models == {"cats": str(tmp_path / "cats"), "hub": "someone/model", "dogs": "runs/dogs"}
    assert (chosen.port, chosen.data, chosen.limits.n) == (1, tmp_path / "things", 4)
    assert (chosen.engine.threads, chosen.engine.device) == (2, "cpu")
    assert chosen.aliases == {"dall-e-2": "cats"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[models]\na = "a"\n[aliases]\nb = "c"', "refers to c"),
        ('[models]\na = "a"\n[limits]\nside = 1', "limits.side"),
        ('colour = "red"\n[models]\na = "a"', "colour"),
        ("[models", "cannot be read"),
        ("port = 1", "Say which models"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        verb.read_settings(file, models={}, aliases={}, engine={})


def test_models_are_named_by_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").touch()
    named = verb.named_models(["run/model", "runs/photos/", "cats=some/where", "someone/painter"])
    assert named == {
        "run": "run/model",
        "photos": "runs/photos/",
        "cats": "some/where",
        "painter": "someone/painter",
    }
    with pytest.raises(ConfigError, match="a-2=b/a"):
        verb.named_models(["a", "b/a"])
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        verb.named_models(["=x"])


def test_headers_that_never_end_end_the_connection(small: tuple[str, int]) -> None:
    began = time.monotonic()
    assert answer_to(small, b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ") == b""
    assert answer_to(small) == b""
    assert time.monotonic() - began < 20
    kept = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    second = answer_to(
        small, kept, b"GET / HTT"
    )  # the time of a second request on a connection is limited too
    assert second.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET / HTTP/1.1\r\nx: ", b"x" * 100_000),
        (b"GET /", b"x" * 100_000),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", b"a: b\r\n" * 400_000),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 400_000),
    ],
    ids=["header", "path", "headers", "trailers"],
)
def test_headers_and_trailers_without_bound_are_refused(
    small: tuple[str, int], parts: tuple[bytes, ...]
) -> None:
    assert answer_to(small, *parts).startswith(b"HTTP/1.1 431")


def test_what_is_no_http_is_told_so_in_the_shape_of_all_errors(small: tuple[str, int]) -> None:
    received = answer_to(small, b"HELLO\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400")
    for header in (b"x-request-id: req_", b"x-content-type-options: nosniff", b"content-security-policy: "):
        assert b"\r\n" + header in received
    assert b'danqing_requests_total{method="other",route="none",status="400"} ' in answer_to(
        small, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_a_body_in_chunks_of_one_byte_is_a_body(small: tuple[str, int]) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    received = answer_to(small, head, b"1\r\nx\r\n" * 40_000, b"0\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"40000")


@pytest.mark.parametrize("parts", [(b"",), (b"x" * 10,), (b"x" * 5, b"x" * 5), (b"x",)], ids=len)
def test_a_request_that_was_answered_before_its_body_came_keeps_no_connection(
    small: tuple[str, int], parts: tuple[bytes, ...]
) -> None:
    with socket.create_connection(small, timeout=20) as connection:
        connection.sendall(b"POST /refused HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        for part in parts:
            connection.sendall(part)
        assert connection.recv(65536) == b""


def test_who_is_refused_in_the_middle_of_an_upload_can_read_it() -> None:
    size = 50_000_000  # more than the buffers of a connection hold
    with running("-c", SMALL.replace("= 0.3", "= 20")) as (_, line):
        url = httpx.URL(line.strip())
        for version, further in ((b"1.1", b""), (b"1.1", b"connection: close\r\n"), (b"1.0", b"")):
            head = b"POST /refused HTTP/%b\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (
                version,
                further,
                size,
            )
            with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
                connection.sendall(head)
                assert select.select([connection], [], [], 20)[0]  # it is answered now
                connection.sendall(bytes(size))
                assert connection.recv(65536).startswith(b"HTTP/1.1 401")
                if version == b"1.1" and not further:
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                else:
                    assert connection.recv(65536) == b""


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_the_connection_of_a_reader_that_does_not_read_is_reset(small: tuple[str, int], version: str) -> None:
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(small)
        silent.sendall(f"GET /large HTTP/{version}\r\nhost: x\r\n\r\n".encode())
        watched = select.poll()
        watched.register(silent, select.POLLHUP | select.POLLERR)
        assert watched.poll(10_000)
        with pytest.raises(ConnectionResetError):
            collections.deque(iter(lambda: silent.recv(65536), b""), maxlen=0)


def test_every_setting_of_the_example_is_one(tmp_path: Path) -> None:
    values = settings.read(Path(__file__).parents[3] / "deploy" / "service.toml")
    chosen = settings.checked(values)
    assert chosen.host == "0.0.0.0"
    assert os.fspath(chosen.data) == "/data"
