"""The list of what a JetPack reads refuses what its TensorRT is known to refuse."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from export import ExportError
from export.jetpack import JETPACKS, OPERATORS, check
from tests.needs import ROOT


def _model(*nodes: onnx.NodeProto, opset: int = 17, domain: str = "") -> onnx.ModelProto:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [value], [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])


def test_every_jetpack_from_6_0_on_has_its_tensorrt_as_in_the_docs() -> None:
    page = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if "| opset" in line]
    told = {name: (row[2], row[5]) for row in rows for name in row[0].split(", ")}
    assert set(told) == {"6.0", "6.1", "6.2", "7.0", "7.1", "7.2"}
    for name, (tensorrt, opset) in told.items():
        assert (JETPACKS[name].tensorrt, f"opset {JETPACKS[name].largest_opset}") == (tensorrt, opset)


@pytest.mark.parametrize("jetpack", JETPACKS)
def test_operators_of_the_list_pass(jetpack: str) -> None:
    check(_model(*(helper.make_node(name, ["x"], ["y"]) for name in sorted(OPERATORS))), jetpack)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_model(opset=18), "opset 18, only up to 17"),
        (_model(domain="com.microsoft", opset=1), "operators of com.microsoft"),
        (_model(helper.make_node("Det", ["x"], ["y"])), "the operator Det"),
        (_model(helper.make_node("Relu", ["x"], ["y"], domain="own")), "the operator Relu"),
        (_model(helper.make_node("Resize", ["x"], ["y"], antialias=1)), "antialiased Resize"),
        (_model(helper.make_node("Resize", ["x"], ["y"], mode="cubic")), "cubic Resize"),
        (_model(helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])), "MaxPool with indices"),
    ],
    ids=["opset", "domain", "operator", "custom operator", "antialias", "cubic", "indices"],
)
def test_what_tensorrt_8_6_does_not_read_is_refused(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(ExportError, match=rf"JetPack 6\.0 \(TensorRT 8\.6\.2\) does not read .*{reason}"):
        check(model, "6.0")
