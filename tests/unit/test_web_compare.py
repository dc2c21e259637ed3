"""Comparing engines on the page: in turn, one failing alone, against PyTorch; with engines that need no runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from engines.base import EngineError, EngineUnavailable
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import compare_chart
from sgmsnet.web.compare import Comparison, Timed, compare
from sgmsnet.web.desk import Desk, Source
from tests.fakes import FakeEngine, draw_xray, info_with


class Counted(FakeEngine):
    """Writes its name into `order` at each run; fails from its `fails_at`-th run on."""

    def __init__(self, name: str, order: list[str], *, fails_at: int = 10**6, error: Exception | None = None) -> None:
        super().__init__(info_with(backend=name))
        self._order, self._fails_at, self._error = order, fails_at, error or EngineError(f"{name}: out of memory")

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self._order.append(self.info.backend)
        if self._order.count(self.info.backend) >= self._fails_at:
            raise self._error
        return super().run(images)


Make = Callable[..., tuple[Desk, Source]]


@pytest.fixture
def desk_of(tmp_path: Path) -> Make:
    def made(*engines: FakeEngine, unavailable: str = "") -> tuple[Desk, Source]:
        by_name = {engine.info.backend: engine for engine in engines}

        def opened(name: str) -> Pipeline:
            if name == unavailable:
                raise EngineUnavailable(f"{name} has no device")
            return Pipeline(by_name[name], thresholds={}, temperature={})

        known = [SimpleNamespace(name=n, available=True, reason="", version="1") for n in [*by_name, unavailable] if n]
        path = tmp_path / "chest.png"
        Image.fromarray(draw_xray(300, 400, sick=((0.2, 0.5, 0.4, 0.7),))).save(path)
        return Desk(opened, probe=lambda: known, first=known[0].name, examples=tmp_path), Source.upload(str(path))

    return made


def last(desk: Desk, source: Source, *, rounds: int = 3) -> Comparison:
    return list(compare(desk, source, rounds=rounds))[-1]


def test_engines_run_in_turn_and_the_warm_up_is_left_out(desk_of: Make) -> None:
    order: list[str] = []
    desk, source = desk_of(Counted("pytorch", order), Counted("openvino", order))
    found = last(desk, source, rounds=4)
    assert [len(one.times_ms) for one in found.timed] == [4, 4]
    timed = order[2:]  # behind one prediction each
    assert len(timed) == 2 * 5
    assert all(set(timed[k : k + 2]) == {"pytorch", "openvino"} for k in range(0, 10, 2))
    assert {timed[k] for k in range(0, 10, 2)} == {"pytorch", "openvino"}  # neither is always first


def test_equal_masks_agree_to_one_and_others_by_their_iou(desk_of: Make) -> None:
    class Wider(Counted):
        LEVELS = (60.0, 110.0)  # all of the lungs counts as infected

    desk, source = desk_of(Counted("pytorch", []), Wider("openvino", []))
    by_name = {one.engine: one for one in last(desk, source).timed}
    assert by_name["pytorch"].agreement == {"lungs": 1.0, "infection": 1.0}
    masks = [desk.pipeline(name).predict(source.path).masks for name in ("pytorch", "openvino")]
    both, either = (op(masks[0]["infection"], masks[1]["infection"]).sum() for op in (np.logical_and, np.logical_or))
    agreement = by_name["openvino"].agreement
    assert agreement is not None
    assert agreement["lungs"] == 1.0
    assert agreement["infection"] == pytest.approx(both / either, abs=1e-4)


@pytest.mark.parametrize("fails_at", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("a bug")])
def test_an_engine_that_fails_costs_one_sentence(desk_of: Make, fails_at: int, error: Exception | None) -> None:
    order: list[str] = []
    bad = Counted("openvino", order, fails_at=fails_at, error=error)
    desk, source = desk_of(Counted("pytorch", order), bad, unavailable="tensorrt")
    found = last(desk, source)
    assert [one.engine for one in found.timed] == ["pytorch"]
    assert len(found.timed[0].times_ms) == 3
    assert found.failed["tensorrt"] == "tensorrt has no device"
    expected = "openvino: out of memory" if error is None else "openvino failed; the server's log says why."
    assert found.failed["openvino"] == expected


def test_without_pytorch_nothing_is_compared(desk_of: Make) -> None:
    desk, source = desk_of(Counted("openvino", []))
    found = last(desk, source)
    assert found.timed[0].agreement is None
    assert found.speedup(found.timed[0]) is None
    assert "pytorch did not run" in compare_chart.render(found, desk.engines)


def test_an_image_that_is_gone_is_the_image_s_fault(desk_of: Make) -> None:
    desk, source = desk_of(Counted("openvino", []))
    assert source.path is not None
    source.path.unlink()
    with pytest.raises(UnreadableImageError, match="no longer on the server"):
        last(desk, source)


def test_places_are_given_back_and_never_held_by_more_than_its_turn(desk_of: Make) -> None:
    desk, source = desk_of(Counted("openvino", []))
    running = compare(desk, source, rounds=3)
    for _ in running:
        assert desk.predict(draw_xray(), name="another visitor's", engine="openvino").masks


def test_speed_up_is_a_ratio_of_medians() -> None:
    slow = Timed(engine="pytorch", precision="fp32", device="CPU", times_ms=(40, 50, 900))
    fast = Timed(engine="openvino", precision="fp32", device="CPU", times_ms=(20, 25, 30))
    assert Comparison(image="a", doing=None, rounds=3, timed=(slow, fast)).speedup(fast) == 2.0


@pytest.mark.parametrize(("value", "end"), [(0.7, 1), (1, 1), (18, 20), (23, 25), (26, 50), (99.9, 100), (0, 1)])
def test_the_axis_ends_at_a_round_number_above_all_values(value: float, end: float) -> None:
    assert compare_chart.nice_ceiling(value) == pytest.approx(end)


def test_bars_start_at_zero_and_are_as_long_as_their_medians() -> None:
    timed = tuple(
        Timed(engine=name, precision="fp32", device="CPU", times_ms=(ms,)) for name, ms in (("pytorch", 80), ("b", 20))
    )
    html = compare_chart.render(Comparison(image="<i>", doing=None, rounds=1, done=1, timed=timed), [])
    assert re.findall(r'<i style="width:([\d.]+)%', html) == ["20.00", "80.00"]
    assert 'style="left:0%">0<' in html
    assert "<i>, 1 rounds" not in html  # names come from files


def test_unavailable_engines_are_listed_with_their_reasons() -> None:
    missing = SimpleNamespace(name="tensorrt", available=False, reason="no <GPU>", version=None)
    html = compare_chart.render(Comparison(image="a", doing="Opening", rounds=1), [missing])
    assert "tensorrt" in html
    assert "no &lt;GPU&gt;" in html
