"""The builder's calls, by generation of TensorRT; and TensorRT for RTX itself, which builds without a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import ExportError, to_onnx
from export.plan import PlanRequest, build_plan
from sgmsnet.checkpoint import find
from tests.fake_tensorrt import SHARED_PLAN, fake_builder
from tests.needs import missing

REQUEST = PlanRequest(
    runtime="tensorrt", graph="tiny.onnx", plan="model.plan", precision="fp16", workspace_mb=64, batch_max=16
)
PROFILE = "profile ('images', (1, 1, 64, 64), (1, 1, 64, 64), (16, 1, 64, 64))"


def _ignore(phase: str, percent: int) -> None: ...


def test_a_driver_that_is_too_old_is_told_in_a_sentence() -> None:
    trt, _ = fake_builder("11.0")

    def builder(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = builder
    with pytest.raises(ExportError, match="cannot use the driver of this GPU"):
        build_plan(trt, REQUEST, progress=lambda phase, percent: None)


@pytest.mark.parametrize(
    ("version", "network", "flags"),
    [
        ("8.6", "network 1", ["set FP16", "set OBEY_PRECISION_CONSTRAINTS", "preview PROFILE_SHARING_0806 True"]),
        ("10.3", "network 2", []),
        ("11.0", "network 0", []),
    ],
)
def test_the_order_of_calls_of_each_generation(version: str, network: str, flags: list[str]) -> None:
    trt, calls = fake_builder(version)
    assert build_plan(trt, REQUEST, progress=_ignore) == SHARED_PLAN
    assert calls == [
        *("Builder", network, "OnnxParser", "parse tiny.onnx", "config", "workspace 67108864", "clear TF32"),
        *flags,
        *(PROFILE, "build"),
    ]


def test_fp32_sets_no_fp16_flag_on_8_6_and_shares_its_profile_too() -> None:
    trt, calls = fake_builder("8.6")
    assert build_plan(trt, replace(REQUEST, precision="fp32"), progress=_ignore) == SHARED_PLAN
    assert not [call for call in calls if call.startswith("set ")]


def test_on_8_6_layers_that_give_fp32_are_held_to_it() -> None:
    trt, _ = fake_builder("8.6")
    build_plan(trt, REQUEST, progress=_ignore)
    assert [layer.precision for layer in trt.layers] == [None, "float", None]


def test_on_8_6_a_graph_without_an_fp16_layer_is_told() -> None:
    said: list[str] = []
    for has_half in (True, False):
        build_plan(fake_builder("8.6", has_half=has_half)[0], REQUEST, progress=_ignore, say=said.append)
    assert [sentence for sentence in said if "every layer of this graph for FP32" in sentence] == said[-2:-1]
    assert said[-1] == "TensorRT 8.6 tells no progress; building takes some minutes"


def test_a_builder_that_tells_its_progress_says_nothing_else() -> None:
    said: list[str] = []
    build_plan(fake_builder("10.3")[0], REQUEST, progress=_ignore, say=said.append)
    assert not said


def test_the_timing_cache_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    for content in (b"", b"tactics"):
        trt, calls = fake_builder("10.3")
        build_plan(trt, replace(REQUEST, timing_cache=str(path)), progress=_ignore)
        assert f"timing cache {content!r}" in calls
        assert "use timing cache, mismatch False" in calls
        assert path.read_bytes() == b"tactics"


def test_a_timing_cache_that_is_damaged_or_cannot_be_had_or_kept_does_not_spoil_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    path.write_bytes(b"damaged")
    trt, calls = fake_builder("10.3")
    assert build_plan(trt, replace(REQUEST, timing_cache=str(path)), progress=_ignore) == SHARED_PLAN
    assert [call for call in calls if "timing" in call][1:] == [
        *("timing cache b''", "use timing cache, mismatch False"),
    ]
    trt, calls = fake_builder("10.3", has_cache=False)
    assert build_plan(trt, replace(REQUEST, timing_cache=str(path)), progress=_ignore) == SHARED_PLAN
    assert not [call for call in calls if call.startswith("use timing cache")]
    trt, _ = fake_builder("10.3")
    assert build_plan(trt, replace(REQUEST, timing_cache=str(tmp_path)), progress=_ignore) == SHARED_PLAN


def test_progress_is_told_of_the_outermost_phase() -> None:
    told: list[tuple[str, int]] = []
    trt, _ = fake_builder("10.3")
    build_plan(trt, REQUEST, progress=lambda phase, percent: told.append((phase, percent)))
    assert told == [("Building", 50), ("Building", 100)]


def test_refusals_of_parser_and_builder_are_one_sentence() -> None:
    with pytest.raises(ExportError, match=r"tensorrt cannot read tiny\.onnx: no importer for Det$"):
        build_plan(fake_builder("8.6", readable=False)[0], REQUEST, progress=_ignore)
    with pytest.raises(ExportError, match=r"tensorrt 10\.3 could not build tiny\.onnx"):
        build_plan(fake_builder("10.3", buildable=False)[0], REQUEST, progress=_ignore)


@pytest.fixture
def rtx() -> ModuleType:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        missing(f"tensorrt-rtx-cu13 cannot be imported ({error}); requirements-dev.txt has it")
        raise
    return tensorrt_rtx


def _for_rtx(graph: Path, *capabilities: str) -> PlanRequest:
    return replace(REQUEST, runtime="tensorrt-rtx", graph=str(graph), compute_capabilities=capabilities)


@pytest.mark.parametrize(("precision", "opset"), [("fp16", 17), ("fp16", 20), ("fp32", 20)])
def test_tensorrt_for_rtx_builds_the_graph_for_8_6_and_8_9(
    rtx: ModuleType, precision: to_onnx.Precision, opset: int, tiny_model: Path, tmp_path: Path
) -> None:
    graph = to_onnx.export(find(tiny_model), tmp_path / "tiny.onnx", opset=opset, precision=precision)
    told: list[int] = []
    request = replace(_for_rtx(graph, "8.6", "8.9"), precision=precision)
    plan = build_plan(rtx, request, progress=lambda _, percent: told.append(percent))
    assert len(plan) > 10_000
    assert told[-1] == 100


@pytest.mark.slow
def test_tensorrt_for_rtx_builds_the_shipped_network_in_fp16_for_8_6_and_8_9(rtx: ModuleType, tmp_path: Path) -> None:
    graph = to_onnx.export(find("cxr"), tmp_path / "cxr.onnx", precision="fp16", jetpack="6.2")
    plan = build_plan(rtx, _for_rtx(graph, "8.6", "8.9"), progress=_ignore)
    assert len(plan) > graph.stat().st_size / 2  # the weights are in it


def _save(path: Path, node: onnx.NodeProto, *more: onnx.TensorProto) -> Path:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "control", [images], [output], list(more))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_tensorrt_for_rtx_refuses_the_negative_controls(rtx: ModuleType, tmp_path: Path) -> None:
    sizes = onnx.numpy_helper.from_array(np.array([1, 1, 32, 32], np.int64), "sizes")
    half = onnx.numpy_helper.from_array(np.ones((1, 1, 64, 64), np.float16), "half")
    controls = {
        "resize": (helper.make_node("Resize", ["images", "", "", "sizes"], ["y"], mode="linear", antialias=1), sizes),
        "add": (helper.make_node("Add", ["images", "half"], ["y"]), half),
        "own": (helper.make_node("Abacus", ["images"], ["y"], domain="own"),),
        "det": (helper.make_node("Det", ["images"], ["y"]),),
        "indices": (helper.make_node("MaxPool", ["images"], ["y", "places"], kernel_shape=[2, 2]),),
    }
    for name, control in controls.items():
        graph = _save(tmp_path / f"{name}.onnx", *control)
        with pytest.raises(ExportError, match=f"(cannot read|could not build) {name}"):
            build_plan(rtx, _for_rtx(graph, "8.6"), progress=_ignore)
    good = _save(tmp_path / "good.onnx", helper.make_node("Relu", ["images"], ["y"]))
    assert build_plan(rtx, _for_rtx(good, "8.6"), progress=_ignore)
    with pytest.raises(ExportError, match=r"does not build for compute capability 8\.7"):
        build_plan(rtx, _for_rtx(good, "8.7"), progress=_ignore)
