"""Starts a real Triton from the wheel nvidia-pytriton, which lives in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export import to_triton
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import load, prepare
from tests.needs import ROOT, opt_in

PACKAGES = ("nvidia-pytriton==0.7.0", "numpy==1.26.4", "onnxruntime==1.32.0")
"""With numpy 2 the Python backend gives empty outputs."""
MODEL = Path(__file__).with_name("model.py")


def environment() -> Path:
    """The virtual environment that SGMSNET_TRITON_VENV names, made where it is not there; skips without that name."""
    name = os.environ.get("SGMSNET_TRITON_VENV")
    if not name:
        opt_in("Triton in an environment of its own (about 500 MB, SGMSNET_TRITON_VENV)", "make test-triton")
    venv = Path(name).absolute()
    if not (venv / "bin" / "python").exists():
        subprocess.run([shutil.which("python3.11") or "python3", "-m", "venv", str(venv)], check=True)
    if not list(venv.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver")):
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", *PACKAGES], check=True)
    return venv


@dataclass
class Triton:
    """One server on this machine, which may be killed and started again on the same ports."""

    venv: Path
    repository: Path
    folder: Path
    ports: list[int] = field(default_factory=lambda: _free_ports(3))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def http(self) -> str:
        """host:port"""
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def grpc(self) -> str:
        """URL"""
        return f"grpc://127.0.0.1:{self.ports[1]}"

    def start(self) -> None:
        """Return when the server says that it is ready."""
        root = next(self.venv.glob("lib/python*/site-packages/pytriton/tritonserver"))
        site = root.parents[1]
        backends = self._backends(root, site)
        libraries = [site / "nvidia_pytriton.libs", Path(_libdir(self.venv))]
        env = {
            **os.environ,
            "PATH": f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "VIRTUAL_ENV": str(self.venv),
            "PYTHONPATH": str(site),
        }
        http, grpc, metrics = map(str, self.ports)
        command = [
            str(root / "bin" / "tritonserver"), "--model-repository", str(self.repository),
            "--backend-directory", str(backends), "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1",
            "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics, "--log-verbose", "0",
        ]  # fmt: skip
        log = (self.folder / "triton.log").open("ab")
        # A group of its own, so that the processes that hold the models end with the server.
        self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        log.close()
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        text = (self.folder / "triton.log").read_text(errors="replace")[-4000:]
        self.kill()
        raise AssertionError(f"Triton did not start:\n{text}")

    def kill(self) -> None:
        """End the server and what it started, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def statistics(self, model: str) -> dict[str, Any]:
        """Triton's own counts of a model."""
        with urllib.request.urlopen(f"http://{self.http}/v2/models/{model}/stats", timeout=10) as answer:
            return json.loads(answer.read())["model_stats"][0]

    def _backends(self, root: Path, site: Path) -> Path:
        target = self.folder / "backends" / "python"
        if not target.is_dir():
            shutil.copytree(root / "backends" / "python", target)
            version = site.parent.name.removeprefix("python")
            shutil.copy2(root / "python_backend_stubs" / version / "triton_python_backend_stub", target)
        return target.parent


def repository(files: ModelFiles, folder: Path, warm_up: np.ndarray, serving: to_triton.Serving) -> Path:
    """A repository for the Python backend with `model.py` of this folder."""
    model = to_triton.export(files, folder / "repository", serving, warm_up=warm_up)
    shutil.copy(MODEL, model / "1" / "model.py")
    assert files.graph is not None
    shutil.copy(files.graph, model / "1" / "graph.onnx")
    shutil.copy(files.weights, model / "1")
    return folder / "repository"


def main() -> None:
    """Serve the shipped model from several servers until Ctrl-C: python -m tests.triton.server 2"""
    files = find("cxr")
    size = {"height": files.config.height, "width": files.config.width}
    image, _ = prepare(load(ROOT / "examples" / "covid_adult_1.jpg"), **size)
    with tempfile.TemporaryDirectory() as name:
        models = repository(files, Path(name), image, to_triton.Serving(platform="python"))
        servers = [Triton(environment(), models, Path(name)) for _ in range(int(sys.argv[1]))]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leaves through `finally`, as Ctrl-C does
        try:
            for server in servers:
                server.start()
                print(server.http, flush=True)
            threading.Event().wait()
        finally:
            for server in servers:
                server.kill()


def _libdir(venv: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    done = subprocess.run([str(venv / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main()
