"""What broke other image servers does nothing here: a test for each class, with where it was seen."""

import ast
import asyncio
import base64
import concurrent.futures
import contextlib
import io
import json
import pickle
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import load_file, save_file

import danqing
import danqing as dq
from danqing.families.base import Family
from danqing.service import fetch, keys
from danqing.service.app import create_app
from danqing.service.keys import Grant
from tests.service.serving import Running, served

STAR = {"model": "masked", "prompt": "star"}


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is there once somebody has run what was sent."""
    return tmp_path_factory.mktemp("planted") / "executed"


@pytest.fixture(scope="module")
def running(
    models: dict[str, str], planted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service without keys; two of its models were given by an attacker."""
    folder = tmp_path_factory.mktemp("attacked")
    chosen = {name: models[name] for name in ("masked", "gan")}
    chosen["pickled"] = str(shutil.copytree(models["gan"], folder / "pickled"))
    weights = Path(chosen["pickled"]) / "model.safetensors"
    weights.unlink()
    for name in ("model.SAFETENSORS", "shard_1.pkl", "pytorch_model.bin"):
        weights.with_name(name).write_bytes(pickle.dumps(Planted(planted)))
    chosen["disguised"] = str(shutil.copytree(models["gan"], folder / "disguised"))
    (Path(chosen["disguised"]) / "model.safetensors").write_bytes(pickle.dumps(Planted(planted)))
    chosen["polluting"] = str(shutil.copytree(models["gan"], folder / "polluting"))
    path = Path(chosen["polluting"]) / "model.safetensors"
    tensors = load_file(path)
    tensors["__class__.chunk"] = np.zeros(1, np.float32)
    save_file(tensors, path)
    limits = {"body_bytes": 2 * 1024**2, "file_bytes": 1024**2, "pixels": 1_000_000, "seconds": 30.0}
    with served(chosen, folder / "data", limits=limits) as running:
        yield running


@pytest.fixture
def locked(models: dict[str, str], tmp_path: Path) -> Iterator[tuple[Running, dict[str, str]]]:
    """A service with keys, and what its two users send."""
    with served({"masked": models["masked"]}, tmp_path) as running:
        database = running.service.database
        tokens = {name: keys.create(database, Grant(name))[1] for name in ("anna", "bert")}
        deadline = time.monotonic() + 10
        while httpx.get(f"{running.url}/v1/models").status_code != 401:
            assert time.monotonic() < deadline
        yield running, tokens


def picture(width: int = 8, height: int = 8, *, alpha: bool = True) -> bytes:
    """A picture with a hole, or without alpha."""
    pixels = np.full((height, width, 4), 90, np.uint8)
    pixels[..., 3] = 255
    pixels[: max(1, height // 2), :, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(file, "PNG")
    return file.getvalue()


def edit(running: Running, content: bytes, name: str = "a.png", **further: Any) -> httpx.Response:
    words = {**STAR, **further}
    return httpx.post(
        f"{running.url}/v1/images/edits", data=words, files={"image": (name, content)}, timeout=60
    )


def paint(running: Running, **body: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/images/generations", json={**STAR, **body}, timeout=60)


def raw(running: Running, request: bytes, *, ends: bool = False) -> tuple[int, bytes]:
    """Status and all bytes of the answer to these very bytes; 0 where the connection is just closed.

    ends: whether the client says that no more will come.
    """
    url = httpx.URL(running.url)
    received = b""
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        try:
            connection.sendall(request)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    return int(received.split()[1]) if received else 0, received


def assert_refused(answer: httpx.Response, *statuses: int) -> None:
    """The answer is an error in the documented shape, which tells nothing of this machine."""
    assert answer.status_code in (statuses or (400,)), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for secret in ("/tmp", "/work", "site-packages", "Traceback", "object at", ".py", "torch", "sqlite"):
        assert secret not in answer.text, answer.text


def assert_paints(running: Running) -> None:
    """The service is there and paints."""
    assert paint(running).status_code == 200


def test_deserialisation_nothing_that_is_sent_or_served_is_unpickled(running: Running, planted: Path) -> None:
    """InvokeAI CVE-2024-12029, #2946 (the case of an ending); ComfyUI CVE-2026-68771; torch CVE-2025-32434;
    picklescan CVE-2025-1716, -1889, -1944, -1945, -10155 to -10157; BentoML CVE-2024-2912, CVE-2025-27520;
    SGLang CVE-2026-3059, -3060, -3989, CVE-2025-10164; ShadowMQ CVE-2024-50050.
    """
    for name in ("pickled", "disguised"):
        assert_refused(paint(running, model=name, prompt=""), 503)
    content = pickle.dumps(Planted(planted))
    for name in ("a.png", "shard_1.pkl", "a.safetensors"):
        assert_refused(edit(running, content, name))
    for kind in ("application/octet-stream", "application/x-pickle"):
        answer = httpx.post(
            f"{running.url}/v1/images/generations", content=content, headers={"content-type": kind}
        )
        assert_refused(answer, 415)
    assert not planted.exists()
    assert_paints(running)
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "subprocess32"}
    for path in Path(danqing.__file__).parent.rglob("*.py"):  # nor is there anything that could
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names}
                module = (getattr(node, "module", None) or "").split(".")[0]
                assert not forbidden & {*names, module}, path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.load", "eval", "exec", "numpy.load"), path


def test_class_pollution_names_of_weights_and_fields_reach_no_object(running: Running) -> None:
    """ComfyUI CVE-2025-6107."""
    assert_refused(paint(running, model="polluting", prompt=""), 503)
    for name in ("__class__", "__dict__", "__init__", "model_config", "model_extra", "_seed", "constructor"):
        assert_refused(paint(running, **{name: {"x": 1}}))
        answer = edit(running, picture(), **{name: "1"})
        assert_refused(answer)
        assert answer.json()["error"]["code"] in ("unknown_parameter", "unsupported_parameter")
    assert Family.chunk == 16
    assert_paints(running)


def test_path_traversal_no_name_that_is_sent_is_a_path(running: Running, tmp_path: Path) -> None:
    """ComfyUI CVE-2026-56671, -56673; InvokeAI CVE-2025-6237, CVE-2024-11042; SGLang #17267; A1111 #12822;
    Gradio CVE-2023-51449, CVE-2024-1561, -1728, -51751, CVE-2026-28414; ComfyUI-Easy-Use CVE-2026-123790;
    BentoML #5548.
    """
    secret = running.service.settings.data.parent / "secret.png"
    secret.write_bytes(picture())
    before = {
        path for path in running.service.settings.data.parent.rglob("*") if "pictures" not in path.parts
    }
    ways = ("../secret.png", "..%2fsecret.png", "%2e%2e/secret.png", "..\\secret.png", "/etc/passwd")
    ways += ("....//secret.png", "..%c0%afsecret.png", "%00secret.png", "C:\\secret.png")
    for way in ways:
        for route in (
            f"v1/pictures/{secret.parent}",
            "v1/pictures",
            "v1/models",
            "v1/jobs",
            "models",
            "static",
            "file",
            "view",
            "models/{}/samples.png",
        ):
            path = f"/{route}/{way}" if "{}" not in route else f"/{route.format(way)}"
            status, answer = raw(
                running, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
            )
            assert status in (400, 403, 404), (path, answer[:200])
            assert b"PNG" not in answer
        assert_refused(paint(running, model=way), 404)
        assert edit(running, picture(), name=way).status_code == 200  # a file's name means nothing
        assert_refused(edit(running, picture(), model=way), 404)
    after = {path for path in running.service.settings.data.parent.rglob("*") if "pictures" not in path.parts}
    assert after == before
    assert secret.read_bytes() == picture()


def test_stored_xss_no_picture_can_be_a_page(running: Running) -> None:
    """ComfyUI CVE-2024-10099, CVE-2026-56670 (SVG), CVE-2026-56672 (inline)."""
    script = "<script>alert(document.domain)</script>"
    for drawing in (f"<svg xmlns='http://www.w3.org/2000/svg'>{script}</svg>", f"<html>{script}", script):
        assert_refused(edit(running, drawing.encode(), "a.svg"))
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", script)
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(64, 64))).save(file, "PNG", pnginfo=notes)
    polyglot = file.getvalue() + script.encode()
    answer = edit(running, polyglot, "a.html", response_format="url")
    shown = httpx.get(answer.json()["data"][0]["url"])
    assert shown.content.startswith(b"\x89PNG")
    assert b"script" not in shown.content  # only pixels come back
    assert shown.headers["content-type"] == "image/png"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert "sandbox" in shown.headers["content-security-policy"]
    for answer in (
        paint(running, model=script),
        paint(running, **{script: 1}),
        paint(running, prompt=script),
    ):
        assert_refused(answer, 400, 404)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_csrf_other_origins_and_simple_forms_are_refused(running: Running) -> None:
    """ComfyUI CVE-2026-56674, GHSA-5xxr-jvhm-jxmj (Origin null); ComfyUI-Manager (simple content types)."""
    url, body = f"{running.url}/v1/images/generations", json.dumps(STAR)
    kind = {"content-type": "application/json"}
    for headers in (
        {**kind, "origin": "null"},
        {**kind, "origin": "https://evil.example"},
        {**kind, "host": "evil.example"},
        {**kind, "sec-fetch-site": "cross-site"},
    ):
        answer = httpx.post(url, content=body, headers=headers)
        assert_refused(answer, 403)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    for simple in ("text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", ""):
        assert_refused(httpx.post(url, content=body, headers={"content-type": simple}), 415)
    for path in ("v1/jobs", "v1/images/edits", "v1/images/variations"):
        headers = {"origin": "null", "content-type": "multipart/form-data; boundary=x"}
        assert_refused(httpx.post(f"{running.url}/{path}", content=b"--x--", headers=headers), 403)


def test_crlf_what_is_sent_begins_no_line_of_a_header_or_of_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2025-67303 (a configuration overwritten), CVE-2026-22777 (CRLF)."""
    forged = 'x\r\nset-cookie: a=b\r\n\r\n{"level": "INFO"}\n'
    for answer in (
        paint(running, user=forged),
        paint(running, model=forged),
        paint(running, output_format=forged),
        paint(running, **{forged: forged}),
        edit(running, picture(), user=forged, name=forged),
        httpx.get(f"{running.url}/v1/models/x%0d%0aset-cookie:%20a=b"),
        httpx.get(f"{running.url}/v1/pictures/x%0d%0aset-cookie:%20a=b"),
    ):
        assert "set-cookie" not in answer.headers
        assert answer.status_code in (200, 400, 404)
    request = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    request += b"x-request-id: a\rset-cookie: a=b\r\n\r\n"
    assert b"set-cookie" not in raw(running, request)[1].lower()
    for path in ("config", "settings", "v1/config", "v1/keys", "v1/settings", "manager/reboot"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            assert_refused(httpx.request(method, f"{running.url}/{path}", json=None), 404, 405)
    for name in ("data", "database", "limits", "outbound", "hosts"):
        assert_refused(paint(running, **{name: "x"}))


class _Origin(BaseHTTPRequestHandler):
    """A host of pictures with bad habits."""

    def do_GET(self) -> None:
        body, status, headers = picture(), 200, {}
        if self.path == "/redirect":
            body, status, headers = b"", 302, {"location": f"http://127.0.0.1:{self.server.server_port}/a"}
        elif self.path == "/large":
            body = b"\x89PNG" + bytes(2_000_000)
        elif self.path == "/bomb":
            packed = zlib.compressobj(9, zlib.DEFLATED, 31)
            body, headers = packed.compress(bytes(50_000_000)) + packed.flush(), {"content-encoding": "gzip"}
        elif self.path == "/slow":
            time.sleep(1.5)
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def origin() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Origin)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_ssrf_no_address_is_called_unless_its_host_is_allowed_and_public(
    running: Running,
    models: dict[str, str],
    origin: ThreadingHTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM CVE-2025-6242, #57157; SGLang #17269; Gradio CVE-2026-28416; Unsloth #11010; vLLM-Omni #2565,
    #4751; A1111, which checks one answer of the DNS and then asks for another (rebinding).
    """
    port = origin.server_port
    here = f"http://127.0.0.1:{port}/a"

    def ask(service: Running, url: str) -> httpx.Response:
        body = {**STAR, "images": [{"image_url": url}]}
        return httpx.post(f"{service.url}/v1/images/edits", json=body, timeout=30)

    names = ("a.example", "b.example", "mixed.example", "mapped.example", "meta.example", "*.wide.example")
    outbound = {"pictures": [f"127.0.0.1:{port}", *names], "seconds": 1.0}
    answers = {
        "a.example": ["127.0.0.1"],
        "b.example": ["10.0.0.7"],
        "mixed.example": ["93.184.215.14", "169.254.169.254"],
        "mapped.example": ["::ffff:127.0.0.1"],
        "meta.example": ["64:ff9b::a9fe:a9fe"],
        "x.wide.example": ["192.168.0.1"],
    }
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host in answers:
            asked.append(host)
            return [real(address, port, type=socket.SOCK_STREAM)[0] for address in answers[host]]
        return real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with served({"masked": models["masked"]}, tmp_path, outbound=outbound) as open_to_some:
        assert ask(open_to_some, here).status_code == 200
        origin.seen.clear()  # type: ignore[attr-defined]
        asked_for = {"endpoint": "edits", "body": {**STAR, "images": [{"image_url": here}]}}
        job = httpx.post(f"{open_to_some.url}/v1/jobs", json=asked_for, timeout=30).json()["id"]
        assert "job.succeeded" in httpx.get(f"{open_to_some.url}/v1/jobs/{job}/events", timeout=60).text
        assert origin.seen == ["/a"]  # type: ignore[attr-defined]  # once, when it was accepted
        origin.seen.clear()  # type: ignore[attr-defined]
        for url in (
            f"http://a.example:{port}/a",  # its port is not the one that is allowed
            "http://a.example/a",
            "https://b.example/a",
            "http://mixed.example/latest/meta-data",
            "http://mapped.example/a",
            "http://meta.example/a",
            "http://x.wide.example/a",
            "http://wide.example.evil.example/a",
            f"http://localhost:{port}/a",
            f"http://127.1:{port}/a",
            f"http://2130706433:{port}/a",
            f"http://0x7f000001:{port}/a",
            f"http://[::ffff:127.0.0.1]:{port}/a",
            f"http://127.0.0.1:{port}@a.example/a",
            f"http://a.example@127.0.0.1:{port}/a",
            f"http://127.0.0.1:{port + 1}/a",
            f"http:\\\\127.0.0.1:{port}\\a",
            "file:///etc/passwd",
            "gopher://127.0.0.1/a",
            "ftp://a.example/a",
            "http:///a",
            "//a.example/a",
            "http://a.example/" + "a" * 9000,
            "http://xn--a/",
        ):
            assert_refused(ask(open_to_some, url))
        assert origin.seen == []  # type: ignore[attr-defined]
        for path in ("redirect", "large", "bomb", "slow"):
            assert_refused(ask(open_to_some, f"http://127.0.0.1:{port}/{path}"))
        assert "/a" not in origin.seen  # type: ignore[attr-defined]
    assert_refused(ask(running, here))  # by default, nothing is called

    answers["a.example"] = ["93.184.215.14"]
    asked.clear()
    where = asyncio.run(fetch.target("https://a.example/x?y=1", ["a.example"]))
    answers["a.example"] = ["127.0.0.1"]  # what the name says now is not asked any more
    assert asked == ["a.example"]
    assert str(where.url) == "https://93.184.215.14/x?y=1"
    assert (where.headers["host"], where.extensions["sni_hostname"]) == ("a.example", "a.example")


def routes_of(router: Any) -> Iterator[Any]:
    """All routes of an application, those of the routers that it includes too."""
    for route in router.routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else routes_of(included)


def test_missing_auth_with_keys_every_route_asks_for_one(
    locked: tuple[Running, dict[str, str]],
) -> None:
    """SGLang #26789; Gradio CVE-2024-34511, CVE-2026-27167 (a fixed secret); ShadowRay CVE-2023-48022;
    TorchServe CVE-2023-43654.
    """
    service, tokens = locked
    app = create_app(service.service.settings)
    routes = list(routes_of(app))
    assert {route.path_format for route in routes} >= {*app.openapi()["paths"], "/models/{name}/samples.png"}
    public = {"/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/pictures/{name}"}
    assert public < {route.path_format for route in routes}
    tried = 0
    for path, methods in ((one.path_format, one.methods) for one in routes if one.path_format not in public):
        for method in methods - {"HEAD"}:
            url = service.url + path.replace("{", "").replace("}", "")
            for headers in ({}, {"authorization": "Basic YTpi"}, {"authorization": "Bearer none"}):
                answer = httpx.request(method, url, headers=headers)
                assert answer.status_code == 401, (method, path)
                assert_refused(answer, 401)
                tried += 1
    assert tried >= 24
    for token in ("admin", "secret", "danqing", "sk-none", tokens["anna"][:-1], tokens["anna"].upper()):
        answer = httpx.get(f"{service.url}/v1/models", headers={"authorization": f"Bearer {token}"})
        assert_refused(answer, 401)
    assert len(set(tokens.values())) == 2
    files = b"".join(path.read_bytes() for path in service.service.settings.data.rglob("*") if path.is_file())
    assert not any(token.encode() in files for token in tokens.values())  # only hashes are kept


def test_open_redirect_no_answer_leads_elsewhere(running: Running) -> None:
    """Gradio CVE-2024-4940, #13593."""
    for path in (
        "//evil.example/",
        "/\\evil.example/",
        "/%5cevil.example/",
        "/v1/models/",
        "/v1/images/generations/",
        "/docs/",
        "/?next=https://evil.example",
        "/file=https://evil.example",
        "/v1/models//evil.example/..",
        "https://evil.example/",
    ):
        for host in (b"localhost", b"127.0.0.1"):
            request = (
                b"GET " + path.encode() + b" HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n"
            )
            status, answer = raw(running, request)
            assert not 300 <= status < 400, (path, answer[:300])
            assert b"\nlocation:" not in answer.lower()


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return (
        b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    )


def part(name: str, content: bytes, file: str = "") -> bytes:
    disposition = f'content-disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return disposition.encode() + b"\r\n\r\n" + content


def test_multipart_dos_forms_and_json_are_read_under_limits(running: Running) -> None:
    """Starlette CVE-2024-47874 (text parts without bound), CVE-2025-62727 (Range), CVE-2025-54121 (spooling);
    python-multipart (negative Content-Length); BentoML CVE-2024-9056 (boundary).
    """
    url = f"{running.url}/v1/images/edits"
    began = time.monotonic()

    def send(body: bytes, kind: str = "multipart/form-data; boundary=x") -> httpx.Response:
        return httpx.post(url, content=body, headers={"content-type": kind}, timeout=20)

    image = part("image", picture(), "a.png")
    words = [part(name, value.encode()) for name, value in STAR.items()]
    assert send(form(image, *words)).status_code == 200
    for body in (
        form(image, *words, part("user", b"a" * 100_000)),
        form(image, part("model", b"masked"), part("prompt", b"a" * 200_000)),
        form(image, *words, *(part(f"f{i}", b"") for i in range(5000))),
        form(image, *words, *[image] * 40),
        form(image, *words, part("a" * 5000, b"")),
        form(image, *words, part("user", b"\xff\xfe")),
        form(image, *words, part("user", b"a\0b")),
        form(image, *words, part("prompt", b"circle")),
        form(image, *words, b"x-a: " + b"b" * 9000 + b"\r\n\r\n"),
        form(image, *words, b"x: y\r\n" * 200 + b"\r\n"),
        form(image, *words, b"content-transfer-encoding: base64\r\n" + part("user", b"YQ==")),
        form(image, *words, b"\r\n\r\nno headers"),
        form(image, *words)[:-6],
        form(image, *words)[:-300],
        form(image, *words, boundary=b"y"),
        b"\r\n" * 500_000 + form(image, *words)[5:],
        b"--x" * 300_000,
        b"",
    ):
        assert_refused(send(body))
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "-" * 100,
    ):
        assert_refused(send(form(image), kind))
    assert_refused(send(form(part("image", bytes(1_500_000), "a.png"))))
    assert_refused(
        httpx.post(url, content=bytes(3_000_000), headers={"content-type": "application/json"}), 413
    )
    for body in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" + b"[]," * 300_000 + b"[]]",
        b'{"prompt": "' + b"\\" * 500_001 + b'"}',
        b'{"prompt": "' + b'\\"' * 900_000,
        b'{"prompt": "a", "n": ' + b"9" * 100_000 + b"}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": NaN}',
        b'{"prompt": "star", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\\u0000b"}',
        b"\xff\xfe{\x00}\x00",
        b'"text"',
        b"null",
    ):
        assert_refused(
            httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=20)
        )
    for length in (b"-1", b"1e3", b"+5", b"99999999999999999999", b"0x10", b"5, 5"):
        request = (
            b"POST /v1/images/edits HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + length + b"\r\n\r\nab"
        )
        assert raw(running, request)[0] in (400, 413)
    ranges = {"range": "bytes=" + ",".join(f"{i}-{i + 1}" for i in range(2000))}
    address = paint(running, response_format="url").json()["data"][0]["url"]
    assert httpx.get(address, headers=ranges).status_code == 200
    assert time.monotonic() - began < 60
    assert_paints(running)


def test_native_overflow_chunks_and_numbers_reach_no_limit_of_c(running: Running) -> None:
    """Triton CVE-2025-23310, -23311 (chunked), -23319, -23320, -23334 (an error tells of memory), -33201."""
    for number in (-1, 0, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 1.5, True, "9" * 5000, [], {}):
        for name in ("n", "num_steps", "output_compression", "partial_images", "top_k", "guidance_scale"):
            answer = paint(running, **{name: number})
            if answer.status_code != 200:
                assert_refused(answer)
    for seed in (2**63, -(2**63) - 1, 10**400, 0.5, "1"):
        assert_refused(paint(running, seed=seed))
    for size in (
        "0x0",
        "-8x8",
        "99999x99999",
        "8x8x8",
        "8X8",
        "８x８",
        "1e3x1e3",
        "9" * 999 + "x1",
        "8192x1",
    ):
        assert_refused(paint(running, size=size))
    head = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    for body in (
        b"ffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"-1\r\n{}\r\n0\r\n\r\n",
        b"fffffffffffffffffffffffff\r\n",
        b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
        b"1\r\n{\r\n" * 5000 + b"0\r\n\r\n",
    ):
        status, answer = raw(running, head + body, ends=True)
        assert status in (0, 400, 413)
        assert b"/tmp" not in answer
        assert b"Traceback" not in answer
    both = head.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n") + b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
    status, answer = raw(running, both)  # two lengths: a proxy before us could read the other
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert status in (0, 400)
    assert_paints(running)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, *further: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(further) + data + chunk(b"IEND", b"")


@contextlib.contextmanager
def growth() -> Iterator[list[int]]:
    """By how many bytes at most the service grew meanwhile, its worker included, which is told at the end."""
    parts = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before, most, done = sum(part.memory_info().rss for part in parts), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, sum(part.memory_info().rss for part in parts))

    watcher = threading.Thread(target=look)
    watcher.start()
    told: list[int] = []
    try:
        yield told
    finally:
        done.set()
        watcher.join()
        told.append(most - before)


def test_image_bombs_and_odd_sizes_cost_little_and_break_nothing(running: Running) -> None:
    """Pillow CVE-2022-45198 (GIF), CVE-2026-40192 (FITS); urllib3 GHSA-38jv-5279-wg99; vLLM CVE-2026-22773 (a
    picture of one pixel).
    """
    zeros = chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20_000_000), 9))
    began = time.monotonic()
    for content in (
        png(60_000, 60_000, zeros),
        png(2**31 - 1, 1, zeros),
        png(0, 0, zeros),
        png(8, 8, b"", text),
        png(8, 8, chunk(b"IDAT", b"\0" * 8)),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(100),
        b"SIMPLE  =                    T" + bytes(2000),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(100),
        b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\xff" + bytes(10),
        b"\xff\xd8\xff\xe0" + bytes(1000),
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(1000),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n",
        b"P6\n99999 99999\n255\n",
        b"BM" + bytes(100),
        b"\x89PNG\r\n\x1a\n",
    ):
        with growth() as grown:
            assert_refused(edit(running, content))
        assert grown[-1] < 32 * 1024**2, content[:60]
    with growth() as grown:
        answer = edit(running, png(8, 8, chunk(b"IDAT", zlib.compress((b"\0" + bytes(32)) * 8)), profile))
    assert answer.status_code in (200, 400)
    assert grown[-1] < 32 * 1024**2
    for width, height in ((1, 1), (1, 2), (2, 1), (1, 999), (999, 1), (7, 5), (999, 999)):
        answer = edit(running, picture(width, height), n="1")
        if answer.status_code == 200:
            painted = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
            assert painted.size == (width, height)
        else:
            assert_refused(answer)
        words = {"model": "masked", "label": "star"}
        files = {"image": picture(width, height, alpha=False)}
        answer = httpx.post(f"{running.url}/v1/images/variations", data=words, files=files, timeout=60)
        assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < 60
    assert_paints(running)


def test_contamination_of_a_batch_each_gets_their_own_whoever_is_beside(
    running: Running, models: dict[str, str]
) -> None:
    """SGLang #28502, #29742 (padding that is not masked)."""
    model = dq.load(models["masked"])
    labels = ("circle", "red square", "star")

    def one(seed: int) -> bool:
        label = labels[seed % 3]
        if seed % 2:
            answer = paint(running, prompt=label, seed=seed, n=1 + seed % 4)
            expected = model.sample(1 + seed % 4, label=label, seed=seed).array
        else:
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), dtype=np.uint8)
            pixels[..., 3] = 255
            pixels[:4, : 1 + seed % 8, 3] = 0
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            answer = edit(running, file.getvalue(), prompt=label, seed=str(seed))
            where = pixels[..., 3] == 0
            shown = pixels[..., :3].copy()
            shown[where] = shown[~where].mean(axis=0).round().astype(np.uint8)
            expected = model.fill(dq.images.Images(shown[None]), where, label=label, seed=seed).array
        files = [base64.b64decode(picture["b64_json"]) for picture in answer.json()["data"]]
        painted = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        return np.array_equal(painted, expected)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(32)))


def test_idor_what_belongs_to_another_key_is_not_there(locked: tuple[Running, dict[str, str]]) -> None:
    """Langflow CVE-2026-4503."""
    service, tokens = locked
    anna, bert = (
        httpx.Client(base_url=service.url, headers={"authorization": f"Bearer {tokens[name]}"}, timeout=30)
        for name in ("anna", "bert")
    )
    with anna, bert:
        asked = {"endpoint": "generations", "body": {**STAR, "prompt": "star"}}
        headers = {"idempotency-key": "the-same"}
        accepted = anna.post("/v1/jobs", json=asked, headers=headers)
        assert accepted.status_code == 202, accepted.text
        job = accepted.json()["id"]
        for method, path in (
            ("GET", f"/v1/jobs/{job}"),
            ("POST", f"/v1/jobs/{job}/cancel"),
            ("GET", f"/v1/jobs/{job}/events"),
            ("GET", f"/v1/jobs/{job}/images/0"),
        ):
            theirs = bert.request(method, path)
            nobodys = bert.request(method, path.replace(job, job[:-4] + "0000"))
            assert_refused(theirs, 404)
            assert theirs.json()["error"]["code"] == nobodys.json()["error"]["code"]
        assert bert.get("/v1/jobs").json()["data"] == []
        assert [one["id"] for one in anna.get("/v1/jobs").json()["data"]] == [job]
        other = bert.post("/v1/jobs", json=asked, headers=headers).json()["id"]
        assert other != job  # the same idempotency key of another caller is another job
        with anna.stream("GET", f"/v1/jobs/{job}/events") as events:
            assert "job.succeeded" in events.read().decode()
        assert anna.get(f"/v1/jobs/{job}/images/0").content.startswith(b"\x89PNG")
        assert_refused(bert.get(f"/v1/jobs/{job}/images/0"), 404)
