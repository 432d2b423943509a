"""Transposed convolutions as convolutions, for runtimes that compute the former in float32 alone."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DOUBLING = {
    "kernel_shape": [4, 4],
    "strides": [2, 2],
    "pads": [1, 1, 1, 1],
    "dilations": [1, 1],
    "group": 1,
    "output_padding": [0, 0],
}
"""The attributes of a layer that doubles both sides of an image."""
_TAPS = {0: (3, 1), 1: (2, 0)}
"""Which taps of the kernel make the even and the odd pixels of a row, from the left one that they see."""


def replaced(model: Any) -> Any:
    """Replace transposed convolutions that double both sides; returns the model.

    Each becomes a convolution of 2 × 2 with four times the channels, whose channels are then placed beside
    each other (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"). The
    products are the same.
    model: an `onnx.ModelProto` in float32, which is changed.
    """
    import onnx

    graph, helper = model.graph, onnx.helper
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes, added = [], []
    for node in graph.node:
        if node.op_type != "ConvTranspose" or not _doubles(node) or node.input[1] not in weights:
            nodes.append(node)
            continue
        images, *names = node.input
        kernels, *biases = (onnx.numpy_helper.to_array(weights[name]) for name in names)
        values = [_kernels(kernels), *(np.repeat(bias, 4) for bias in biases)]
        own = [f"{node.output[0]}_{part}" for part in ("kernels", "biases")][: len(values)]
        added += [onnx.numpy_helper.from_array(value, name) for value, name in zip(values, own, strict=True)]
        cut = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3]}
        for name, value in cut.items():
            added.append(onnx.numpy_helper.from_array(np.array(value), f"{node.output[0]}_{name}"))
        apart, beside = f"{node.output[0]}_apart", f"{node.output[0]}_beside"
        nodes.append(
            helper.make_node("Conv", [images, *own], [apart], kernel_shape=[2, 2], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("DepthToSpace", [apart], [beside], blocksize=2, mode="CRD"))
        bounds = [f"{node.output[0]}_{name}" for name in cut]
        nodes.append(helper.make_node("Slice", [beside, *bounds], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(added)
    onnx.checker.check_model(model)
    return model


def _doubles(node: Any) -> bool:
    import onnx

    given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if given.pop("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    is_known = given.keys() <= _DOUBLING.keys()
    return is_known and all(given.get(name, value) == value for name, value in _DOUBLING.items())


def _kernels(kernels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the kernels of the convolution, `[4 · out, in, 2, 2]`, from `[in, out, 4, 4]`.

    A pixel at an even place sees the pixels of the smaller image to its left and below it, one at an odd
    place those below it and to its right. Even ones therefore come last of each two, and the border of the
    result is cut.
    """
    inputs, outputs = kernels.shape[:2]
    found = np.empty((outputs, 2, 2, inputs, 2, 2), np.float32)
    for row, rows in _TAPS.items():
        for column, columns in _TAPS.items():
            found[:, 1 - row, 1 - column] = kernels[:, :, rows][..., columns].swapaxes(0, 1)
    return found.reshape(4 * outputs, inputs, 2, 2)
