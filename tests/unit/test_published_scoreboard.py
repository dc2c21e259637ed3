"""The comparisons in docs/: their tables follow from the counts of single images, their runs are of the protocol."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from sgmsnet.training.compare import COSTS, RESULT, write_tables
from sgmsnet.training.recipe import Recipe, load_recipe
from sgmsnet.training.scoreboard import leave_one_source_out, load_comparison

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = {
    "scoreboard-cpu": load_comparison("scoreboard-cpu"),
    "lungs-cpu-sources": leave_one_source_out(load_recipe("lungs-cpu")),
}
IMAGES = {"qata": 1429, "lungs-gb": 14, "lungs-v7": 39, "healthy-ped": 58}
"""Of each validation part (README of the data)."""
RUNS = [
    (name, row, seed)
    for name, comparison in PUBLISHED.items()
    for row in comparison.rows
    for seed in comparison.seeds
    if (DOCS / name / row.name / f"seed-{seed}" / RESULT).is_file()
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tables_follow_from_the_counts_of_single_images(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(DOCS / name, copy, ignore=shutil.ignore_patterns("scoreboard.*", "*.png"))
    write_tables(PUBLISHED[name], folder=copy)
    assert (copy / "scoreboard.md").read_text(encoding="utf-8") == (DOCS / name / "scoreboard.md").read_text("utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_page_of_results_shows_the_published_tables(name: str) -> None:
    shown = (DOCS / "results.md").read_text(encoding="utf-8")
    tables = [line for line in (DOCS / name / "scoreboard.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert len(tables) > sum(1 for run in RUNS if run[0] == name)
    for line in tables:
        assert line in shown, line


@pytest.mark.parametrize(("name", "row", "seed"), RUNS, ids=[f"{name}-{row.name}-{seed}" for name, row, seed in RUNS])
def test_every_run_is_one_of_the_protocol(name, row, seed) -> None:  # type: ignore[no-untyped-def]
    run, comparison = DOCS / name / row.name / f"seed-{seed}", PUBLISHED[name]
    recipe = Recipe.from_dict(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))
    assert recipe == comparison.recipe_of(row, seed)
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    assert result["steps"] == recipe.epochs * recipe.samples_per_epoch // recipe.batch_size
    about = json.loads((run / "about.json").read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{40}", about["revision"]), "trained with code that was never committed"
    trained_on = set((DOCS / "qata-train-stems.txt").read_text(encoding="utf-8").split())
    for part in comparison.parts_of(row):
        with (run / f"{part.name}.csv").open(newline="", encoding="utf-8") as file:
            names = [line["image"] for line in csv.DictReader(file)]
        assert len(set(names)) == len(names) == IMAGES[part.name]
        assert not any("/" in name for name in names)
        assert not trained_on & {Path(name).stem for name in names}


def test_the_latencies_were_taken_on_a_quiet_machine() -> None:
    costs = json.loads((DOCS / "scoreboard-cpu" / COSTS).read_text(encoding="utf-8"))
    assert costs["conditions"]["load"] < 1.0
    assert {row.name for row in PUBLISHED["scoreboard-cpu"].rows} <= set(costs["rows"])
