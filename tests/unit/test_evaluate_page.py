"""The HTML page of an evaluation: it holds all it needs, shows the cases worth a look, and draws truth beside found."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sgmsnet import overlay
from sgmsnet.pipeline import Pipeline
from sgmsnet.training import report
from tests.fakes import LUNG, FakeEngine
from tests.unit.evaluating import rows, run, save, xray


def test_the_page_holds_all_it_needs_and_shows_best_median_and_worst(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(15):
        save(tmp_path / "images" / f"<{i:02}>.png", xray())
        save(tmp_path / "masks" / f"<{i:02}>.png", rows(40, 54 + 6 * i))
    page = tmp_path / "out" / "page.html"
    assert run(tmp_path, "--masks", "lungs=masks", "--html", page) == 0
    html = page.read_text(encoding="utf-8")
    assert [html.index(f"<h3>{kind}</h3>") for kind in ("Worst", "Median", "Best")] == sorted(
        html.index(f"<h3>{kind}</h3>") for kind in ("Worst", "Median", "Best")
    )
    captions = re.findall(r"<figcaption>&lt;(\d\d)&gt;\.png: Dice", html)
    assert captions == [f"{i:02}" for i in (0, 1, 2, 3, 5, 6, 7, 8, 14, 13, 12, 11)]
    addresses = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html)
    assert len(addresses) == 13, "12 cases and the curves"
    assert all(address.startswith("data:") for address in addresses), "nothing is fetched"
    assert "Dice per image, %" in html
    assert "95 % interval" in html
    assert "lungs 0.5, infection 0.5" in html
    table = capsys.readouterr().out
    [line] = [line for line in table.splitlines() if "HD95, pixels" in line]
    assert f"<td>{line.split()[2]}</td>" in html, "the figures are those of the table"


def test_the_page_names_what_was_not_read_and_healthy_chests(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "images" / "a.png", xray())
    (tmp_path / "images" / "b.png").write_bytes(b"<no image>")
    assert run(tmp_path, "--empty", "infection", "--html", tmp_path / "page.html") == 1
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<li>b.png" in html
    assert "healthy chests: 1, median infected share" in html


def test_the_page_of_healthy_chests_shows_those_with_the_largest_infected_share(
    fake: FakeEngine, tmp_path: Path
) -> None:
    for n in (0, 1, 30, 10, 20):
        save(tmp_path / "images" / f"{n}.png", xray(sick=slice(60, 60 + n)))
    save(tmp_path / "images" / "lungless.png", np.zeros((224, 224), np.uint8))
    assert run(tmp_path, "--empty", "infection", "--html", tmp_path / "page.html") == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", html)
    assert captions == [
        "lungless.png: no lung found",
        "30.png: 30.0 % infected",
        "20.png: 20.0 % infected",
        "10.png: 10.0 % infected",
    ]


def test_a_case_shows_true_and_found_outlines_in_their_colours(pipeline: Pipeline) -> None:
    prediction = pipeline.predict(xray())
    truth = rows(40, 90) > 0
    drawn = report.draw_case(prediction, truth, "lungs")
    assert drawn.shape == (224, 224, 3)
    assert tuple(drawn[89, 100]) == report.TRUTH
    assert tuple(drawn[139, 100]) == overlay.colour_of("lungs")
    assert tuple(drawn[10, 10]) == (0, 0, 0)
    assert tuple(drawn[60, 100]) == (LUNG, LUNG, LUNG)
