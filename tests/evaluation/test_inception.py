"""The FID Inception against the published PyTorch port, with one set of random weights."""

import dataclasses
import hashlib
import http.server
import importlib
import sys
import threading
import types
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from danqing.errors import EvaluationError
from danqing.evaluation.networks import inception, open_network
from danqing.evaluation.networks.inception import Inception, InceptionV3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under which activations keep their scale, as `torch.save` writes them."""
    torch.manual_seed(0)
    net = InceptionV3()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def port(weights: Path) -> nn.Module:
    """torch-fidelity's definition, without its package, which imports torchvision."""
    found = find_spec("torch_fidelity")
    places = [Path(found.origin).parent] if found and found.origin else []
    folder = next((p for p in (*places, Path(sys.prefix) / "parity" / "torch_fidelity") if p.is_dir()), None)
    if folder is None:
        pytest.skip("torch-fidelity is not there: pip install --no-deps --target .venv/parity torch-fidelity")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(folder)]
    sys.modules["torch_fidelity"] = package
    try:
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
            del sys.modules[name]
    return module.FeatureExtractorInceptionV3(
        "port", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )


@pytest.fixture(scope="module")
def ours(weights: Path) -> Inception:
    network = open_network("inception", weights=weights)
    assert isinstance(network, Inception)
    network.batch_size = 2
    return network


def _drawn(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(299, 299), (36, 47), (400, 310)])
def test_features_and_classes_are_those_of_the_port(
    ours: Inception, port: nn.Module, size: tuple[int, int]
) -> None:
    """With the legacy resizer, on the port's own terms: uint8 pictures of any size."""
    images = _drawn(2, *size, 3)
    with torch.inference_mode():
        features, logits = port(images.permute(0, 3, 1, 2))
    found = ours.features(images)
    assert found.shape == (2, 2048)
    assert (found - features).abs().max() < 1e-4 * max(1.0, float(features.abs().max()))
    torch.testing.assert_close(ours.probabilities(found), logits.softmax(1), atol=1e-5, rtol=1e-3)


def test_the_published_names_are_ours(port: nn.Module) -> None:
    expected = {name: tensor.shape for name, tensor in port.state_dict().items()}
    assert {name: tensor.shape for name, tensor in InceptionV3().state_dict().items()} == expected


def test_folding_changes_nothing(ours: Inception, weights: Path) -> None:
    plain = InceptionV3()
    plain.load_state_dict(torch.load(weights, weights_only=True))
    inputs = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        expected = plain.eval()(inputs)
        torch.testing.assert_close(ours.net(inputs), expected, atol=1e-4, rtol=1e-4)


def test_the_resizer_is_said_and_matters(ours: Inception, weights: Path) -> None:
    antialiased = open_network(f"inception-antialiased:{weights}")
    assert isinstance(antialiased, Inception)
    antialiased.batch_size = 1
    assert antialiased.resizer == "antialiased bicubic to 299x299, clamped to 0..255"
    assert ours.resizer == "legacy bilinear (TensorFlow 1) to 299x299, clamped to 0..255"
    assert antialiased.normalization == ours.normalization == "(x - 128) / 128"
    own, large = _drawn(1, 299, 299, 3), _drawn(1, 500, 500, 3)
    torch.testing.assert_close(antialiased.features(own), ours.features(own), atol=1e-3, rtol=1e-3)
    assert (antialiased.features(large) - ours.features(large)).abs().max() > 0.1


def test_only_the_published_weights_are_called_inception(ours: Inception, tmp_path: Path) -> None:
    assert ours.name == f"inception-{ours.sha256[:8]}"
    torch.save({"fc.weight": torch.ones(1008, 2048)}, tmp_path / "part.pth")
    with pytest.raises(EvaluationError, match="does not hold the weights of the FID Inception"):
        open_network("inception", weights=tmp_path / "part.pth")


def test_stages_end_in_the_features(ours: Inception) -> None:
    images = _drawn(1, 40, 40, 3)
    stages = ours.stages(images)
    assert [stage.shape[1] for stage in stages] == [64, 192, 288, 768, 2048]
    torch.testing.assert_close(stages[-1].mean((2, 3)), ours.features(images), atol=1e-4, rtol=1e-4)


CONTENT = b"what stands for the weights"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server on this machine with a file that is pinned instead of the published one; what it was asked."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    folder = tmp_path / "mirror"
    (folder / "inception").mkdir(parents=True)
    (folder / "inception" / inception.FILE).write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", sha256)
    pinned = dataclasses.replace(inception.PUBLISHED, files={inception.FILE: sha256}, installed=())
    monkeypatch.setattr(inception, "PUBLISHED", pinned)
    monkeypatch.delenv("DANQING_DATA", raising=False)
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DANQING_MIRROR", f"http://127.0.0.1:{server.server_port}")
        yield asked
        server.shutdown()


def test_weights_are_fetched_once(mirror: list[str]) -> None:
    assert inception.published_weights().read_bytes() == CONTENT
    assert inception.published_weights().read_bytes() == CONTENT
    assert mirror == [f"/inception/{inception.FILE}"]


def test_other_weights_than_those_published_are_refused(
    mirror: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror" / "inception" / inception.FILE).write_bytes(CONTENT + b" tampered with")
    with pytest.raises(EvaluationError, match="not the file that was published"):
        inception.published_weights()
    assert list((tmp_path / "cache").rglob("*.pth")) == []
    (tmp_path / "data" / "inception").mkdir(parents=True)
    (tmp_path / "data" / "inception" / inception.FILE).write_bytes(b"put there by hand")
    monkeypatch.setenv("DANQING_DATA", str(tmp_path / "data"))
    with pytest.raises(EvaluationError, match="not the file that was published"):
        inception.published_weights()


def test_without_a_network_the_message_says_what_to_do(
    mirror: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_MIRROR", "http://127.0.0.1:9")
    with pytest.raises(EvaluationError, match="inception:FILE, or choose efficientnet-lite0"):
        open_network("inception")
