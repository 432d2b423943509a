"""What an operator sees: health, metrics, logs, traces, and deployment."""

import io
import json
import logging
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from danqing.cli import commands
from danqing.errors import ConfigError
from danqing.service.observability import logs, tracing
from danqing.service.observability.metrics import Metrics
from tests.service.serving import Running, served

DEPLOY = Path(__file__).parents[3] / "deploy"
IMAGES = ("Dockerfile", "Dockerfile.slim")
HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.fixture(scope="module")
def service(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served({"gan": models["gan"]}, tmp_path_factory.mktemp("data")) as running:
        yield running


def values(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_pictures_requests_and_failures_are_counted(service: Running) -> None:
    for _ in range(2):
        httpx.post(f"{service.url}/v1/images/generations", json={"prompt": "", "n": 3}, timeout=60)
    assert httpx.get(f"{service.url}/nothing/here").status_code == 404
    answer = httpx.get(f"{service.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told = values(answer.text)
    assert told["danqing_images_total", "gan"] == 6
    assert told["danqing_requests_total", "POST", "/v1/images/generations", "200"] == 2
    assert told["danqing_requests_total", "GET", "none", "404"] == 1
    assert 0 < told["danqing_compute_seconds_sum", "gan"] < 60
    assert told["danqing_worker_up",] == 1
    assert told["danqing_models_loaded",] == 1
    assert told["danqing_queue_images",] == told["danqing_worker_images",] == 0
    assert told["danqing_worker_memory_bytes",] > 10_000_000
    assert told["process_resident_memory_bytes",] > 10_000_000
    assert "nothing" not in answer.text


def test_it_is_ready_while_a_worker_lives_and_lives_all_the_while(service: Running) -> None:
    assert httpx.get(f"{service.url}/readyz").json()["status"] == "ready"
    worker = next(
        one for one in psutil.Process().children() if "danqing.service.engine.worker" in one.cmdline()
    )
    worker.kill()
    seen = set()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and seen != {503, 200}:
        answer = httpx.get(f"{service.url}/readyz")
        seen |= {answer.status_code} if answer.status_code == 503 or seen else set()
        assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert seen == {503, 200}
    assert values(httpx.get(f"{service.url}/metrics").text)["danqing_worker_restarts_total",] == 1


def test_it_is_not_ready_once_it_stops(service: Running) -> None:
    service.loop.call_soon_threadsafe(service.service.draining.set)
    answer = httpx.get(f"{service.url}/readyz")
    service.loop.call_soon_threadsafe(service.service.draining.clear)
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"accepting": False, "worker": True, "models": True}


def test_what_clients_write_makes_no_series() -> None:
    metrics = Metrics()
    for method in ("BREW", "GET\n", "x" * 1000):
        metrics.request(method, "", 405, 0.1)
    told = values(metrics.text().decode())
    assert told["danqing_requests_total", "other", "none", "405"] == 3


def test_two_services_of_a_process_count_for_themselves() -> None:
    first, second = Metrics(), Metrics()
    first.batch("gan", 16, 0.5, 0.1)
    first.failure("deadline")
    assert values(first.text().decode())["danqing_failures_total", "deadline"] == 1
    assert ("danqing_images_total", "gan") not in values(second.text().decode())


class Stream(io.StringIO):
    """A stream that may be a terminal, or stands still until it is let go."""

    def __init__(self, *, terminal: bool = False, still: bool = False) -> None:
        super().__init__()
        self.terminal, self.free = terminal, threading.Event()
        if not still:
            self.free.set()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.free.wait(10)
        return super().write(text)


def test_each_line_is_json_and_bears_the_request() -> None:
    stream = Stream()
    with logs.configured("auto", stream=stream):
        token = logs.request_id.set("req_1")
        logs.access(method="GET", path='/"\n{"level": "forged"}', status=200, key=None)
        logs.request_id.reset(token)
        try:
            raise ValueError("丹青")
        except ValueError:
            logging.getLogger("elsewhere").exception("went wrong")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["request_id"], first["status"], first["level"]) == ("req_1", 200, "INFO")
    assert first["path"] == '/"\n{"level": "forged"}'
    assert "key" not in first
    assert second["error"].endswith("ValueError: 丹青")
    assert "request_id" not in second


def test_in_a_terminal_lines_are_for_people_and_nobody_elses_words_steer_it() -> None:
    stream = Stream(terminal=True)
    with logs.configured("auto", stream=stream):
        logs.access(method="GET", path="/\x1b[2J\n12:00:00 forged", status=200, key=None)
        logging.getLogger("elsewhere").warning("take care")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d request method=GET path=/�\[2J�12:00:00 forged status=200", first)
    assert second.endswith(" WARNING take care")


def test_who_logs_never_waits_for_who_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_WAITING", 100)
    stream = Stream(still=True)
    with logs.configured("json", stream=stream):
        began = time.monotonic()
        for number in range(1000):
            logs.access(number=number)
        assert time.monotonic() - began < 20
        stream.free.set()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    written = [line["number"] for line in lines if "number" in line]
    assert written[:100] == list(range(100))
    assert written == sorted(written)
    assert sum(line.get("lines", 0) for line in lines) == 1000 - len(written) > 0


def test_what_was_configured_before_comes_back() -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with logs.configured("json", stream=Stream()):
        assert root.handlers != before[0]
    assert (root.handlers, root.level) == before


def test_traces_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")

    async def paint(_: object) -> PlainTextResponse:
        tracing.painted("gan", 4, queue_seconds=0.2, compute_seconds=0.1)
        return PlainTextResponse("", 500)

    client = TestClient(tracing.Traces(Starlette(routes=[Route("/paint", paint)])))
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with tracing.configured():
        client.get("/paint", headers={"traceparent": f"00-{trace}-{parent}-01"})
    client.get("/paint")  # nothing is sent any more
    collector.shutdown()
    spans = {
        span.name: span
        for body in bodies
        for resource in proto.ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    request = spans.pop("GET /paint")
    assert request.trace_id.hex() == trace
    assert request.parent_span_id.hex() == parent
    assert request.status.code == 2
    assert {name: span.parent_span_id for name, span in spans.items()} == {
        "queue": request.span_id,
        "paint": request.span_id,
    }
    paint_span = spans["paint"]
    assert paint_span.end_time_unix_nano - paint_span.start_time_unix_nano == pytest.approx(1e8, rel=0.01)


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter"])
def test_traces_without_all_that_sends_them_are_refused(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # as where it is not installed
    with pytest.raises(ConfigError, match="pip install opentelemetry-sdk"), tracing.configured():
        pass


def test_the_compose_file_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    file = DEPLOY / "compose.yaml"
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    service = yaml.safe_load(file.read_text())["services"]["service"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    mounted = [volume for volume in service["volumes"] if volume.startswith("./")]
    assert all((DEPLOY / volume.split(":")[0]).is_file() for volume in mounted)
    assert service["ports"][0].startswith("127.0.0.1:"), "only a proxy that speaks TLS faces the world"


@pytest.mark.skipif(not HADOLINT.is_file(), reason="hadolint is not installed")
@pytest.mark.parametrize("image", IMAGES)
def test_a_linter_has_nothing_to_say_of_the_image(image: str) -> None:
    done = subprocess.run([HADOLINT, DEPLOY / image], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_holds_what_it_needs_and_runs_as_nobody_special(image: str) -> None:
    text = (DEPLOY / image).read_text().replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    root = DEPLOY.parent
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in steps:
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert source in kept
                assert (root / source).exists()
    last = dict(steps)
    assert last["USER"] not in ("root", "0")
    words = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    parses(words)
    compile(json.loads(last["HEALTHCHECK"].split("CMD")[1])[2], "HEALTHCHECK", "exec")


@pytest.mark.skipif(which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "danqing.service").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(line.partition("=")[2])
    parses(words)
    unit = tmp_path / "danqing.service"
    unit.write_text(text.replace(words[0], sys.executable))  # it asks whether the program is there
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def parses(words: list[str]) -> None:
    """Raises where a command is none."""
    command = commands.command([words[1]]).commands[words[1]]
    assert command.make_context(words[1], words[2:]).params is not None
