"""A plan is tried in a process of its own before the server opens it, and the driver is asked before that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines import cuda
from engines.base import EngineUnavailable
from engines.cuda import Gpu, first_gpu
from engines.tensorrt_check import check_plan
from tests.fake_gpu import OPENS, REFUSES, runtime_for_children

SAYS_WHY = "print('[11/27/2026-21:00:00] [TRT] [E] cudaError 35: the driver is too old.')\n"
"""TensorRT's logger writes to stdout, in lines of this form."""


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with signal 11"),
        ("raise ImportError('libnvinfer.so.10 is not there')", "libnvinfer"),
        (REFUSES, r"runtime_for_test 10\.3 refuses .*not for this GPU and driver$"),
        (SAYS_WHY + REFUSES, r"not for this GPU and driver \(cudaError 35: the driver is too old\)$"),
        (SAYS_WHY + "raise TypeError('factory function returned nullptr')", r"nullptr \(cudaError 35: the driver is"),
        (OPENS, None),
        (SAYS_WHY + OPENS, None),
    ],
    ids=["crash", "library missing", "refusal", "refusal with its reason", "no runtime", "good", "good, with a word"],
)
def test_a_plan_is_first_opened_in_a_process_of_its_own(
    program: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_for_children(monkeypatch, tmp_path, "runtime_for_test", program)
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    if reason is None:
        assert check_plan("runtime_for_test", plan, built_by="10.3") == "10.3"
    else:
        with pytest.raises(EngineUnavailable, match=reason):
            check_plan("runtime_for_test", plan, built_by="10.3")


def test_a_plan_of_another_version_is_not_opened_even_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime_for_children(monkeypatch, tmp_path, "runtime_for_test", REFUSES)
    (tmp_path / "model.plan").write_bytes(b"plan")
    assert check_plan("runtime_for_test", tmp_path / "model.plan", built_by="8.6.2") == "10.3"


def test_the_driver_tells_name_compute_capability_and_multiprocessors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
            return 0

        def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
            name.value = b"Orin"
            return 0

        def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
            value._obj.value = {16: 14, 75: 8, 76: 7}[attribute]
            return 0

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Driver())
    assert first_gpu() == Gpu("Orin", "8.7", 14)


def test_without_a_driver_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    with pytest.raises(EngineUnavailable, match="no NVIDIA driver"):
        first_gpu()


def test_a_driver_without_a_gpu_gives_its_error_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:  # noqa: N802 - the driver's name
            return 100

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Driver())
    with pytest.raises(EngineUnavailable, match="CUDA error 100"):
        first_gpu()
