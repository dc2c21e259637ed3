"""A server that is asked too often, has a full queue or is about to stop says so, and finishes what it has taken."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.security.asking import FILE, join, outcome, png, upload
from tests.security.asking import function as function_of
from tests.security.serving import Running, running


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
            assert server.client.get("/ready").status_code == 503
            assert rest.result().status_code == 200
            assert page.result()["output"]["data"][0]["error"] is None
        assert server.process.wait(30) == 0
