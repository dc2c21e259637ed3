"""The page as a visitor's program meets it: app.py in a process of its own, uploads through its /segment endpoint.

Not here: what a browser adds by drawing.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from export.machine import ROOT
from sgmsnet.checkpoint import ModelFiles

_HOST = "127.0.0.1"
_START_AT_MOST_S = 120
_ASK_EVERY_S = 0.02


class PageError(RuntimeError):
    """The page did not start or did not answer, for the reason given in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Seconds from the start of `python app.py` to the first answer, and milliseconds of the uploads after it."""

    image: str
    engine: str
    precision: str
    ready_s: float
    """Until the page answers at all."""
    first_upload_s: float
    """Until the first upload's result is there, counted from the process's start too."""
    uploads: int
    upload_p50_ms: float
    upload_p95_ms: float
    rest_p50_ms: float
    """One POST to /v1/segment, masks as run lengths."""
    rest_overhead_p50_ms: float
    """The same without the engine's own time."""


def measure(files: ModelFiles, image: Path, *, uploads: int = 10) -> Page:
    """Start the page, upload one image file once and then `uploads` times; raises PageError."""
    # The client asks PyPI for its newest version unless told otherwise, and only this variable does that.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Before the clock starts: this import is not the page's time.
    import gradio_client  # type: ignore[import-untyped]
    import httpx

    port = _free_port()
    with _serving(files, port) as (process, start, output):
        _wait_until_ready(process, port, start, output)
        ready_s = time.perf_counter() - start
        try:
            client = gradio_client.Client(
                f"http://{_HOST}:{port}",
                verbose=False,
                download_files=False,
                analytics_enabled=False,
                httpx_kwargs={"trust_env": False},  # a proxy of the environment is not asked
            )
            record = _upload(client, image)
            first_upload_s = time.perf_counter() - start
            times_ms = [_timed_upload(client, image) for _ in range(uploads)]
            rest_ms = _posts(f"http://{_HOST}:{port}/v1/segment", image, posts=uploads)
        except (ValueError, httpx.HTTPError) as error:  # ValueError: what the client makes of a server's error
            raise PageError(f"the page did not take the upload: {error}") from error
    p50, p95 = np.percentile(times_ms, [50, 95])
    return Page(
        image=image.name,
        engine=record["engine"],
        precision=record["precision"],
        ready_s=ready_s,
        first_upload_s=first_upload_s,
        uploads=uploads,
        upload_p50_ms=float(p50),
        upload_p95_ms=float(p95),
        rest_p50_ms=float(np.median(rest_ms[:, 0])),
        rest_overhead_p50_ms=float(np.median(rest_ms[:, 0] - rest_ms[:, 1])),
    )


def _posts(address: str, image: Path, *, posts: int) -> np.ndarray:
    """Milliseconds (posts, 2): of the whole request over one connection, and of the engine's run in it."""
    import httpx

    content, times = image.read_bytes(), []
    with httpx.Client(trust_env=False, timeout=60) as client:
        for _ in range(posts + 1):
            start = time.perf_counter()
            answer = client.post(address, files={"file": (image.name, content)}, data={"masks": "rle"})
            taken_ms = (time.perf_counter() - start) * 1e3
            if answer.status_code != http.HTTPStatus.OK:
                raise PageError(f"/v1/segment answered with status {answer.status_code}")
            times.append((taken_ms, answer.json()["timings_ms"]["run"]))
    return np.array(times[1:])  # the first request opens the connection


@contextmanager
def _serving(files: ModelFiles, port: int) -> Iterator[tuple[subprocess.Popen[bytes], float, IO[bytes]]]:
    """The page's process, the moment it was started at and what it writes; stopped in the end."""
    command = [sys.executable, str(ROOT / "app.py"), "--host", _HOST, "--port", str(port)]
    command += ["--model", str(files.weights.resolve())]
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process, start, output
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, start: float, output: IO[bytes]) -> None:
    while not _answers(port):
        if process.poll() is not None:
            output.seek(0)
            last = output.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise PageError(f"app.py ended with status {process.returncode}: {last or 'it said nothing'}")
        if time.perf_counter() - start > _START_AT_MOST_S:
            raise PageError(f"app.py did not answer within {_START_AT_MOST_S} s")
        time.sleep(_ASK_EVERY_S)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(_HOST, port, timeout=10)
    try:
        connection.request("GET", "/config")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _timed_upload(client: Any, image: Path) -> float:
    start = time.perf_counter()
    _upload(client, image)
    return (time.perf_counter() - start) * 1e3


def _upload(client: Any, image: Path) -> dict[str, Any]:
    """Upload a file and wait for its result; returns the result's record."""
    import gradio_client

    payload = client.predict(gradio_client.handle_file(image), api_name="/segment")
    if payload.get("error"):
        raise PageError(f"the page answered: {payload['error']}")
    record: dict[str, Any] = payload["record"]
    return record


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
