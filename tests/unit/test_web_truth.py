"""A visitor's mask against the prediction: figures against MONAI, sizes, and a sentence for bad files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmsnet.imaging import UnreadableImageError
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Prediction
from sgmsnet.radiograph import SpacingAt
from sgmsnet.web import truth, truth_panel
from tests.fakes import FakeEngine, draw_xray

SICK = ((0.2, 0.4, 0.4, 0.7),)


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    return Pipeline(FakeEngine(), thresholds={}, temperature={}).predict(draw_xray(300, 400, sick=SICK), name="a.png")


def save(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask).save(path)
    return path


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_anything_above_zero_is_foreground(tmp_path: Path, name: str, value: int) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 7:20] = value
    np.testing.assert_array_equal(truth.read_mask(save(tmp_path / name, mask), height=30, width=40), mask > 0)


def test_sixteen_bit_masks_are_read(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint16)
    mask[5:9, 7:20] = 1
    assert truth.read_mask(save(tmp_path / "m.png", mask), height=30, width=40).sum() == 4 * 13


WHITE, BLACK, RED, GREEN, NEARLY_BLACK = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 128, 0), (0, 0, 1)
STROKE = np.zeros((30, 40), bool)
STROKE[5:9, 7:20] = True


def painted(on: tuple[int, ...], off: tuple[int, ...]) -> Image.Image:
    """The stroke in one colour, the rest in another: RGB of three values, RGBA of four."""
    return Image.fromarray(np.where(STROKE[..., None], on, off).astype(np.uint8))


def indexed(on: int, off: int, *colours: tuple[int, ...], **more: int) -> Image.Image:
    image = Image.fromarray(np.where(STROKE, on, off).astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    image.info.update(more)
    return image


@pytest.mark.parametrize(
    "image",
    [
        painted(NEARLY_BLACK, BLACK),
        painted((*BLACK, 255), (*BLACK, 0)),  # as GIMP writes it
        painted((*BLACK, 9), (*WHITE, 0)),  # as Photoshop does: what is under nothing is white
        painted((*RED, 255), (*WHITE, 0)),
        painted((*WHITE, 255), (*BLACK, 255)),
        painted((*NEARLY_BLACK, 255), (*BLACK, 255)),
        Image.merge("LA", [Image.fromarray(np.zeros((30, 40), np.uint8)), Image.fromarray(STROKE * np.uint8(255))]),
        indexed(1, 0, BLACK, NEARLY_BLACK),
        indexed(1, 0, BLACK, WHITE),
        indexed(0, 1, WHITE, BLACK),
        indexed(1, 0, WHITE, RED),
        indexed(1, 0, BLACK, BLACK),
        indexed(1, 0, WHITE, BLACK, transparency=0),
    ],
)
def test_what_is_drawn_is_foreground_whatever_its_colour(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(truth.read_mask(tmp_path / "m.png", height=30, width=40), STROKE)


def test_of_several_colours_on_nothing_black_is_background(tmp_path: Path) -> None:
    image = np.asarray(painted((*GREEN, 255), (*BLACK, 255))).copy()
    image[20:] = (*WHITE, 0)
    Image.fromarray(image).save(tmp_path / "m.png")
    np.testing.assert_array_equal(truth.read_mask(tmp_path / "m.png", height=30, width=40), STROKE)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.new("RGBA", (400, 300), (*BLACK, 255)), "The mask is empty."),
        (Image.new("RGBA", (400, 300), (*WHITE, 0)), "The mask is empty."),
        (Image.new("P", (400, 300)), "The mask is empty."),
        (Image.new("L", (400, 300), 1), "The mask covers the whole image."),
        (Image.new("RGB", (400, 300), WHITE), "The mask covers the whole image."),
        (painted(NEARLY_BLACK, BLACK), ""),
    ],
)
def test_a_mask_without_a_border_is_told_beside_the_figures(
    tmp_path: Path, prediction: Prediction, image: Image.Image, says: str
) -> None:
    image.save(tmp_path / "m.png")
    found = truth.judge(prediction, truth.read_mask(tmp_path / "m.png", height=300, width=400), name="infection")
    assert found.remark == says
    page = truth_panel.render(found)
    assert page.count('role="alert"') == bool(says)
    assert says in page


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "the file is empty."), (bytes(99), "a mask must be a PNG or TIFF file."), (b"\x89PNG\r\n\x1a\n", "damaged")],
)
def test_what_is_no_mask_is_refused_in_one_sentence(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(UnreadableImageError, match=rf"^m\.png: .*{says}"):
        truth.read_mask(tmp_path / "m.png", height=30, width=40)


def test_a_mask_of_the_same_aspect_is_scaled(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9, 7:20] = 255
    read = truth.read_mask(save(tmp_path / "m.png", mask), height=300, width=400)
    np.testing.assert_array_equal(read, np.kron(mask > 0, np.ones((10, 10), bool)))


def test_a_mask_of_another_aspect_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(UnreadableImageError) as refused:
        truth.read_mask(path, height=300, width=400)
    assert str(refused.value) == "m.png: the mask is 40 by 40 pixels, but the X-ray is 400 by 300."


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "m.jpg", np.zeros((30, 40), np.uint8))
    with pytest.raises(UnreadableImageError, match="must be a PNG or TIFF"):
        truth.read_mask(path, height=30, width=40)


@pytest.mark.filterwarnings("ignore:monai:FutureWarning")
def test_figures_are_those_of_monai(prediction: Prediction) -> None:
    monai = pytest.importorskip("monai.metrics")
    import torch

    drawn = draw_xray(300, 400, sick=((0.22, 0.42, 0.44, 0.74),)) == 220
    found = truth.judge(prediction, drawn, name="infection")
    pair = [torch.from_numpy(m[None, None]) for m in (prediction.masks["infection"], drawn)]
    hd95 = monai.compute_hausdorff_distance(*pair, percentile=95, include_background=True)
    dice = monai.DiceMetric()(pair[0].float(), pair[1].float())
    assert found.hd95 == pytest.approx(float(hd95), abs=0.5)
    assert found.dice == pytest.approx(float(dice), abs=1e-4)
    assert found.iou == pytest.approx(found.dice / (2 - found.dice), abs=1e-4)
    assert found.found_px + found.missed_px == drawn.sum()
    assert (found.unit, found.at_detector) == ("px", False)


@pytest.mark.parametrize("where", ["patient", "detector", None])
def test_a_distance_at_the_detector_says_so(prediction: Prediction, where: SpacingAt | None) -> None:
    spaced = replace(prediction.radiograph, spacing_mm=(0.5, 0.5), spacing_at=where)
    drawn = np.zeros((300, 400), bool)
    drawn[100:110, 50:70] = True
    found = truth.judge(replace(prediction, radiograph=spaced), drawn, name="infection")
    pixels = truth.judge(prediction, drawn, name="infection")
    assert (found.unit, found.hd95) == ("mm", pytest.approx(pixels.hd95 / 2))
    page = truth_panel.render(found)
    assert ("<dt>HD95 at the detector</dt>" in page) is (where == "detector")
    assert f"<dd>{found.hd95:.1f} mm</dd>" in page


def test_the_mask_itself_is_found_whole(prediction: Prediction) -> None:
    found = truth.judge(prediction, prediction.masks["lungs"], name="lungs")
    assert (found.dice, found.iou, found.hd95, found.missed_px, found.extra_px) == (1, 1, 0, 0, 0)


def test_another_threshold_is_judged_at_that_threshold(prediction: Prediction) -> None:
    strict = prediction.with_thresholds({"infection": 0.999})
    found = truth.judge(strict, prediction.masks["infection"], name="infection")
    assert found.threshold == 0.999
    assert found.missed_px > 0


def test_an_unknown_class_is_refused(prediction: Prediction) -> None:
    with pytest.raises(ValueError, match="no class 'heart'"):
        truth.judge(prediction, prediction.masks["lungs"], name="heart")


def test_difference_tints_found_missed_and_extra_and_nothing_else() -> None:
    grey = np.full((20, 20), 100, np.uint8)
    mask, drawn = np.zeros((2, 20, 20), bool)
    mask[2:10], drawn[6:14] = True, True
    picture = truth.difference(grey, mask, drawn)
    for row, colour in ((3, truth.EXTRA), (7, truth.FOUND), (12, truth.MISSED)):
        np.testing.assert_allclose(picture[row, 0], 0.4 * 100 + 0.6 * np.array(colour), atol=1)
    assert (picture[[0, 1, *range(14, 20)]] == 100).all()


def test_difference_is_no_larger_than_the_page_needs() -> None:
    empty = np.zeros((1500, 3000), bool)
    assert truth.difference(empty.astype(np.uint8), empty, empty).shape == (512, 1024, 3)


# Machado, Oliveira and Fernandes, 2009: what a complete lack of one cone makes of linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_stay_apart_with_colour_blindness(kind: str) -> None:
    def seen(colour: tuple[int, int, int]) -> np.ndarray:
        linear = (np.array(colour) / 255) ** 2.2
        return np.clip(np.array(BLINDNESS[kind]) @ linear, 0, 1) ** (1 / 2.2)

    colours = [seen(colour) for colour in (truth.FOUND, truth.MISSED, truth.EXTRA)]
    for k, one in enumerate(colours):
        for other in colours[k + 1 :]:
            assert np.abs(one - other).sum() > 0.5
