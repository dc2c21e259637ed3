"""Calibrating a release: cuts that cover what they promise, pictures made from chests, and the whole command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sgmsnet
from sgmsnet.checkpoint import find
from sgmsnet.cli import main
from sgmsnet.interval import MISSED, share_interval
from sgmsnet.pipeline import Pipeline
from sgmsnet.training import share, variants
from sgmsnet.training.data import DatasetError
from sgmsnet.training.share import KNOTS, Lung
from tests.fakes import FakeEngine, draw_xray


def drawn_lungs(count: int, *, seed: int) -> list[Lung]:
    """Lungs of 400 pixels whose logits are the truth's, off by a shift of the whole image and by noise."""
    rng = np.random.default_rng(seed)
    lungs = []
    for number in range(count):
        sick = rng.random(400) < rng.beta(1, 3)
        logits = np.where(sick, 2.0, -2.0) + rng.normal(0, 2) + rng.normal(0, 1.5, 400)
        curve = (logits[None] > KNOTS[:, None]).mean(axis=1)
        lungs.append(Lung("drawn", f"{seed}-{number}", ("both", "left")[number % 2], float(sick.mean()), curve))
    return lungs


def test_intervals_cover_95_percent_of_lungs_that_were_not_seen() -> None:
    cuts = share.fit(drawn_lungs(2000, seed=0))
    inside = []
    for lung in drawn_lungs(4000, seed=1):
        low, high = lung.ends(cuts.both if lung.side == "both" else cuts.side)
        inside.append(low <= lung.truth <= high)
    assert 0.94 <= np.mean(inside) <= 0.97  # knots are 0.1 apart and truths of 0 lie inside by themselves


def test_the_cuts_lie_at_the_conformal_rank() -> None:
    """Of 79 lungs, rank 0.975 * 80 = 78 from below and from above: one lung lies outside at each end."""
    lungs = [Lung("drawn", str(i), "both", 0.5, (KNOTS[100 + i] > KNOTS).astype(float)) for i in range(79)]
    cuts = share.fit(lungs).both
    assert (cuts.strict, cuts.lax) == (round(KNOTS[177], 1), round(KNOTS[100], 1))


def test_too_few_lungs_promise_nothing() -> None:
    lungs = drawn_lungs(78, seed=3)
    few = share.fit(lungs[:76])  # 38 of both sides, 38 of one
    assert {(cuts.strict, cuts.lax) for cuts in (few.both, few.side)} == {(KNOTS[-1], KNOTS[0])}
    assert share.fit(lungs).both.strict < KNOTS[-1]


def test_cross_fitted_coverage_is_that_of_new_lungs() -> None:
    found = share.coverage(drawn_lungs(1000, seed=2))
    assert set(found) == {("drawn", "both lungs"), ("drawn", "one lung")}
    for covered in found.values():
        assert covered.lungs == 500
        assert 0.93 <= covered.inside <= 0.98
        assert 0 < covered.width < 1


def test_the_curve_s_ends_are_those_of_the_prediction() -> None:
    image = draw_xray(300, 260, sick=((0.2, 0.4, 0.35, 0.6),))
    prediction = Pipeline(FakeEngine(), thresholds={}, temperature={}).predict(image)
    truth = prediction.masks["infection"]
    lungs = share.lungs_of(prediction, truth, None, source="x", group="x")
    assert [lung.side for lung in lungs] == ["both", "right", "left"]
    cuts = share.fit(lungs * 40)
    grid = prediction.on_the_grid("lungs") > 0
    found = share_interval(
        prediction.on_the_grid("infection"), grid, image_left=prediction.image_left(grid.shape), cuts=cuts
    )
    for lung in lungs:
        ends = lung.ends(cuts.both if lung.side == "both" else cuts.side)
        assert found[lung.side] == pytest.approx(ends)
        assert lung.truth == pytest.approx(getattr(prediction.measurements.infected_share, lung.side))
        assert ends[0] <= lung.truth <= ends[1]


def test_a_healthy_lung_needs_a_strict_cut_and_is_satisfied_with_any_high_end() -> None:
    curve = np.clip((5 - KNOTS) / 10, 0, 1)
    lung = Lung("x", "x", "both", 0.0, curve)
    assert lung.strict() == pytest.approx(5)
    assert lung.lax() == KNOTS[-1]
    missed = Lung("x", "x", "both", MISSED / 2, np.zeros_like(KNOTS))
    assert missed.lax() == KNOTS[-1]


@pytest.mark.parametrize("name", [*variants.UNLIKE, *variants.LIKE])
@pytest.mark.parametrize("size", [(64, 64), (101, 64), (65, 301)])
def test_variants_are_pictures_again(name: str, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    made = {**variants.UNLIKE, **variants.LIKE}[name](image)
    assert made.dtype == np.uint8
    assert min(made.shape) >= 16
    assert made.shape != image.shape or not np.array_equal(made, image)


def test_folding_takes_the_mean_of_both_halves() -> None:
    image = np.array([[10, 20, 40, 30]], np.uint8)
    np.testing.assert_array_equal(variants.fold(image), [[20, 30]])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root of drawn chests, 14 a part, whose truth is what the fake engine finds; and two black pictures."""
    rng = np.random.default_rng(0)
    for source in ("qata", "lungs", "healthy", "infection"):
        for split in ("train", "val"):
            for number in range(14):
                top, bottom = rng.uniform(0.1, 0.25), rng.uniform(0.7, 0.9)
                lungs = ((0.12, top, 0.42, bottom), (0.58, top, 0.88, bottom))
                sick = () if source in ("lungs", "healthy") else ((0.2, 0.4, rng.uniform(0.25, 0.35), 0.6),)
                image = draw_xray(224, 224, lungs=lungs, sick=sick)
                mask = image > (60 if source in ("lungs", "healthy") else 170)
                for kind, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
                    path = tmp_path / source / split / kind / f"{source}{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
    (tmp_path / "negatives" / "images").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "negatives" / "images" / f"{number}.png")
    rows = "".join(f"images/{number}.png,black\n" for number in range(2))
    (tmp_path / "negatives" / "negatives.csv").write_text(f"file,kind\n{rows}", encoding="utf-8")
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    monkeypatch.setattr(sgmsnet, "load", lambda *_, **__: Pipeline(FakeEngine(), thresholds={}, temperature={}))
    return tmp_path


def test_the_command_writes_weights_with_all_of_it_and_prints_the_tables(
    root: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target, tables = root / "new.safetensors", root / "new.md"
    options = ["--output", str(target), "--markdown", str(tables), "--threshold", "infection=0.4"]
    assert main(["calibrate", str(tiny_model), *options]) == 0
    files = find(target)
    assert files.familiarity is not None
    assert files.share_cuts is not None
    assert files.thresholds["infection"] == 0.4
    assert set(files.temperature) == {"lungs", "infection"}
    printed = capfd.readouterr().out
    text = tables.read_text(encoding="utf-8")
    assert text in printed
    for heading in ("Temperature and thresholds", "Familiarity", "Interval of the infected share"):
        assert f"### {heading}" in text
    assert "| of them black | 2 | 2 (100.0 %) | 1.0000 |" in text
    assert "| validation chests | 42 |" in text


def test_a_missing_set_and_a_bad_output_end_with_one_sentence(
    root: Path, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(tiny_model), "--output", "weights.onnx"]) == 2
    assert "safetensors" in capfd.readouterr().err
    (root / "lungs").rename(root / "elsewhere")
    assert main(["calibrate", str(tiny_model), "--output", str(root / "x.safetensors")]) == 2
    assert "lungs" in capfd.readouterr().err


def test_a_model_of_one_class_is_refused(root: Path) -> None:
    from sgmsnet.training.calibrate import calibrate
    from tests.fakes import info_with

    pipeline = Pipeline(FakeEngine(info_with(classes=("infection",))), thresholds={}, temperature={})
    with pytest.raises(DatasetError, match="lungs and infection"):
        calibrate(pipeline)
