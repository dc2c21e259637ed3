"""Paths, files and calls of the running server: what the page does not use is closed, and nothing named is fetched."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sgmsnet.web import doors
from tests.needs import ROOT
from tests.security.asking import FILE, join, outcome, png, raw_request, upload
from tests.security.asking import function as function_of
from tests.security.serving import Running

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


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/v1/segment"])
@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 257}",
        f"multipart/form-data; boundary={'b' * 5000}",
        "multipart/form-data; boundary=b; charset=idna",
        "multipart/form-data; boundary=b; charset=\xff",
        "\xff/\xfe; =",
    ],
)
def test_a_strange_content_type_is_4xx(opened: Running, path: str, kind: str) -> None:
    answer = opened.client.post(path, content=b"--b\r\n\r\n--b--\r\n", headers={"content-type": kind.encode("latin-1")})
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


def test_the_list_of_doors_agrees_with_itself(tmp_path: Path) -> None:
    for method, path in itertools.product(("GET", "POST"), ("/gradio_api/queue/join", "/gradio_api/upload", "/login")):
        assert (doors.find(method, path, folder=tmp_path) is not None) == (method == "POST")
    assert doors.inside(str(tmp_path / "a" / "b.png"), tmp_path)
    for path in ("/", str(tmp_path.parent), f"{tmp_path}/../x", f"{tmp_path}/{'a/' * 5000}", "http://x/", ""):
        assert not doors.inside(path, tmp_path)
