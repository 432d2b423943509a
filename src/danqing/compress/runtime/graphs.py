"""Runs graphs with ONNX Runtime or OpenVINO."""

import importlib.util
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime.manifest import GraphForm, Manifest, Precision, Target
from danqing.errors import ModelError

Array = NDArray[Any]
_RUNTIMES: Mapping[Target, tuple[str, str]] = {
    "onnx": ("onnxruntime", "export"),
    "openvino": ("openvino", "openvino"),
}
"""The package that runs a target, and the extra that installs it."""
_FIXED_AXES = {"n", "h", "w"}
"""Axes that have few lengths while a model is used: of the batch and of the image."""
_MOST_COMPILED = 3
"""How many shapes a graph is compiled for at a time; each has weights of its own."""
_DTYPES = {"float32": np.float32, "int64": np.int64, "bool": np.bool_}


class Graph(Protocol):
    """A graph that is ready to run.

    It takes its inputs by name, and others that it does not have are left out. It returns its outputs in
    their order, as arrays of its own.
    """

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]: ...


def open_graphs(folder: Path, manifest: Manifest, threads: int = 0) -> dict[str, Graph]:
    """Open the graphs of an export by their names.

    threads: of each graph; 0 is what the runtime chooses.
    Raises ModelError where the runtime is not installed, or does not take a graph.
    """
    opened = {}
    for name, form in manifest.graphs.items():
        path = folder / form.file
        opened[name] = open_graph(path, form, precision=manifest.precision, threads=threads)
    return opened


def open_graph(path: Path, form: GraphForm, *, precision: Precision = "float32", threads: int = 0) -> Graph:
    """Open one graph; raises ModelError as `open_graphs`.

    path: its ending says which runtime runs it.
    """
    runtime = OnnxGraph if path.suffix == ".onnx" else OpenVINOGraph
    try:
        return runtime(path, form, precision, threads)
    except ModelError:
        raise
    except Exception as error:  # whatever a runtime raises for a graph that it does not take
        raise ModelError(f"{path} cannot be run ({error}): export the model again.") from error


class Inputs:
    """Brings arrays to what a graph takes."""

    def __init__(self, form: GraphForm) -> None:
        self._ports = {port.name: _DTYPES[port.dtype] for port in form.inputs}

    def chosen(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs that the graph has, in its number formats."""
        return {name: np.ascontiguousarray(inputs[name], dtype=dtype) for name, dtype in self._ports.items()}


class OnnxGraph:
    """A graph in ONNX Runtime.

    precision: of stored weights, which the graph converts itself.
    """

    def __init__(self, path: Path, form: GraphForm, precision: Precision, threads: int) -> None:
        runtime = imported(*_RUNTIMES["onnx"])
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # The weights' memory is the session's own, and buffers of one size serve all runs.
        options.enable_cpu_mem_arena = False
        self._inputs = Inputs(form)
        self._session = runtime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Run the graph."""
        return list(self._session.run(None, self._inputs.chosen(inputs)))


class OpenVINOGraph:
    """A graph in OpenVINO.

    precision: bf16 computes matrix products in bfloat16.

    It is compiled when a shape of the inputs is met, and for this shape alone, since graphs that take any
    batch compute up to twice as long. A graph whose inputs grow in each step takes any shape.
    """

    def __init__(self, path: Path, form: GraphForm, precision: Precision, threads: int) -> None:
        runtime = imported(*_RUNTIMES["openvino"])
        properties = runtime.properties
        hint = runtime.Type.bf16 if precision == "bf16" else runtime.Type.f32
        self._settings: dict[Any, Any] = {
            properties.hint.inference_precision(): hint,
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
            properties.num_streams(): 1,
            # Several processes would be pinned to the same core.
            properties.hint.enable_cpu_pinning(): False,
        }
        if threads:
            self._settings[properties.inference_num_threads()] = threads
        self._inputs = Inputs(form)
        self._core = runtime.Core()
        self._graph = self._core.read_model(str(path))
        axes = {axis for port in form.inputs for axis in port.shape if isinstance(axis, str)}
        self._is_fixed = axes <= _FIXED_AXES
        self._compiled: OrderedDict[tuple[Any, ...], tuple[Any, Any]] = OrderedDict()
        if not self._is_fixed:
            self._compile((), {})

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Run the graph."""
        arrays = self._inputs.chosen(inputs)
        key = tuple(array.shape for array in arrays.values()) if self._is_fixed else ()
        if key not in self._compiled:
            self._compile(key, {name: array.shape for name, array in arrays.items()})
        self._compiled.move_to_end(key)
        graph, request = self._compiled[key]
        found = request.infer(arrays)
        return [np.array(found[port]) for port in graph.outputs]

    def _compile(self, key: tuple[Any, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
        graph = self._graph
        if shapes:
            graph = graph.clone()
            graph.reshape({name: list(shape) for name, shape in shapes.items()})
        while len(self._compiled) >= _MOST_COMPILED:
            self._compiled.popitem(last=False)
        try:
            compiled = self._core.compile_model(graph, "CPU", self._settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ModelError(
                f"OpenVINO cannot compute this model on this processor ({reason}): export it with another "
                "precision, or to onnx."
            ) from error
        self._compiled[key] = compiled, compiled.create_infer_request()


def check_runtime(target: Target) -> None:
    """Raise ModelError where the runtime of an export is not installed, without importing it."""
    package, extra = _RUNTIMES[target]
    if importlib.util.find_spec(package) is None:
        raise _missing(package, extra)


def imported(package: str, extra: str) -> ModuleType:
    """Import a runtime; raises ModelError that names its extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise _missing(package, extra) from error


def _missing(package: str, extra: str) -> ModelError:
    return ModelError(f"The package {package} is missing: install it with pip install 'danqing[{extra}]'.")
