"""An engine that fails while an archive is worked through: an outage costs time, an image it refuses one record."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from engines.base import Engine, EngineError
from engines.server_address import parse_url
from engines.triton_engine import TritonEngine
from sgmsnet.archive import patience
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.oip_server import serving

COUNT = 60


class Counting(FakeEngine):
    """Tells when some images have been run, and waits then until it may go on."""

    def __init__(self, files: ModelFiles) -> None:
        super().__init__(info_with(model=files.name, model_sha256=files.sha256, height=64, width=64))
        self.reached, self.go_on = threading.Event(), threading.Event()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = super().run(images)
        if images.any() and sum(self.batches) > COUNT // 3:
            self.reached.set()
            self.go_on.wait(20)
        return outputs


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "in"
    target.mkdir()
    for number in range(COUNT):
        Image.fromarray(draw_xray(40, 40)).save(target / f"x{number}.png")
    return target


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PAUSE_S", 0.02)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine], None]:
    """Make predict use an engine."""
    return lambda engine: monkeypatch.setattr(
        sgmsnet, "load", lambda *_, **__: Pipeline(engine, thresholds={}, temperature={})
    )


def predict(folder: Path) -> int:
    output = folder.parent / "out"
    return main(["predict", str(folder), "--archive", "--write", "masks", "--output", str(output), "--batch-size", "4"])


def records(folder: Path) -> dict[str, str | None]:
    """Error or None by path; every path once."""
    lines = (folder.parent / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len({record["path"] for record in found}) == len(found)
    return {record["path"]: record["error"] for record in found}


def test_a_server_that_is_away_for_a_while_costs_no_file(
    files: ModelFiles, folder: Path, opened: Callable[[Engine], None], capfd: pytest.CaptureFixture[str]
) -> None:
    behind = Counting(files)
    with ThreadPoolExecutor(1) as job, ExitStack() as first:
        url = first.enter_context(serving(behind, batch_max=8))
        opened(TritonEngine(files, address=parse_url(url)))
        code = job.submit(predict, folder)
        assert behind.reached.wait(20)
        first.close()
        behind.go_on.set()
        time.sleep(0.3)
        assert not code.done()
        with serving(behind, port=int(url.rpartition(":")[2]), batch_max=8):
            assert code.result(60) == 0
    assert records(folder) == {f"x{number}.png": None for number in range(COUNT)}
    assert "Waiting for the engine: the server" in capfd.readouterr().err


def test_a_server_that_stays_away_stops_the_job_which_goes_on_later(
    files: ModelFiles,
    folder: Path,
    opened: Callable[[Engine], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(patience, "WAIT_S", 0.2)
    behind = Counting(files)
    with ThreadPoolExecutor(1) as job:
        with serving(behind, batch_max=8) as url:
            opened(TritonEngine(files, address=parse_url(url)))
            code = job.submit(predict, folder)
            assert behind.reached.wait(20)
        behind.go_on.set()
        assert code.result(60) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert "The engine does not run: the server" in last
    assert "goes on from here." in last
    assert set(records(folder).values()) <= {None}
    assert len(records(folder)) < COUNT
    with serving(behind, batch_max=8) as url:
        opened(TritonEngine(files, address=parse_url(url)))
        assert predict(folder) == 0
    assert records(folder) == {f"x{number}.png": None for number in range(COUNT)}


def test_an_image_that_a_sound_engine_refuses_fails_alone(folder: Path, opened: Callable[[Engine], None]) -> None:
    Image.fromarray(np.full((40, 40), 200, np.uint8)).save(folder / "x7.png")
    engine = FakeEngine(info_with(height=32, width=32), refuse=200)
    opened(engine)
    assert predict(folder) == 1
    found = records(folder)
    assert len(found) == COUNT
    assert [path for path, error in found.items() if error is not None] == ["x7.png"]


def test_an_engine_that_fails_every_image_stops_the_job(
    folder: Path, opened: Callable[[Engine], None], capfd: pytest.CaptureFixture[str]
) -> None:
    class Pretending(FakeEngine):
        """Runs black images alone."""

        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            if images.any():
                raise EngineError("out of memory")
            return super().run(images)

    opened(Pretending(info_with(height=32, width=32)))
    assert predict(folder) == 2
    error = capfd.readouterr().err
    assert f"{patience.IN_A_ROW} images in a row failed, the last with: out of memory; " in error
    assert not records(folder)
