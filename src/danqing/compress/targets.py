"""The forms in which graphs are stored: ONNX files, or the files of OpenVINO."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from danqing.compress import transposed
from danqing.compress.quantization import LEAST_WEIGHTS, SCALED, quantize
from danqing.compress.runtime.graphs import Array, imported
from danqing.compress.runtime.manifest import Precision, Target
from danqing.errors import ConfigError


def check(target: str, precision: str) -> None:
    """Raise ConfigError for a target or a precision that does not exist."""
    if target not in ("onnx", "openvino"):
        raise ConfigError(f"There is no target {target!r}: choose onnx, openvino or web.", "to")
    if precision not in get_args(Precision):
        raise ConfigError(
            f"There is no precision {precision!r}: choose {', '.join(get_args(Precision))}.", "precision"
        )
    if target == "onnx" and precision == "bf16":
        raise ConfigError(
            "ONNX Runtime does not compute in bf16 on processors: choose float32, fp16 or int8, or export to "
            "openvino.",
            "precision",
        )
    if target == "openvino" and precision == "int8":
        raise ConfigError("int8 is computed by ONNX Runtime: export to onnx, or choose bf16.", "precision")


def store(
    source: Path, target: Target, precision: Precision, inputs: Sequence[Mapping[str, Array]] = ()
) -> list[Path]:
    """Store a graph as a target does; returns its files.

    source: a graph in ONNX and float32, which is replaced. The file to open comes first.
    precision: fp16 and bf16 store weights in half the bytes; fp16 computes in float32.
    inputs: of the graph, for int8.
    """
    if target == "onnx":
        if precision == "fp16":
            _halve_weights(source)
        if precision == "int8":
            quantize(source, inputs)
            _halve_weights(source)
        return [source]
    openvino = imported("openvino", "openvino")
    path = source.with_suffix(".xml")
    if precision == "bf16":  # OpenVINO computes transposed convolutions in float32
        onnx = imported("onnx", "export")
        onnx.save(transposed.replaced(onnx.load(source)), source)
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=precision != "float32")
    source.unlink()
    return [path, path.with_suffix(".bin")]


def _halve_weights(path: Path) -> None:
    """Store the weights of a graph in float16, each followed by a conversion to float32."""
    import numpy as np
    import onnx

    model = onnx.load(path)
    graph = model.graph
    casts, kept = [], []
    scales = {name for node in graph.node if node.op_type in SCALED for name in node.input[1:]}
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        is_large = tensor.data_type == onnx.TensorProto.FLOAT and values.size >= LEAST_WEIGHTS
        if not is_large or tensor.name in scales:
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
