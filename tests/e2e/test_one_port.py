"""app.py in a process of its own: the page and REST live on one port, behind one password. No browser.

SGMSNET_TEST_MODEL names another model than the tiny one.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import sgmsnet
from tests.needs import ROOT

CHEST = ROOT / "examples" / "covid_adult_1.jpg"
LOGIN = ("ward", "a:b")
START_S = 60


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> str:
    return os.environ.get("SGMSNET_TEST_MODEL", str(tiny_model))


@pytest.fixture(scope="module")
def client(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("one_port") / "log.txt"
    command = [sys.executable, "app.py", "--port", str(port), "--model", model]
    command += ["--engine", "onnxruntime", "--auth", ":".join(LOGIN)]
    with log.open("w") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as server:
        try:
            give_up = time.monotonic() + START_S
            while "is ready" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.1)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as asking:
                yield asking
        finally:
            server.terminate()
            server.wait(timeout=20)
    assert "Traceback" not in log.read_text()


def test_page_and_rest_answer_on_one_port(client: httpx.Client) -> None:
    assert "<gradio-app" in client.get("/").text or "gradio" in client.get("/").text
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_rest_wants_the_password_of_the_page(client: httpx.Client) -> None:
    for path in ("/v1/models", "/v1/", "/v1/openapi.json", "/metrics"):
        assert client.get(path).status_code == 401
        assert client.get(path, auth=LOGIN).status_code == 200
    assert client.post("/v1/segment", files={"file": CHEST.read_bytes()}).status_code == 401


def test_an_upload_over_http_gives_the_pipeline_s_result(client: httpx.Client, model: str) -> None:
    answer = client.post("/v1/segment", files={"file": (CHEST.name, CHEST.read_bytes())}, auth=LOGIN).json()
    masks = answer.pop("masks")
    schema = json.loads((ROOT / "docs" / "prediction.schema.json").read_text())
    Draft202012Validator(schema).validate(answer)
    pipeline = sgmsnet.load(model, engine="onnxruntime")
    expected = pipeline.predict(CHEST)
    pipeline.close()
    assert {**answer, "timings_ms": 0} == {**expected.record(), "timings_ms": 0}
    for name, mask in masks.items():
        with Image.open(io.BytesIO(base64.b64decode(mask))) as image:
            np.testing.assert_array_equal(np.asarray(image) > 0, expected.masks[name])


def test_a_file_of_70_mb_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/segment", files={"file": ("big.png", bytes(70 * 2**20))}, auth=LOGIN)
    assert (answer.status_code, list(answer.json())) == (413, ["error"])
