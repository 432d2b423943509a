"""The forms in which graphs are stored: ONNX files, or the files of OpenVINO."""

from pathlib import Path

from danqing.compress.runtime.graphs import imported
from danqing.compress.runtime.manifest import Precision, Target
from danqing.errors import ConfigError

LEAST_WEIGHTS = 1024
"""Fewer numbers than these are not stored with fewer bits, which would save nothing."""


def check(target: str, precision: str) -> None:
    """Raise ConfigError for a target or a precision that does not exist."""
    if target not in ("onnx", "openvino"):
        raise ConfigError(f"There is no target {target!r}: choose onnx, openvino or web.", "to")
    if precision not in ("float32", "bf16", "fp16"):
        raise ConfigError(f"There is no precision {precision!r}: choose float32, bf16 or fp16.", "precision")
    if target == "onnx" and precision == "bf16":
        raise ConfigError(
            "ONNX Runtime does not compute in bf16 on processors: choose float32 or fp16, or export to "
            "openvino.",
            "precision",
        )


def store(source: Path, target: Target, precision: Precision) -> list[Path]:
    """Store a graph as a target does; returns its files.

    source: a graph in ONNX and float32, which is replaced. The file to open comes first.
    precision: fp16 stores weights in half the bytes, and computes in float32. bf16 stores them in float32.
    """
    if target == "onnx":
        if precision == "fp16":
            _halve_weights(source)
        return [source]
    openvino = imported("openvino", "openvino")
    path = source.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=precision == "fp16")
    source.unlink()
    return [path, path.with_suffix(".bin")]


def _halve_weights(path: Path) -> None:
    """Store the weights of a graph in float16, each followed by a conversion to float32."""
    import numpy as np
    import onnx

    model = onnx.load(path)
    graph = model.graph
    casts, kept = [], []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type != onnx.TensorProto.FLOAT or values.size < LEAST_WEIGHTS:
            kept.append(tensor)
            continue
        name = f"{tensor.name}_half"
        kept.append(onnx.numpy_helper.from_array(values.astype(np.float16), name))
        casts.append(onnx.helper.make_node("Cast", [name], [tensor.name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
