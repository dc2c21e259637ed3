"""The scoreboard in docs/: its tables follow from the counts of single images, its runs are those of the protocol."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from sgmsnet.training.compare import COSTS, RESULT, write_tables
from sgmsnet.training.recipe import Recipe
from sgmsnet.training.scoreboard import load_comparison

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = DOCS / "scoreboard-cpu"
COMPARISON = load_comparison("scoreboard-cpu")
RUNS = [
    (row, seed)
    for row in COMPARISON.rows
    for seed in COMPARISON.seeds
    if (PUBLISHED / row.name / f"seed-{seed}" / RESULT).is_file()
]


def test_the_tables_follow_from_the_counts_of_single_images(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(PUBLISHED, copy, ignore=shutil.ignore_patterns("scoreboard.*", "*.png"))
    write_tables(COMPARISON, folder=copy)
    assert (copy / "scoreboard.md").read_text(encoding="utf-8") == (PUBLISHED / "scoreboard.md").read_text("utf-8")


def test_the_page_of_results_shows_the_published_tables() -> None:
    shown = (DOCS / "results.md").read_text(encoding="utf-8")
    tables = [line for line in (PUBLISHED / "scoreboard.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(tables) > len(RUNS)
    for line in tables:
        assert line in shown, line


@pytest.mark.parametrize(("row", "seed"), RUNS, ids=[f"{row.name}-{seed}" for row, seed in RUNS])
def test_every_run_is_one_of_the_protocol(row, seed) -> None:  # type: ignore[no-untyped-def]
    run = PUBLISHED / row.name / f"seed-{seed}"
    recipe = Recipe.from_dict(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
    assert recipe == COMPARISON.recipe_of(row, seed)
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    assert result["steps"] == recipe.epochs * recipe.samples_per_epoch // recipe.batch_size
    about = json.loads((run / "about.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{40}", about["revision"]), "trained with code that was never committed"
    with (run / "qata.csv").open(newline="", encoding="utf-8") as file:
        names = [line["image"] for line in csv.DictReader(file)]
    assert len(set(names)) == len(names) == 1429
    assert not any("/" in name for name in names)
    trained_on = set((DOCS / "qata-train-stems.txt").read_text(encoding="utf-8").split())
    assert not trained_on & {Path(name).stem for name in names}


def test_the_latencies_were_taken_on_a_quiet_machine() -> None:
    costs = json.loads((PUBLISHED / COSTS).read_text(encoding="utf-8"))
    assert costs["conditions"]["load"] < 1.0
    assert {row.name for row in COMPARISON.rows} <= set(costs["rows"])
