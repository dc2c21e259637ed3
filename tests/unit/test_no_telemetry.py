"""No runtime reports home: ONNX Runtime's telemetry, which starts when it is imported, stays off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.needs import ROOT


def left_behind(program: str, folder: Path) -> list[str]:
    """What a Python program leaves in its folder of temporary files."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60, env={**environment, "TMPDIR": str(folder)}
    )
    return sorted(path.name for path in folder.iterdir())


def test_onnx_runtime_starts_without_a_session_of_telemetry(tmp_path: Path) -> None:
    # Where it is on, as in 1.32 for Linux, it writes a session's number into .ses and looks for its server.
    program = "import sgmsnet.pipeline, onnxruntime, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    assert left_behind(program, tmp_path / "off") == []


def test_the_page_and_the_commands_come_past_that_switch(tmp_path: Path) -> None:
    for module in ("engines.select", "engines.onnxruntime_engine", "sgmsnet.commands.predict", "export.__main__"):
        program = f"import os, {module}; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
        assert left_behind(program, tmp_path / module) == []
