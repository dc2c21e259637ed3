"""What the network sees in training: images and masks that belong together, sources in their shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sgmsnet.training.data import DatasetError, Sample
from sgmsnet.training.dataset import (
    SegmentationDataset,
    SizeAndAspectGrid,
    augmentation,
    collate_channels_last,
    draw,
)
from sgmsnet.training.masks import read_mask
from sgmsnet.training.recipe import Augmentation

GEOMETRY_ALONE = Augmentation(
    flip=0.5, gamma_probability=0, noise_probability=0, blur_probability=0, dropout_probability=0
)

STILL = {
    "rotate_degrees": 0,
    "scale": 0,
    "aspect": 0,
    "shift": 0,
    "gamma_probability": 0,
    "noise_probability": 0,
    "blur_probability": 0,
    "dropout_probability": 0,
}
"""Nothing but what a test adds."""


def sample(image: Path, *, empty: tuple[str, ...] = (), **masks: Path) -> Sample:
    return Sample(image=image, masks=masks, empty=frozenset(empty), group=image.stem)


def bright_rectangle(folder: Path, *, height: int = 90, width: int = 60) -> Sample:
    """An image that is 200 inside a rectangle off the centre and 0 elsewhere; the rectangle is the mask of lungs."""
    inside = np.zeros((height, width), bool)
    inside[height // 5 : height // 2, width // 4 : width * 3 // 4] = True
    Image.fromarray(inside * np.uint8(200)).save(folder / "image.png")
    Image.fromarray(inside * np.uint8(255)).save(folder / "mask.png")
    return sample(folder / "image.png", lungs=folder / "mask.png")


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(("height", "width"), [(90, 60), (60, 90), (64, 64), (301, 200)])
def test_masks_follow_the_letterbox_of_their_images(tmp_path: Path, height: int, width: int) -> None:
    item = SegmentationDataset([bright_rectangle(tmp_path, height=height, width=width)], ("lungs",), size=192)[0]
    assert item["image"].shape == (1, 192, 192)
    assert item["mask"].shape == (1, 192, 192)
    assert iou(item["image"][0].numpy() > 100, item["mask"][0].numpy() > 0) > 0.95


def test_image_and_mask_still_agree_after_augmentation(tmp_path: Path) -> None:
    transform = augmentation(GEOMETRY_ALONE, size=96)
    transform.set_random_state(seed=3)
    dataset = SegmentationDataset([bright_rectangle(tmp_path)], ("lungs",), size=96, transform=transform)
    still = dataset.masks[0, 0].astype(bool)
    moved = 0
    for _ in range(40):
        item = dataset[0]
        mask = item["mask"][0].numpy()
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert iou(item["image"][0].numpy() > 100, mask > 0) > 0.9
        moved += iou(mask > 0, still) < 0.9
    assert moved > 20, "the augmentation changes most images"


def test_grey_changes_leave_masks_alone(tmp_path: Path) -> None:
    options = Augmentation(
        rotate_degrees=0,
        scale=0,
        aspect=0,
        shift=0,
        elastic_probability=0,
        gamma_probability=1,
        noise_probability=1,
        blur_probability=1,
        dropout_probability=1,
    )
    dataset = SegmentationDataset([bright_rectangle(tmp_path)], ("lungs",), size=64)
    before = dataset[0]
    dataset.transform = augmentation(options, size=64)
    after = dataset[0]
    torch.testing.assert_close(torch.Tensor(after["mask"]), before["mask"])
    assert not torch.equal(torch.Tensor(after["image"]), before["image"])


def test_size_is_drawn_for_both_axes_together_and_width_against_height_apart() -> None:
    options = Augmentation(scale=0.2, aspect=0.25)
    grid = SizeAndAspectGrid(options, shift=0)
    grid.set_random_state(seed=8)
    factors = []
    for _ in range(4000):
        grid.randomize()
        assert grid.scale_params is not None
        factors.append(1 / np.array(grid.scale_params))  # of the image, which shrinks as the grid grows
    height, width = np.array(factors).T
    size, ratio = np.sqrt(height * width), width / height
    assert (size.min(), size.max()) == pytest.approx((0.8, 1.2), abs=0.005)
    assert size.min() >= 0.8
    assert size.max() <= 1.2
    assert (ratio.min(), ratio.max()) == pytest.approx((0.8, 1.25), abs=0.005)
    assert ratio.max() <= 1.25 + 1e-9
    assert np.median(ratio) == pytest.approx(1, abs=0.02), "as often wider as narrower"
    assert abs(np.corrcoef(size, ratio)[0, 1]) < 0.06


@pytest.mark.parametrize(("option", "lowest"), [({"scale": 0.2}, 0.8), ({"aspect": 0.25}, 0.8)])
def test_size_and_aspect_change_the_image_as_far_as_they_say(option: dict[str, float], lowest: float) -> None:
    transform = augmentation(Augmentation(**{**STILL, "elastic_probability": 0, **option}), size=96)
    transform.set_random_state(seed=2)
    square = torch.zeros(1, 96, 96)
    square[:, 28:68, 28:68] = 1
    heights, ratios = [], []
    for _ in range(150):
        mask = np.asarray(transform({"image": square, "mask": square})["mask"])[0] > 0
        height, width = np.count_nonzero(mask.any(axis=1)), np.count_nonzero(mask.any(axis=0))
        heights.append(height / 40)
        ratios.append(width / height)
    spread = heights if "scale" in option else ratios
    assert lowest - 0.06 <= min(spread) < lowest + 0.06, "the limit is reached and kept, to a pixel at each side"
    assert 1.14 < max(spread) <= 1.31
    if "scale" in option:
        assert ratios == pytest.approx([1] * 150, abs=0.06)


def test_elastic_bends_image_and_mask_together_by_little(tmp_path: Path) -> None:
    bend = Augmentation(**{**STILL, "elastic_probability": 1.0, "elastic": 0.2})
    transform = augmentation(bend, size=96)
    transform.set_random_state(seed=5)
    dataset = SegmentationDataset([bright_rectangle(tmp_path)], ("lungs",), size=96, transform=transform)
    still = dataset.masks[0, 0].astype(bool)
    bent = 0
    for _ in range(20):
        item = dataset[0]
        mask = item["mask"][0].numpy() > 0
        assert iou(item["image"][0].numpy() > 100, mask) > 0.9
        assert iou(mask, still) > 0.5, "a lung stays a lung"
        bent += iou(mask, still) < 0.98
    assert bent >= 15, "it bends nearly every time it is asked to"


def test_classes_without_a_mask_are_unlabelled_and_empty_ones_are_labelled(tmp_path: Path) -> None:
    rectangle = bright_rectangle(tmp_path)
    healthy = sample(rectangle.image, empty=("infection",))
    dataset = SegmentationDataset([rectangle, healthy], ("lungs", "infection"), size=32)
    assert dataset[0]["labelled"].tolist() == [1, 0]
    assert dataset[1]["labelled"].tolist() == [0, 1]
    assert dataset[1]["mask"].sum() == 0


def test_a_batch_is_stacked_with_images_in_channels_last_memory(tmp_path: Path) -> None:
    dataset = SegmentationDataset([bright_rectangle(tmp_path)] * 3, ("lungs", "infection"), size=32)
    batch = collate_channels_last([dataset[i] for i in range(3)])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "image": (3, 1, 32, 32),
        "mask": (3, 2, 32, 32),
        "labelled": (3, 2),
    }
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_every_depth_have_their_foreground_above_zero(tmp_path: Path, mode: str) -> None:
    truth = np.zeros((20, 30), bool)
    truth[5:11, 7:25] = True
    if mode == "I;16":
        image = Image.fromarray(truth.astype(np.uint16) * 3)
    elif mode == "P":
        image = Image.fromarray(truth.astype(np.uint8)).convert("P")
    else:
        image = Image.fromarray(truth * np.uint8(255)).convert(mode)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", shape=(20, 30)), truth)


@pytest.mark.parametrize("stroke", [(0, 0, 0, 255), (255, 255, 255, 255)])
def test_of_a_transparent_mask_what_was_drawn_counts(tmp_path: Path, stroke: tuple[int, ...]) -> None:
    truth = np.zeros((20, 30), bool)
    truth[5:11, 7:25] = True
    pixels = np.full((20, 30, 4), (255, 255, 255, 0), np.uint8)  # white under transparency, as editors leave it
    pixels[truth] = stroke
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", shape=(20, 30)), truth)


def test_smooth_edges_are_cut_at_half_and_labels_are_not(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "smooth.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "smooth.png", shape=ramp.shape), ramp > 127)
    labels = np.tile(np.array([0, 1, 2, 200], np.uint8), (20, 15))
    Image.fromarray(labels).save(tmp_path / "labels.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "labels.png", shape=labels.shape), labels > 0)
    many = np.tile(np.arange(60, dtype=np.uint16) * 9, (20, 1))
    Image.fromarray(many).save(tmp_path / "many.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "many.png", shape=many.shape), many > 0)


def test_of_a_palette_the_colour_counts_and_not_its_number(tmp_path: Path) -> None:
    numbers = np.ones((20, 30), np.uint8)
    numbers[5:9, 3:17] = 0
    image = Image.fromarray(numbers, "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", shape=(20, 30)), numbers == 0)


def test_a_jpeg_s_ringing_is_not_foreground(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:224, :224]
    truth = (rows - 112) ** 2 + (columns - 112) ** 2 < 80**2
    Image.fromarray(truth * np.uint8(255)).save(tmp_path / "mask.jpg", quality=90)
    with Image.open(tmp_path / "mask.jpg") as file:
        assert np.count_nonzero(np.asarray(file)) > 1.02 * truth.sum(), "there is something to leave out"
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.jpg", shape=truth.shape), truth)
    Image.fromarray(np.zeros_like(truth)).convert("L").save(tmp_path / "empty.jpg")
    assert not read_mask(tmp_path / "empty.jpg", shape=truth.shape).any()


def test_a_mask_of_another_size_is_refused_in_one_sentence(tmp_path: Path) -> None:
    good = bright_rectangle(tmp_path)
    Image.new("L", (61, 90)).save(tmp_path / "wide.png")
    with pytest.raises(DatasetError) as caught:
        SegmentationDataset([sample(good.image, lungs=tmp_path / "wide.png")], ("lungs",), size=32)
    assert "wide.png: the mask is 61x90, its image 60x90" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(b"no image")
    for name in ("odd.png", "missing.png"):
        with pytest.raises(DatasetError, match=name) as caught:
            read_mask(tmp_path / name, shape=(9, 9))
        assert "\n" not in str(caught.value)


def test_sources_are_drawn_by_their_weights_whatever_their_lengths() -> None:
    lengths, weights, n = [1000, 10, 200], [0.5, 0.3, 0.2], 601
    for epoch in range(3):
        drawn = np.array(draw(lengths, weights, samples=n, seed=7, epoch=epoch))
        assert np.bincount(np.digitize(drawn, np.cumsum(lengths))).tolist() == [301, 180, 120]


@pytest.mark.parametrize("samples", [40, 100, 170])
def test_no_image_comes_again_before_all_others_of_its_source_have_come(samples: int) -> None:
    lengths = [70, 30]
    seen = np.zeros(100, int)
    for epoch in range(9):
        np.add.at(seen, draw(lengths, [0.5, 0.5], samples=samples, seed=3, epoch=epoch), 1)
        assert np.ptp(seen[:70]) <= 1
        assert np.ptp(seen[70:]) <= 1
    assert seen.sum() == 9 * samples


def test_seeds_and_epochs_draw_in_orders_of_their_own() -> None:
    orders = {(s, e): tuple(draw([50, 50], [1, 1], samples=100, seed=s, epoch=e)) for s in (1, 2) for e in (0, 1)}
    assert orders[1, 0] == tuple(draw([50, 50], [1, 1], samples=100, seed=1, epoch=0))
    assert len(set(orders.values())) == 4
    assert {tuple(sorted(order)) for order in orders.values()} == {tuple(range(100))}
