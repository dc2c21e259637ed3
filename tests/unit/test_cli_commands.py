"""The commands beside predict: help, which imports no other command, and what doctor tells of a machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engines import cuda, processor, select
from engines.artefacts import Artefact
from engines.base import Availability, EngineUnavailable
from engines.cuda import Gpu
from sgmsnet.cli import main
from sgmsnet.commands import doctor
from tests.needs import ROOT


def test_unknown_commands_and_none_end_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dance"]) == 2
    assert "invalid choice" in capfd.readouterr().err
    assert main([]) == 2
    assert main(["predict"]) == 2


def test_help_lists_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(command in shown for command in ("predict", "doctor", "train", "evaluate"))


@pytest.mark.parametrize(
    ("command", "others"),
    [("predict", ("doctor", "train", "evaluate")), ("doctor", ("predict", "train", "evaluate"))],
)
def test_help_of_one_command_imports_neither_the_others_nor_a_runtime(command: str, others: tuple[str, ...]) -> None:
    code = (
        "import sys; from sgmsnet.cli import main; assert main([sys.argv[1], '--help']) == 0; "
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines())
    assert not loaded & {f"sgmsnet.commands.{other}" for other in others}
    assert not loaded & {"torch", "gradio", "onnxruntime", "openvino", "monai"}


def test_doctor_reports_engines_and_the_model(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    engines = [
        Availability("onnxruntime", True, "", "1.32"),
        Availability("tensorrt", False, "TensorRT is not installed", None),
    ]
    monkeypatch.setattr(
        doctor, "find", lambda model: SimpleNamespace(name="m", weights=Path("m.safetensors"), sha256="ab12")
    )
    monkeypatch.setattr(select, "probe", lambda files, known=None: engines)
    held = (Artefact("openvino", "int8", True, "verified on 160 images"),)
    monkeypatch.setattr(doctor.artefacts, "held", lambda files: held)
    assert main(["doctor"]) == 0
    shown = capfd.readouterr().out
    for fact in (
        "openvino-int8: verified on 160 images",
        "ab12",
        "m.safetensors",
        "onnxruntime",
        "1.32",
        "TensorRT is not installed",
        "numpy",
    ):
        assert fact in shown
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [(e["name"], e["available"]) for e in report["engines"]] == [
        ("onnxruntime", True),
        ("tensorrt", False),
    ]
    monkeypatch.setattr(select, "probe", lambda files, known=None: engines[1:])
    assert main(["doctor"]) == 1


def test_doctor_without_a_model_says_so_and_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "gone.safetensors"]) == 1
    assert "gone.safetensors" in capfd.readouterr().out


def test_doctor_reads_what_the_system_says(tmp_path: Path) -> None:
    cpuinfo, meminfo, tegra = tmp_path / "cpuinfo", tmp_path / "meminfo", tmp_path / "nv_tegra_release"
    cpuinfo.write_text("model name\t: x\nflags\t\t: fpu amx_bf16 avx2 avx512_bf16\n")
    meminfo.write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    tegra.write_text("# R36 (release), REVISION: 4.0, GCID: 1\n# more\n")
    assert processor.flags(cpuinfo) == ("avx2", "avx512_bf16", "amx_bf16")
    assert doctor.memory_gib(meminfo) == 8.0
    assert doctor.jetson_release(tegra) == "R36 (release), REVISION: 4.0, GCID: 1"


def test_doctor_names_the_gpu_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n")
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    assert doctor.gpu(driver) == "RTX, compute capability 8.9, driver 535.104.05"
    assert doctor.gpu(tmp_path / "absent") == "RTX, compute capability 8.9, driver unknown"

    def absent() -> Gpu:
        raise EngineUnavailable("this machine has no NVIDIA driver")

    monkeypatch.setattr(cuda, "first_gpu", absent)
    assert doctor.gpu(driver) == "none: this machine has no NVIDIA driver"
    gone = tmp_path / "gone"
    assert (processor.flags(gone), doctor.memory_gib(gone), doctor.jetson_release(gone)) == ((), None, None)
