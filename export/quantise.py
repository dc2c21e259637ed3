"""An ONNX graph to the same graph in INT8 where that is safe: post-training quantisation by NNCF's ONNX backend.

The stem, the memory, gates, spatial attention, the head, and everything that is not a convolution keep their precision.
No telemetry: NNCF finds no openvino-telemetry. Not here: whether the result is good enough (to_openvino.py).
"""

from __future__ import annotations

import logging
import os

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from engines.openvino_runtime import forbid_telemetry, import_openvino

FINE = "encoder.fine."
SENSITIVE = ("encoder.conv1.", FINE, "memory.", ".gate.", ".spatial.", "head.")
"""In the names of weights whose convolutions are not quantised."""
_PASSES_INT8_ON = {"Conv", "Relu", "MaxPool", "BatchNormalization", "Concat"}


def quantise(graph: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """The graph, quantised after watching uint8 images (N, 1, H, W) run; raises ModuleNotFoundError without nncf."""
    forbid_telemetry()
    os.environ.setdefault("NNCF_CI", "1")  # NNCF's own switch for the same
    import_openvino()  # NNCF would import it with its converter
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    plain = with_plain_weights(graph)
    dataset = nncf.Dataset(list(images[:, None]), lambda image: {"images": image})
    return nncf.quantize(
        plain,
        dataset,
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=not_quantised(plain)),
    )


def with_plain_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with FP32 initialisers in place of FP16 ones that pass through a Cast, all inside the file."""
    result = onnx.ModelProto()
    result.CopyFrom(graph)
    stored = {entry.name: entry for entry in result.graph.initializer}
    nodes = []
    for node in result.graph.node:
        source = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if source is None or source.data_type != TensorProto.FLOAT16:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(source).astype(np.float32)
        result.graph.initializer.remove(source)
        result.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def not_quantised(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that keep their precision."""

    def is_sensitive(node: onnx.NodeProto) -> bool:
        return any(part in name for name in node.input[1:] for part in SENSITIVE) or bool(fine & set(node.input))

    # What the fine stem's convolutions give is added to the stem's.
    fine = {node.output[0] for node in graph.graph.node if any(FINE in name for name in node.input[1:])}
    return [
        node.name
        for node in graph.graph.node
        if node.name and (node.op_type not in _PASSES_INT8_ON | {"Add"} or is_sensitive(node))
    ]
