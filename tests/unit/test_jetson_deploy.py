"""What is shipped for a Jetson holds together, and the sentences of docs/jetson.md are those that the software says."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from engines.base import EngineError
from export import ExportError, to_tensorrt
from export.plan import PlanRequest
from sgmsnet.commands import doctor, jetson
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, info_with
from tests.needs import ROOT

DEPLOY = ROOT / "deploy" / "jetson"
DOCS = (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8")
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1 $2" in
  "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-c import tensorrt") exit "$NO_TENSORRT" ;;
esac
"""


def _install(folder: Path, *options: str, release: str | None = "R36", no_tensorrt: int = 0) -> tuple[int, str, str]:
    """Run install.sh with a fake interpreter; returns its status, what it said and what the interpreter was given."""
    python, log, tegra = folder / "python", folder / "log", folder / "release"
    python.write_text(FAKE_PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    log.write_text("")
    if release:
        tegra.write_text(f"# {release} (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64\n")
    given = {"PYTHON": python, "LOG": log, "TEGRA_RELEASE": tegra, "VENV": folder / "venv", "NO_TENSORRT": no_tensorrt}
    environment = os.environ | {name: str(value) for name, value in given.items()}
    command = ["bash", str(DEPLOY / "install.sh"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr, log.read_text()


@pytest.mark.parametrize(("release", "pin"), [("R36", "cuda-python>=12.9.1,<13"), ("R38", "cuda-python>=13,<14")])
def test_the_script_makes_an_environment_that_sees_the_system_s_packages(
    release: str, pin: str, tmp_path: Path
) -> None:
    status, said, log = _install(tmp_path, release=release)
    assert status == 0, said
    assert log.splitlines() == [
        "-c import ensurepip",
        f"-m venv --system-site-packages {tmp_path / 'venv'}",
        f"-m pip install --quiet --requirement deploy/jetson/requirements.txt {pin}",
        "-c import tensorrt",
    ]
    assert "make jetson-engine" in said


def test_a_dry_run_prints_every_command_and_runs_none(tmp_path: Path) -> None:
    status, said, log = _install(tmp_path, "--dry-run", "--service", no_tensorrt=1)
    assert status == 0, said
    assert log == ""
    assert not (tmp_path / "venv").exists()
    commands = [line for line in said.splitlines() if line.startswith("+ ")]
    assert len(commands) == 5
    assert commands[-1] == "+ sudo systemctl enable --now sgmsnet"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"release": None}, "This is no Jetson"),
        ({"release": "R32"}, "Linux for Tegra R32 is not known"),
        ({"no_tensorrt": 1}, "does not find JetPack's TensorRT"),
    ],
)
def test_the_script_says_why_it_cannot_go_on(options: dict[str, object], reason: str, tmp_path: Path) -> None:
    status, said, _ = _install(tmp_path, **options)  # type: ignore[arg-type]
    assert status == 1
    assert reason in said


def test_the_script_is_valid_bash_and_may_be_run() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "install.sh")], check=True, timeout=10)
    assert os.access(DEPLOY / "install.sh", os.X_OK)
    assert _status("--no-such-option") == 2


def _status(option: str) -> int:
    return subprocess.run(["bash", str(DEPLOY / "install.sh"), option], capture_output=True, timeout=10).returncode


def _requirements(path: Path) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_the_jetson_s_requirements_are_the_pins_of_requirements_txt_once_each(python: str) -> None:
    chosen = _requirements(DEPLOY / "requirements.txt")
    everywhere = {str(requirement) for requirement in _requirements(ROOT / "requirements.txt")}
    assert {str(requirement) for requirement in chosen} <= everywhere
    machine = {"python_version": python, "platform_machine": "aarch64", "sys_platform": "linux"}
    names = [r.name for r in chosen if r.marker is None or r.marker.evaluate(machine)]
    assert len(names) == len(set(names))
    left_out = {r.name for r in _requirements(ROOT / "requirements.txt")} - set(names)
    assert not left_out - {"torch", "openvino", "nncf"}


def test_the_unit_starts_what_is_there() -> None:
    unit = (DEPLOY / "sgmsnet.service").read_text(encoding="utf-8")
    values = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    python, program, arguments = values["ExecStart"].split(" ", 2)
    assert (python, arguments) == ("@VENV@/bin/python", "$SGMSNET_ARGS")
    assert Path(program.replace("@ROOT@", str(ROOT))).is_file()
    assert values["WorkingDirectory"] == "@ROOT@"
    assert set(re.findall(r"@\w+@", unit)) == set(
        re.findall(r"@\w+@", (DEPLOY / "install.sh").read_text(encoding="utf-8"))
    )
    assert int(values["TimeoutStopSec"]) > 25  # the page lets what runs finish


def test_the_installed_unit_starts_the_environment_that_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = systemctl ] || exec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("UNIT_FOLDER", str(tmp_path))
    status, said, _ = _install(tmp_path, "--service")
    assert status == 0, said
    unit = (tmp_path / "sgmsnet.service").read_text(encoding="utf-8")
    assert f"\nExecStart={tmp_path}/venv/bin/python {ROOT}/app.py $SGMSNET_ARGS\n" in unit
    assert not re.search(r"@\w+@", unit)
    assert f'make jetson-engine VENV="{tmp_path}/venv" ARGS=' in said


def test_the_dockerfile_copies_what_is_there_and_starts_the_page() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = [name for line in re.findall(r"^COPY (.+) \S+$", text, flags=re.MULTILINE) for name in line.split()]
    assert {"app.py", "sgmsnet", "engines", "export", "weights", "examples"} <= set(sources)
    assert not [source for source in sources if not (ROOT / source).exists()]
    assert "CUDA_PYTHON" in text
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(sources)  # neither more nor less is sent
    assert lines[0] == "*"
    assert "--system-site-packages" in text
    assert "torch" not in text


@pytest.mark.parametrize(
    ("arguments", "precision"),
    [
        ("--graph cxr-fp16.onnx", "--precision fp16"),
        ("--precision fp32 --workspace-mb 64", "--precision fp32"),
        ("--precision=fp32", "--precision=fp32"),
    ],
)
def test_make_builds_an_engine_and_verifies_the_one_that_it_built(arguments: str, precision: str) -> None:
    command = ["make", "--no-print-directory", "--dry-run", "jetson-engine", f"ARGS={arguments}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    build, verify = done.stdout.strip().splitlines()[-2:]
    assert build.endswith(f"-m export tensorrt --model cxr {arguments}")
    assert verify.endswith(f"-m export verify --model cxr --engine tensorrt {precision}")
    done = subprocess.run([*command, "IMAGES=chests"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip().endswith(f"--engine tensorrt {precision} --images chests")


REQUEST = PlanRequest(runtime="tensorrt", graph="g.onnx", plan="p", precision="fp16", workspace_mb=64)


def _killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    popen = subprocess.Popen
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(to_tensorrt.subprocess, "Popen", lambda _, **options: popen(command, **options))
    with pytest.raises(ExportError) as caught:
        to_tensorrt.run_child(REQUEST, report=lambda line: None)
    return str(caught.value)


def _too_little_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(to_tensorrt, "available_mb", lambda: 1200)
    with pytest.raises(ExportError) as caught:
        to_tensorrt.check_memory(57_100_000, 1024)  # of cxr in FP16, with the default
    return str(caught.value)


def _not_finite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    info = info_with(backend="tensorrt", precision="fp16", device="Orin")
    pipeline = Pipeline(FakeEngine(info, spoil=9), thresholds={}, temperature={})
    with pytest.raises(EngineError) as caught:
        pipeline.predict(np.full((224, 224), 9, np.uint8), name="chest.png")
    return str(caught.value)


def _no_tensorrt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return jetson.facts({}, can_import_tensorrt=False, mode=folder, clocks=folder)[2]


def _cpu_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "torch" / "lib").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    monkeypatch.setattr(jetson, "find_spec", lambda name: PathFinder.find_spec(name, [str(folder)]))
    said = jetson.facts({"torch": "2.13.0"}, can_import_tensorrt=True, mode=folder, clocks=folder)
    (folder / "torch" / "lib" / "libtorch_cuda.so").touch()  # NVIDIA's index serves plain versions too
    assert jetson.facts({"torch": "2.13.0"}, can_import_tensorrt=True, mode=folder, clocks=folder) == said[:2]
    return said[2]


def _power_mode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (folder / "status").write_text("pmode:0002 fmode:quiet\n")
    return jetson.power_mode(folder / "status")


def test_a_status_file_without_a_mode_says_so(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("pmode:\n")
    assert "unknown" in jetson.power_mode(tmp_path / "status")


def _clocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    gpu = folder / "17000000.gpu"
    gpu.mkdir()
    (gpu / "min_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("624750000\n")
    free = jetson.gpu_clocks(folder)
    (gpu / "min_freq").write_text("624750000\n")
    assert jetson.gpu_clocks(folder) == "GPU clock held at 625 MHz"
    return free


def _jetpack_5(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    status, said, _ = _install(folder, release="R35")
    assert status == 1
    return said.strip()


SAID = (_killed, _too_little_memory, _not_finite, _no_tensorrt, _cpu_torch, _power_mode, _clocks, _jetpack_5)


@pytest.mark.parametrize("provoke", SAID, ids=lambda provoke: provoke.__name__)
def test_the_sentence_of_the_docs_is_what_the_software_says(
    provoke: Callable[[Path, pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = provoke(tmp_path, monkeypatch)
    assert f'"{sentence}"' in DOCS, sentence


def test_doctor_prints_the_facts_of_a_jetson_and_none_elsewhere(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor.examine(str(tiny_model)).jetson_facts == ()
    monkeypatch.setattr(doctor, "jetson_release", lambda: "R36 (release), REVISION: 4.0")
    text = doctor.as_text(doctor.examine(str(tiny_model)))
    assert "power mode unknown" in text
    assert "GPU clocks unknown" in text


def test_torchvision_is_used_nowhere() -> None:
    files = [ROOT / "app.py", *(p for name in ("sgmsnet", "engines", "export") for p in (ROOT / name).rglob("*.py"))]
    for path in files:
        assert not re.search(r"^\s*(import|from) torchvision", path.read_text(encoding="utf-8"), re.MULTILINE), path
