"""README's ways to call the server from a program, run as README prints them against a server with the shipped model.

Where port 7860 is taken, the server gets another one, and only the port in the snippets is changed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.prediction import Prediction
from sgmsnet.web import about
from tests import needs

README = (needs.ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## From programs\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", SECTION, flags=re.DOTALL)
PRINTED_PORT = 7860
START_S = 90


def free_port() -> int:
    """7860 where nobody listens there, so that the snippets need no change at all."""
    for port in (PRINTED_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as free:
                return int(free.getsockname()[1])
        except OSError:
            continue
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    number = free_port()
    log = tmp_path_factory.mktemp("programs") / "log.txt"
    command = [sys.executable, "app.py", "--port", str(number), "--engine", "onnxruntime"]
    with log.open("w") as out, subprocess.Popen(command, cwd=needs.ROOT, stdout=out, stderr=out) as server:
        try:
            give_up = time.monotonic() + START_S
            while "is ready" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.1)
            yield number
        finally:
            server.terminate()
            server.wait(timeout=40)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def expected() -> Iterator[Prediction]:
    pipeline = sgmsnet.load("cxr", engine="onnxruntime")
    yield pipeline.predict(needs.ROOT / "examples" / "covid_adult_1.jpg")
    pipeline.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader of README would stand: beside examples/."""
    shutil.copytree(needs.ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.ipynb"))
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def snippets(word: str, port: int) -> list[str]:
    """The Python of this section that has a word in it."""
    found = [block for language, block in BLOCKS if language == "python" and word in block]
    assert len(found) == 1
    return [block.replace(f":{PRINTED_PORT}", f":{port}") for block in found]


def test_curl(port: int, folder: Path, expected: Prediction) -> None:
    if shutil.which("curl") is None:
        needs.missing("curl is not installed")
    lines = [line for language, block in BLOCKS if not language for line in block.splitlines() if line[:5] == "curl "]
    assert len(lines) == 2
    answers = []
    for line in lines:
        words = shlex.split(line.replace(f":{PRINTED_PORT}", f":{port}"))
        answers.append(json.loads(run([words[0], "--silent", "--fail", *words[1:]], folder)))
    assert answers[0]["areas_px"] == expected.measurements.areas_px
    assert set(answers[0]["masks"]) == {"lungs", "infection"}
    assert answers[1]["thresholds"]["infection"] == 0.4
    counts = answers[1]["masks"]["lungs"]["counts"]
    assert sum(counts[1::2]) == expected.measurements.areas_px["lungs"]


def test_httpx(port: int, folder: Path, expected: Prediction) -> None:
    [snippet] = snippets("httpx", port)
    printed = run([sys.executable, "-c", snippet], folder)
    assert float(printed) == expected.measurements.infected_share.both
    with Image.open(folder / "infection.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, expected.masks["infection"])


def test_the_calls_that_about_shows(port: int, folder: Path, expected: Prediction) -> None:
    (folder / "chest.png").write_bytes((folder / "examples" / "covid_adult_1.jpg").read_bytes())
    blocks = re.findall(r"```(\w*)\n(.*?)```", about.programs(f"http://127.0.0.1:{port}"), flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["", "python", "python"]
    both = str(expected.measurements.infected_share.both)
    if shutil.which("curl"):
        words = shlex.split(blocks[0][1])
        assert both in run([words[0], "--silent", "--fail", *words[1:]], folder)
    for _, snippet in blocks[1:]:
        assert "'both': " in run([sys.executable, "-c", snippet], folder)


def test_gradio_client(port: int, folder: Path) -> None:
    [snippet] = snippets("gradio_client", port)
    printed = run([sys.executable, "-c", snippet], folder)
    pipeline = sgmsnet.load("cxr", engine="auto")  # what the snippet asks for
    expected = pipeline.predict(folder / "examples" / "covid_adult_1.jpg").measurements.areas_px
    pipeline.close()
    assert json.loads(printed.replace("'", '"')) == expected
