"""Graphs in 8 bits, by the inputs that sampling really feeds them.

Products between the first and the last layers are computed in 8 bits (static quantization: Jacob et al. 2018;
weights per channel: Krishnamoorthi 2018). The first and the last layers read noise and write pixels, and are
computed in float32, with weights that are stored in 8 bits.
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from danqing.compress.runtime.graphs import Array, Graph, Inputs, imported
from danqing.compress.runtime.manifest import GraphForm, Manifest
from danqing.compress.runtime.model import RuntimeModel

LEAST_WEIGHTS = 1024
"""Fewer numbers than these are not stored with fewer bits, which would save nothing."""
SCALED = ("QuantizeLinear", "DequantizeLinear")
"""Nodes whose second and third inputs are the scale and the zero point of 8-bit numbers."""

_PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Those that ONNX Runtime computes in 8 bits."""
_OUTPUT_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gather": 0}
"""Which axis of a weight counts the channels that a product writes, or the rows of a table."""
_ONE_SHOT_IMAGES = 128
_MOST_INPUTS = 32
_SEED = 1_000_003
"""Of the images that are sampled to calibrate: others than those of a score."""


class Recorder:
    """A graph that keeps some of the inputs that it gets.

    kept: the inputs, evenly spaced.
    """

    def __init__(self, graph: Graph, form: GraphForm) -> None:
        self._graph, self._inputs = graph, Inputs(form)
        self._calls, self._every = 0, 1
        self.kept: list[dict[str, Array]] = []

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Run the graph."""
        if self._calls % self._every == 0:
            self.kept.append(self._inputs.chosen(inputs))
        self._calls += 1
        if len(self.kept) > _MOST_INPUTS:
            self.kept, self._every = self.kept[::2], 2 * self._every
        return self._graph(inputs)


class _Reader:
    """Gives ONNX Runtime one input after another."""

    def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
        self._waiting = iter(inputs)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._waiting, None)


def recorded(manifest: Manifest, graphs: Mapping[str, Graph]) -> dict[str, list[dict[str, Array]]]:
    """Sample images, and return inputs that each graph gets by its name.

    There are none for a graph that sampling with the default options does not run.
    """
    recorders = {name: Recorder(graph, manifest.graphs[name]) for name, graph in graphs.items()}
    count = _ONE_SHOT_IMAGES if manifest.loop.kind == "one_shot" else manifest.chunk
    RuntimeModel(manifest, recorders, marks="none").sample(count, seed=_SEED)
    return {name: recorder.kept for name, recorder in recorders.items()}


def quantize(path: Path, inputs: Sequence[Mapping[str, Array]]) -> None:
    """Replace a graph in float32 by one in 8 bits.

    inputs: those that it gets. Without any, only weights are stored in 8 bits.
    """
    quantization = imported("onnxruntime.quantization", "export")
    _simplify(path)
    if inputs:
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends a step that has been taken
        try:
            quantization.quantize_static(
                path,
                path,
                _Reader(inputs),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_PRODUCTS),
                per_channel=True,
                # Sums of two products of 8 bits do not fit into 16, in which older processors compute them.
                reduce_range=not torch.cpu._is_vnni_supported(),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=_outermost(path),
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.root.setLevel(level)
    _store_weights(path)


def _simplify(path: Path) -> None:
    """Join operations that can be one, such as a convolution and the normalization after it."""
    runtime = imported("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        simple = Path(folder) / path.name
        options.optimized_model_filepath = str(simple)
        runtime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        simple.replace(path)


def _outermost(path: Path) -> list[str]:
    """Return the names of the products that are nearest to the first input and the first output.

    Other inputs and outputs are conditions and caches.
    """
    import onnx

    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    makers = {name: [node] for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    inputs = [port.name for port in graph.input if port.name not in weights]
    first = _nearest(inputs[0], readers, "output", weights)
    return [*first, *_nearest(graph.output[0].name, makers, "input", weights)]


def _nearest(start: str, neighbours: Mapping[str, list[Any]], onwards: str, weights: set[str]) -> set[str]:
    """Return the products with weights that are met first on all ways from a value.

    neighbours: the nodes on the other side of each value. onwards: where the way goes on from a node.
    """
    found, seen, waiting = set(), {start}, [start]
    while waiting:
        for node in neighbours.get(waiting.pop(), ()):
            if node.op_type in _OUTPUT_AXES.keys() | {"Gemm"} and weights & set(node.input):
                found.add(node.name)
                continue
            further = [name for name in getattr(node, onwards) if name not in seen]
            seen.update(further)
            waiting += further
    return found


def _store_weights(path: Path) -> None:
    """Store weights in 8 bits per channel that are still in float32.

    Two operations turn them into float32 again, which ONNX Runtime does once, when it loads the graph.
    """
    import onnx

    model = onnx.load(path)
    graph, axes = model.graph, _axes(model.graph)
    kept, nodes = [], []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        axis = axes.get(tensor.name)
        if axis is None or values.dtype != np.float32 or values.size < LEAST_WEIGHTS or values.ndim < 2:
            kept.append(tensor)
            continue
        others = tuple(other for other in range(values.ndim) if other != axis % values.ndim)
        scale = np.abs(values).max(others, keepdims=True) / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1))
        small, factor, number = (f"{tensor.name}_{part}" for part in ("int8", "scale", "float"))
        kept.append(onnx.numpy_helper.from_array(np.round(values / scale).astype(np.int8), small))
        kept.append(onnx.numpy_helper.from_array(scale.astype(np.float32), factor))
        nodes.append(onnx.helper.make_node("Cast", [small], [number], to=onnx.TensorProto.FLOAT))
        nodes.append(onnx.helper.make_node("Mul", [number, factor], [tensor.name]))
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _axes(graph: Any) -> dict[str, int]:
    """Return for each weight of a product or a table the axis that has a scale for each of its places."""
    axes: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Gemm":
            turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            axes[node.input[1]] = 0 if turned else 1
        elif node.op_type in _OUTPUT_AXES:
            place = 0 if node.op_type == "Gather" else 1
            axes[node.input[place]] = _OUTPUT_AXES[node.op_type]
    return axes
