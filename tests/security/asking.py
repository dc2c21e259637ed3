"""Asks a running server as a browser and as a program do, and brings answers into a form that can be compared."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from sgmsnet.web import uploads
from tests.fakes import draw_xray
from tests.needs import ROOT
from tests.security.serving import Running, free_port

FILE = {"_type": "gradio.FileData"}
START_S = 180


class AnswerError(AssertionError):
    """The server did not answer a request as it should."""


def ask_rest(client: httpx.Client, data: bytes, *, name: str) -> dict[str, Any]:
    """POST /v1/segment; raises AnswerError for anything but a result."""
    answer = client.post("/v1/segment", files={"file": (name, data)})
    if answer.status_code != 200:
        raise AnswerError(f"REST: {answer.status_code} {answer.text[:200]}")
    shown: dict[str, Any] = answer.json()
    return shown


def ask_page(client: httpx.Client, data: bytes, *, name: str, session: str) -> dict[str, Any]:
    """Upload, call and wait as the page does; the viewer's payload, which may carry an error."""
    uploaded = client.post("/gradio_api/upload", files={"files": (name, data)})
    if uploaded.status_code != 200:
        raise AnswerError(f"upload: {uploaded.status_code} {uploaded.text[:200]}")
    given = [{"path": uploaded.json()[0], "meta": FILE}, "auto"]
    body = {"data": given, "fn_index": function(client), "session_hash": session}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        raise AnswerError(f"queue: {joined.status_code} {joined.text[:200]}")
    shown: dict[str, Any] = outcome(client, session)["output"]["data"][0]
    return shown


def outcome(client: httpx.Client, session: str) -> dict[str, Any]:
    """What the page's stream says at the end of an event."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return dict(message)
    raise AnswerError("the stream ended without an outcome")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_xray()).save(buffer, "png")
    return buffer.getvalue()


def upload(client: httpx.Client, name: str = "chest.png", data: bytes | None = None) -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, data or png())})
    assert answer.status_code == 200, answer.text
    path: str = answer.json()[0]
    return path


def join(client: httpx.Client, data: list[Any], function: int = 0, session: str = "s") -> httpx.Response:
    return client.post("/gradio_api/queue/join", json={"data": data, "fn_index": function, "session_hash": session})


def raw_request(server: Running, request: bytes) -> bytes:
    """Bytes as they are, past any client that would tidy them up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


_FUNCTIONS: dict[str, int] = {}


def function(client: httpx.Client) -> int:
    """The number of the page's event that segments an upload."""
    key = str(client.base_url)
    if key not in _FUNCTIONS:
        config = client.get("/config").json()
        _FUNCTIONS[key] = next(one["id"] for one in config["dependencies"] if one["api_name"] == "segment")
    return _FUNCTIONS[key]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from run to run: times and the number of the run."""
    record = answer.get("record", answer)
    same = {key: value for key, value in record.items() if key not in ("timings_ms", "masks")}
    masks = answer.get("masks") or {one["name"]: one["mask"].partition(",")[2] for one in answer.get("classes", ())}
    return {"record": same, "masks": masks, "error": answer.get("error")}


def server_memory_mb(client: httpx.Client) -> float:
    """Resident memory of the server's process by its own metrics."""
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("process_resident_memory_bytes "):
            return float(line.split()[1]) / 2**20
    raise AnswerError("no memory in /metrics")


@contextmanager
def app_running(folder: Path, *arguments: str) -> Iterator[Running]:
    """app.py as a user starts it, with its temporary files under `folder`, stopped again at the end."""
    port, log, temporary = free_port(), folder / "log.txt", folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "app.py", "--port", str(port), *arguments]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, text=True, env=environment) as app,
    ):
        try:
            give_up = time.monotonic() + START_S
            while "is ready" not in log.read_text():
                assert app.poll() is None, log.read_text()
                assert time.monotonic() < give_up, log.read_text()
                time.sleep(0.1)
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                yield Running(url, client, temporary, app, log)
        finally:
            app.terminate()
            app.wait(timeout=60)
    assert "Traceback" not in log.read_text(), log.read_text()


def files_below(folder: Path) -> tuple[int, int]:
    """(number, bytes) of the files in a folder, without the lock of a folder of uploads."""
    sizes = []
    for parent, _, names in os.walk(folder):  # unlike Path.rglob, walk bears folders that vanish under it
        for name in names:
            if name == uploads.LOCK:
                continue
            with suppress(FileNotFoundError):
                sizes.append(Path(parent, name).stat().st_size)
    return len(sizes), sum(sizes)
