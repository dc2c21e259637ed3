"""The command builds a plan with a manifest that fits it, in a child process whose end is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from engines import manifest as manifests
from engines.base import EngineUnavailable
from export import ExportError, capability, to_onnx, to_tensorrt
from export.__main__ import main
from export.plan import PlanRequest
from sgmsnet.checkpoint import ModelFiles, find
from tests.needs import ROOT, missing

REQUEST = PlanRequest(
    runtime="tensorrt-rtx", graph="nowhere.onnx", plan="model.plan", precision="fp16", workspace_mb=64
)


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


def _need_rtx() -> None:
    try:
        metadata.version("tensorrt-rtx-cu13")
    except metadata.PackageNotFoundError:
        missing("tensorrt-rtx-cu13 is not installed; requirements-dev.txt has it")


def test_the_command_builds_ahead_of_time_with_a_manifest_that_fits(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _need_rtx()
    build = to_tensorrt.build
    monkeypatch.setattr(to_tensorrt, "build", lambda files, **options: build(files, built=tmp_path, **options))
    monkeypatch.setattr(to_tensorrt, "available_mb", lambda: None)
    arguments = ["tensorrt", "--model", str(files.weights), "--rtx", "--compute-capability", "8.6", "8.9"]
    assert main(arguments) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "Parser: reads every node" in said
    assert "Building engine: 100 %" in said
    folder = tmp_path / "tiny" / "tensorrt-rtx-fp16"
    assert sorted(entry.name for entry in folder.iterdir()) == ["manifest.json", "model.onnx", "model.plan"]
    made = manifests.read(folder)
    assert manifests.check_artefact(folder, made) == folder / "model.plan"
    manifests.check_model(made, weights_sha256=files.sha256)
    manifests.check_machine(made, gpu_name="any", compute_capability="8.9")
    manifests.check_version(made, metadata.version("tensorrt-rtx-cu13"))
    assert tuple(made.outputs) == files.config.outputs
    assert made.inputs == {"images": (-1, 1, 64, 64)}
    assert made.outputs["gate_5"] == (-1, 1, 2, 2)
    assert (made.precision, made.opset, made.batch_max, made.gpu_name) == ("fp16", 20, 16, None)


def test_what_the_parser_does_not_read_is_named_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _need_rtx()
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Abacus", ["images"], ["y"])], "control", [images], [output])
    path = tmp_path / "control.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    monkeypatch.chdir(tmp_path)
    (reason,) = capability.inspect(path, runtime="tensorrt-rtx")
    assert reason.startswith("Abacus: ")
    assert "Plugin not found" in reason
    assert to_tensorrt._capability(path, "tensorrt-rtx").startswith("does not read Abacus: ")
    assert [entry.name for entry in tmp_path.iterdir()] == ["control.onnx"]  # polygraphy leaves nothing behind
    assert "not asked (" in to_tensorrt._capability(tmp_path / "absent.onnx", "tensorrt-rtx")


def test_a_refusal_of_the_child_is_its_last_sentence() -> None:
    _need_rtx()
    with pytest.raises(ExportError, match=r"tensorrt-rtx cannot read nowhere\.onnx") as caught:
        to_tensorrt.run_child(REQUEST, report=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_builder_that_the_system_ends_is_told_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    killed = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(to_tensorrt.subprocess, "Popen", lambda _, **options: popen(killed, **options))
    with pytest.raises(ExportError, match=r"signal 9.*add swap"):
        to_tensorrt.run_child(REQUEST, report=lambda line: None)


def test_too_little_memory_is_told_before_building(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4096000 kB\nMemAvailable: 1024000 kB\nSwapFree: 512000 kB\n")
    assert to_tensorrt.available_mb(meminfo) == 1500
    assert to_tensorrt.available_mb(tmp_path / "none") is None
    monkeypatch.setattr(to_tensorrt, "available_mb", lambda: 1500)
    to_tensorrt.check_memory(50 * 2**20, 1024)
    with pytest.raises(ExportError, match=r"needs about 2400 MB of memory and 1500 MB are free"):
        to_tensorrt.check_memory(50 * 2**20, 2000)


def test_without_a_gpu_it_says_how_to_build_for_one_elsewhere(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise EngineUnavailable("this machine has no NVIDIA driver")

    monkeypatch.setattr(to_tensorrt, "first_gpu", absent)
    with pytest.raises(ExportError, match=r"no NVIDIA driver; .* give --rtx and --compute-capability"):
        to_tensorrt.build(files, built=tmp_path)
    with pytest.raises(ExportError, match="give --compute-capability"):
        to_tensorrt.build(files, runtime="tensorrt-rtx", built=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_made_elsewhere_is_built_without_torch_and_one_that_does_not_fit_is_refused(
    files: ModelFiles, tmp_path: Path
) -> None:
    _need_rtx()
    graph = to_onnx.export(files, tmp_path / "half.onnx", opset=20, precision="fp16")
    program = f"""
import sys
from pathlib import Path
from export import to_tensorrt
from sgmsnet.checkpoint import find
to_tensorrt.available_mb = lambda: None
folder = to_tensorrt.build(
    find({str(files.weights)!r}), runtime="tensorrt-rtx", graph=Path({str(graph)!r}), compute_capabilities=["8.6"],
    built=Path({str(tmp_path / "built")!r}), report=lambda line: None,
)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made = manifests.read(tmp_path / "built" / "tiny" / "tensorrt-rtx-fp16")
    assert (made.opset, made.precision, made.weights_sha256) == (20, "fp16", files.sha256)

    check, fits = to_tensorrt.check_graph, {"precision": "fp16", "largest_opset": 20}
    check(graph, files, **fits)
    with pytest.raises(ExportError, match=r"there is no .*absent\.onnx; `python -m export onnx --precision fp16`"):
        check(tmp_path / "absent.onnx", files, **fits)
    with pytest.raises(ExportError, match="not exported from the weights of tiny here"):
        check(graph, replace(files, sha256="f" * 64), **fits)
    with pytest.raises(ExportError, match="is in fp16, and a plan in fp32 was asked for"):
        check(graph, files, precision="fp32", largest_opset=20)
    with pytest.raises(ExportError, match="has opset 20, and the TensorRT here reads up to 17"):
        check(graph, files, precision="fp16", largest_opset=17)


def test_tensorrt_8_is_given_the_opset_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, opset in (("8.6.2", 17), ("10.3.0", 20), ("11.0", 20)):
        monkeypatch.setattr(to_tensorrt.metadata, "version", lambda name, found=version: found)
        assert to_tensorrt._opset("tensorrt") == opset
    monkeypatch.setattr(to_tensorrt.metadata, "version", lambda name: "1.7.1.116")
    assert to_tensorrt._opset("tensorrt-rtx") == 20
