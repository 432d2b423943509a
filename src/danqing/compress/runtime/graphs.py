"""Runs graphs with ONNX Runtime or OpenVINO."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danqing.compress.runtime.manifest import GraphForm, Manifest, Precision
from danqing.errors import ModelError

Array = NDArray[Any]
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
        runtime = imported("onnxruntime", "export")
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
    """

    def __init__(self, path: Path, form: GraphForm, precision: Precision, threads: int) -> None:
        runtime = imported("openvino", "openvino")
        properties = runtime.properties
        hint = runtime.Type.bf16 if precision == "bf16" else runtime.Type.f32
        settings: dict[Any, Any] = {
            properties.hint.inference_precision(): hint,
            properties.hint.performance_mode(): properties.hint.PerformanceMode.LATENCY,
            properties.num_streams(): 1,
            # Several processes would be pinned to the same core.
            properties.hint.enable_cpu_pinning(): False,
        }
        if threads:
            settings[properties.inference_num_threads()] = threads
        self._inputs = Inputs(form)
        self._compiled = runtime.Core().compile_model(str(path), "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Run the graph."""
        found = self._request.infer(self._inputs.chosen(inputs))
        return [np.array(found[port]) for port in self._compiled.outputs]


def imported(package: str, extra: str) -> ModuleType:
    """Import a runtime; raises ModelError that names its extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"The package {package} is missing: install it with pip install 'danqing[{extra}]'."
        ) from error
