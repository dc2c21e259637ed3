"""The shipped files belong together, and `load` passes on all that they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sgmsnet
from engines.select import open_engine
from export.verify import verify_reference
from sgmsnet.checkpoint import find
from sgmsnet.imaging import load
from sgmsnet.pipeline import Pipeline
from sgmsnet.training.variants import UNLIKE
from tests.needs import ROOT

CHESTS = [ROOT / "examples" / f"{name}.jpg" for name in ("covid_adult_1", "covid_adult_2", "normal_adult_1")]


@pytest.fixture(scope="module")
def shipped() -> Iterator[Pipeline]:
    pipeline = sgmsnet.load("cxr", engine="onnxruntime")
    yield pipeline
    pipeline.close()


def test_the_shipped_graph_gives_the_answers_of_the_shipped_weights() -> None:
    files = find("cxr")
    engine = open_engine("onnxruntime", files)
    parity = verify_reference(files, engine)
    engine.close()
    assert parity.images >= 1
    assert parity.passed, parity.refused


def test_openvino_s_default_precision_is_within_its_bound_on_the_shipped_weights() -> None:
    pytest.importorskip("openvino")
    files = find("cxr")
    engine = open_engine("openvino", files)
    parity = verify_reference(files, engine)
    engine.close()
    assert parity.passed, parity.refused


def test_load_passes_on_thresholds_temperature_and_what_was_calibrated(shipped: Pipeline) -> None:
    files = find("cxr")
    assert shipped.thresholds == files.thresholds
    assert shipped.temperature == files.temperature
    assert set(files.temperature.values()) != {1.0}, "there is something to lose"
    prediction = shipped.predict(CHESTS[0])
    assert prediction.familiarity is not None
    assert all(interval is not None for interval in prediction.share_interval.values())


def test_load_passes_on_the_flip(tiny_model: Path) -> None:
    image = load(CHESTS[0]).display
    answers = {}
    for flip in (False, True):
        pipeline = sgmsnet.load(tiny_model, engine="onnxruntime", flip=flip)
        one, other = (pipeline.predict(np.ascontiguousarray(picture)).logits for picture in (image, image[:, ::-1]))
        pipeline.close()
        answers[flip] = float(np.abs(one - other[..., ::-1]).max())
    assert answers[True] < 1e-3 < answers[False], "with both images, the mirror image's answer is the mirrored one"


def test_chests_are_familiar_to_the_shipped_weights_and_pictures_unlike_them_are_not(shipped: Pipeline) -> None:
    for path in CHESTS:
        image = load(path).display
        assert shipped.predict(image).familiarity.familiar is True, path.name  # type: ignore[union-attr]
        for name, made in UNLIKE.items():
            verdict = shipped.predict(np.ascontiguousarray(made(image))).familiarity
            assert verdict is not None
            assert verdict.familiar is False, (path.name, name)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    assert shipped.predict(noise).familiarity.familiar is False  # type: ignore[union-attr]
