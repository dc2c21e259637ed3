"""The guard and bodies: cut off at their size, given up when they stall, not taken where there is no room."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from sgmsnet.web import doors, guard
from tests.security.asking import raw_request
from tests.security.serving import Running


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/gradio_api/upload", doors.BATCH_BYTES),
        ("/v1/segment", 64 * 2**20),
        ("/gradio_api/queue/join", doors.CALL_BYTES),
        ("/login", 2**16),
    ],
)
def test_a_body_that_is_announced_too_large_is_refused_unread(opened: Running, path: str, most: int) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    answer = raw_request(opened, f"{head}Content-Length: {most + 2**21}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413")


async def fed(path: str, folder: Path, receive: Any, app: Any = None) -> list[Any]:
    """What the guard sends when a POST without a length is fed by `receive`."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def drain(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("the application did not like that")

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": ("192.0.2.1", 1)}
    await guard.Guard(app or drain, guard.Policy(folder=folder))(scope, receive, send)
    return sent


def statuses(sent: list[Any]) -> list[int]:
    return [message["status"] for message in sent if message["type"] == "http.response.start"]


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/login", "/v1/segment"])
def test_a_body_of_unknown_length_is_cut_off_at_the_limit(path: str, tmp_path: Path) -> None:
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 2**20
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    assert statuses(asyncio.run(fed(path, tmp_path, receive))) == [413]
    door = doors.find("POST", path, folder=tmp_path)
    assert door is not None
    assert read <= door.most + 2**20


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/v1/segment"])
def test_a_body_that_stops_coming_is_given_up(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SILENCE_S", 0.05)

    async def receive() -> Any:
        await asyncio.sleep(10)

    assert statuses(asyncio.run(fed(path, tmp_path, receive))) == [408]


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/v1/segment"])
def test_a_disk_without_room_takes_no_uploads(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(guard.shutil, "disk_usage", lambda _: usage)
    sent = asyncio.run(fed(path, tmp_path, None))
    assert statuses(sent) == [503]
    assert b"no room" in sent[1]["body"]


def test_more_requests_than_can_be_held_get_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "IN_HAND", 0)
    sent = asyncio.run(fed("/v1/segment", tmp_path, None))
    assert statuses(sent) == [503]
    assert (b"retry-after", b"2") in sent[0]["headers"]


def test_an_error_of_the_application_is_not_swallowed(tmp_path: Path) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(RuntimeError, match="did not like"):
        asyncio.run(fed("/login", tmp_path, receive))
