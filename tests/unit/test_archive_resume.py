"""Archive jobs: killed at any moment, in shards, resumed: every file has its results and exactly one record."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmsnet.archive import log
from sgmsnet.archive.files import Shard
from sgmsnet.archive.log import Log
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT
from tests.unit.archiving import archive, load_small_engine, predict, records

pytestmark = pytest.mark.usefixtures("quick_disk")
PROGRAM = """
import sys, time, sgmsnet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, info_with
class Slow(FakeEngine):
    def run(self, images):
        time.sleep(0.004 * len(images))
        return super().run(images)
sgmsnet.load = lambda *_, **__: Pipeline(Slow(info_with(height=32, width=32)), thresholds={}, temperature={})
print("ready", flush=True)
sys.exit(main(["predict", *sys.argv[1:]]))
"""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return load_small_engine(monkeypatch)


def assert_each_once(out: Path, names: set[str]) -> None:
    found = records(out)
    assert sorted(str(record["path"]) for record in found) == sorted(names)
    for record in found:
        whole = [(out / f"{record['path']}_{label}.png").is_file() for label in ("lungs", "infection")]
        assert whole == [record["error"] is None] * 2
    assert sum(record["error"] is not None for record in found) == 1
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert sorted(row["path"] for row in csv.DictReader(stream)) == sorted(names)
    assert not list(out.rglob("*.part*"))


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "--write", "masks", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_job_that_is_killed_again_and_again_ends_with_every_file_once(tmp_path: Path) -> None:
    names, out = archive(tmp_path / "in", 300), tmp_path / "out"
    chance = random.Random(1)
    kills = 0
    for _ in range(8):
        job = start(tmp_path / "in", "--archive", "--output", out, "--batch-size", 4)
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        if kills < 4:
            time.sleep(chance.uniform(0.05, 0.7))
            job.send_signal(signal.SIGKILL)
        _, errors = job.communicate(timeout=120)
        if job.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert job.returncode == 1, errors
        break
    assert kills >= 2
    assert_each_once(out, names)


def test_shards_cover_everything_once_and_a_run_without_shards_finds_nothing_left(
    engine: FakeEngine, tmp_path: Path
) -> None:
    names, out = archive(tmp_path / "in", 120), tmp_path / "out"
    for number in (1, 2, 3):
        predict(tmp_path / "in", "--shard", f"{number}/3", "--output", out)
    sizes = [len((out / f"predictions-{i}-of-3.jsonl").read_text().splitlines()) for i in (1, 2, 3)]
    assert sum(sizes) == 120
    assert min(sizes) > 20
    ran = sum(engine.batches)
    predict(tmp_path / "in", "--archive", "--output", out)
    assert sum(engine.batches) == ran == 119
    assert_each_once(out, names)


def test_failures_are_done_until_they_are_retried(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 9)
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 1
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / "0" / "x7.png")
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 1
    assert predict(tmp_path / "in", "--retry", "--output", tmp_path / "out") == 0
    assert sum(engine.batches) == 9
    assert [record["error"] for record in records(tmp_path / "out")] == [None] * 9


def test_results_are_on_the_disk_before_their_record(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell what a descriptor is of")
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "a.png")
    predict(tmp_path / "a.png", "--archive", "--output", tmp_path / "out")
    of_results = [synced.index(f"a.png_{label}.png") for label in ("lungs", "infection")]
    assert max(of_results) < synced.index("predictions.jsonl")
    assert np.asarray(Image.open(tmp_path / "out" / f"{(tmp_path / 'a.png').as_posix().lstrip('/')}_lungs.png")).any()


def test_failures_of_another_number_of_shards_count_and_are_retried(engine: FakeEngine, tmp_path: Path) -> None:
    names, out = archive(tmp_path / "in", 12), tmp_path / "out"
    assert predict(tmp_path / "in", "--archive", "--output", out) == 1
    (other,) = (number for number in (1, 2, 3) if Shard(number, 3).holds("0/x7.png"))
    for number in (1, 2, 3):
        assert predict(tmp_path / "in", "--shard", f"{number}/3", "--output", out) == (number == other)
    assert_each_once(out, names)
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / "0" / "x7.png")
    ran = sum(engine.batches)
    for number in (1, 2, 3):
        assert predict(tmp_path / "in", "--retry", "--shard", f"{number}/3", "--output", out) == 0
    assert sum(engine.batches) == ran + 1
    assert sorted((record["path"], record["error"]) for record in records(out)) == sorted(
        (name, None) for name in names
    )


def test_failures_in_a_list_that_another_job_writes_are_not_touched(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "RETRY_WAIT_S", 0.0)
    archive(tmp_path / "in", 9)
    out = tmp_path / "out"
    of_the_failure = Shard(1 if Shard(1, 2).holds("0/x7.png") else 2, 2)
    assert predict(tmp_path / "in", "--shard", of_the_failure.label[1:].replace("-of-", "/"), "--output", out) == 1
    capfd.readouterr()
    with Log(out, of_the_failure) as running:
        before = running.path.read_bytes()
        assert predict(tmp_path / "in", "--retry", "--output", out) == 2
        assert f"Another job is writing {running.path}" in capfd.readouterr().err
        assert running.path.read_bytes() == before


def test_a_retry_that_is_cut_short_leaves_the_lists_as_they_were(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, out = archive(tmp_path / "in", 9), tmp_path / "out"
    assert predict(tmp_path / "in", "--archive", "--output", out) == 1
    before = (out / "predictions.jsonl").read_bytes()

    def full(_: object) -> None:
        raise OSError("the disk is full")

    shard = "1/2" if Shard(1, 2).holds("0/x7.png") else "2/2"
    with monkeypatch.context() as during:
        during.setattr(os, "fsync", full)
        assert predict(tmp_path / "in", "--retry", "--shard", shard, "--output", out) == 2
    assert (out / "predictions.jsonl").read_bytes() == before
    assert predict(tmp_path / "in", "--retry", "--shard", shard, "--output", out) == 1
    predict(tmp_path / "in", "--archive", "--output", out)
    assert_each_once(out, names)


def test_what_killed_jobs_left_is_removed_unless_its_shard_runs(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 2)
    out = tmp_path / "out"
    for name in (".part", ".part-1-of-2", ".part-2-of-2", ".part-3-of-5", ".partial"):
        (out / name / "0").mkdir(parents=True)
        (out / name / "0" / "x0.png_lungs.png").write_bytes(b"")
    with Log(out, Shard(3, 5)):
        assert predict(tmp_path / "in", "--shard", "1/5", "--output", out) == 0
    assert {path.name for path in out.glob(".part*")} == {".part-3-of-5", ".partial"}
