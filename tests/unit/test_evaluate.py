"""Evaluation: what is measured on images with masks, and that it is what `predict` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from sgmsnet.training.data import DatasetError, Sample, SourceConfig
from sgmsnet.training.evaluate import evaluate, samples_of
from tests.fakes import LUNG, SICK, FakeEngine, draw_xray


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def xray(*, lungs: slice = slice(40, 140), sick: slice | None = None) -> np.ndarray:
    """uint8 (224, 224), the fake engine's size: columns 60 to 160 are lung in the rows given, infected in others."""
    image = np.zeros((224, 224), np.uint8)
    image[lungs, 60:160] = LUNG
    if sick is not None:
        image[sick, 60:160] = SICK
    return image


def rows(first: int, last: int) -> np.ndarray:
    """A mask file, 0 and 255: columns 60 to 160 of these rows."""
    mask = np.zeros((224, 224), np.uint8)
    mask[first:last, 60:160] = 255
    return mask


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline(FakeEngine(), thresholds={"lungs": 0.5, "infection": 0.5}, temperature={})


@pytest.fixture
def two(tmp_path: Path) -> list[Sample]:
    """Two images; the truth of the first is half of what is found, that of the second is all of it."""
    samples = []
    for name, truth in (("a", rows(40, 90)), ("b", rows(40, 140))):
        image = save(tmp_path / "images" / f"{name}.png", xray())
        mask = save(tmp_path / "masks" / f"{name}.png", truth)
        samples.append(Sample(image=image, masks={"lungs": mask}, empty=frozenset(), group=name))
    return samples


def test_dice_and_iou_are_those_worked_out_by_hand(pipeline: Pipeline, two: list[Sample]) -> None:
    # a: 5,000 pixels of truth, all found, and 5,000 too many: Dice 2/3, IoU 1/2. b: 10,000, exactly.
    evaluation = evaluate(pipeline, two)
    first, second = evaluation.per_image()
    assert first["lungs"] == {
        "dice": pytest.approx(2 / 3),
        "iou": pytest.approx(1 / 2),
        "tp": 5000,
        "fp": 5000,
        "fn": 0,
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
        "infected_share_median": pytest.approx(0.01),
        "part_above_2_percent": pytest.approx(1 / 3),
    }
    assert [row["infection"]["fp"] for row in evaluation.per_image()] == [0, 100, 1000]


def test_an_unreadable_image_is_left_out_and_named(pipeline: Pipeline, two: list[Sample]) -> None:
    two[0].image.write_bytes(b"no image")
    done: list[int] = []
    evaluation = evaluate(pipeline, two, progress=done.append)
    assert [failure.image for failure in evaluation.failures] == ["a.png"]
    assert [row.image for row in evaluation.rows] == ["b.png"]
    assert evaluation.summary()["unreadable"] == 1
    assert done == [1, 2]


def test_a_mask_of_another_size_is_refused_in_one_sentence(pipeline: Pipeline, two: list[Sample]) -> None:
    save(two[0].masks["lungs"], np.zeros((10, 10), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.png: the mask is 10x10, its image 224x224"):
        evaluate(pipeline, two)


def test_a_data_set_is_found_by_name_by_folder_and_by_the_folder_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    for part in ("train", "val"):
        for name in (f"{part}1.png", f"{part}2.png"):
            for folder in ("images", "masks"):
                save(tmp_path / "lungs" / part / folder / name, rows(1, 2))
    for dataset in ("lungs", tmp_path / "lungs", tmp_path / "lungs" / "val"):
        samples = samples_of(dataset, split="val")
        assert [sample.image.stem for sample in samples] == ["val1", "val2"]
        assert samples[0].labelled == {"lungs"}
    assert len(samples_of("lungs", split="all")) == 4
    source = SourceConfig(path="lungs", masks={"infection": "masks"})
    assert samples_of("lungs", split="val", source=source)[0].labelled == {"infection"}
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        samples_of("nowhere", split="val")


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five drawn X-rays of different shape with masks that overlap what a network might say."""
    rng = np.random.default_rng(2)
    for i, (height, width) in enumerate([(224, 224), (300, 200), (120, 333), (64, 64), (97, 101)]):
        noise = rng.normal(0, 12, (height, width))
        pixels = np.clip(draw_xray(height, width, sick=((0.2, 0.3, 0.4, 0.6),)) + 30 + noise, 0, 255)
        save(tmp_path / "set" / "images" / f"x{i}.png", pixels.astype(np.uint8))
        for name in ("lungs", "infection"):
            truth = draw_xray(height, width) > 0
            save(tmp_path / "set" / name / f"x{i}.png", np.roll(truth, i, axis=0) * np.uint8(255))
    return tmp_path / "set"


MASKS = ("--masks", "lungs=lungs", "--masks", "infection=infection")


def read(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file) > 0


def dice(first: np.ndarray, second: np.ndarray) -> float:
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def run(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_dice_is_that_of_the_masks_that_predict_writes(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    options = ("--model", str(tiny_model), "--engine", "onnxruntime")
    assert run(folder, *MASKS, *options, "--json", tmp_path / "out" / "all.json") == 0
    assert main(["predict", str(folder / "images"), *options, "--output", str(tmp_path / "masks")]) == 0
    report: dict[str, Any] = json.loads((tmp_path / "out" / "all.json").read_text(encoding="utf-8"))
    assert [row["image"] for row in report["images"]] == [f"x{i}.png" for i in range(5)]
    independent: dict[str, list[float]] = {"lungs": [], "infection": []}
    for row in report["images"]:
        for name, values in independent.items():
            stem = Path(row["image"]).stem
            truth, written = read(folder / name / row["image"]), read(tmp_path / "masks" / f"{stem}_{name}.png")
            values.append(dice(truth, written))
            assert row[name]["dice"] == pytest.approx(values[-1], abs=1e-5)
            assert row[name]["tp"] == (truth & written).sum()
    for name, values in independent.items():
        assert report["classes"][name]["dice_per_image"] == pytest.approx(np.mean(values), abs=1e-5)
    assert max(independent["lungs"]) > 0.05, "the masks do overlap"


def test_json_states_model_engine_and_thresholds(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    options = ("--model", tiny_model, "--engine", "onnxruntime", "--json", tmp_path / "all.json")
    assert run(folder, *MASKS, *options) == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert report["dataset"] == str(folder)
    assert report["engine"] == "onnxruntime"
    assert report["precision"] == "fp32"
    assert report["thresholds"] == {"lungs": 0.5, "infection": 0.4}
    assert report["model"] == "tiny"
    assert len(report["model_sha256"]) == 64
    assert report["unreadable"] == 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `sgmsnet.load` opens in this test."""
    engine = FakeEngine()
    monkeypatch.setattr(
        sgmsnet,
        "load",
        lambda model, **options: Pipeline(engine, thresholds={"lungs": 0.5, "infection": 0.5}, temperature={}),
    )
    return engine


def test_the_table_gives_both_families_in_percent(
    fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--masks", "lungs=masks") == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("lungs")]
    assert line.split() == ["lungs", "2", "83.33", "75.00", "85.71", "75.00"]


def test_healthy_chests_have_a_line_of_their_own(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (0, 10):
        save(tmp_path / "images" / f"{n}.png", xray(sick=slice(60, 60 + n)))
    assert run(tmp_path, "--empty", "infection") == 0
    out = capsys.readouterr().out
    assert "healthy chests: 2, median infected share 5.00 %, above 2 %: 50.0 % of images" in out


def test_one_unreadable_image_is_named_and_the_exit_code_is_1(
    fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two[0].image.write_bytes(b"no image")
    assert run(tmp_path, "--masks", "lungs=masks", "--json", tmp_path / "all.json") == 1
    captured = capsys.readouterr()
    [sentence] = captured.err.strip().splitlines()
    assert sentence.startswith("a.png")
    assert "100.00" in captured.out, "the other image is measured"
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["unreadable"] == 1


def test_limit_spreads_over_the_data_set(fake: FakeEngine, tmp_path: Path) -> None:
    for i in range(10):
        for part in ("images", "masks"):
            save(tmp_path / part / f"{i}.png", rows(1, 9))
    assert run(tmp_path, "--masks", "lungs=masks", "--limit", 3, "--json", tmp_path / "all.json") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert [row["image"] for row in report["images"]] == ["0.png", "3.png", "6.png"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["nowhere"], "nowhere"),
        (["{set}", "--masks", "lungs"], "CLASS=FOLDER"),
        (["{set}", "--masks", "lungs=nothing"], "no labelled image"),
        (["{set}", "--adults"], "sources.csv"),
        (["{set}", "--adults", "--empty", "infection"], "sources.csv"),
        (["{set}", "--model", "no-such-model", "--masks", "lungs=masks"], "no-such-model"),
    ],
)
def test_what_cannot_be_evaluated_ends_with_exit_code_2_and_one_sentence(
    options: list[str], word: str, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(option.replace("{set}", str(tmp_path)) for option in options)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert word in line


@pytest.mark.parametrize("option", ["--batch", "--limit"])
def test_a_number_below_one_is_refused_as_an_option(option: str, tmp_path: Path) -> None:
    assert run(tmp_path, option, 0) == 2
