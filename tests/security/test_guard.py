"""The guard and bodies: cut off at their size, given up when they stall, not taken where there is no place or room."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sgmsnet.web import doors, guard, places, room
from sgmsnet.web.janitor import FULL_BYTES
from sgmsnet.web.policy import Policy
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
    return await passed(guard.Guard(app or drain, Policy(folder=folder)), path, receive)


async def passed(
    before: guard.Guard, path: str, receive: Any, *, client: str = "192.0.2.1", length: int | None = None
) -> list[Any]:
    """What a guard sends in answer to one POST."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    await before(
        {"type": "http", "method": "POST", "path": path, "headers": headers, "client": (client, 1)}, receive, send
    )
    return sent


async def drain(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads until the visitor is gone, and does not like it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("the application did not like that")


async def take(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body and is content."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


async def whole() -> Any:
    """An honest visitor's body."""
    return {"type": "http.request", "body": b"{}", "more_body": False}


async def stalls() -> Any:
    """A body that does not come."""
    await asyncio.sleep(60)


async def beside(stalled: list[Awaitable[Any]], then: Callable[[], Awaitable[Any]]) -> Any:
    """What `then` gives while the others are under way, which are given up afterwards."""
    tasks = [asyncio.ensure_future(one) for one in stalled]
    await asyncio.sleep(0.2)
    try:
        return await then()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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


def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_free: int) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=bytes_free)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/v1/segment"])
def test_a_disk_without_room_takes_no_uploads(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(tmp_path, monkeypatch, 10 * 2**20)
    sent = asyncio.run(fed(path, tmp_path, None))
    assert statuses(sent) == [503]
    assert b"no room" in sent[1]["body"]


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/v1/segment"])
def test_what_is_announced_is_set_aside_until_it_has_come(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(tmp_path, monkeypatch, FULL_BYTES + 100 * 2**20)

    async def run() -> list[list[int]]:
        before = guard.Guard(take, Policy(folder=tmp_path))

        async def one(length: int | None, receive: Any = whole) -> list[int]:
            return statuses(await passed(before, path, receive, length=length))

        async def others() -> list[list[int]]:
            return [await one(50 * 2**20), await one(30 * 2**20)]

        during = await beside([one(60 * 2**20, stalls)], others)
        return [*during, await one(50 * 2**20), await one(None)]

    # The last tells no length, so it may become as large as the door lets it.
    most = doors.find("POST", path, folder=tmp_path)
    assert most is not None
    assert asyncio.run(run()) == [[503], [200], [200], [503] if most.most > 100 * 2**20 else [200]]


def test_the_folder_of_uploads_has_a_limit_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOKED_S", 0.0)
    free(tmp_path, monkeypatch, 10 * 2**40)

    async def run() -> list[int]:
        before, many = guard.Guard(take, Policy(folder=tmp_path, most_bytes=1000)), tmp_path / "a" / "b.png"
        many.parent.mkdir()

        async def upload(length: int, path: str = "/gradio_api/upload") -> int:
            return statuses(await passed(before, path, whole, length=length))[0]

        codes = [await upload(1000), await upload(1001)]
        many.write_bytes(bytes(700))
        codes += [await upload(400), await upload(300), await upload(400, "/v1/segment")]  # REST leaves nothing there
        many.unlink()
        return [*codes, await upload(1000)]

    assert asyncio.run(run()) == [200, 503, 503, 200, 200, 200]


def test_what_came_since_the_folder_was_looked_at_counts_too(tmp_path: Path) -> None:
    async def run() -> list[int]:
        before = guard.Guard(take, Policy(folder=tmp_path, most_bytes=1000))
        return [
            statuses(await passed(before, "/gradio_api/upload", whole, length=length))[0] for length in (600, 600, 400)
        ]

    assert asyncio.run(run()) == [200, 503, 200]


def test_uploads_that_stall_leave_room_to_other_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOKED_S", 0.0)
    policy = Policy(folder=tmp_path, per_minute=100_000, most_bytes=1000)

    async def run() -> Any:
        before = guard.Guard(take, policy)

        def one(client: str, length: int, receive: Any) -> Awaitable[list[Any]]:
            return passed(before, "/gradio_api/upload", receive, client=client, length=length)

        async def others() -> Any:
            return await one("192.0.2.1", 200, whole), await one("198.51.100.7", 600, whole)

        return await beside([one("192.0.2.1", 400, stalls) for _ in range(8)], others), await one("192.0.2.1", 1, whole)

    (refused, honest), afterwards = asyncio.run(run())
    assert statuses(refused) == [429]
    assert (statuses(honest), statuses(afterwards)) == ([200], [200])


def test_those_who_share_an_address_may_wait_for_as_many_results_as_the_queue_takes(tmp_path: Path) -> None:
    async def run() -> Any:
        before = guard.Guard(take, Policy(folder=tmp_path, per_minute=100_000))
        door = doors.find("GET", "/gradio_api/queue/data", folder=tmp_path)
        assert door is not None
        return before._places(door, "/gradio_api/queue/data") is before._little

    assert asyncio.run(run())
    assert guard.STILL_EACH >= 32


def test_the_limit_of_the_folder_is_half_of_the_disk_but_takes_one_upload() -> None:
    assert room.most_of(10 * 2**40) == 4 * 2**30
    assert room.most_of(4 * 2**30) == 2 * 2**30
    assert room.most_of(600 * 2**20) >= doors.BATCH_BYTES


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/login", "/v1/segment"])
def test_bodies_that_stall_take_their_own_client_s_places_alone(path: str, tmp_path: Path) -> None:
    async def run() -> Any:
        before = guard.Guard(take, Policy(folder=tmp_path, per_minute=100_000))

        def one(client: str, receive: Any) -> Awaitable[list[Any]]:
            return passed(before, path, receive, client=client, length=2)

        async def others() -> Any:
            return await one("192.0.2.1", whole), await one("198.51.100.7", whole), before.working

        told = await beside([one("192.0.2.1", stalls) for _ in range(places.IN_HAND)], others)
        return told, before.working, await one("192.0.2.1", whole)

    (refused, honest, held), left, afterwards = asyncio.run(run())
    assert statuses(refused) == [429]
    assert b"at once" in refused[1]["body"]
    assert (statuses(honest), statuses(afterwards)) == ([200], [200])
    assert (held, left) == (guard.WORK_EACH, 0)


def test_a_server_for_its_own_machine_counts_no_client_s_requests(tmp_path: Path) -> None:
    async def run() -> Any:
        before = guard.Guard(take, Policy(folder=tmp_path))

        def one(receive: Any) -> Awaitable[list[Any]]:
            return passed(before, "/v1/segment", receive, length=2)

        return await beside([one(stalls) for _ in range(guard.WORK_EACH * 2)], lambda: one(whole))

    assert statuses(asyncio.run(run())) == [200]


def test_more_requests_than_can_be_held_get_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "IN_HAND", 0)
    sent = asyncio.run(fed("/v1/segment", tmp_path, None))
    assert statuses(sent) == [503]
    assert (b"retry-after", b"2") in sent[0]["headers"]


@pytest.mark.parametrize("length", [3, 2**27])
@pytest.mark.parametrize("bodies", [[b"", b"", b""], [b"", b"", None]], ids=["comes", "stalls"])
def test_a_refused_body_is_taken_in_behind_its_answer_so_that_a_proxy_hands_that_on(
    bodies: list[bytes | None], length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LINGER_S", 0.2)
    waiting = list(bodies)

    async def receive() -> Any:
        if (body := waiting.pop(0)) is None:
            return await stalls()
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    elsewhere = Policy(folder=tmp_path, hosts=frozenset({"localhost"}))
    started, body, end = asyncio.run(passed(guard.Guard(drain, elsewhere), "/v1/segment", receive, length=length))
    assert started["status"] == 421
    assert int(dict(started["headers"])[b"content-length"]) == len(body["body"]) > 0
    assert (body["more_body"], end) == (True, {"type": "http.response.body", "body": b"", "more_body": False})
    assert not waiting


def test_an_error_of_the_application_is_not_swallowed(tmp_path: Path) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(RuntimeError, match="did not like"):
        asyncio.run(fed("/login", tmp_path, receive))
