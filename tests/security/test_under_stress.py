"""Short runs of make fuzz, make load and make soak, and that each would notice a fault."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sgmsnet import imaging
from sgmsnet.web.janitor import Janitor
from tests.fakes import draw_xray
from tests.security import fuzz, load, mutate, report, soak
from tests.security.asking import AnswerError
from tests.security.serving import Running


def xrays() -> list[load.Image]:
    """Three small X-rays that differ."""
    places = (0.2, 0.4, 0.6)
    drawn = (draw_xray(120, 140, sick=((x, 0.4, x + 0.2, 0.7),)) for x in places)
    return [(f"x{i}.png", mutate.encoded(Image.fromarray(pixels), "PNG")) for i, pixels in enumerate(drawn)]


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    found = fuzz.through_imaging(400, folder=tmp_path, real=None, seed=20_000)
    assert found.faults == []
    assert set(found.counts) == {"read", "refused"}
    assert sum(found.counts.values()) == 400


def test_the_fuzzer_would_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [KeyError("gone"), imaging.UnreadableImageError("Traceback\nmore")]

    def stumbles(data: bytes, *, name: str) -> None:
        raise answers[len(data) % 2]

    monkeypatch.setattr(fuzz.imaging, "load", stumbles)
    monkeypatch.setattr(fuzz, "LONGEST_S", 0.0)
    found = fuzz.through_imaging(30, folder=tmp_path, real=None)
    for fault in ("KeyError", "Traceback", " took "):
        assert any(fault in told for told in found.faults)


def test_the_same_number_is_always_the_same_input() -> None:
    small, _ = mutate.seeds()
    assert mutate.damaged(5, small, []) == mutate.damaged(5, small, [])
    assert len({mutate.damaged(i, small, []) for i in range(50)}) > 45
    refusals = []
    for seed in small:
        try:
            imaging.load(seed)
        except imaging.UnreadableImageError as error:
            refusals.append(str(error))
    assert len(refusals) == 2  # floating point and several images: kinds that are never read


def test_damaged_files_and_calls_through_rest_and_page(servers: dict[str, Running]) -> None:
    found = fuzz.through_server(60, servers["plain"], real=None, seed=20_000)
    assert found.faults == []
    assert set(found.counts) == {"REST, file", "REST, form", "page, call", "page, file", "both, header"}


def test_sixteen_clients_get_the_answers_of_one(servers: dict[str, Running]) -> None:
    found = load.put_under_load(servers["plain"].url, xrays(), rest=48, page=16, clients=16)
    assert (found.lost, found.wrong) == ([], [])
    assert [len(seconds) for seconds in found.seconds.values()] == [48, 16]


def test_a_lost_or_wrong_answer_would_be_noticed(servers: dict[str, Running], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def comparable(answer: Any) -> int:
        asked.append(answer)
        return 0 if len(asked) <= 6 else len(asked) % 2

    monkeypatch.setattr(load, "comparable", comparable)
    found = load.put_under_load(servers["plain"].url, xrays(), rest=4, page=0, clients=1)
    assert len(found.wrong) == 2

    def fails(*_: object, **__: object) -> dict[str, Any]:
        asked.append(None)
        if len(asked) > 20:
            raise AnswerError("no answer")
        return {}

    asked.clear()
    asked.extend([None] * 17)
    monkeypatch.setattr(load, "comparable", lambda answer: answer)
    monkeypatch.setattr(load, "ask_rest", fails)
    monkeypatch.setattr(load, "ask_page", fails)
    found = load.put_under_load(servers["plain"].url, xrays()[:1], rest=3, page=0, clients=1)
    assert len(found.lost) == 2


def test_uploads_leave_the_disk_after_their_time(servers: dict[str, Running]) -> None:
    janitor = Janitor(servers["plain"].folder, keep_s=4.0)
    found = soak.soak(servers["plain"], xrays(), count=20, keep_s=4.0)
    janitor.close()
    assert found.most[0] >= 1
    assert found.after_the_time <= found.at_the_start
    assert found.after_a_tenth_mb > 50
    assert not [fault for fault in found.faults if "disk" in fault]


def test_growth_and_leftovers_would_be_noticed() -> None:
    found = soak.Outcome(
        after_a_tenth_mb=100.0,
        at_the_end_mb=105.1,
        at_the_start=(0, 0),
        most=(9, 9),
        after_the_time=(1, 1),
        waited_s=0.0,
    )
    assert len(found.faults) == 2


def test_a_section_goes_where_its_markers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "reliability.md"
    shutil.copy(report.PAGE, page)
    monkeypatch.setattr(report, "PAGE", page)
    before = page.read_text(encoding="utf-8")
    for name in ("fuzz", "load", "soak"):
        text = report.section(name, f"make {name}", report.table([("What", "42 of 42")]), complete=True)
        report.publish(name, text, write=True)
        assert text in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").splitlines()[0] == before.splitlines()[0]
    with pytest.raises(SystemExit):
        report.publish("nothing", "", write=True)


def test_percentiles() -> None:
    values = [float(i) for i in range(100)]
    assert report.percentile(values, 0.95) == 95
    assert report.percentile([3.0], 0.95) == 3
