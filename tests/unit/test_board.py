"""Standings of a comparison: a row is tested against the reference with the same seeds, whichever are finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgmsnet.training.board import Score, standings
from sgmsnet.training.cost import Cost
from sgmsnet.training.data import Sample, SourceConfig
from sgmsnet.training.metrics import Counts
from sgmsnet.training.results import Row
from sgmsnet.training.scoreboard import Part, RowConfig

PART = Part(name="drawn", label="lungs", source=SourceConfig(path="drawn", masks={"lungs": "masks"}))
COST = Cost(parameters=1, gflop=1.0, latency_ms=1.0)
IMAGES = 30
COSTS = dict.fromkeys(("reference", "better", "both", "other"), COST)


def score(row: str, seed: int, hits: int) -> Score:
    """Of images with 100 outlined pixels, of which `hits`, give or take some, are found and nothing else."""
    random = np.random.default_rng(seed)
    images = []
    for i in range(IMAGES):
        found = np.array([hits + random.integers(-3, 4)])
        counts = Counts(tp=found, fp=np.array([0]), fn=100 - found, tn=np.array([900]))
        sample = Sample(image=Path(f"{i}.png"), masks={"lungs": Path(f"{i}.png")}, empty=frozenset(), group=str(i))
        images.append(Row(sample=sample, counts={"lungs": counts}, surfaces={}, infected_share=None))
    return Score(
        row=RowConfig(name=row, title=row),
        part=PART,
        seed=seed,
        images=tuple(images),
        calibration_error=0.0,
        seconds_per_step=None,
        steps=1,
    )


def test_a_row_is_tested_on_the_seeds_that_the_reference_has_too() -> None:
    first, second = score("reference", 1, 80), score("reference", 2, 50)  # the second seed went badly
    scores = [first, second, score("better", 1, 85), score("both", 1, 80), score("both", 2, 50), score("other", 3, 90)]
    reference, better, both, other = standings(PART, scores, COSTS, reference="reference")
    assert reference.test is None
    assert better.test is not None
    expected = float(np.mean(score("better", 1, 85).dice - first.dice))
    assert better.test.difference == pytest.approx(expected)
    assert better.seed_differences == {1: pytest.approx(expected)}
    assert better.verdict == "better"
    assert both.test is not None
    assert (both.test.difference, both.verdict) == (0, "no difference shown")
    assert list(both.seed_differences) == [1, 2]
    assert (other.test, other.verdict) == (None, ""), "no seed in common: nothing to compare with"


def test_a_row_with_fewer_seeds_is_not_better_for_a_seed_that_went_badly() -> None:
    scores = [score("reference", 1, 80), score("reference", 2, 50), score("better", 1, 80)]
    _, same = standings(PART, scores, COSTS, reference="reference")
    assert same.test is not None
    assert (same.test.difference, same.verdict) == (0, "no difference shown")
