"""Real servers on free ports of this machine, in a process of their own, with an engine that needs no runtime.

    python -m tests.security.serving FOLDER '{"opened": {}, "limited": {"per_minute": 12}}'

serves until SIGTERM; a name's options are those of Policy, and login, slow_s (of each run) and waiting (the queue).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from engines.base import Engine
from sgmsnet.pipeline import Pipeline
from sgmsnet.web.desk import Desk
from tests.fakes import FakeEngine
from tests.needs import ROOT

START_S = 120


class SlowEngine(FakeEngine):
    """Takes its time for every image but black ones: those are readiness asking."""

    def __init__(self, slow_s: float) -> None:
        super().__init__()
        self._slow_s = slow_s

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if images.any():
            time.sleep(self._slow_s)
        return super().run(images)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def fake_desk(*, run_limit_s: float = 30.0, at_once: int = 2, **engines: Engine) -> Desk:
    """A desk with engines by name, the first of which is the default; one FakeEngine where none is given."""
    given: dict[str, Engine] = engines or {"fake": FakeEngine()}
    for name, engine in given.items():
        engine.info = replace(engine.info, backend=name)
    first = next(iter(given))

    def opened(name: str) -> Pipeline:
        return Pipeline(given[first if name == "auto" else name], thresholds={"lungs": 0.4}, temperature={})

    known = [SimpleNamespace(name=name, available=True, reason="installed", version="1.0") for name in given]
    return Desk(
        opened,
        probe=lambda: known,
        first=first,
        examples=ROOT / "examples",
        run_limit_s=run_limit_s,
        at_once=at_once,
    )


@dataclass(frozen=True)
class Running:
    """A server under test: its address, a client without credentials, its folder of uploads."""

    url: str
    client: httpx.Client
    folder: Path
    process: subprocess.Popen[str]
    log: Path


@contextmanager
def running(folder: Path, **servers: dict[str, Any]) -> Iterator[dict[str, Running]]:
    """Servers by name until the block ends; what they logged must hold no traceback of ours."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "tests.security.serving", str(folder), json.dumps(servers)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=out, text=True) as child,
    ):
        stop_waiting = threading.Timer(START_S, child.kill)
        stop_waiting.start()
        try:
            assert child.stdout is not None
            ports = json.loads(child.stdout.readline() or "null")
            stop_waiting.cancel()
            assert ports, log.read_text()
            with ExitStack() as clients:
                yield {name: _running(clients, port, folder / "uploads", child, log) for name, port in ports.items()}
        finally:
            stop_waiting.cancel()
            child.terminate()
            child.wait(timeout=60)
    assert f'File "{ROOT}/sgmsnet' not in log.read_text(), log.read_text()


def _running(clients: ExitStack, port: int, folder: Path, child: subprocess.Popen[str], log: Path) -> Running:
    url = f"http://127.0.0.1:{port}"
    client = clients.enter_context(httpx.Client(base_url=url, trust_env=False, timeout=30))
    return Running(url, client, folder.resolve(), child, log)


def main() -> int:
    """The child's side; its log holds all that any part of it has to say."""
    logging.basicConfig(level=logging.DEBUG)
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_ANALYTICS_MAX_EVENTS="100")
    from sgmsnet.web import layout, rest
    from sgmsnet.web.policy import Policy
    from sgmsnet.web.server import Server

    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    ports, servers = {}, []
    uploads = (folder / "uploads").resolve()  # one for all: Gradio looks its name up anew each time
    uploads.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    waiting = layout.WAITING_AT_MOST
    for name, given in options.items():
        layout.WAITING_AT_MOST = rest.WAITING_AT_MOST = given.pop("waiting", waiting)
        login, desk = given.pop("login", None), fake_desk(fake=SlowEngine(given.pop("slow_s", 0.0)))
        hosts = given.pop("hosts", None)
        policy = Policy(folder=uploads, hosts=frozenset(hosts) if hosts else None, **given)
        ports[name] = free_port()
        servers.append(Server(desk, policy, host="127.0.0.1", port=ports[name], login=login))
    print(json.dumps(ports), flush=True)
    while not asked.wait(0.5):
        pass
    finished = [server.stop() for server in servers]
    return 0 if all(finished) else 3


if __name__ == "__main__":
    sys.exit(main())
