"""app.py in a process of its own and a browser that opens its page.

SGMSNET_TEST_MODEL names another model than the shipped one.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import needs
from tests.e2e.visit import DESKTOP, OpenPage

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
STILL = ("--disable-background-networking", "--disable-component-update")
START_S = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """app.py on a free port, stopped again afterwards."""
    with served(os.environ.get("SGMSNET_TEST_MODEL", "cxr"), tmp_path_factory.mktemp("page")) as url:
        yield url


@contextmanager
def served(model: str, folder: Path) -> Iterator[str]:
    """app.py with a model; its log is written into the folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log.txt"
    command = [sys.executable, "-m", "tests.e2e.serve", "--port", str(port), "--model", model]
    # As in a hospital: a proxy for the outside, here one that nobody answers at. The page must not ask it for itself.
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=needs.ROOT, stdout=out, stderr=out, env=environment) as server,
    ):
        try:
            _wait_until_ready(server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=20)
    # A handler that failed writes its traceback here, whatever the visitor was shown.
    assert "Traceback" not in log.read_text()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_S
    while "is ready" not in log.read_text():
        if server.poll() is not None or time.monotonic() > give_up:
            pytest.fail(f"app.py did not start: {log.read_text()}")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = needs.chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*QUIET, *STILL])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(address: str, browser: Browser) -> Iterator[OpenPage]:
    """Opens the page; at the end no request may have left this machine and the console must be free of errors."""
    pages: list[Page] = []
    requests: list[str] = []
    complaints: list[str] = []

    def opened(**context: Any) -> Page:
        page = browser.new_context(**{"viewport": DESKTOP, **context}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        expect(page.locator(".sv")).to_have_attribute("data-state", "empty")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.context.close()
    assert complaints == []
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
