"""What the viewer is given: sizes, values and text that let the browser show the prediction by itself."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sgmsnet.pipeline import Pipeline
from sgmsnet.png import mask_png
from sgmsnet.prediction import STAGES, Prediction
from sgmsnet.web import payload
from tests.fakes import INFO, LUNG, SICK, FakeEngine


def _chest(height: int, width: int, *, dtype: type = np.uint8, scale: int = 1) -> np.ndarray:
    """Two lungs with air between them; the lower third of the image's left one is infected."""
    image = np.zeros((height, width), dtype)
    rows = slice(height // 5, height * 4 // 5)
    image[rows, width // 8 : width * 3 // 8] = LUNG * scale
    image[rows, width * 5 // 8 : width * 7 // 8] = LUNG * scale
    image[height * 3 // 5 : height * 4 // 5, width // 8 : width * 3 // 8] = SICK * scale
    return image


def _predict(image: np.ndarray) -> Prediction:
    return Pipeline(FakeEngine(), thresholds={"lungs": 0.4}, temperature={}).predict(image, name="chest.png")


def _decode(uri: str) -> tuple[str, Image.Image]:
    head, _, body = uri.partition(",")
    return head, Image.open(io.BytesIO(base64.b64decode(body)))


def test_payload_is_plain_json() -> None:
    shown = payload.from_prediction(_predict(_chest(200, 300)))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_notes_of_the_engine_are_shown_with_the_result() -> None:
    prediction = _predict(_chest(200, 300))
    assert payload.from_prediction(prediction)["notes"] == []
    noted = replace(prediction, engine=replace(prediction.engine, notes=("runs slowly",)))
    assert payload.from_prediction(noted)["notes"] == ["runs slowly"]


def test_equal_images_give_payloads_with_different_runs() -> None:
    prediction = _predict(_chest(200, 300))
    assert payload.from_prediction(prediction)["run"] != payload.from_prediction(prediction)["run"]


@pytest.mark.parametrize(("height", "width"), [(64, 40), (500, 1400), (1500, 700)])
def test_picture_and_maps_stay_within_their_limits_and_keep_the_aspect(height: int, width: int) -> None:
    shown = payload.from_prediction(_predict(_chest(height, width)))
    _, picture = _decode(shown["picture"]["uri"])
    _, probability = _decode(shown["classes"][0]["probability"])
    _, attention = _decode(shown["attention"][0]["map"])
    for image, side in ((picture, 1024), (probability, 512), (attention, 64)):
        assert max(image.size) == min(side, max(height, width))
        assert image.width / image.height == pytest.approx(width / height, rel=0.05)


def test_mask_has_the_size_of_the_image_and_the_mask_of_the_prediction() -> None:
    prediction = _predict(_chest(700, 1300))
    for shown in payload.from_prediction(prediction)["classes"]:
        head, mask = _decode(shown["mask"])
        assert head == "data:image/png;base64"
        assert mask.mode == "L"
        np.testing.assert_array_equal(np.asarray(mask), prediction.masks[shown["name"]] * np.uint8(255))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 700), (513, 16)])
def test_mask_file_is_an_eight_bit_grey_png_whatever_the_shape(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) > 0.5
    image = Image.open(io.BytesIO(mask_png(mask)))
    image.verify()  # checks the sums of all parts
    image = Image.open(io.BytesIO(mask_png(mask)))
    assert (image.format, image.mode) == ("PNG", "L")
    np.testing.assert_array_equal(np.asarray(image), mask * np.uint8(255))


def test_exact_masks_and_record_are_those_of_the_thresholds() -> None:
    prediction = _predict(_chest(300, 400))
    strict = prediction.with_thresholds({"infection": 0.999})
    found = payload.exact(strict)
    assert found["record"]["thresholds"]["infection"] == 0.999
    assert found["record"]["areas_px"]["infection"] < prediction.record()["areas_px"]["infection"]
    for name, mask in strict.masks.items():
        np.testing.assert_array_equal(np.asarray(_decode(found["masks"][name])[1]), mask * np.uint8(255))


def test_probability_map_is_the_prediction_s_probability_in_255_steps() -> None:
    prediction = _predict(_chest(300, 400))
    for shown in payload.from_prediction(prediction)["classes"]:
        _, image = _decode(shown["probability"])
        expected = prediction.probability(shown["name"])
        np.testing.assert_allclose(np.asarray(image) / 255, expected, atol=0.5 / 255 + 1e-6)


def test_share_counted_on_the_maps_is_near_the_share_of_the_record() -> None:
    shown = payload.from_prediction(_predict(_chest(900, 1200)))
    maps = {one["name"]: np.asarray(_decode(one["probability"])[1]) / 255 for one in shown["classes"]}
    lungs, infection = maps["lungs"] > 0.4, maps["infection"] > 0.5
    columns = (np.arange(lungs.shape[1]) + 0.5) / lungs.shape[1]
    right = columns[None, :] < np.array(shown["divider"])[:, None]
    for side, part in (("right", right), ("left", ~right), ("both", np.ones_like(right))):
        share = (infection & lungs & part).sum() / (lungs & part).sum()
        assert share == pytest.approx(shown["record"]["infected_share"][side], abs=0.01)
    assert shown["record"]["infected_share"]["right"] > 0.2


def test_divider_has_one_place_for_each_row_of_the_maps_and_none_without_two_lungs() -> None:
    shown = payload.from_prediction(_predict(_chest(900, 1200)))
    assert len(shown["divider"]) == _decode(shown["classes"][0]["probability"])[1].height
    assert all(0.3 < place < 0.7 for place in shown["divider"])
    assert payload.from_prediction(_predict(np.zeros((200, 200), np.uint8)))["divider"] is None


def test_deep_picture_keeps_every_bit_in_two_channels() -> None:
    image = _chest(200, 300, dtype=np.uint16, scale=16)
    image[0, :300] = np.arange(300) * 13
    prediction = _predict(image)
    picture = payload.from_prediction(prediction)["picture"]
    high, low, _ = np.moveaxis(np.asarray(_decode(picture["uri"])[1]).astype(np.uint16), -1, 0)
    np.testing.assert_array_equal(high * 256 + low, prediction.radiograph.pixels)
    assert picture["deep"]
    assert picture["top"] >= int(image.max())


def test_record_has_a_time_for_every_stage() -> None:
    timings = payload.from_prediction(_predict(_chest(200, 300)))["record"]["timings_ms"]
    assert set(timings) == set(STAGES)
    assert all(value is not None and value >= 0 for value in timings.values())


def test_every_attention_map_has_a_title_and_a_sentence() -> None:
    shown = payload.from_prediction(_predict(_chest(200, 300)))["attention"]
    names = [one["name"] for one in shown]
    assert set(names) == {name for name in INFO.outputs if name.startswith(("gate_", "spatial_", "memory_"))}
    assert all(one["title"] and one["sentence"].endswith(".") for one in shown)


def test_an_error_is_one_sentence_and_no_picture() -> None:
    shown = payload.from_error("chest.dcm: JPEG 2000 pixel data is truncated")
    assert shown["error"].startswith("chest.dcm")
    assert "picture" not in shown
