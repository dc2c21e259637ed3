"""Requests of the OpenVINO engine: shared by threads one after the other, and gone only when nothing uses them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines import openvino_engine
from engines.base import EngineError
from engines.openvino_engine import OpenVinoEngine
from sgmsnet.checkpoint import find


@pytest.fixture
def engine(tiny_model: Path, tmp_path: Path) -> Iterator[OpenVinoEngine]:
    opened = OpenVinoEngine(find(tiny_model), precision="fp32", built=tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("batch", [1, 3])
def test_threads_that_follow_each_other_share_a_request(
    batch: int, engine: OpenVinoEngine, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "_Single" if batch == 1 else "_Batch"
    make, made = getattr(openvino_engine, kind), []
    monkeypatch.setattr(openvino_engine, kind, lambda *given: made.append(kind) or make(*given))
    expected = engine.run(example_images[:batch])["logits"]
    found: list[np.ndarray] = []
    for _ in range(4):  # as the page does: a thread for each run
        thread = threading.Thread(target=lambda: found.append(engine.run(example_images[:batch])["logits"]))
        thread.start()
        thread.join()
    assert len(made) == 1
    for logits in found:
        np.testing.assert_array_equal(logits, expected)


def test_a_run_that_has_begun_ends_with_its_answer_though_the_engine_is_closed(
    engine: OpenVinoEngine, example_images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.run(example_images[:1])["logits"]
    opened: Any = engine._open
    kept = weakref.ref(opened)
    take = openvino_engine._Open._request

    def close_between(self: Any, *, single: bool) -> Any:
        request = take(self, single=single)
        engine.close()
        return request

    monkeypatch.setattr(openvino_engine._Open, "_request", close_between)
    del opened
    np.testing.assert_array_equal(engine.run(example_images[:1])["logits"], expected)
    assert kept() is None  # models and requests went with the run
    with pytest.raises(EngineError, match="closed"):
        engine.run(example_images[:1])


def test_the_memory_of_a_batch_outlives_the_request_that_reads_it() -> None:
    class Images(np.ndarray):
        """An array that can be watched."""

    watched: list[weakref.ref[np.ndarray]] = []
    seen: list[bool] = []

    class Request:
        def infer(self, inputs: dict[str, np.ndarray], **_: bool) -> None:
            seen.extend(old() is not None for old in watched)  # not freed before it is replaced
            watched[:] = [weakref.ref(inputs["images"])]

        def get_tensor(self, name: str) -> Any:
            return SimpleNamespace(data=np.zeros(1))

        def __del__(self) -> None:
            seen.append(watched[0]() is not None)

    batch = openvino_engine._Batch(SimpleNamespace(create_infer_request=Request), ("logits",))
    for _ in range(2):
        batch.run(np.zeros((2, 1, 4, 4), np.uint8).view(Images))
    del batch
    assert seen == [True, True]
    assert watched[0]() is None
