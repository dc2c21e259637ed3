"""Evaluation: what is measured on images with masks, and what becomes of images that cannot be measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sgmsnet.pipeline import Pipeline
from sgmsnet.training.calibration import Reliability
from sgmsnet.training.data import Sample, SourceConfig, find_samples
from sgmsnet.training.evaluate import evaluate
from sgmsnet.training.metrics import Counts
from sgmsnet.training.results import Evaluation, Row
from sgmsnet.training.surface import SurfaceDistance
from sgmsnet.training.tables import table
from tests.fakes import draw_xray
from tests.unit.dicom_files import made, written
from tests.unit.evaluating import rows, save, xray


def test_dice_and_iou_are_those_worked_out_by_hand(pipeline: Pipeline, two: list[Sample]) -> None:
    # a: 5,000 pixels of truth, all found, and 5,000 too many: Dice 2/3, IoU 1/2. b: 10,000, exactly.
    evaluation = evaluate(pipeline, two)
    first, second = evaluation.per_image()
    # Found is 50 rows taller: its last row is 50 from the true one. Of its 396 outline pixels the first row and 49 + 2
    # at each side are within two pixels of the true outline; of the true 296 all but the last row between its corners.
    nsd = (100 + 2 * 51 + 100 + 2 * 48 + 2 * 3) / (396 + 296)
    assert first["lungs"] == {
        "dice": pytest.approx(2 / 3),
        "iou": pytest.approx(1 / 2),
        "tp": 5000,
        "fp": 5000,
        "fn": 0,
        "hd95_px": pytest.approx(50),
        "nsd": pytest.approx(nsd),
    }
    assert second["lungs"]["dice"] == pytest.approx(1)
    summary = evaluation.summary()["classes"]["lungs"]
    assert summary["images"] == 2
    assert summary["dice_per_image"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["iou_per_image"] == pytest.approx((1 / 2 + 1) / 2)
    assert summary["dice_pooled"] == pytest.approx(30000 / (30000 + 5000))
    assert summary["iou_pooled"] == pytest.approx(15000 / 20000)


def test_classes_without_a_mask_are_not_measured(pipeline: Pipeline, two: list[Sample]) -> None:
    evaluation = evaluate(pipeline, two)
    assert list(evaluation.summary()["classes"]) == ["lungs"]
    assert "infection" not in evaluation.per_image()[0]
    assert "healthy" not in evaluation.summary()


def test_images_are_measured_at_their_own_size(pipeline: Pipeline, tmp_path: Path) -> None:
    pixels = draw_xray(448, 300)
    sample = Sample(
        image=save(tmp_path / "big.png", pixels),
        masks={"lungs": save(tmp_path / "mask.png", (pixels > 0) * np.uint8(255))},
        empty=frozenset(),
        group="big",
    )
    [row] = evaluate(pipeline, [sample]).rows
    counts = row.counts["lungs"]
    assert counts.tp[0] + counts.fp[0] + counts.fn[0] + counts.tn[0] == 448 * 300
    assert counts.dice[0] > 0.98


def test_healthy_chests_are_summarised_by_their_infected_share(pipeline: Pipeline, tmp_path: Path) -> None:
    # Of the 100 rows of lung none, 1 and 10 are called infected: shares of 0, 1 and 10 %.
    samples = [
        Sample(
            image=save(tmp_path / f"{n}.png", xray(sick=slice(60, 60 + n))),
            masks={},
            empty=frozenset({"infection"}),
            group=str(n),
        )
        for n in (0, 1, 10)
    ]
    evaluation = evaluate(pipeline, samples)
    shares = [row["infected_share"] for row in evaluation.per_image()]
    assert shares == [pytest.approx(value, abs=1e-6) for value in (0, 0.01, 0.1)]
    summary = evaluation.summary()
    assert summary["classes"] == {}, "an empty mask has no Dice worth averaging"
    assert summary["healthy"] == {
        "images": 3,
        "without_lungs": 0,
        "infected_share_median": pytest.approx(0.01),
        "part_above_2_percent": pytest.approx(1 / 3),
        "intervals": {"part_above_2_percent": (0, 1)},
    }
    assert [row["infection"]["fp"] for row in evaluation.per_image()] == [0, 100, 1000]


def test_a_healthy_chest_without_lungs_counts_as_a_failure_and_is_told(pipeline: Pipeline, tmp_path: Path) -> None:
    grey = {"clear": xray(), "lungless": np.zeros((224, 224), np.uint8), "clear_too": xray()}
    samples = [
        Sample(image=save(tmp_path / f"{n}.png", pixels), masks={}, empty=frozenset({"infection"}), group=n)
        for n, pixels in grey.items()
    ]
    summary = evaluate(pipeline, samples).summary()
    assert (summary["healthy"]["images"], summary["healthy"]["without_lungs"]) == (3, 1)
    assert summary["healthy"]["part_above_2_percent"] == pytest.approx(1 / 3)
    assert summary["healthy"]["infected_share_median"] == 0
    assert "no lung found in 1, counted as above 2 %" in table(summary)
    only = Evaluation((Row(samples[0], {}, {}, None),), (), {}, {})
    assert "healthy" not in only.summary(), "a model without infection has no share to tell"


def test_empty_truths_are_counted_and_dice_is_given_without_them_too(pipeline: Pipeline, two: list[Sample]) -> None:
    summary = evaluate(pipeline, two).summary()["classes"]["lungs"]
    assert summary["empty_truths"] == 0
    assert "dice_per_image_filled" not in summary
    save(two[1].masks["lungs"], np.zeros((224, 224), np.uint8))
    summary = evaluate(pipeline, two).summary()
    record = summary["classes"]["lungs"]
    assert record["empty_truths"] == 1
    assert record["dice_per_image"] == pytest.approx(1 / 3)
    assert record["dice_per_image_filled"] == pytest.approx(2 / 3)
    text = table(summary)
    assert "lungs: 2 images in 2 groups, 1 with an empty truth" in text
    assert re.search(r"without empty truths +66\.67", text)


def test_parts_joined_are_one_pass(pipeline: Pipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(5):
        pixels = np.clip(draw_xray(60 + i, 70) + rng.normal(0, 40, (60 + i, 70)), 0, 255).astype(np.uint8)
        image = save(tmp_path / f"{i}.png", pixels)
        mask = save(tmp_path / f"m{i}.png", (draw_xray(60 + i, 70) > 0) * np.uint8(255))
        samples.append(Sample(image=image, masks={"lungs": mask}, empty=frozenset(), group=f"p{i // 2}"))
    whole = evaluate(pipeline, samples)
    parts = Evaluation.join([evaluate(pipeline, samples[:1]), evaluate(pipeline, samples[1:4])])
    joined = Evaluation.join([parts, evaluate(pipeline, samples[4:])])
    assert joined.per_image() == whole.per_image()
    assert joined.summary() == {
        **whole.summary(),
        "classes": {
            "lungs": {
                **whole.summary()["classes"]["lungs"],
                **{
                    key: pytest.approx(whole.summary()["classes"]["lungs"][key], rel=1e-12)
                    for key in ("calibration_error", "calibration_error_claimed")
                },
            }
        },
    }
    assert joined.summary()["classes"]["lungs"]["groups"] == 3


def test_pixels_and_millimetres_are_averaged_apart(two: list[Sample]) -> None:
    mask = np.ones((2, 2), bool)
    distances = [SurfaceDistance(4, 0.5, "px"), SurfaceDistance(6, 1.0, "px"), SurfaceDistance(1, 0.25, "mm")]
    rows = tuple(Row(two[0], {"lungs": Counts.of(mask, mask)}, {"lungs": distance}, None) for distance in distances)
    reliability = {"lungs": Reliability.of(mask.astype(float), mask)}
    summary = Evaluation(rows, (), {}, reliability).summary()["classes"]["lungs"]
    assert (summary["hd95_px"], summary["nsd_2_px"]) == (5, 0.75)
    assert (summary["hd95_mm"], summary["nsd_2_mm"]) == (1, 0.25)
    assert summary["intervals"]["hd95_mm"] is None, "one patient has no interval"


def test_a_dicom_data_set_has_its_distances_in_millimetres(pipeline: Pipeline, tmp_path: Path) -> None:
    chest = made(xray(), bits=8, PixelSpacing=[0.5, 0.5], WindowCenter=128, WindowWidth=256)
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "a.dcm").write_bytes(written(chest))
    save(tmp_path / "set" / "masks" / "a.png", rows(44, 140))  # the network finds 40 to 140
    samples = find_samples(SourceConfig(path="set", masks={"lungs": "masks"}), root=tmp_path)
    summary = evaluate(pipeline, samples).summary()["classes"]["lungs"]
    assert summary["hd95_mm"] == pytest.approx(2.0)
    assert "hd95_px" not in summary


def test_distances_can_be_left_out(pipeline: Pipeline, two: list[Sample]) -> None:
    evaluation = evaluate(pipeline, two, distances=False)
    assert set(evaluation.per_image()[0]["lungs"]) == {"dice", "iou", "tp", "fp", "fn"}
    assert not {"hd95_px", "nsd_2_px"} & set(evaluation.summary()["classes"]["lungs"])


def test_an_unreadable_image_is_left_out_and_named(pipeline: Pipeline, two: list[Sample]) -> None:
    two[0].image.write_bytes(b"no image")
    done: list[int] = []
    evaluation = evaluate(pipeline, two, progress=done.append)
    assert [failure.image for failure in evaluation.failures] == ["a.png"]
    assert [row.image for row in evaluation.rows] == ["b.png"]
    assert evaluation.summary()["unreadable"] == 1
    assert done == [1, 2]


def test_an_image_whose_mask_does_not_fit_is_left_out_and_named(pipeline: Pipeline, two: list[Sample]) -> None:
    save(two[0].masks["lungs"], np.zeros((10, 10), np.uint8))
    evaluation = evaluate(pipeline, two)
    [failure] = evaluation.failures
    assert failure.image == "a.png"
    assert failure.sentence.endswith("a.png: the mask is 10x10, its image 224x224")
    assert [row.image for row in evaluation.rows] == ["b.png"], "hours of work are not lost for one mask"


@pytest.mark.parametrize("module", ["sgmsnet.training.evaluate", "sgmsnet.commands.evaluate"])
def test_evaluation_needs_no_training_packages(module: str) -> None:
    program = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'monai', 'lightning', 'matplotlib'}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
