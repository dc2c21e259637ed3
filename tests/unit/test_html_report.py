"""The one-page report: everything that was measured stands in it, nothing is loaded from elsewhere, names are text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from sgmsnet.familiarity import Familiarity
from sgmsnet.html_report import render
from sgmsnet.interval import Cuts, ShareCuts
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from sgmsnet.radiograph import SpacingAt
from tests.fakes import FakeEngine, draw_xray, info_with

WHEN = datetime(2026, 11, 24, 5, 6, tzinfo=timezone.utc)


class Reader(HTMLParser):
    """Tags with their attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def predicted(name: str = "chest.png", *, familiar: bool = True) -> Prediction:
    pipeline = Pipeline(
        FakeEngine(),
        thresholds={"lungs": 0.5, "infection": 0.4},
        temperature={},
        familiarity=lambda *_: Familiarity(0.9 if familiar else 0.1, familiar),
    )
    return pipeline.predict(draw_xray(300, 240, sick=((0.2, 0.4, 0.4, 0.6),)), name=name)


def test_measures_thresholds_model_and_engine_stand_in_it() -> None:
    prediction = predicted()
    text = Reader(render(prediction, attribution="A. Author, CC BY", made=WHEN)).text
    measured = prediction.measurements
    for area in measured.areas_px.values():
        assert f"{area:,}" in text
    for share in (measured.infected_share.both, measured.infected_share.right):
        assert share is not None
        assert f"{share * 100:.0f} %" in text
    for part in ("0.4", "fake 1.0", "fp32, CPU", "0" * 64, "240 × 300", "2026-11-24 05:06 UTC", "A. Author, CC BY"):
        assert part in text, part
    assert "Not a medical device" in text
    assert "no pixel spacing" in text
    assert "yes (0.90)" in text
    assert "does not look like" not in text


def test_each_lung_has_its_own_share_and_interval() -> None:
    cuts = ShareCuts(Cuts(2.0, -2.0), Cuts(3.0, -3.0))
    pipeline = Pipeline(FakeEngine(), thresholds={}, temperature={}, share_cuts=cuts)
    prediction = pipeline.predict(draw_xray(300, 240, sick=((0.2, 0.3, 0.4, 0.6),)))  # in the patient's right lung
    text = Reader(render(prediction)).text
    shares, intervals = prediction.measurements.infected_share, prediction.share_interval
    assert shares.right is not None
    assert shares.right > 0.1
    for side in ("right", "left", "both"):
        share, interval = getattr(shares, side), intervals[side]
        assert interval is not None
        assert interval[0] < interval[1]
        told, low, high = (f"{100 * part:.{1 if part < 0.0995 else 0}f} %" for part in (share, *interval))
        assert f"{side.capitalize()} {told} {low} to {high}" in text, side


@pytest.mark.parametrize("where", ["patient", "detector", None])
def test_lengths_and_areas_at_the_detector_say_so(where: SpacingAt | None) -> None:
    prediction = predicted()
    spaced = replace(prediction.radiograph, spacing_mm=(0.14, 0.14), spacing_at=where)
    text = Reader(render(replace(prediction, radiograph=spaced))).text
    lungs = f"{prediction.measurements.areas_px['lungs'] * 0.14**2 / 100:.1f} cm²"
    for length in (lungs, "0.14 × 0.14 mm"):
        assert length in text
        assert (f"{length} at the detector" in text) is (where == "detector")
    assert ("larger than in the patient" in text) is (where == "detector")
    assert "no pixel spacing" not in text


def test_the_pictures_are_the_x_ray_and_its_overlay() -> None:
    prediction = predicted()
    images = [attrs for tag, attrs in Reader(render(prediction)).tags if tag == "img"]
    shown = []
    for attrs in images:
        assert attrs["alt"]
        with Image.open(io.BytesIO(base64.b64decode((attrs["src"] or "").partition(",")[2]))) as picture:
            shown.append(np.asarray(picture.convert("RGB")).astype(int))
    plain, drawn = shown
    assert np.abs(plain[..., 0] - prediction.radiograph.display).mean() < 3
    assert (np.ptp(plain, axis=2) < 40).all()
    assert (np.ptp(drawn, axis=2) > 60).sum() > 100


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs() -> None:
    reader = Reader(render(predicted()))
    assert {"script", "link", "iframe", "object", "form", "a"}.isdisjoint(tag for tag, _ in reader.tags)
    for _, attrs in reader.tags:
        assert (attrs.get("src") or "data:").startswith("data:")
        assert not [name for name in attrs if name.startswith("on")]
    assert "url(" not in render(predicted())


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>.png", '"><img src=x onerror=alert(1)>.png', "$title ${x}.png"]
)
def test_a_hostile_name_is_text(name: str) -> None:
    page = render(predicted(name))
    assert len([tag for tag, _ in Reader(page).tags if tag in ("script", "img")]) == 2
    assert "$title ${x}" in page or "$" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)


def test_of_another_model_nothing_is_said_of_infection() -> None:
    engine = FakeEngine(info_with(classes=("heart",)))
    text = Reader(render(Pipeline(engine, thresholds={}, temperature={}).predict(draw_xray(), name="chest.png"))).text
    assert "heart" in text.lower()
    for word in ("pneumonia", "healthy adults", "nfected"):
        assert word not in text
    assert "pneumonia" in Reader(render(predicted())).text


def test_a_name_that_is_no_unicode_can_be_written() -> None:
    page = render(predicted("M\udcfcller.png"))
    assert "M\\udcfcller.png" in page.encode("utf-8").decode("utf-8")


def test_an_unfamiliar_image_is_refused_in_words() -> None:
    text = Reader(render(predicted(familiar=False))).text
    assert "This does not look like a frontal chest X-ray." in text
    assert "no (0.10)" in text


def test_a_header_that_says_so_is_the_reason() -> None:
    prediction = predicted(familiar=False)
    lateral = replace(prediction.radiograph, frontal=False, header_says="this is a lateral view")
    text = Reader(render(replace(prediction, radiograph=lateral))).text
    assert "would mean nothing. The file's header says that this is a lateral view." in text
    assert "no, by its header" in text


def test_another_threshold_gives_another_report() -> None:
    prediction = predicted()
    text = Reader(render(prediction.with_thresholds({"infection": 0.995}))).text
    assert "0.995" in text
    assert "0.0 %" in text
