"""The gallery of worst cases: only X-rays whose licence lets everybody pass on changed copies, the worst of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs import gallery
from sgmsnet.pipeline import Pipeline
from tests.fakes import LUNG, SICK, FakeEngine

NIH = "no restriction on use; attribution to the NIH Clinical Center asked for"


@pytest.mark.parametrize(
    ("source", "licence", "shown"),
    [
        ("v7", "CC BY 4.0", True),
        ("v7", "CC BY 3.0", True),
        ("gb", "CC BY", True),
        ("gb", "CC0 1.0", True),
        ("ped", "CC BY 4.0", True),
        ("nih", NIH, True),
        ("v7", "CC BY-NC-SA 4.0", False),
        ("v7", "CC BY-NC-SA", False),
        ("gb", "CC BY-ND 4.0", False),
        ("gb", "CC BY-NC 4.0", False),
        ("v7", "CC BY-SA 4.0", False),
        ("v7", "not stated", False),
        ("v7", "listed as authorized for everyone", False),
        ("v7", "", False),
        ("am", 'not stated ("for research purposes only")', False),
        ("am", NIH, False),
        ("nih", "not stated", False),
        ("qata", "CC BY 4.0", False),
    ],
)
def test_only_licences_that_allow_changed_copies_are_shown(source: str, licence: str, shown: bool) -> None:
    assert gallery.may_be_shown({"source": source, "licence": licence}) is shown


def draw(path: Path, *, sick: int = 0, lung_rows: int = 100) -> None:
    pixels = np.zeros((224, 224), np.uint8)
    pixels[40 : 40 + lung_rows, 60:160] = LUNG
    pixels[60 : 60 + sick, 60:160] = SICK
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root: lungs with outlines that fit less and less, healthy chests, and QaTa's worst of all."""
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    header = "stem,source,patient,original,finding,licence,doi,url\n"
    by_dice = {"v7_a": 95, "v7_b": 60, "v7_c": 40, "gb_d": 20}
    licences = {"v7_a": "CC BY 4.0", "v7_b": "CC BY 3.0", "v7_c": "CC BY 3.0", "gb_d": "not stated"}
    people = {"v7_a": "p1", "v7_b": "p2", "v7_c": "p2", "gb_d": "p3"}
    rows = [f"{s},{s[:2]},{people[s]},{s}.jpg,COVID-19,{licences[s]},10.1/x,https://o.org/{s}" for s in by_dice]
    (tmp_path / "sources.csv").write_text(header + "\n".join(rows), encoding="utf-8")
    for stem, found in by_dice.items():
        draw(tmp_path / "lungs" / "val" / "images" / f"{stem}.png")
        draw(tmp_path / "lungs" / "val" / "masks" / f"{stem}.png", lung_rows=found)
    for folder in ("images", "masks"):
        draw(tmp_path / "infection" / "val" / folder / "gb_d.png", sick=1)
        draw(tmp_path / "qata" / "val" / folder / "covid_1.png", sick=50)
    healthy = {"nih_1": ("nih", NIH, 20), "nih_2": ("nih", NIH, 0), "am_3": ("am", "not stated", 40)}
    for stem, (_, _, sick) in healthy.items():
        draw(tmp_path / "healthy" / "val" / "images" / f"{stem}.png", sick=sick)
    rows = [f"{s},{source},{s},{s}.png,No finding,{licence},," for s, (source, licence, _) in healthy.items()]
    (tmp_path / "healthy" / "sources.csv").write_text(header + "\n".join(rows), encoding="utf-8")
    return tmp_path


def test_the_worst_of_each_person_that_may_be_shown_are_drawn_and_credited(root: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={})
    cases = gallery.make(pipeline, tmp_path / "out", cases=8)
    shown = [(case.row.sample.image.stem, case.figure) for case in cases]
    assert shown == [
        ("nih_1", "20.0 % infected"),
        ("v7_c", "lungs, Dice 57.1 %"),
        ("v7_a", "lungs, Dice 97.4 %"),
    ], "v7_b is of the person of v7_c, who does worse there; nih_2 has no outline and no infection"
    with Image.open(tmp_path / "out" / "gallery.jpg") as sheet:
        assert sheet.width > 1000
    assert (tmp_path / "out" / "gallery.jpg").stat().st_size < 250_000
    page = tmp_path / "out" / "gallery.md"
    text = page.read_text(encoding="utf-8")
    line = "| 2 | `v7_c` | lungs, Dice 57.1 % | COVID-19 | doi:10.1/x, [v7_c.jpg](https://o.org/v7_c); CC BY 3.0 |"
    assert f"{line}  |" in text
    assert "NIH Clinical Center; Wang et al." in text
    for hidden in ("gb_d", "am_3", "covid_1"):
        assert hidden not in text


def test_a_person_s_sentences_outlive_the_next_page(root: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={})
    gallery.make(pipeline, tmp_path / "out", cases=8)
    page = tmp_path / "out" / "gallery.md"
    written = page.read_text(encoding="utf-8").replace("CC BY 3.0 |  |", "CC BY 3.0 | Half of it is missing. |")
    assert "Half of it" in written
    page.write_text(written.replace("Dice 97.4 %", "Dice 12.3 %"), encoding="utf-8")
    gallery.make(pipeline, tmp_path / "out", cases=8)
    assert page.read_text(encoding="utf-8") == written, "the sentence of a figure that changed is left out"


def test_the_sets_that_are_shown_do_not_hold_qata() -> None:
    assert "qata" not in gallery.SETS
