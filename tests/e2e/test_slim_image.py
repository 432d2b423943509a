"""The image without PyTorch: the commands of its Dockerfile give a service that paints."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

import danqing as dq
from tests.compress import tiny

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile.slim"
HOME = "/opt/danqing"


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined if line]


def own_environment() -> dict[str, str]:
    """The environment without what makes this checkout visible."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """What the first stage of the Dockerfile builds, in another place."""
    place, source, bin = tmp_path / "opt", tmp_path / "src", tmp_path / "bin"
    bin.mkdir()
    source.mkdir()
    (bin / "python").symlink_to(os.path.realpath(sys.executable))
    environment = own_environment()
    environment["PATH"] = f"{bin}:{environment['PATH']}"
    index = [sys.executable, "-m", "pip", "index", "versions", "tomli-w"]
    if subprocess.run(index, capture_output=True, env=environment).returncode:
        pytest.skip("pip has no index here")
    stages = 0
    for name, rest in steps():
        stages += name == "FROM"
        if stages > 1:
            break
        if name == "ARG":
            variable, _, value = rest.partition("=")
            environment[variable] = value
        elif name == "COPY":
            *files, target = rest.split()
            for file in files:
                copy, into = ROOT / file, source / target
                if copy.is_dir():
                    shutil.copytree(copy, into, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    into.mkdir(exist_ok=True)
                    shutil.copy(copy, into)
        elif name == "RUN":
            command = re.sub(r"--mount=\S+", "", rest).replace(HOME, str(place))
            shell = ["bash", "-euc", command]
            done = subprocess.run(shell, cwd=source, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place


@pytest.fixture
def url(home: Path, tmp_path: Path) -> Iterator[str]:
    """A service in what was built, as the image starts it."""
    instructions = dict(steps())
    dq.export(tiny.model_of(tiny.GAN), tmp_path / "painter")
    config = tmp_path / "service.toml"
    config.write_text('port = 0\ndata = "data"\n[models]\npainter = "painter"\n')
    words = [*json.loads(instructions["ENTRYPOINT"]), *json.loads(instructions["CMD"]), "--json"]
    words = [str(config) if word == "/etc/danqing/service.toml" else word for word in words]
    environment = {**own_environment(), "PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [str(home / "bin" / words[0]), *words[1:]], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"].rstrip("/")
    finally:
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_the_commands_of_the_slim_image_give_a_service_that_paints(url: str, home: Path) -> None:
    python = str(home / "bin" / "python")
    find = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('danqing').origin)"
    told = subprocess.run([python, "-c", find], env=own_environment(), capture_output=True, text=True)
    assert told.stdout.startswith(f"None {home}")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.images.generate(model="painter", prompt="cat", extra_body={"seed": 7})
        assert client.models.retrieve("painter").to_dict()["runtime"] == "onnx"
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))))
    expected = tiny.model_of(tiny.GAN).sample(1, seed=7, label="cat").array[0]
    assert np.abs(painted.astype(int) - expected).max() <= 1
    check = json.loads(dict(steps())["HEALTHCHECK"].partition("CMD")[2])
    healthy = [python, *(word.replace("http://127.0.0.1:8000", url) for word in check[1:])]
    assert subprocess.run(healthy, env=own_environment()).returncode == 0, shlex.join(healthy)
