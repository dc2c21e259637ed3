"""app.py on 127.0.0.1 with a proxy before it: its public name is answered to, and each visitor has their own limits."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.needs import ROOT, missing
from tests.security.asking import app_running, ask_page, png
from tests.security.serving import Running, free_port

NAME = "xray.example.org"
BURST = 60
"""Images that may come at once, of 120 a minute."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with app_running(tmp_path_factory.mktemp("proxied"), "--engine", "onnxruntime", "--name", NAME) as started:
        yield started


def exhaust(client: httpx.Client, *, burst: int = BURST) -> None:
    """Ask until the limit is met: no later than 120 a minute, and as many as may come at once, allow."""
    started, let_in = time.monotonic(), 0
    while client.post("/v1/segment", files={"file": b"no image"}).status_code != 429:  # refused quickly, and counted
        let_in += 1
        assert let_in <= burst + 2 * (time.monotonic() - started) + 1


def test_visitors_that_a_proxy_names_are_told_apart(server: Running) -> None:
    def visitor(address: str, name: str = NAME) -> httpx.Client:
        headers = {"host": name, "x-forwarded-for": address, "x-forwarded-proto": "https"}
        return httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)

    with (
        visitor("198.51.100.1") as one,
        visitor("198.51.100.2") as other,
        visitor("198.51.100.3", "evil.example") as bad,
    ):
        exhaust(one)
        assert ask_page(other, png(), name="chest.png", session="other")["error"] is None
        assert (
            other.post("/v1/segment", files={"file": png()}, headers={"origin": f"https://{NAME}"}).status_code == 200
        )
        assert f"https://{NAME}/v1/segment" in other.get("/v1/").text
        assert bad.get("/").status_code == 421


@pytest.fixture
def nginx(server: Running, tmp_path: Path) -> Iterator[str]:
    """nginx with the lines of SECURITY.md, but for TLS and the ports; its address."""
    if not (program := shutil.which("nginx")):
        missing("nginx is not installed (apt-get install nginx-light)")
    [lines] = re.findall(r"```nginx\n(.*?)```", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    port = free_port()
    lines = re.sub(r" *ssl_certificate.*\n", "", lines).replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    assert "http://127.0.0.1:7860;" in lines
    lines = lines.replace("http://127.0.0.1:7860", server.url)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/log;\n"
        f"events {{}}\nhttp {{ access_log off; {folders}\n{lines}}}\n"
    )
    command = [program, "-p", str(tmp_path), "-e", f"{tmp_path}/log", "-c", str(configuration)]
    with subprocess.Popen(command) as process:
        try:
            give_up = time.monotonic() + 20
            while not (tmp_path / "pid").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < give_up
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def test_nginx_with_the_lines_of_security_md_hands_on_all_that_is_needed(server: Running, nginx: str) -> None:
    def visitor(last: int, **headers: str) -> httpx.Client:
        """From an address of its own; all of 127.0.0.0/8 are this machine."""
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{last}")
        return httpx.Client(base_url=nginx, transport=transport, headers={"host": NAME, **headers}, timeout=60)

    with visitor(2) as one, visitor(2, **{"x-forwarded-for": "203.0.113.5"}) as same, visitor(3) as other:
        exhaust(one)
        exhaust(same, burst=1)  # who invents an address has none of its own
        assert ask_page(other, png(), name="chest.png", session="nginx")["error"] is None
        assert other.post("/v1/segment", files={"file": png()}, headers={"origin": f"http://{NAME}"}).status_code == 200
        assert other.get("/", headers={"host": "evil.example"}).status_code == 421
        large = png() + bytes(70 * 2**20)  # more than REST takes, and more than nginx does by itself
        assert other.post("/v1/segment", files={"file": large}).status_code == 413
        assert other.post("/gradio_api/upload", files={"files": ("batch.zip", large)}).status_code == 200
