"""What holds on the way from a radiograph into the model's input, and for planes on their way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sgmsnet.imaging import load, prepare
from tests.unit.image_files import RAMP

sides = st.integers(16, 400)


@given(sides, sides, st.sampled_from([(224, 224), (256, 160), (96, 352)]))
def test_prepare_gives_the_models_input_for_any_aspect(h: int, w: int, model: tuple[int, int]) -> None:
    planes, geometry = prepare(load(np.full((h, w), 200, np.uint8)), height=model[0], width=model[1])
    assert (planes.shape, planes.dtype) == ((1, *model), np.uint8)
    inside = np.zeros(model, bool)
    rows = slice(geometry.top, geometry.top + geometry.height)
    inside[rows, geometry.left : geometry.left + geometry.width] = True
    assert (planes[0][inside] == 200).all()
    assert (planes[0][~inside] == 0).all()
    assert geometry.height == model[0] or geometry.width == model[1]
    assert abs(model[0] - geometry.height - 2 * geometry.top) <= 1
    assert abs(model[1] - geometry.width - 2 * geometry.left) <= 1


def test_prepare_leaves_an_image_of_the_models_size_untouched() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (224, 224)).astype(np.uint8)
    assert np.array_equal(prepare(load(pixels), height=224, width=224)[0][0], pixels)


def test_prepare_averages_what_it_makes_smaller() -> None:
    checks = (np.indices((448, 448)).sum(0) % 2 * 255).astype(np.uint8)
    inner = prepare(load(checks), height=224, width=224)[0][0, 4:-4, 4:-4]
    assert np.abs(inner.astype(int) - 127).max() <= 2


@given(sides, sides, st.sampled_from([(7, 7), (28, 28), (56, 40), (224, 224)]))
def test_a_restored_plane_has_the_size_of_the_image_for_any_aspect(h: int, w: int, cells: tuple[int, int]) -> None:
    _, geometry = prepare(load(np.zeros((h, w), np.uint8)), height=224, width=224)
    restored = geometry.restore(np.full(cells, 0.25, np.float32))
    assert (restored.shape, restored.dtype) == ((h, w), np.float32)
    assert np.allclose(restored, 0.25)
    assert geometry.restore(np.zeros(cells), height=50, width=70).shape == (50, 70)


@given(sides, st.floats(0.5, 2.0), st.data())
def test_a_rectangle_survives_the_way_there_and_back(h: int, aspect: float, data: st.DataObject) -> None:
    w = min(max(round(h * aspect), 16), 400)
    y0, x0 = data.draw(st.integers(0, h // 4)), data.draw(st.integers(0, w // 4))
    y1, x1 = data.draw(st.integers(3 * h // 4, h)), data.draw(st.integers(3 * w // 4, w))
    truth = np.zeros((h, w), bool)
    truth[y0:y1, x0:x1] = True
    planes, geometry = prepare(load(truth), height=224, width=224)
    mask = geometry.restore(planes[0].astype(np.float32)) > 127.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.97


def test_the_padding_never_reaches_the_image() -> None:
    for h, w in ((100, 200), (333, 77), (64, 61)):
        planes, geometry = prepare(load(np.full((h, w), 255, np.uint8)), height=224, width=224)
        assert (geometry.restore(planes[0]) == 255).all()


@pytest.mark.parametrize("cells", [7, 14, 56, 224])
def test_a_ramp_is_restored_to_where_it_was(cells: int) -> None:
    """A ramp sampled at cell centres gives the ramp at pixel centres, also where padding cuts through cells."""
    _, geometry = prepare(load(np.zeros((100, 200), np.uint8)), height=224, width=224)
    centres = (np.arange(cells) + 0.5) / cells
    restored = geometry.restore(np.repeat(centres[:, None], cells, 1))
    expected = (geometry.top + (np.arange(100) + 0.5) / 100 * geometry.height) / 224
    inner = slice(100 // cells + 8, -(100 // cells + 8))
    assert np.abs(restored[inner, 100] - expected[inner]).max() < 0.002


@given(sides, sides, st.sampled_from([1, 7, 56, 224]), st.floats(-1.2, 1.2), st.integers(0, 2**32 - 1))
def test_what_lies_above_a_cut_is_what_restoring_all_of_it_would_show(
    h: int, w: int, cells: int, cut: float, seed: int
) -> None:
    _, geometry = prepare(load(np.zeros((h, w), np.uint8)), height=224, width=224)
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.uniform(-1, 1, (min(cells, 7), min(cells, 7))).astype(np.float32))
    plane = np.asarray(coarse.resize((cells, cells), Image.Resampling.BILINEAR))
    restored = geometry.restore(plane)
    differs = geometry.restore_above(plane, cut) != (restored > cut)
    assert np.abs(restored[differs] - cut).max(initial=0) < 1e-5  # of values at the cut, rounding decides


def test_only_planes_are_restored() -> None:
    _, geometry = prepare(load(RAMP), height=224, width=224)
    for wrong in (np.zeros(3), np.zeros((1, 7, 7)), np.zeros((0, 7))):
        with pytest.raises(ValueError, match="plane"):
            geometry.restore(wrong)
        with pytest.raises(ValueError, match="plane"):
            geometry.restore_above(wrong, 0.0)
