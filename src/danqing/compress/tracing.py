"""From a network to a graph in ONNX."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from danqing.compress.plan import GraphPlan, Size
from danqing.compress.runtime.graphs import imported
from danqing.compress.runtime.manifest import Port
from danqing.errors import ModelError, first_line

BATCH = 2
"""Of the example: a batch of one would become a constant."""


def trace(name: str, plan: GraphPlan, path: Path) -> None:
    """Write a network as a graph in ONNX.

    name: of the graph, for messages.
    Raises ModelError where a package is missing, or the network has no graph.
    """
    for package in ("onnx", "onnxscript"):
        imported(package, "export")
    examples = plan.examples(BATCH, _size(plan), torch.Generator().manual_seed(0))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                plan.network,
                examples,
                dynamo=True,
                verbose=False,
                input_names=[port.name for port in plan.inputs],
                output_names=[port.name for port in plan.outputs],
                dynamic_shapes=_dynamic_shapes(plan),
            )
    except Exception as error:  # the exporter's errors have no common class of ours
        raise ModelError(
            f"The network of the graph {name} cannot be exported ({first_line(error)}): please report it "
            "with the model's config.json."
        ) from error
    assert program is not None
    program.save(path)


def _size(plan: GraphPlan) -> Size:
    """Return the size of the example, whose sides differ and are more than one multiple."""
    return 3 * plan.multiple, 2 * plan.multiple


def _dynamic_shapes(plan: GraphPlan) -> tuple[Any, ...]:
    """Return which axes of the inputs may vary, as `torch.export` takes them."""

    sides = {
        side: plan.multiple * torch.export.Dim(side) if side in ("h", "w") else torch.export.Dim.DYNAMIC
        for port in plan.inputs
        for side in port.shape
        if isinstance(side, str)
    }

    def axes(port: Port) -> dict[int, Any]:
        return {axis: sides[side] for axis, side in enumerate(port.shape) if isinstance(side, str)}

    shapes = tuple(axes(port) for port in plan.inputs)
    parameters = inspect.signature(plan.network.forward).parameters.values()
    own = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    return (*shapes[:own], shapes[own:]) if shapes[own:] else shapes  # the rest is one tuple


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says of packages and axes, which no user can change."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
