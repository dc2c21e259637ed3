"""What the TensorRT of each JetPack can read, and whether a graph keeps to it; a pass is no proof that it builds.

Not here: building. The operators are those of NVIDIA's list for TensorRT 8.4 that SGMSNet may come to use
(onnx-tensorrt, docs/operators.md); later releases add to that list. JetPack versions: NVIDIA's JetPack archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from export import ExportError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class JetPack:
    """What one JetPack brings."""

    tensorrt: str
    largest_opset: int
    """That its ONNX parser is documented to read."""


JETPACKS = {
    "6.0": JetPack(tensorrt="8.6.2", largest_opset=17),
    "6.1": JetPack(tensorrt="10.3.0", largest_opset=20),
    "6.2": JetPack(tensorrt="10.3.0", largest_opset=20),
    "7": JetPack(tensorrt="10.13", largest_opset=20),
    "7.0": JetPack(tensorrt="10.13", largest_opset=20),
    "7.1": JetPack(tensorrt="10.13", largest_opset=20),
    "7.2": JetPack(tensorrt="10.16.2", largest_opset=20),
}

# fmt: off
OPERATORS = frozenset({
    "Add", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Div", "Exp",
    "Expand", "Gather", "Identity", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pow",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Shape", "Sigmoid", "Slice", "Softmax", "Sqrt",
    "Squeeze", "Sub", "Transpose", "Unsqueeze",
})
# fmt: on


def check(model: onnx.ModelProto, jetpack: str) -> None:
    """Raise ExportError, naming the first thing of the graph that the TensorRT of this JetPack does not read."""
    target = JETPACKS[jetpack]
    refusal = f"JetPack {jetpack} (TensorRT {target.tensorrt}) does not read"
    for entry in model.opset_import:
        if entry.domain:
            raise ExportError(f"{refusal} operators of {entry.domain}")
        if entry.version > target.largest_opset:
            raise ExportError(f"{refusal} opset {entry.version}, only up to {target.largest_opset}")
    for node in model.graph.node:
        if problem := _problem(node):
            raise ExportError(f"{refusal} {problem}")


def _problem(node: onnx.NodeProto) -> str | None:
    values = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type not in OPERATORS or node.domain:
        return f"the operator {node.op_type}"
    if node.op_type == "Resize" and "antialias" in values and values["antialias"].i:
        return "an antialiased Resize"
    if node.op_type == "Resize" and "mode" in values and values["mode"].s == b"cubic":
        return "a cubic Resize"
    if node.op_type == "MaxPool" and len(node.output) > 1:
        return "a MaxPool with indices"
    return None
