"""Order, failures, batches, timings and memory of the pipeline, with an engine that needs no runtime."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.base import EngineError
from sgmsnet import imaging
from sgmsnet.familiarity import Familiarity
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction
from tests.fakes import FakeEngine, draw_xray, info_with


def pipeline_of(engine: FakeEngine) -> Pipeline:
    return Pipeline(engine, thresholds={"lungs": 0.5, "infection": 0.5}, temperature={"lungs": 1.0})


def plain(grey: int) -> np.ndarray:
    return np.full((224, 224), grey, np.uint8)


def test_files_bytes_and_arrays_give_the_same_prediction(tmp_path: Path) -> None:
    file = tmp_path / "chest.png"
    Image.fromarray(draw_xray(300, 200)).save(file)
    pipeline = pipeline_of(FakeEngine())
    predictions = [pipeline.predict(source) for source in (file, str(file), file.read_bytes(), draw_xray(300, 200))]
    for prediction in predictions[1:]:
        np.testing.assert_array_equal(prediction.logits, predictions[0].logits)
    assert [prediction.image for prediction in predictions] == ["chest.png", "chest.png", "image", "image"]
    assert pipeline.predict(file, name="other/name.png").image == "name.png"


def test_attention_and_embedding_are_those_of_the_image() -> None:
    prediction = pipeline_of(FakeEngine()).predict(plain(100))
    assert set(prediction.attention) == {"gate_5", "spatial_2", "memory_5"}
    assert all(plane.ndim == 2 for plane in prediction.attention.values())
    assert prediction.embedding is not None
    assert prediction.embedding.shape == (512,)
    assert prediction.embedding[0] == pytest.approx(100)
    bare = pipeline_of(FakeEngine(info_with(outputs=("logits",)))).predict(plain(100))
    assert bare.attention == {}
    assert bare.embedding is None


def test_timings_cover_every_stage_but_encoding() -> None:
    timings_ms = pipeline_of(FakeEngine()).predict(draw_xray(600, 500)).timings_ms
    assert set(timings_ms) == {"decode", "prepare", "run", "postprocess"}
    assert all(value > 0 for value in timings_ms.values())


def test_masks_are_computed_within_predict() -> None:
    prediction = pipeline_of(FakeEngine()).predict(draw_xray())
    assert "masks" in vars(prediction)
    assert "measurements" in vars(prediction)


def test_values_that_are_not_finite_are_an_engine_error_in_one_sentence() -> None:
    with pytest.raises(EngineError, match=r"^image: the engine fake \(fp32, CPU\) gave values that are not finite"):
        pipeline_of(FakeEngine(spoil=99)).predict(plain(99))


@pytest.mark.parametrize("thresholds", [{"heart": 0.5}, {"lungs": 1.5}])
def test_bad_thresholds_are_refused_before_anything_runs(thresholds: dict[str, float]) -> None:
    engine = FakeEngine()
    with pytest.raises(ValueError, match=r"heart|1\.5"):
        Pipeline(engine, thresholds=thresholds, temperature={})
    with pytest.raises(ValueError, match=r"heart|1\.5"):
        pipeline_of(engine).predict(plain(1), thresholds=thresholds)
    with pytest.raises(ValueError, match=r"heart|1\.5"):
        pipeline_of(engine).predict_many([plain(1)], thresholds=thresholds)
    assert engine.batches == []


def test_thresholds_given_to_predict_are_those_of_the_prediction() -> None:
    prediction = pipeline_of(FakeEngine()).predict(plain(1), thresholds={"infection": 0.3})
    assert prediction.thresholds == {"lungs": 0.5, "infection": 0.3}


@settings(max_examples=25, deadline=None)
@given(
    greys=st.lists(st.integers(1, 99), max_size=20),
    batch_size=st.integers(1, 5),
    workers=st.integers(1, 4),
)
def test_predict_many_keeps_order_and_survives_failures(greys: list[int], batch_size: int, workers: int) -> None:
    # Multiples of ten are no image, 55 is refused by the engine, 77 gives NaN.
    sources = [b"no image" if grey % 10 == 0 else plain(grey) for grey in greys]
    engine = FakeEngine(refuse=55, spoil=77)

    outcomes = list(pipeline_of(engine).predict_many(sources, batch_size=batch_size, workers=workers))

    assert len(outcomes) == len(greys)
    for number, (grey, outcome) in enumerate(zip(greys, outcomes, strict=True), start=1):
        assert outcome.image == f"image {number}"
        if grey % 10 == 0 or grey in (55, 77):
            assert isinstance(outcome, Failure)
            assert outcome.sentence
        else:
            assert isinstance(outcome, Prediction)
            assert outcome.radiograph.pixels[0, 0] == grey
    assert max(engine.batches, default=0) <= batch_size


def test_predict_many_gives_what_predict_gives() -> None:
    sources = [draw_xray(200 + 10 * i, 250) for i in range(6)]
    pipeline = pipeline_of(FakeEngine())
    for source, outcome in zip(sources, pipeline.predict_many(sources, batch_size=4), strict=True):
        assert isinstance(outcome, Prediction)
        np.testing.assert_array_equal(outcome.logits, pipeline.predict(source).logits)


def test_a_missing_file_among_others_is_a_failure_with_its_name(tmp_path: Path) -> None:
    Image.fromarray(draw_xray()).save(tmp_path / "a.png")
    outcomes = list(pipeline_of(FakeEngine()).predict_many([tmp_path / "b.png", tmp_path / "a.png"]))
    assert isinstance(outcomes[0], Failure)
    assert outcomes[0].sentence.startswith("b.png")
    assert isinstance(outcomes[1], Prediction)


def test_predict_many_holds_a_bounded_number_of_images() -> None:
    taken, given_out, most = itertools.count(1), 0, 0
    batch_size, workers = 3, 2

    def sources() -> Iterator[np.ndarray]:
        nonlocal most
        for _ in range(60):
            most = max(most, next(taken) - given_out)
            yield plain(10)

    for _ in pipeline_of(FakeEngine()).predict_many(sources(), batch_size=batch_size, workers=workers):
        given_out += 1
    assert given_out == 60
    assert most <= 3 * batch_size + workers  # what is decoded, what runs, what is handed out


def test_decoding_goes_on_while_the_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded_during_run = threading.Event()
    running = threading.Event()
    load = imaging.load

    def watched_load(source: object, *, name: str | None = None) -> imaging.Radiograph:
        if running.is_set():
            decoded_during_run.set()
        time.sleep(0.002)
        return load(source, name=name)  # type: ignore[arg-type]

    class SlowEngine(FakeEngine):
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            running.set()
            decoded_during_run.wait(5)
            running.clear()
            return super().run(images)

    monkeypatch.setattr(imaging, "load", watched_load)
    list(pipeline_of(SlowEngine()).predict_many([plain(10)] * 10, batch_size=2))
    assert decoded_during_run.is_set()


def test_leaving_predict_many_early_ends_its_threads() -> None:
    outcomes = pipeline_of(FakeEngine()).predict_many(itertools.repeat(plain(10)))
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}])
def test_batches_and_workers_must_be_at_least_one(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pipeline_of(FakeEngine()).predict_many([], **options)


class Lopsided(FakeEngine):
    """Adds 1 to the logits of the input's left half, whatever it shows."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = super().run(images)
        outputs["logits"][..., :112] += 1
        return outputs


def test_flip_takes_the_mean_with_the_mirror_image_and_leaves_the_rest_alone() -> None:
    image = draw_xray(300, 201, sick=((0.2, 0.4, 0.35, 0.6),))
    plain_one = pipeline_of(FakeEngine()).predict(image)
    flipped = Pipeline(Lopsided(), thresholds={}, temperature={}, flip=True).predict(image)
    np.testing.assert_allclose(flipped.logits, plain_one.logits + 0.5, atol=1e-5)
    for name, plane in plain_one.attention.items():
        np.testing.assert_array_equal(flipped.attention[name], plane)


def test_flip_leaves_the_familiarity_to_the_image_alone() -> None:
    judged: list[np.ndarray] = []

    def judge(embedding: np.ndarray, lungs: np.ndarray) -> Familiarity:
        judged.append(lungs)
        return Familiarity(score=0.0, familiar=True)

    for flip in (False, True):
        Pipeline(Lopsided(), thresholds={}, temperature={}, familiarity=judge, flip=flip).predict(draw_xray(300, 201))
    alone, beside_its_mirror_image = judged
    np.testing.assert_array_equal(beside_its_mirror_image, alone)


def test_close_closes_the_engine() -> None:
    engine = FakeEngine()
    pipeline_of(engine).close()
    assert engine.closed
