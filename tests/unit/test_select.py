"""Choosing: the best that opens is taken, and a reason is kept for every runtime that was passed over."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engines import select
from engines.base import EngineUnavailable
from engines.select import ENGINES, Availability, choose, open_engine, probe, ranking
from sgmsnet.checkpoint import ModelFiles, find


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
    monkeypatch.setattr(select.ctypes.util, "find_library", lambda name: "libcuda.so.1")
    assert ranking()[:3] == ("tensorrt", "tensorrt-rtx", "onnxruntime")
    assert sorted(ranking()) == sorted(ENGINES)
    monkeypatch.setattr(select.ctypes.util, "find_library", lambda name: None)
    assert ranking() == ENGINES
    assert ranking()[:2] == ("tensorrt", "tensorrt-rtx")


def test_a_half_removed_package_counts_as_absent(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = {entry.name: entry for entry in probe(files)}
    assert found["openvino"] == Availability("openvino", False, "the package openvino is not installed", None)
