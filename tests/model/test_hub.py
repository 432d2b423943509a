"""Models go to the hub and come back the same; what it gives is trusted no more than any other folder."""

import json
import os
import pickle
import subprocess
import sys

import pytest

import danqing as dq
from danqing.trust import keys
from tests.hub_standin import serving
from tests.proxy import proxying
from tests.tiny_encoders import written

PUSH_AND_PULL = """
import sys, json
import numpy as np
import danqing as dq
model = dq.load(sys.argv[1])
address = model.push_to_hub("someone/squares", token="hf_test")
pulled = dq.load("someone/squares")
same = np.array_equal(model.sample(4, seed=1).array, pulled.sample(4, seed=1).array)
print(json.dumps({"address": address, "same": bool(same)}))
"""

PULL = """
import sys, danqing as dq
try:
    dq.load(sys.argv[1])
except dq.DanqingError as error:
    print(error)
"""


def run(script, argument, address, home):
    """A fresh process: the hub's library reads its address when it is imported."""
    env = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-c", script, str(argument)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def model_folder(tmp_path):
    from danqing.families import build, parse_config
    from danqing.model.model import Model

    config = parse_config(
        {"family": "vae", "net": "mlp", "width": 8, "height": 8, "channels": 1, "features": 4}
    )
    return Model(build(config)).save(tmp_path / "model")


def test_a_model_goes_to_the_hub_and_comes_back(model_folder, tmp_path):
    with serving() as (address, repositories):
        result = json.loads(run(PUSH_AND_PULL, model_folder, address, tmp_path / "home"))
        assert result["same"]
        assert result["address"].endswith("someone/squares")
        assert set(repositories["someone/squares"]) >= {"config.json", "model.safetensors", "README.md"}


def test_what_the_hub_gives_is_checked(model_folder, tmp_path):
    with serving() as (address, repositories):
        files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
        repositories["someone/evil"] = files | {
            "model.safetensors": pickle.dumps(list(range(1000)), protocol=4)
        }
        repositories["someone/long"] = files | {"model.safetensors": files["model.safetensors"] + bytes(100)}
        assert "pickle" in run(PULL, "someone/evil", address, tmp_path / "home")
        assert "larger than its header says" in run(PULL, "someone/long", address, tmp_path / "home")
        assert "did not return it" in run(PULL, "someone/absent", address, tmp_path / "home")


REQUIRE = """
import sys, danqing as dq
for name in ("signed", "added", "unsigned"):
    try:
        print(name, dq.load("someone/" + name, require=sys.argv[1]).info()["family"])
    except dq.DanqingError as error:
        print(name, error)
"""


def test_a_signature_can_be_required_of_a_model_on_the_hub(model_folder, tmp_path):
    public = keys.create_signing_key(tmp_path / "release.key")
    plain = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    (model_folder / "LICENCE").write_text("Free to use.")  # which loading alone would not download
    dq.sign(model_folder, tmp_path / "release.key")
    files = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    with serving() as (address, repositories):
        repositories["someone/signed"] = {**files, ".gitattributes": b"*.png filter=lfs"}
        repositories["someone/added"] = {**files, "more.bin": b"x"}
        repositories["someone/unsigned"] = plain
        signed, added, unsigned = run(REQUIRE, public, address, tmp_path / "home").splitlines()
    assert signed == "signed vae"
    assert "more.bin was not signed" in added
    assert "is not signed" in unsigned


ENCODER = """
from danqing.errors import TextError
from danqing.text.contract import TextConfig, TextFacts
from danqing.text.encoders import open_encoder, settle
for name in ("someone/bert", "someone/pickled"):
    config = TextConfig(encoder=name, length=6)
    try:
        open_encoder(config, TextFacts(width=16, sha256="0" * 64)).encode(["red"])
    except TextError as error:
        print("opened:", error)
    try:
        facts = settle(config, [])
        print("settled:", facts.width, open_encoder(config, facts).encode(["red heart"]).any(2).sum().item())
    except TextError as error:
        print("settled:", error)
"""


def test_a_text_encoder_is_fetched_when_a_run_asks_for_it_and_never_by_opening_a_model(tmp_path):
    with serving() as (address, repositories):
        folder, _ = written("bert", tmp_path / "bert")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        pickled = {"evil.py": b"1 / 0", "pytorch_model.bin": b"\x80\x04N."}
        repositories["someone/bert"] = files | pickled
        plain = {name: content for name, content in files.items() if not name.endswith(".safetensors")}
        repositories["someone/pickled"] = plain | pickled
        said = run(ENCODER, "", address, tmp_path / "home").splitlines()
    assert "run hf download someone/bert" in said[0]
    assert said[1] == "settled: 16 3"
    assert "run hf download someone/pickled" in said[2]
    assert "settled: There is no text encoder" in said[3]
    fetched = (tmp_path / "home" / "hub").rglob("snapshots/*/*")
    assert {path.name for path in fetched} == set(files)


def test_the_hub_is_reached_through_a_proxy(model_folder, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as (address, repositories), proxying(address) as (proxy, asked):
        repositories["someone/squares"] = {path.name: path.read_bytes() for path in model_folder.iterdir()}
        monkeypatch.setenv("http_proxy", proxy)
        assert run(PULL, "someone/squares", "http://hub.invalid", tmp_path / "home") == ""
    assert any(path.startswith("http://hub.invalid/someone/squares/") for path in asked)


def test_the_errors_of_the_client_of_the_hub_are_caught():
    from huggingface_hub import errors

    from danqing.pipelines import hub

    names = ("HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError", "OfflineModeIsEnabled")
    assert all(issubclass(getattr(errors, name), hub.ERRORS) for name in (*names, "GatedRepoError"))
