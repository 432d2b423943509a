"""Whether a graph computes what its network computes."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from danqing.compress.plan import GraphPlan, Size
from danqing.compress.runtime.graphs import Graph
from danqing.compress.runtime.manifest import Check
from danqing.errors import ModelError

TOLERANCE = 1e-4
"""The largest error of a graph in float32: a difference, relative to the largest output if that exceeds 1."""
BATCHES = (1, 3, 16)


def measure(name: str, plan: GraphPlan, graph: Graph, sizes: Sequence[Size]) -> Iterator[Check]:
    """Yield how far a graph is from its network in float32.

    sizes: at which it is measured, if the graph takes several; each at several batches.
    The inputs are random, others for each check.
    """
    for size in sizes if plan.multiple else sizes[:1]:
        for batch in BATCHES:
            inputs = plan.examples(batch, size, torch.Generator().manual_seed(batch + 97 * sum(size)))
            with torch.inference_mode():
                found = plan.network(*inputs)
            expected = found if isinstance(found, tuple) else (found,)
            given = {port.name: value.numpy() for port, value in zip(plan.inputs, inputs, strict=True)}
            errors = [_error(a.numpy(), b) for a, b in zip(expected, graph(given), strict=True)]
            yield Check(
                graph=name, batch=batch, size=size if plan.multiple else None, error=float(max(errors))
            )


def check(checks: Sequence[Check]) -> None:
    """Raise ModelError where a graph differs by more than the tolerance."""
    wrong = [one for one in checks if not one.error <= TOLERANCE]
    if wrong:
        worst = max(wrong, key=lambda one: one.error)
        where = f"batch {worst.batch}" + (f", {worst.size[0]}x{worst.size[1]}" if worst.size else "")
        raise ModelError(
            f"The exported graph {worst.graph} differs from the model by {worst.error:.2g} ({where}), and "
            f"{TOLERANCE:g} is allowed, so nothing was exported: try the other target, or report it with the "
            "model's config.json."
        )


def check_lowered(checks: Sequence[Check]) -> None:
    """Raise ModelError where fewer bits leave no number, as too large weights do."""
    if wrong := [one.graph for one in checks if not math.isfinite(one.error)]:
        raise ModelError(
            f"The graph {wrong[0]} has numbers that are too large for fewer bits, so nothing was exported: "
            "use precision float32."
        )


def _error(expected: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", found: object) -> float:
    """Return the largest difference, relative to the largest output if that exceeds 1.

    The outputs of a step, such as velocities, are larger than the values of pixels, and rounded accordingly.
    Infinite where shapes differ or a number is missing.
    """
    values = np.asarray(found)
    if values.shape != expected.shape:
        return float("inf")
    difference = np.abs(values.astype(np.float64) - expected).max(initial=0.0)
    difference /= max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float("inf") if np.isnan(difference) else float(difference)
