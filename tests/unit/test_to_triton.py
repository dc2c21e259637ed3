"""The model repository: Triton's own protobuf reads its configuration, and what it says is true of the model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import manifest
from engines.base import EngineUnavailable
from engines.onnxruntime_engine import OnnxRuntimeEngine
from export import ExportError, to_onnx, to_triton
from export.__main__ import main
from export.to_triton import PLATFORMS, Platform, Served, Serving
from export.verify import BOUNDS
from sgmsnet.checkpoint import ModelFiles, find
from tests.needs import ROOT
from tests.unit.fake_plans import change, write_plan


@pytest.fixture(scope="module")
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def xray(example_images: np.ndarray) -> np.ndarray:
    """uint8 (1, 64, 64)."""
    return example_images[0]


def parsed(text: str) -> Any:
    """config.pbtxt as Triton reads it."""
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("platform", PLATFORMS)
def test_triton_s_protobuf_reads_the_configuration(files: ModelFiles, platform: Platform) -> None:
    serving = Serving(platform=platform, instances=2, batch_max=16, queue_delay_ms=1.5)
    read = parsed(to_triton.config(files, serving, Served("fp32", 16, files.config.outputs)))
    assert (read.name, read.max_batch_size) == ("tiny", 16)
    assert (read.backend, read.platform) == {
        "onnxruntime": ("onnxruntime", ""),
        "openvino": ("openvino", ""),
        "tensorrt": ("", "tensorrt_plan"),
    }[platform]
    assert list(read.dynamic_batching.preferred_batch_size) == [8, 16]
    assert read.dynamic_batching.max_queue_delay_microseconds == 1500
    [group] = read.instance_group
    kind = group.DESCRIPTOR.enum_types_by_name["Kind"].values_by_number[group.kind].name
    assert (group.count, kind) == (2, "KIND_GPU" if platform == "tensorrt" else "KIND_CPU")
    sizes = range(1, 17) if platform == "tensorrt" else [1]  # a GPU sets itself up for each
    assert [warm_up.batch_size for warm_up in read.model_warmup] == list(sizes)
    for warm_up in read.model_warmup:
        assert warm_up.inputs["images"].input_data_file == "images"
        assert list(warm_up.inputs["images"].dims) == [1, 64, 64]
    assert not read.optimization.execution_accelerators.gpu_execution_accelerator
    assert read.parameters["weights_sha256"].string_value == files.sha256
    assert read.output[0].label_filename == "labels.txt"


def test_onnx_runtime_on_a_gpu_computes_in_fp32_and_does_not_search(files: ModelFiles) -> None:
    read = parsed(to_triton.config(files, Serving(gpu=True), Served("fp32", 4, files.config.outputs)))
    [accelerator] = read.optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})
    assert read.parameters["cudnn_conv_algo_search"].string_value == "1"
    assert [warm_up.batch_size for warm_up in read.model_warmup] == [1, 2, 3, 4]
    with pytest.raises(ExportError, match="OpenVINO on a CPU alone"):
        Serving(platform="openvino", gpu=True)


def test_outputs_are_those_of_the_graph_and_of_the_plan(files: ModelFiles, xray: np.ndarray, tmp_path: Path) -> None:
    own = find(shutil.copy(files.weights, tmp_path))
    to_onnx.export(own, tmp_path / "tiny.onnx", opset=17, attention=False)
    folder = to_triton.export(find(own.weights), tmp_path / "repository", Serving(), warm_up=xray)
    read = parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert [entry.name for entry in read.output] == ["logits", "embedding"]
    built = tmp_path / "built"
    change(outputs={"logits": (-1, 2, 64, 64)})(write_plan(files, built))
    served = to_triton._copy_plan(files, tmp_path, Serving(platform="tensorrt"), built)
    assert served.outputs == ("logits",)


def test_an_export_that_is_refused_leaves_nothing_in_the_repository(
    files: ModelFiles, xray: np.ndarray, tmp_path: Path
) -> None:
    serving = Serving(platform="tensorrt")
    with pytest.raises(ExportError, match="no TensorRT plan"):
        to_triton.export(files, tmp_path / "repository", serving, warm_up=xray, built=tmp_path / "built")
    assert not list((tmp_path / "repository").iterdir())


def test_shapes_are_those_that_the_model_gives(files: ModelFiles, xray: np.ndarray) -> None:
    read = parsed(to_triton.config(files, Serving(), Served("fp32", 8, files.config.outputs)))
    engine = OnnxRuntimeEngine(files, device="cpu")
    found = engine.run(xray[None])
    engine.close()
    assert {entry.name: tuple(entry.dims) for entry in read.output} == {
        name: value.shape[1:] for name, value in found.items()
    }


def test_the_exported_graph_answers_as_the_model_does(files: ModelFiles, xray: np.ndarray, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = to_triton.export(files, tmp_path / "repository", Serving(), warm_up=xray)
    assert (folder / "labels.txt").read_text() == "lungs\ninfection\n"
    warm = np.frombuffer((folder / "warmup" / "images").read_bytes(), np.uint8).reshape(1, 1, 64, 64)
    np.testing.assert_array_equal(warm[0], xray)
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    engine = OnnxRuntimeEngine(files, device="cpu")
    np.testing.assert_array_equal(session.run(["logits"], {"images": warm})[0], engine.run(warm)["logits"])
    engine.close()
    again = to_triton.export(files, tmp_path / "repository", Serving(batch_max=4), warm_up=xray)
    assert parsed((again / "config.pbtxt").read_text()).max_batch_size == 4
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["tiny"]


@pytest.mark.parametrize(("platform", "said"), [("onnxruntime", "fp32"), ("openvino", "fp32 or bf16")])
def test_a_precision_that_the_server_decides_is_not_called_fp32(
    files: ModelFiles, xray: np.ndarray, tmp_path: Path, platform: Platform, said: str
) -> None:
    folder = to_triton.export(files, tmp_path, Serving(platform=platform), warm_up=xray)
    assert parsed((folder / "config.pbtxt").read_text()).parameters["precision"].string_value == said
    assert said in BOUNDS
    assert said in json.loads((ROOT / "docs" / "prediction.schema.json").read_text())["properties"]["precision"]["enum"]


def test_what_cannot_be_served_is_refused(files: ModelFiles, xray: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no TensorRT plan"):
        to_triton.export(files, tmp_path, Serving(platform="tensorrt"), warm_up=xray, built=tmp_path / "none")
    with pytest.raises(EngineUnavailable, match="no graph"):
        to_triton.export(replace(files, graph=None), tmp_path, Serving(), warm_up=xray)
    with pytest.raises(ExportError, match="uint8"):
        to_triton.export(files, tmp_path, Serving(), warm_up=xray.astype(np.float32))
    with pytest.raises(ExportError, match="at least 1"):
        Serving(instances=0)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(ExportError, match="no model of Triton"):
        to_triton.export(files, tmp_path, Serving(), warm_up=xray)


def test_a_plan_that_failed_leaves_the_place_to_one_in_fp32(
    files: ModelFiles, xray: np.ndarray, tmp_path: Path
) -> None:
    failed = write_plan(files, tmp_path / "built")
    shutil.copytree(failed, failed.with_name("tensorrt-fp32"))
    manifest.write(failed, replace(manifest.read(failed), parity={"passed": False, "refused": ["too far"]}))
    change(precision="fp32")(failed.with_name("tensorrt-fp32"))

    def export() -> Path:
        serving = Serving(platform="tensorrt")
        return to_triton.export(files, tmp_path / "models", serving, warm_up=xray, built=tmp_path / "built")

    assert parsed((export() / "config.pbtxt").read_text()).parameters["precision"].string_value == "fp32"
    shutil.rmtree(failed.with_name("tensorrt-fp32"))
    with pytest.raises(ExportError, match=r"did not give PyTorch's answer .*: too far; `python -m export tensorrt "):
        export()


def test_the_command_writes_the_shipped_model_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from export.__main__ import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "triton", "--model", "cxr", "--output", str(tmp_path / "repository")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert parsed((tmp_path / "repository" / "cxr" / "config.pbtxt").read_text()).name == "cxr"
    assert main(["triton", "--output", str(tmp_path), "--platform", "tensorrt", "--model", "gone"]) == 1
