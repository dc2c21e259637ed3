"""Evaluation: what is measured on images with masks, and that it is what `predict` writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from engines import server_address
from sgmsnet import overlay
from sgmsnet.cli import main
from sgmsnet.commands import evaluate as command
from sgmsnet.pipeline import Pipeline
from sgmsnet.training import report
from sgmsnet.training.calibration import Reliability
from sgmsnet.training.data import DatasetError, Sample, SourceConfig
from sgmsnet.training.evaluate import evaluate, samples_of
from sgmsnet.training.metrics import Counts
from sgmsnet.training.results import Evaluation, Row
from sgmsnet.training.surface import SurfaceDistance
from sgmsnet.training.tables import table
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


def test_distances_can_be_left_out(pipeline: Pipeline, two: list[Sample]) -> None:
    evaluation = evaluate(pipeline, two, distances=False)
    assert set(evaluation.per_image()[0]["lungs"]) == {"dice", "iou", "tp", "fp", "fn"}
    assert not {"hd95_px", "nsd_2_px"} & set(evaluation.summary()["classes"]["lungs"])


def test_adults_and_children_are_told_apart_where_sources_csv_knows_them(pipeline: Pipeline, tmp_path: Path) -> None:
    ages = {"a": "55", "b": "1-5 years", "c": "17"}
    for name, sick in (("a", 0), ("b", 10), ("c", 20), ("unlisted", 30)):
        save(tmp_path / "val" / "images" / f"{name}.png", xray(sick=slice(60, 60 + sick)))
    listed = "stem,age\n" + "".join(f"{stem},{age}\n" for stem, age in ages.items())
    (tmp_path / "sources.csv").write_text(listed, encoding="utf-8")
    source = SourceConfig(path=".", empty=("infection",))
    evaluation = evaluate(pipeline, samples_of(tmp_path, split="val", source=source))
    healthy = evaluation.summary()["healthy"]
    assert (healthy["images"], healthy["adults"]["images"], healthy["children"]["images"]) == (4, 1, 2)
    assert healthy["adults"]["part_above_2_percent"] == 0
    assert healthy["children"]["part_above_2_percent"] == 1
    assert healthy["children"]["infected_share_median"] == pytest.approx(0.15)


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


@pytest.mark.parametrize("part", ["val", "test"])
def test_the_folder_of_a_part_is_known_as_its_data_set_is(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    for name in ("old", "young"):
        save(tmp_path / "healthy" / part / "images" / f"{name}.png", xray())
    (tmp_path / "healthy" / "sources.csv").write_text("stem,age\nold,60\nyoung,6\n", encoding="utf-8")
    for dataset, where in (
        (f"healthy/{part}", tmp_path),
        (tmp_path / "healthy" / part, tmp_path),
        (part, tmp_path / "healthy"),
    ):
        monkeypatch.chdir(where)
        [sample] = samples_of(dataset, split="val", adults=True)
        assert (sample.image.stem, sample.empty, sample.grown_up) == ("old", {"infection"}, True)
    assert [s.image.stem for s in samples_of("healthy", split=part, adults=False)] == ["young"]  # type: ignore[arg-type]
    for folder in ("images", "masks"):
        save(tmp_path / "qata" / part / folder / "a.png", rows(1, 2))
    assert samples_of(f"qata/{part}", split="val")[0].labelled == {"infection"}


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
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("lungs: 2 images in 2 groups") for line in lines)
    for label, value, low, high in (
        ("Dice per image, %", "83.33", "66.67", "100.00"),
        ("IoU per image, %", "75.00", "50.00", "100.00"),
        ("Dice pooled, %", "85.71", "66.67", "100.00"),
        ("IoU pooled, %", "75.00", "50.00", "100.00"),
    ):
        [line] = [line for line in lines if line.startswith(label)]
        assert line.removeprefix(label).split() == [value, low, "to", high]


def test_healthy_chests_have_a_line_of_their_own(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (0, 10):
        save(tmp_path / "images" / f"{n}.png", xray(sick=slice(60, 60 + n)))
    assert run(tmp_path, "--empty", "infection") == 0
    out = capsys.readouterr().out
    assert "healthy chests: 2, median infected share 5.00 %, above 2 %: 50.0 % of images" in out


def test_adults_of_a_part_s_folder_are_evaluated(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "young"):
        save(tmp_path / "healthy" / "val" / "images" / f"{name}.png", xray())
    (tmp_path / "healthy" / "sources.csv").write_text("stem,age\nold,60\nyoung,6\n", encoding="utf-8")
    assert run(tmp_path / "healthy" / "val", "--adults") == 0
    assert "healthy chests: 1, " in capsys.readouterr().out


def test_the_test_part_is_measured_where_it_is_asked_for(fake: FakeEngine, tmp_path: Path) -> None:
    for part in ("Train Set", "Test Set"):
        save(tmp_path / "qata" / part / "Images" / f"{part[:4]}.png", xray())
        save(tmp_path / "qata" / part / "Ground-truths" / f"mask_{part[:4]}.png", rows(40, 60))
    assert run(tmp_path / "qata", "--split", "test", "--json", tmp_path / "all.json") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert report["split"] == "test"
    assert [row["image"] for row in report["images"]] == ["Test.png"]


def test_sources_have_figures_of_their_own_and_can_be_chosen_by_name(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lungs" / "val"
    for name, last in (("gb_1", 140), ("gb_2", 140), ("v7_1", 90)):
        save(folder / "images" / f"{name}.png", xray())
        save(folder / "masks" / f"{name}.png", rows(40, last))
    listed = "stem,source\ngb_1,gb\ngb_2,gb\nv7_1,v7\n"
    (tmp_path / "sources.csv").write_text(listed, encoding="utf-8")
    assert run(folder, "--json", tmp_path / "all.json", "--html", tmp_path / "all.html") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    sources = report["classes"]["lungs"]["sources"]
    assert {name: part["images"] for name, part in sources.items()} == {"gb": 2, "v7": 1}
    assert sources["gb"]["dice_per_image"] == pytest.approx(1)
    assert sources["v7"]["dice_per_image"] == pytest.approx(2 / 3)
    assert [row["source"] for row in report["images"]] == ["gb", "gb", "v7"]
    line = "of v7: 1 images in 1 groups, Dice per image 66.67 %, Dice pooled 66.67 %"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "all.html").read_text(encoding="utf-8")
    assert run(folder, "--include", "^v7_", "--json", tmp_path / "v7.json") == 0
    report = json.loads((tmp_path / "v7.json").read_text(encoding="utf-8"))
    assert report["include"] == "^v7_"
    assert report["classes"]["lungs"]["dice_per_image"] == pytest.approx(2 / 3)
    assert "sources" not in report["classes"]["lungs"], "one source needs no breakdown"


def test_another_threshold_is_that_of_masks_facts_and_page(fake: FakeEngine, two: list[Sample], tmp_path: Path) -> None:
    # Lung has logit 6: probability 0.9975.
    options = ("--masks", "lungs=masks", "--json", tmp_path / "all.json", "--html", tmp_path / "all.html")
    assert run(tmp_path, *options, "--threshold", "lungs=0.999") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert report["thresholds"] == {"lungs": 0.999, "infection": 0.5}
    assert [row["lungs"]["tp"] for row in report["images"]] == [0, 0]
    assert "lungs 0.999, infection 0.5" in (tmp_path / "all.html").read_text(encoding="utf-8")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    fake: FakeEngine,
    two: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "LINE_EVERY_S", 0.0)
    assert run(tmp_path, "--masks", "lungs=masks") == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"1 of 2 \(50 %\), [\d.]+ images/s, \d+ s left", first)


def test_a_server_named_by_option_is_the_one_that_is_opened(
    monkeypatch: pytest.MonkeyPatch, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(server_address.URL, "")
    options = ("--engine", "triton", "--triton-url", "127.0.0.1:9")
    assert run(tmp_path, "--masks", "lungs=masks", *options) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err


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
        (["{set}", "--masks", "lungs=masks", "--include", "("], "include"),
        (["{set}", "--masks", "lungs=masks", "--threshold", "lungs"], "CLASS=T"),
        (["{set}", "--masks", "lungs=masks", "--threshold", "heart=0.5"], "heart"),
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


def test_sweep_prints_temperature_and_dice_by_threshold(
    fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--masks", "lungs=masks", "--sweep", "--json", tmp_path / "all.json") == 0
    record = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["sweep"]["lungs"]
    out = capsys.readouterr().out
    assert f"lungs: temperature {record['temperature']:.4f}" in out
    # Lung has logit 6 and background -6, so every threshold below sigmoid(6 / temperature) gives the same two masks.
    lines = [line.split()[:3] for line in out.splitlines() if line.strip().startswith("0.")]
    assert len(lines) == 19
    assert lines[:15] == [[f"{t:.2f}", "83.33", "85.71"] for t in np.arange(0.05, 0.76, 0.05)]
    assert out.count("best") == 1


@pytest.mark.parametrize("module", ["sgmsnet.training.evaluate", "sgmsnet.commands.evaluate"])
def test_evaluation_needs_no_training_packages(module: str) -> None:
    program = f"import sys, {module}; print(sorted(set(sys.modules) & {{'torch', 'monai', 'lightning', 'matplotlib'}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- the page


def test_the_page_holds_all_it_needs_and_shows_best_median_and_worst(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(15):
        save(tmp_path / "images" / f"<{i:02}>.png", xray())
        save(tmp_path / "masks" / f"<{i:02}>.png", rows(40, 54 + 6 * i))
    page = tmp_path / "out" / "page.html"
    assert run(tmp_path, "--masks", "lungs=masks", "--html", page) == 0
    html = page.read_text(encoding="utf-8")
    assert [html.index(f"<h3>{kind}</h3>") for kind in ("Worst", "Median", "Best")] == sorted(
        html.index(f"<h3>{kind}</h3>") for kind in ("Worst", "Median", "Best")
    )
    captions = re.findall(r"<figcaption>&lt;(\d\d)&gt;\.png: Dice", html)
    assert captions == [f"{i:02}" for i in (0, 1, 2, 3, 5, 6, 7, 8, 14, 13, 12, 11)]
    addresses = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html)
    assert len(addresses) == 13, "12 cases and the curves"
    assert all(address.startswith("data:") for address in addresses), "nothing is fetched"
    assert "Dice per image, %" in html
    assert "95 % interval" in html
    assert "lungs 0.5, infection 0.5" in html
    table = capsys.readouterr().out
    [line] = [line for line in table.splitlines() if "HD95" in line]
    assert f"<td>{line.split()[2]}</td>" in html, "the figures are those of the table"


def test_the_page_names_what_was_not_read_and_healthy_chests(
    fake: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "images" / "a.png", xray())
    (tmp_path / "images" / "b.png").write_bytes(b"<no image>")
    assert run(tmp_path, "--empty", "infection", "--html", tmp_path / "page.html") == 1
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<li>b.png" in html
    assert "healthy chests: 1, median infected share" in html


def test_the_page_of_healthy_chests_shows_those_with_the_largest_infected_share(
    fake: FakeEngine, tmp_path: Path
) -> None:
    for n in (0, 1, 30, 10, 20):
        save(tmp_path / "images" / f"{n}.png", xray(sick=slice(60, 60 + n)))
    save(tmp_path / "images" / "lungless.png", np.zeros((224, 224), np.uint8))
    assert run(tmp_path, "--empty", "infection", "--html", tmp_path / "page.html") == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", html)
    assert captions == [
        "lungless.png: no lung found",
        "30.png: 30.0 % infected",
        "20.png: 20.0 % infected",
        "10.png: 10.0 % infected",
    ]


def test_a_case_shows_true_and_found_outlines_in_their_colours(pipeline: Pipeline) -> None:
    prediction = pipeline.predict(xray())
    truth = rows(40, 90) > 0
    drawn = report.draw_case(prediction, truth, "lungs")
    assert drawn.shape == (224, 224, 3)
    assert tuple(drawn[89, 100]) == report.TRUTH
    assert tuple(drawn[139, 100]) == overlay.colour_of("lungs")
    assert tuple(drawn[10, 10]) == (0, 0, 0)
    assert tuple(drawn[60, 100]) == (LUNG, LUNG, LUNG)


def test_a_page_that_cannot_be_drawn_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sgmsnet, "load", lambda *a, **k: pytest.fail("the work began"))
    assert run(tmp_path, "--masks", "lungs=masks", "--html", tmp_path / "page.html") == 2
    assert "matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_that_cannot_be_written_ends_in_one_sentence(
    option: str, fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert run(tmp_path, "--masks", "lungs=masks", option, tmp_path / "file" / "out") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "could not be written" in line
