"""A server that could not do its work is not started: one sentence says why, before anything slow is imported."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sgmsnet import checkpoint
from tests.needs import ROOT
from tests.security.serving import free_port


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "app.py", "--port", str(free_port()), *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    for path in filter(Path.is_file, tiny_model.parent.iterdir()):
        shutil.copy(path, tmp_path)
    return tmp_path / tiny_model.name


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def write_sums(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx")]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    assert "there is no weights file" in refused(start("--model", str(tmp_path / "none.safetensors")))


def test_weights_with_one_bit_changed(copy: Path) -> None:
    flip(copy, -100)
    assert "was made from other weights" in refused(start("--model", str(copy)))


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx"])
def test_a_file_that_is_not_the_one_in_the_list_of_sums(copy: Path, suffix: str) -> None:
    write_sums(copy.parent)
    assert checkpoint.find(copy).sha256
    flip(copy.with_suffix(suffix), -100)
    with pytest.raises(checkpoint.WeightsError, match=rf"^tiny\{suffix} is damaged or was replaced"):
        checkpoint.find(copy)


def test_truncated_weights(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:1000])
    assert "truncated" in refused(start("--model", str(copy)))


def test_pickled_weights_are_no_weights(tmp_path: Path) -> None:
    pickled = tmp_path / "model.safetensors"
    pickled.write_bytes(b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.")
    with pytest.raises(checkpoint.WeightsError, match="not a safetensors file"):
        checkpoint.find(pickled)


def test_a_temporary_folder_that_cannot_be_written(tmp_path: Path) -> None:
    code = "import sys, tempfile, app; tempfile.tempdir = sys.argv.pop(); sys.exit(app.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--port", str(free_port()), str(tmp_path / "nowhere")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert "no folder for uploads" in refused(done)
