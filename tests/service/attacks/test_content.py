"""Whatever stands in what is sent, names and files alike, it is content: not code, not a path, not a page."""

import ast
import io
import json
import pickle
from pathlib import Path

import httpx
import pytest
from PIL import Image, PngImagePlugin

import danqing
from danqing.families.base import Family
from tests.service.attacks.asking import (
    STAR,
    Planted,
    assert_paints,
    assert_refused,
    edit,
    paint,
    picture,
    raw,
)
from tests.service.serving import Running


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
    ways: tuple[str, ...] = (
        "../secret.png",
        "..%2fsecret.png",
        "%2e%2e/secret.png",
        "..\\secret.png",
        "/etc/passwd",
    )
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
