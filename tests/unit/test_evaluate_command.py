"""The command `evaluate`: it measures what `predict` writes, and tells it as a table, in lines and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgmsnet.cli import main
from sgmsnet.commands import evaluate as command
from sgmsnet.training.data import Sample
from tests.fakes import FakeEngine, draw_xray
from tests.unit.evaluating import rows, run, save, xray


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


def test_limit_spreads_over_the_data_set(fake: FakeEngine, tmp_path: Path) -> None:
    for i in range(10):
        for part in ("images", "masks"):
            save(tmp_path / part / f"{i}.png", rows(1, 9))
    assert run(tmp_path, "--masks", "lungs=masks", "--limit", 3, "--json", tmp_path / "all.json") == 0
    report = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert [row["image"] for row in report["images"]] == ["0.png", "4.png", "9.png"]


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
