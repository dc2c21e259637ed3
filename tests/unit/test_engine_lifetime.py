"""Opening and closing engines again and again leaves no memory, threads or files behind, and nothing is sent."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import ROOT, missing

# In a process of its own, so that what the other tests hold does not blur the count.
CYCLES = """
import gc, os, sys
import numpy as np
from engines.select import open_engine
from sgmsnet.checkpoint import find

files, name, cycles = find(sys.argv[1]), sys.argv[2], int(sys.argv[3])
images = np.zeros((1, 1, 64, 64), np.uint8)

def cycle():
    engine = open_engine(name, files)
    engine.run(images)
    engine.close()

def held():
    gc.collect()
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir("/proc/self/fd"))

for _ in range(max(cycles // 5, 5)):
    cycle()
before = held()
for _ in range(cycles):
    cycle()
after = held()
print(before, after)
assert after[1] <= before[1], "threads"
assert after[2] <= before[2], "files"
assert after[0] - before[0] < 8 + 0.02 * cycles, "memory in MB"
"""
SIGNALLED = """
import gc, os, signal, sys, threading
from pathlib import Path
from engines.openvino_engine import OpenVinoEngine
from sgmsnet.checkpoint import find
model, received = find(Path(sys.argv[1])), []
signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
first, second = (OpenVinoEngine(model) for _ in range(2))
first.close()
del first
gc.collect()
second.close()
opened = [OpenVinoEngine(model)]  # here, and let go in another thread
letting_go = threading.Thread(target=opened.clear)
del second
letting_go.start()
letting_go.join()
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
assert received == [True]
"""
QUIET = """
import os, sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.posix_spawn")
sys.addaudithook(lambda event, _: seen.append(event) if event in watched else None)
from engines.openvino_runtime import import_openvino
openvino = import_openvino()
assert openvino is import_openvino()
assert openvino.Core().available_devices
assert not [name for name in sys.modules if "telemetry" in name], "telemetry"
assert not seen, seen
assert not os.listdir(os.environ["HOME"]), "files in the home folder"
"""


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:  # importing it here would be what is tested
        missing(f"{package} is not installed")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system has no /proc to count in")
@pytest.mark.parametrize("cycles", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "pytorch"])
def test_loads_and_closes_leave_nothing_behind(name: str, cycles: int, tiny_model: Path) -> None:
    needs({"pytorch": "torch"}.get(name, name))
    command = [sys.executable, "-c", CYCLES, str(tiny_model), name, str(cycles)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 + 2 * cycles)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX's")
def test_signals_are_received_after_openvino_engines_were_closed(tiny_model: Path) -> None:
    needs("openvino")
    command = [sys.executable, "-c", SIGNALLED, str(tiny_model)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"


def test_importing_openvino_tells_nobody(tmp_path: Path) -> None:
    needs("openvino")
    # Not in CI's name: there openvino-telemetry keeps quiet by itself.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", QUIET], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
