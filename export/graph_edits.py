"""Edits of an exported graph in memory: names as in the weights file, nothing unused, pointers in place of weights.

Not here: exporting the network, and checking what comes of it (to_onnx.py).
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export import ExportError
from sgmsnet.formats import tensor_places

_ONNX_DTYPES = {"F16": TensorProto.FLOAT16, "F32": TensorProto.FLOAT}


def rename_initialisers(model: onnx.ModelProto) -> None:
    """Name the initialisers as in the weights file, without the prefix "network." that is the wrapper's."""
    names = {entry.name: entry.name.removeprefix("network.") for entry in model.graph.initializer}
    for entry in model.graph.initializer:
        entry.name = names[entry.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def drop_zero_biases(model: onnx.ModelProto, own: set[str]) -> None:
    """Take off the zero biases that the newer exporter gives to convolutions without one; `own` names the weights."""
    zeros = {
        entry.name
        for entry in model.graph.initializer
        if entry.name not in own and not onnx.numpy_helper.to_array(entry).any()
    }
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in zeros:
            del node.input[2]


def strip(model: onnx.ModelProto) -> None:
    """Remove unused initialisers, and traces of the machine and the source that exporters leave on nodes."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [entry for entry in graph.initializer if entry.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    del model.metadata_props[:]
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


def point_into(model: onnx.ModelProto, weights: Path) -> None:
    """Replace initialisers by references into the safetensors file, which must lie in the graph's folder.

    Raises ExportError where a tensor has another shape there.
    """
    places = tensor_places(weights)
    casts = []
    for entry in model.graph.initializer:
        place = places.get(entry.name)
        if place is None:
            continue  # a shape or a scalar of the graph itself
        if tuple(entry.dims) != place.shape:
            raise ExportError(f"the graph's {entry.name} has another shape than the weights'")
        if place.dtype == "F16":
            casts.append(helper.make_node("Cast", [f"{entry.name}.fp16"], [entry.name], to=TensorProto.FLOAT))
            entry.name += ".fp16"
        entry.data_type = _ONNX_DTYPES[place.dtype]
        for field in ("raw_data", "float_data"):
            entry.ClearField(field)
        entry.data_location = TensorProto.EXTERNAL
        del entry.external_data[:]
        for key, value in (("location", weights.name), ("offset", place.offset), ("length", place.length)):
            entry.external_data.add(key=key, value=str(value))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
