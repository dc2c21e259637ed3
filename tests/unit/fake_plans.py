"""A plan with its manifest on disk, and the TensorRT engine that opens it on a fake GPU. No assertions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import cuda, manifest, tensorrt_engine
from engines.cuda import Gpu
from engines.tensorrt_engine import TensorRtEngine
from sgmsnet.checkpoint import ModelFiles
from tests.fake_gpu import FakeGpu
from tests.fake_tensorrt import SHARED_PLAN, a_manifest


def write_plan(files: ModelFiles, built: Path) -> Path:
    """A plan with its manifest where the engine looks for it."""
    folder = built / "tiny" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(SHARED_PLAN)
    made = replace(
        a_manifest(),
        runtime="tensorrt",
        runtime_version="10.3",
        weights_sha256=files.sha256,
        artefact_sha256=manifest.file_sha256(folder / "model.plan"),
    )
    manifest.write(folder, made)
    return folder


def put_gpu(monkeypatch: pytest.MonkeyPatch, *, compute_capability: str = "8.9", **options: Any) -> FakeGpu:
    """Put a fake GPU in place of driver, cuda-python and TensorRT."""
    gpu = FakeGpu(**options)
    monkeypatch.setitem(sys.modules, "tensorrt", gpu.module)
    monkeypatch.setattr(cuda, "_runtime_api", lambda: gpu.cuda)
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", compute_capability, 8))
    monkeypatch.setattr(tensorrt_engine, "check_plan", lambda module, plan, built_by: gpu.module.__version__)
    return gpu


def open_plan(files: ModelFiles, folder: Path, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(files, runtime="tensorrt", built=folder.parent.parent, **options)


def change(**changes: Any) -> Callable[[Path], None]:
    """What changes the manifest in a folder."""
    return lambda folder: manifest.write(folder, replace(manifest.read(folder), **changes)) and None
