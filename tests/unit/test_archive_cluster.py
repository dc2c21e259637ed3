"""An archive job on two simulated machines, one of which is killed: every file has exactly one record."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from sgmsnet.archive import cluster
from tests.fakes import draw_xray
from tests.needs import ROOT, opt_in

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time, sgmsnet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, info_with
class Slow(FakeEngine):
    def run(self, images):
        time.sleep(0.05 * len(images))
        return super().run(images)
sgmsnet.load = lambda *_, **__: Pipeline(Slow(info_with(height=32, width=32)), thresholds={}, temperature={})
sys.exit(main(sys.argv[1:]))
"""


def test_a_machine_that_is_lost_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("ray") is None:
        opt_in("Ray (about 900 MB)", "make test-ray")
    ray = importlib.import_module("ray")
    from ray.cluster_utils import Cluster

    (tmp_path / "in").mkdir()
    for number in range(240):
        Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / f"x{number}.png")
    (tmp_path / "slow.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cluster, "PROGRAM", [str(tmp_path / "slow.py")])
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = machines.add_node(num_cpus=2)
    ray.init(address=machines.address, log_to_driver=False)
    said: list[str] = []
    out = tmp_path / "out"

    def lose() -> None:
        give_up = time.monotonic() + 60
        while len(list(out.glob("predictions-*.jsonl"))) < 2 and time.monotonic() < give_up:
            time.sleep(0.1)
        time.sleep(0.5)
        machines.remove_node(lost, allow_graceful=False)

    killer = threading.Thread(target=lose)
    killer.start()
    try:
        arguments = [str(tmp_path / "in"), "--output", str(out), "--write", "masks", "--workers", "1"]
        assert cluster.run(arguments, shards=6, say=said.append) == 0
    finally:
        killer.join()
        ray.shutdown()
        machines.shutdown()
    logs = [log.read_text(encoding="utf-8") for log in out.glob("predictions-*.jsonl")]
    paths = [json.loads(line)["path"] for log in logs for line in log.splitlines()]
    assert sorted(paths) == sorted(f"x{number}.png" for number in range(240))
    assert len(list(out.glob("*_lungs.png"))) == 240
    assert sum("is done" in line for line in said) == 6
