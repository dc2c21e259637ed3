"""Choosing: the best that opens is taken, and a reason is kept for every runtime that was passed over."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import sgmsnet
from engines import cuda, examine, manifest, plans, select, verdicts
from engines.base import Availability, EngineRefused, EngineUnavailable
from engines.cuda import Gpu
from engines.select import ENGINES, choose, open_engine, probe, ranking
from sgmsnet.checkpoint import ModelFiles, find
from tests.fake_tensorrt import a_manifest
from tests.unit.fake_plans import write_plan


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def without_graph(tiny_model: Path, tmp_path: Path) -> ModelFiles:
    shutil.copy(tiny_model, tmp_path)
    return find(tmp_path / tiny_model.name)


def _pretend_absent(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    importable = select._importable
    monkeypatch.setattr(select, "_importable", lambda module: module not in modules and importable(module))


def _no_gpu() -> Gpu:
    raise EngineUnavailable("this machine has no NVIDIA driver")


def test_probe_names_every_engine_in_ranking_order(files: ModelFiles) -> None:
    found = probe(files)
    assert [entry.name for entry in found] == list(ranking())
    assert sorted(ranking()) == sorted(ENGINES)
    for entry in found:
        assert entry.reason
        assert entry.available == (entry.reason == "installed")


def test_probe_imports_no_runtime(tiny_model: Path) -> None:
    program = f"""
import sys
from engines.select import probe
from sgmsnet.checkpoint import find
probe(find({str(tiny_model)!r}))
assert not {{"torch", "onnxruntime", "openvino", "onnx", "tensorrt", "tensorrt_rtx"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_plan_of_another_tensorrt_than_the_installed_one_is_not_called_available(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(files, tmp_path)
    monkeypatch.setattr(plans, "BUILT", tmp_path)
    monkeypatch.setattr(examine, "BUILT", tmp_path)
    monkeypatch.setattr(select, "fitting_plan", lambda model, runtime: None)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9", 8))
    monkeypatch.setattr(examine, "_installed", lambda package: True)
    monkeypatch.setattr(select, "_importable", lambda module: True)
    installed = "10.3"
    monkeypatch.setattr(select, "_version", lambda distributions: installed)
    assert next(entry for entry in probe(files) if entry.name == "tensorrt").available
    installed = "10.9"
    found = next(entry for entry in probe(files) if entry.name == "tensorrt")
    assert not found.available
    assert "built by version 10.3, and 10.9 is here; `python -m export tensorrt --model tiny" in found.reason


def test_without_a_graph_the_reason_names_the_command_that_makes_it(without_graph: ModelFiles) -> None:
    found = {entry.name: entry for entry in probe(without_graph)}
    for name in ("onnxruntime", "openvino"):
        assert not found[name].available
        assert "python -m export onnx" in found[name].reason
        with pytest.raises(EngineUnavailable, match="python -m export onnx"):
            open_engine(name, without_graph)


def test_a_graph_of_other_weights_is_refused_with_the_reason(files: ModelFiles) -> None:
    changed = replace(files, sha256="0" * 64)
    for name in ("onnxruntime", "openvino"):
        with pytest.raises(EngineUnavailable, match="made from other weights"):
            open_engine(name, changed)


def test_auto_falls_back_and_keeps_the_reasons(without_graph: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_absent(monkeypatch, "openvino")
    choice = choose("auto", without_graph)
    choice.engine.close()
    assert choice.engine.info.backend == "pytorch"
    reasons = {entry.name: entry.reason for entry in choice.skipped}
    assert "not installed" in reasons["openvino"]
    assert "no graph" in reasons["onnxruntime"]


def test_auto_falls_back_when_an_available_engine_does_not_open(
    files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "ranking", lambda measured=(): ("onnxruntime", "pytorch"))
    choice = choose("auto", files, precision="bf16")  # ONNX Runtime runs FP32 only
    choice.engine.close()
    assert (choice.engine.info.backend, choice.engine.info.precision) == ("pytorch", "bf16")
    assert [entry.name for entry in choice.skipped] == ["onnxruntime"]
    assert "fp32" in choice.skipped[0].reason
    assert choice.skipped[0].refused


def test_what_is_absent_was_not_refused_and_what_does_not_fit_was(
    without_graph: ModelFiles, files: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend_absent(monkeypatch, "openvino")
    absent = {entry.name: entry.refused for entry in probe(without_graph) if not entry.available}
    assert absent["openvino"] is absent["onnxruntime"] is False
    assert not any(absent.values())
    foreign = {entry.name: entry.refused for entry in probe(replace(files, sha256="0" * 64))}
    assert foreign["onnxruntime"]
    assert not foreign["pytorch"]


def test_load_keeps_what_was_passed_over(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "ranking", lambda measured=(): ("onnxruntime", "pytorch"))
    pipeline = sgmsnet.load(files.weights, precision="bf16")
    pipeline.close()
    assert [(one.name, one.refused) for one in pipeline.skipped] == [("onnxruntime", True)]


def test_when_nothing_opens_every_reason_is_told(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_absent(monkeypatch, "openvino", "onnxruntime", "torch")
    assert not any(entry.available for entry in probe(files))
    with pytest.raises(EngineUnavailable) as caught:
        open_engine("auto", files)
    for name in ENGINES:
        assert f"{name}: " in str(caught.value)


def test_a_named_engine_is_never_replaced_by_another(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_absent(monkeypatch, "onnxruntime")
    with pytest.raises(EngineUnavailable, match="onnxruntime is not installed"):
        open_engine("onnxruntime", files)
    with pytest.raises(EngineUnavailable, match="there is no engine 'abacus'"):
        open_engine("abacus", files)
    with pytest.raises(EngineUnavailable, match="int8"):
        open_engine("pytorch", files, precision="int8")


def test_tensorrt_leads_and_onnxruntime_follows_where_it_can_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_version", lambda distributions: "1.0")
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    assert ranking()[:3] == ("tensorrt", "tensorrt-rtx", "onnxruntime")
    assert sorted(ranking()) == sorted(ENGINES)
    monkeypatch.setattr(cuda, "first_gpu", _no_gpu)
    assert ranking() == ENGINES
    assert ranking()[:2] == ("tensorrt", "tensorrt-rtx")


def test_a_half_removed_package_counts_as_absent(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = {entry.name: entry for entry in probe(files)}
    assert found["openvino"] == Availability("openvino", False, "the package openvino is not installed", None)


def _verdict(folder: Path, files: ModelFiles, version: str, **facts: object) -> None:
    known = {
        "model_sha256": files.sha256,
        "runtime_version": version,
        "device": "CPU (Example)",
        "refused": ["it is off"],
    }
    verdicts.write(folder, {**known, "passed": False, **facts})


@pytest.mark.parametrize(
    ("facts", "available"),
    [
        ({}, False),
        ({"passed": None}, True),
        ({"passed": True}, True),
        ({"model_sha256": "0" * 64}, True),
        ({"runtime_version": "0.1-build"}, True),
        ({"device": "RTX"}, True),
    ],
)
def test_an_engine_that_failed_verification_is_not_called_available(
    facts: dict[str, object], available: bool, files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "BUILT", tmp_path)
    monkeypatch.setattr(cuda, "first_gpu", _no_gpu)
    version = select._version(("openvino",))
    _verdict(tmp_path / "tiny" / "openvino-bf16", files, f"{version}-22959-build", **facts)
    (found,) = (entry for entry in probe(files) if entry.name == "openvino")
    assert found.available is available
    if not available:
        assert found.refused
        assert "openvino in bf16 did not give PyTorch's answer when it was verified: it is off" in found.reason


def test_on_a_gpu_the_verdict_of_the_cpu_says_nothing(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "BUILT", tmp_path)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    _verdict(tmp_path / "tiny" / "onnxruntime-fp32", files, "1", device="CPU")
    examine.verdict(files, "onnxruntime", "1")
    _verdict(tmp_path / "tiny" / "onnxruntime-fp32", files, "1", device="CUDA (RTX)")
    with pytest.raises(EngineRefused, match="onnxruntime in fp32"):
        examine.verdict(files, "onnxruntime", "1")


def test_a_damaged_plan_and_a_missing_cuda_python_are_seen_before_opening(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "BUILT", tmp_path)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    monkeypatch.setattr(examine, "_installed", lambda package: False)
    folder = tmp_path / "tiny" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"plan")
    made = {"runtime": "tensorrt", "runtime_version": "10.3", "weights_sha256": files.sha256}
    sha256 = manifest.file_sha256(folder / "model.plan")
    manifest.write(folder, replace(a_manifest(), **made, artefact_sha256=sha256))  # type: ignore[arg-type]
    assert plans.fitting_plan(files, "tensorrt", built=tmp_path).folder == folder
    with pytest.raises(EngineRefused, match="cuda-python is not installed"):
        examine.plan(files, "tensorrt")
    monkeypatch.setattr(examine, "_installed", lambda package: True)
    examine.plan(files, "tensorrt")
    _verdict(folder, files, "10.3", device="RTX")
    with pytest.raises(EngineRefused, match="tensorrt in fp16 did not give"):
        examine.plan(files, "tensorrt")
    (folder / "model.plan").write_bytes(b"damaged")
    with pytest.raises(EngineRefused, match="damaged or was changed"):
        examine.plan(files, "tensorrt")
