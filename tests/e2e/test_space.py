"""The folder for a Hugging Face Space, started as a Space would start it, where PyTorch is not installed.

The Dockerfile runs the same program with the same packages, so its health check is tried here too.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
import yaml

from tests.needs import ROOT

START_S = 90
# Nothing that requirements-cpu.txt leaves out may be needed, whatever is installed here.
WITHOUT = ("torch", "onnx", "polygraphy", "monai", "lightning", "torchmetrics", "matplotlib", "tensorrt")
BLOCKER = f"import sys\nfor name in {WITHOUT!r}:\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the Space."""
    folder = tmp_path_factory.mktemp("space")
    subprocess.run([sys.executable, "deploy/space/fill.py", str(folder / "filled")], cwd=ROOT, check=True, timeout=60)
    (folder / "without").mkdir()
    (folder / "without" / "sitecustomize.py").write_text(BLOCKER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # A Space listens on 7860; only that is changed, since the port may be taken here.
    environment = {
        **os.environ,
        "SYSTEM": "spaces",
        "SPACE_ID": "someone/sgmsnet",
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(folder / "without"),
    }
    front = (folder / "filled" / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    command = [sys.executable, yaml.safe_load(front)["app_file"]]
    log = folder / "log.txt"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=folder / "filled", stdout=out, stderr=out, env=environment) as server,
    ):
        try:
            give_up = time.monotonic() + START_S
            while "is ready" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=40)
    # On Spaces, Gradio starts a thread for hot reload that ends in this way without Hugging Face's own package.
    text = log.read_text()
    assert text.count("Traceback") == text.count("RuntimeError: `spaces` package is required")


def test_a_space_segments_an_image_without_pytorch(space: str) -> None:
    with httpx.Client(base_url=space, trust_env=False, timeout=60) as client:
        chest = ROOT / "examples" / "covid_adult_1.dcm"
        answer = client.post("/v1/segment", files={"file": (chest.name, chest.read_bytes())}, data={"masks": "none"})
        assert answer.status_code == 200
        assert answer.json()["areas_px"]["lungs"] > 10_000
        engines = {one["name"]: one for one in client.get("/v1/models").json()["models"][0]["engines"]}
        assert not engines["pytorch"]["available"]
        assert engines["onnxruntime"]["available"]


def test_the_page_may_be_framed_by_the_site_of_spaces_and_lists_the_examples(space: str) -> None:
    with httpx.Client(base_url=space, trust_env=False, timeout=60) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "https://huggingface.co" in page.headers["content-security-policy"]
        assert "covid_adult_1.jpg" in json.dumps(client.get("/config").json())


def test_model_card_citation_and_schema_travel(space: str) -> None:
    with httpx.Client(base_url=space, trust_env=False, timeout=60) as client:
        shown = json.dumps(client.get("/config").json())
        for words in (
            "Figures on the validation parts",
            "You may use, copy and change these weights",
            "@inproceedings",
        ):
            assert words in shown, words
        described = client.get("/v1/openapi.json").json()
        assert "infected_share" in described["components"]["schemas"]["Result"]["properties"]


def test_the_dockerfile_s_health_check_tells_a_running_server_from_none(space: str) -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    check = re.search(r"HEALTHCHECK[^[]*(\[.*\])", dockerfile)
    assert check
    program = yaml.safe_load(check[1])[-1]
    assert "http://127.0.0.1:7860/" in program
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for address, expected in ((space, 0), (nobody, 1)):
        moved = program.replace("http://127.0.0.1:7860", address)
        done = subprocess.run([sys.executable, "-c", moved], capture_output=True, timeout=30, check=False)
        assert done.returncode == expected
