"""What a stranger may ask of the running server, page and REST alike: nothing that is not meant for them."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from PIL import Image

from sgmsnet.web import doors, guard
from tests.fakes import draw_xray
from tests.needs import ROOT
from tests.security.asking import FILE, outcome
from tests.security.asking import function as function_of
from tests.security.conftest import LOGIN
from tests.security.serving import Running, running


@pytest.fixture
def opened(servers: dict[str, Running]) -> Running:
    """For this machine alone, without a password."""
    return servers["opened"]


@pytest.fixture
def locked(servers: dict[str, Running]) -> Running:
    """With a password."""
    return servers["locked"]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_xray()).save(buffer, "png")
    return buffer.getvalue()


def join(client: httpx.Client, data: list[Any], function: int = 0, session: str = "s") -> httpx.Response:
    return client.post("/gradio_api/queue/join", json={"data": data, "fn_index": function, "session_hash": session})


def upload(client: httpx.Client, name: str = "chest.png", data: bytes | None = None) -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, data or png())})
    assert answer.status_code == 200, answer.text
    path: str = answer.json()[0]
    return path


# ---- paths, files, addresses ----


CLOSED = [
    ("GET", "/gradio_api/proxy=http://127.0.0.1:9/x"),
    ("GET", "/gradio_api/proxy=https://x.hf.space/"),
    ("GET", "/gradio_api/file=http://127.0.0.1:9/x"),
    ("GET", "/gradio_api/file=https://example.com/"),
    ("GET", "/gradio_api/file=/etc/passwd"),
    ("GET", "/gradio_api/file=app.py"),
    ("GET", f"/gradio_api/file={ROOT}/app.py"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/token"),
    ("GET", "/gradio_api/runs"),
    ("GET", "/gradio_api/deep_link"),
    ("GET", "/gradio_api/vibe-code/"),
    ("GET", "/gradio_api/dev/reload"),
    ("GET", "/gradio_api/custom_component/1/client/component/x"),
    ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/.git/config"),
    ("POST", "/"),
    ("POST", "/gradio_api/run/segment"),
    ("POST", "/gradio_api/api/segment"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit/"),
    ("PUT", "/gradio_api/upload"),
    ("DELETE", "/v2"),
    ("TRACE", "/"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_the_page_does_not_use_is_not_there(opened: Running, method: str, path: str) -> None:
    answer = opened.client.request(method, path)
    assert answer.status_code == 404
    assert "There is nothing here." in answer.text


@pytest.mark.parametrize(
    "way", ["{0}/../../../../etc/passwd", "{0}/%2e%2e/%2e%2e/etc/passwd", "{0}x/secret", "{0}/link"]
)
def test_no_way_leads_out_of_the_uploads(opened: Running, way: str) -> None:
    link = opened.folder / "link"
    if not link.exists():
        link.symlink_to("/etc/passwd")
    neighbour = Path(f"{opened.folder}x")
    neighbour.mkdir(exist_ok=True)
    (neighbour / "secret").write_text("secret")
    raw = f"GET /gradio_api/file={way.format(opened.folder)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw_request(opened, raw.encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"root:" not in answer


def raw_request(server: Running, request: bytes) -> bytes:
    """Bytes as they are, past any client that would tidy them up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_visitor_s_upload_is_segmented_and_can_be_fetched_again(opened: Running) -> None:
    client = opened.client
    path = upload(client)
    assert client.get(f"/gradio_api/file={path}").content == png()
    answer = join(client, [{"path": path, "meta": FILE}, "auto"], function_of(client), "good")
    assert answer.status_code == 200, answer.text
    shown = outcome(client, "good")["output"]["data"][0]
    assert shown["error"] is None
    assert shown["record"]["image"] == "chest.png"


class _Listener(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def listener() -> Iterator[str]:
    """A web server that must never be asked for anything."""
    server = HTTPServer(("127.0.0.1", 0), _Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


STRANGE = (
    "/etc/passwd",
    "{root}/app.py",
    "{folder}/../secret",
    "{listener}/chest.png",
    "file:///etc/passwd",
    "{folder}/\0",
    "app.py",
    "",
)


@pytest.mark.parametrize("path", STRANGE)
@pytest.mark.parametrize("way", ["/gradio_api/queue/join", "/gradio_api/call/segment", "/gradio_api/call/v2/segment"])
def test_no_path_and_no_address_in_a_call_is_opened(opened: Running, listener: str, path: str, way: str) -> None:
    path = path.format(root=ROOT, folder=opened.folder, listener=listener)
    given = {"path": path, "url": path, "meta": FILE}
    for value in (given, [given], {"deeper": [given]}, {"file": given}):
        function = function_of(opened.client)
        body = {"data": [value, "auto"], "fn_index": function, "session_hash": "x"}
        answer = opened.client.post(way, json=value if way.endswith("v2/segment") and isinstance(value, dict) else body)
        assert answer.status_code == 400
        assert "opens no other paths" in answer.text
    assert not _Listener.asked


@pytest.mark.parametrize(
    "data", [["/etc/passwd", "auto"], ["http://127.0.0.1:9/x.png", "auto"], [None, "auto"], [1, 2], [], ["a"] * 9]
)
def test_other_data_gets_an_answer_without_detail(opened: Running, data: list[Any]) -> None:
    answer = join(opened.client, data, function_of(opened.client), "odd")
    if answer.status_code == 200:
        end = outcome(opened.client, "odd")
        said = json.dumps(end)
        assert "Traceback" not in said
        assert "root:" not in said
        assert not end["success"] or end["output"]["data"][0]["error"]
    else:
        assert 400 <= answer.status_code < 500


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b'"x"',
        b"[]",
        b'{"data": [], "fn_index": 999}',
        b"\xff\xfe",
        b'{"fn_index": []}',
    ],
)
def test_what_is_no_call_is_4xx(opened: Running, body: bytes) -> None:
    answer = opened.client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500


def test_a_function_that_there_is_not_is_404(opened: Running) -> None:
    assert opened.client.post("/gradio_api/call/nothing", json={"data": []}).status_code == 404
    assert join(opened.client, [], 12345).status_code == 404


def test_a_model_cannot_be_uploaded_only_looked_at_as_an_image(opened: Running) -> None:
    data = (ROOT / "weights" / "cxr.onnx").read_bytes()[:50_000]
    path = upload(opened.client, "cxr.safetensors", data)
    join(opened.client, [{"path": path, "meta": FILE}, "auto"], function_of(opened.client), "model")
    assert "not a PNG" in outcome(opened.client, "model")["output"]["data"][0]["error"]
    answer = opened.client.post("/v1/segment", files={"file": ("cxr.onnx", data)})
    assert answer.status_code == 415
    answer = opened.client.post("/v1/segment?model=/tmp/mine.safetensors", files={"file": png()})
    assert (answer.status_code, "no option" in answer.text) == (400, True)


# ---- login ----


def test_without_the_login_only_the_door_is_seen(locked: Running) -> None:
    client = locked.client
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x", "/gradio_api/heartbeat/x"):
        assert client.get(path).status_code == 401
    assert client.get(f"/gradio_api/file={locked.folder}/x").status_code == 401
    assert join(client, []).status_code == 401
    assert client.post("/gradio_api/upload", files={"files": ("stranger.png", b"x")}).status_code == 401
    assert client.post("/gradio_api/cancel", json={}).status_code == 401
    assert not list(locked.folder.rglob("stranger*"))
    for path in ("/health", "/ready"):
        assert client.get(path).json() in ({"status": "ok"}, {"status": "ready"})


def test_page_and_basic_share_one_lock_out(servers: dict[str, Running]) -> None:
    client = servers["guessed"].client
    form = {"username": LOGIN[0], "password": "wrong"}
    for _ in range(2):
        assert client.post("/login", data=form).status_code == 400
    for _ in range(3):
        assert client.get("/metrics", auth=("ward", "wrong")).status_code == 401
    refused = client.post("/login", data={**form, "password": LOGIN[1]})
    assert (refused.status_code, "Too many wrong passwords" in refused.text) == (400, True)
    assert int(refused.headers["retry-after"]) > 50
    basic = client.get("/v1/models", auth=LOGIN)
    assert (basic.status_code, "Too many" in basic.json()["error"]) == (429, True)
    assert int(basic.headers["retry-after"]) > 50


def test_the_login_opens_page_and_rest(locked: Running) -> None:
    with httpx.Client(base_url=locked.url, trust_env=False) as client:
        for _ in range(7):  # right ones never lock anybody out
            answer = client.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]})
            assert answer.status_code == 200
        assert client.get("/config").status_code == 200
        path = upload(client)
        assert client.get(f"/gradio_api/file={path}").status_code == 200
        assert client.get("/metrics", auth=LOGIN).status_code == 200
    assert locked.client.get("/config", cookies={"access-token": "guess"}).status_code == 401


# ---- sites elsewhere ----


def test_other_sites_may_neither_send_nor_read(opened: Running) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"):
        headers = {"origin": origin}
        for path in ("/gradio_api/upload", "/v1/segment", "/login", "/gradio_api/queue/join"):
            answer = opened.client.post(path, files={"file": png()}, headers=headers)
            assert answer.status_code == 403, path
            asking = {**headers, "access-control-request-method": "POST"}
            assert opened.client.options(path, headers=asking).status_code in (403, 404)
        for path in ("/", "/config", "/v1/models"):
            answer = opened.client.get(path, headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]
    same = {"origin": opened.url}
    assert opened.client.post("/v1/segment", files={"file": png()}, headers=same).status_code == 200


def test_another_name_for_this_machine_is_not_answered_to(opened: Running, locked: Running) -> None:
    for name in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "[::2]"):
        assert opened.client.get("/", headers={"host": name}).status_code == 421
        assert opened.client.get("/v1/models", headers={"host": name}).status_code == 421
    for name in ("localhost:1234", "LOCALHOST", "[::1]:7860", "127.0.0.1"):
        assert opened.client.get("/health", headers={"host": name}).status_code == 200
    assert locked.client.get("/health", headers={"host": "ward.example"}).status_code == 200


def test_every_answer_carries_the_headers(opened: Running) -> None:
    for path in ("/", "/config", "/v1/models", "/health", "/metrics", "/nothing", "/assets/nothing.js", "/theme.css"):
        headers = opened.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors" in headers["content-security-policy"]
        policy = headers["content-security-policy"]
        assert "http" not in policy  # no host elsewhere
        assert "*" not in policy
        assert ("no-store" in headers.get("cache-control", "")) == (not path.startswith("/assets"))
    file = upload(opened.client, "a.html", b"<script>alert(1)</script>")
    served = opened.client.get(f"/gradio_api/file={file}")
    assert "sandbox" in served.headers["content-security-policy"]
    assert "attachment" in served.headers["content-disposition"]


def test_a_space_may_be_framed_by_its_site_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert guard.frames() == ("'self'",)
    monkeypatch.setenv("SPACE_ID", "someone/sgmsnet")
    policy = guard.Policy(folder=Path("/tmp"), frames=guard.frames()).page_csp()
    assert policy.endswith("frame-ancestors 'self' https://huggingface.co https://*.hf.space")


# ---- sizes, rates, queues ----


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


def test_a_client_that_asks_too_often_waits_and_others_do_not(servers: dict[str, Running]) -> None:
    server = servers["limited"]
    codes = [server.client.post("/v1/segment", files={"file": png()}).status_code for _ in range(10)]
    assert codes == [200] * 8 + [429] * 2
    refused = server.client.post("/v1/segment", files={"file": png()})
    assert int(refused.headers["retry-after"]) >= 1
    assert "Too many requests" in refused.json()["error"]
    assert server.client.get("/v1/models").status_code == 200
    other = {"x-forwarded-for": "198.51.100.7"}  # the tunnel of a public link runs on this machine
    assert server.client.post("/v1/segment", files={"file": png()}, headers=other).status_code == 200
    codes = [server.client.get("/theme.css").status_code for _ in range(260)]
    assert 429 in codes
    assert codes[:150] == [200] * 150
    assert server.client.get("/health").status_code == 200


def test_an_image_on_the_page_counts_once(servers: dict[str, Running]) -> None:
    """Its upload, and calls that run no model, have a limit of their own: REST and page let the same number in."""
    other = {"x-forwarded-for": "198.51.100.8"}  # a client of its own, with full buckets
    with httpx.Client(base_url=servers["limited"].url, headers=other, trust_env=False) as client:
        events = client.get("/config").json()["dependencies"]
        light = next(one["id"] for one in events if [target[1] for target in one["targets"]] == ["load"])
        codes = []
        for i in range(9):
            path = upload(client)
            assert join(client, [], light, f"once{i}").status_code == 200
            codes.append(
                join(client, [{"path": path, "meta": FILE}, "auto"], function_of(client), f"once{i}").status_code
            )
        assert codes == [200] * 8 + [429]
        codes = [join(client, [], light, "more").status_code for _ in range(30)]
        assert (codes[0], codes[-1]) == (200, 429)


def test_a_full_queue_says_busy_on_the_page_and_in_rest(servers: dict[str, Running]) -> None:
    server = servers["crowded"]
    function, path = function_of(server.client), upload(server.client)
    asked = [join(server.client, [{"path": path, "meta": FILE}, "auto"], function, f"q{i}") for i in range(9)]
    busy = [answer for answer in asked if answer.status_code == 503]
    assert busy
    assert re.search(r'sgmsnet_waiting\{interface="page"\} [1-9]', server.client.get("/metrics").text)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
    for i, answer in enumerate(asked):
        if answer.status_code == 200:  # what was taken is answered
            assert outcome(server.client, f"q{i}")["output"]["data"][0]["error"] is None
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda _: ask(server), range(9)))
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["retry-after"] == "2"
            assert "busy" in answer.json()["error"]


def ask(server: Running) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/segment", files={"file": png()}, timeout=30, trust_env=False)


def test_what_runs_at_sigterm_is_finished_and_nothing_new_begins(tmp_path: Path) -> None:
    with running(tmp_path, slow={"slow_s": 1.5}) as servers:
        server = servers["slow"]
        function, path = function_of(server.client), upload(server.client)
        with ThreadPoolExecutor(3) as pool:
            rest = pool.submit(ask, server)
            assert join(server.client, [{"path": path, "meta": FILE}, "auto"], function, "last").status_code == 200
            page = pool.submit(outcome, server.client, "last")
            while 'in_flight{interface="page"} 1' not in (metrics := server.client.get("/metrics").text) or (
                'in_flight{interface="rest"} 1' not in metrics
            ):
                time.sleep(0.02)
            server.process.terminate()
            time.sleep(0.8)  # it looks for the signal twice a second
            late = ask(server)
            assert (late.status_code, "about to stop" in late.text) == (503, True)
            assert int(late.headers["retry-after"]) >= 1
            assert rest.result().status_code == 200
            assert page.result()["output"]["data"][0]["error"] is None
        assert server.process.wait(30) == 0


# ---- the guard alone ----


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
    monkeypatch.setattr(guard, "AT_ONCE", 0)
    sent = asyncio.run(fed("/v1/segment", tmp_path, None))
    assert statuses(sent) == [503]
    assert (b"retry-after", b"2") in sent[0]["headers"]


def test_an_error_of_the_application_is_not_swallowed(tmp_path: Path) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    with pytest.raises(RuntimeError, match="did not like"):
        asyncio.run(fed("/login", tmp_path, receive))


def test_the_list_of_doors_agrees_with_itself(tmp_path: Path) -> None:
    for method, path in itertools.product(("GET", "POST"), ("/gradio_api/queue/join", "/gradio_api/upload", "/login")):
        assert (doors.find(method, path, folder=tmp_path) is not None) == (method == "POST")
    assert doors.inside(str(tmp_path / "a" / "b.png"), tmp_path)
    for path in ("/", str(tmp_path.parent), f"{tmp_path}/../x", f"{tmp_path}/{'a/' * 5000}", "http://x/", ""):
        assert not doors.inside(path, tmp_path)
