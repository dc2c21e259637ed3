"""Who is answered, and with which headers: the login, sites elsewhere, and other names for this machine."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from sgmsnet.web import policy
from tests.security.asking import join, png, upload
from tests.security.conftest import LOGIN
from tests.security.serving import Running


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


def test_who_logs_out_is_alone_in_it_and_other_sites_log_nobody_out(locked: Running) -> None:
    here, there = (httpx.Client(base_url=locked.url, trust_env=False) for _ in range(2))
    with here, there:
        for client in (here, there):
            client.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]})
        for site in ("cross-site", "same-site"):
            assert here.get("/logout", headers={"sec-fetch-site": site}).status_code == 403
            assert here.get("/config").status_code == 200
        for query in ("", "?all_session=true"):
            assert here.get(f"/logout{query}").status_code == 302
        assert here.get("/config").status_code == 401
        assert there.get("/config").status_code == 200


def test_other_sites_may_neither_send_nor_read(opened: Running) -> None:
    strange = ("http://[", "http://[::1", "http://]", "//", "")  # no address at all
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example", *strange):
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
    assert policy.frames() == ("'self'",)
    monkeypatch.setenv("SPACE_ID", "someone/sgmsnet")
    framed = policy.Policy(folder=Path("/tmp"), frames=policy.frames()).page_csp()
    assert framed.endswith("frame-ancestors 'self' https://huggingface.co https://*.hf.space")
