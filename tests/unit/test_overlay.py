"""Drawings: sizes, colours, and which pixels change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from sgmsnet import overlay
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from tests.fakes import LUNG, FakeEngine, draw_xray, info_with


def predicted(pixels: np.ndarray, **changes: object) -> Prediction:
    return Pipeline(FakeEngine(info_with(**changes)), thresholds={}, temperature={}).predict(pixels)


@settings(max_examples=60, deadline=None)
@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)),
    thickness=st.integers(1, 6),
)
def test_outline_is_the_mask_without_its_erosion(mask: np.ndarray, thickness: int) -> None:
    square = np.ones((2 * thickness + 1,) * 2, bool)
    expected = mask & ~ndimage.binary_erosion(mask, structure=square)
    np.testing.assert_array_equal(overlay.outline(mask, thickness=thickness), expected)


@pytest.mark.parametrize("style", ["outline", "fill"])
@pytest.mark.parametrize("shape", [(300, 200), (150, 700), (64, 64)])
def test_drawing_has_the_size_of_the_image_and_leaves_the_rest_alone(style: str, shape: tuple[int, int]) -> None:
    prediction = predicted(draw_xray(*shape))
    drawing = overlay.draw(prediction, style=style)  # type: ignore[arg-type]
    assert drawing.dtype == np.uint8
    assert drawing.shape == (*shape, 3)
    outside = ~(prediction.masks["lungs"] | prediction.masks["infection"])
    grey = prediction.radiograph.display
    np.testing.assert_array_equal(drawing[outside], np.repeat(grey[outside][:, None], 3, axis=1))


def test_outline_is_in_the_class_colour_and_the_inside_is_the_xray() -> None:
    prediction = predicted(draw_xray())
    drawing = overlay.draw(prediction)
    edge = overlay.outline(prediction.masks["lungs"], thickness=1)
    assert (drawing[edge] == overlay.COLOURS["lungs"]).all()
    inside = prediction.masks["lungs"] & ~edge
    assert (drawing[inside] == LUNG).all()


def test_fill_is_blended_with_the_given_opacity() -> None:
    prediction = predicted(draw_xray())
    drawing = overlay.draw(prediction, style="fill", opacity=0.25)
    expected = 0.75 * LUNG + 0.25 * np.array(overlay.COLOURS["lungs"])
    assert np.abs(drawing[prediction.masks["lungs"]] - expected).max() <= 0.51


def test_infection_lies_over_the_lungs() -> None:
    prediction = predicted(draw_xray(sick=((0.2, 0.4, 0.4, 0.6),)))
    drawing = overlay.draw(prediction, style="fill", opacity=1.0)
    assert (drawing[prediction.masks["infection"]] == overlay.COLOURS["infection"]).all()


def test_outlines_grow_with_the_image() -> None:
    def thickness(side: int) -> int:
        pixels = np.full((side, side), LUNG, np.uint8)
        row = overlay.draw(predicted(pixels))[side // 2]
        return int((row == overlay.COLOURS["lungs"]).all(axis=1)[: side // 2].sum())

    assert (thickness(100), thickness(800), thickness(1600)) == (1, 2, 4)


@pytest.mark.parametrize("options", [{"style": "dots"}, {"opacity": 1.5}, {"opacity": float("nan")}])
def test_unknown_style_and_opacity_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"style|opacity"):
        overlay.draw(predicted(draw_xray()), **options)  # type: ignore[arg-type]


def test_a_class_without_a_colour_gets_one() -> None:
    prediction = predicted(draw_xray(), classes=("lungs", "heart"))
    assert overlay.draw(prediction).shape == (224, 224, 3)
    assert overlay.colour_of("heart", 1) not in overlay.COLOURS.values()


def test_colormap_is_viridis_and_ever_brighter() -> None:
    steps = overlay.colormap(np.linspace(0, 1, 256))
    assert tuple(steps[0]) == (68, 1, 84)
    assert tuple(steps[-1]) == (253, 231, 37)
    assert np.abs(steps[128].astype(int) - (33, 145, 140)).max() <= 1
    luminance = steps @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > -0.5).all()
    np.testing.assert_array_equal(overlay.colormap(np.array([-1.0, 2.0])), steps[[0, -1]])


@pytest.mark.parametrize("name", ["gate_5", "spatial_2", "memory_5"])
def test_attention_is_blended_half_and_half(name: str) -> None:
    prediction = predicted(draw_xray(300, 200))
    drawing = overlay.attention(prediction, name)
    assert drawing.dtype == np.uint8
    assert drawing.shape == (300, 200, 3)
    if name == "gate_5":  # 0.25 everywhere
        grey = prediction.radiograph.display.astype(float)[..., None]
        expected = 0.5 * overlay.colormap(np.array(0.25)) + 0.5 * grey
        assert np.abs(drawing - expected).max() <= 1


def test_attention_of_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'gate_9'.*gate_5"):
        overlay.attention(predicted(draw_xray()), "gate_9")
