"""Transposed convolutions as convolutions: the same images, and others are left alone."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from danqing.compress import transposed


def exported(network: nn.Module, path: Path) -> onnx.ModelProto:
    example = torch.zeros(2, 5, 3, 4)
    torch.onnx.export(network, (example,), path, dynamo=True, verbose=False, input_names=["x"])
    return onnx.load(path)


@pytest.mark.parametrize("bias", [False, True])
def test_the_same_images_without_transposed_convolutions(tmp_path: Path, bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ConvTranspose2d(5, 6, 4, 2, 1, bias=bias), nn.ReLU(), nn.ConvTranspose2d(6, 3, 4, 2, 1)
    )
    changed = transposed.replaced(exported(network, tmp_path / "graph.onnx"))
    assert "ConvTranspose" not in {node.op_type for node in changed.graph.node}
    images = torch.randn(2, 5, 3, 4)
    session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(images).numpy(), atol=1e-6)


@pytest.mark.parametrize("options", [(2, 2, 0), (3, 1, 1), (4, 2, 0)])
def test_other_transposed_convolutions_are_left_alone(tmp_path: Path, options: tuple[int, int, int]) -> None:
    kernel, stride, padding = options
    network = nn.ConvTranspose2d(5, 6, kernel, stride, padding)
    graph = exported(network, tmp_path / "graph.onnx")
    assert transposed.replaced(onnx.ModelProto.FromString(graph.SerializeToString())) == graph
