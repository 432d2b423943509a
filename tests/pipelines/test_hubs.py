"""Pipelines come from hubs: only what is read, once, and with a clear sentence where they do not."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from danqing.errors import ModelError
from danqing.pipelines import modelscope
from tests.hub_standin import serving

Folder = Callable[[str], Path]

SAMPLE = """
import json, sys
import numpy as np
import danqing as dq
for source in sys.argv[1:]:
    try:
        model = dq.load(source, marks="none")
        images = model.sample(prompt="a cat", seeds=[4], num_steps=2).array
        print(json.dumps({"model": model.declaration("sample").model, "sum": int(images.sum()),
                          "licence": model.info()["trained"].get("licence")}))
    except dq.DanqingError as error:
        print(json.dumps({"error": str(error)}))
"""

CARD = b"---\nlicense: other\nlicense_name: open-rail\ntags:\n- license: fake\n---\n# A model\n"


def run(address: str, home: Path, *sources: str, **more: str) -> list[dict[str, str]]:
    """What a fresh process makes of some sources: the hub's library reads its address when it is imported."""
    env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    env |= {"MODELSCOPE_DOMAIN": address, "DANQING_CACHE": str(home / "own"), **more}
    words = [sys.executable, "-c", SAMPLE, *sources]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class _CutShort(BaseHTTPRequestHandler):
    """Lists a file without its sha256, and closes the connection in the middle of it."""

    def do_GET(self) -> None:
        listed = {"Data": {"Files": [{"Path": "config.json", "Type": "blob", "Size": 10}]}}
        is_list = self.path.startswith("/api/")
        content = json.dumps(listed).encode() if is_list else b'{"a"'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if is_list else 10))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_does_not_arrive_from_modelscope_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _CutShort)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MODELSCOPE_DOMAIN", f"http://127.0.0.1:{server.server_port}")
    try:
        for cache in ("new", "file"):
            monkeypatch.setenv("DANQING_CACHE", str(tmp_path / cache))
            with pytest.raises(ModelError, match=r"did not arrive|did not return modelscope:a/b"):
                modelscope.fetch("modelscope:a/b", None, "", ["config.json"])
    finally:
        server.shutdown()
        server.server_close()
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.slow
def test_a_pipeline_comes_from_hubs_and_stays_without_a_connection(
    pipeline_folder: Folder, tmp_path: Path
) -> None:
    folder = pipeline_folder("sd1")
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    files["README.md"] = CARD
    more = {
        "pipeline.py": b"1 / 0",
        "unet/unet.py": b"1 / 0",
        "sd.ckpt": b"\x80\x04N.",
        "unet/pytorch.bin": b"x",
    }
    sources = [
        str(folder),
        "someone/sd",
        "modelscope:someone/sd",
        "someone/gated",
        "modelscope:someone/gated",
        "modelscope:someone/absent",
        "someone/code",
    ]
    with serving() as (address, repositories):
        repositories["someone/sd"] = files | more
        repositories["someone/gated"] = files | {".gated": b""}
        index = json.loads(files["model_index.json"]) | {"unet": ["unet", "Mine"]}
        repositories["someone/code"] = files | more | {"model_index.json": json.dumps(index).encode()}
        local, hub, modelscope, *errors = run(address, tmp_path, *sources)
    assert local["sum"] == hub["sum"] == modelscope["sum"]
    assert hub["model"] == modelscope["model"] == "someone/sd"
    assert hub["licence"] == modelscope["licence"] == "open-rail"
    assert f"gated: accept its terms at {address}/someone/gated" in errors[0]["error"]
    assert "set MODELSCOPE_API_TOKEN" in errors[1]["error"]
    assert "did not return modelscope:someone/absent: HTTP 404" in errors[2]["error"]
    assert "Mine of unet" in errors[3]["error"]
    brought = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not brought & {"pipeline.py", "unet.py", "sd.ckpt", "pytorch.bin"}

    again = run(address, tmp_path, "someone/sd", "modelscope:someone/sd")  # nobody answers there now
    assert [one["sum"] for one in again] == [local["sum"]] * 2
