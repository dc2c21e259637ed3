"""Familiarity: what is refused on made-up distributions, shapes of lungs, and its way into and out of weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sgmsnet.checkpoint import WeightsError, find, recalibrate
from sgmsnet.familiarity import PREFIX, SHAPE_FEATURES, FamiliarityModel, shape_features
from sgmsnet.interval import Cuts, ShareCuts
from sgmsnet.pipeline import Pipeline
from sgmsnet.training.familiarity import REFUSED, Seen, auroc, fit, margins_of
from tests.fakes import FakeEngine, draw_xray

CHANNELS = 32


def lung_logits(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (112, 112)) -> np.ndarray:
    """float32 of 8 inside boxes (top, bottom, left, right) and -8 elsewhere."""
    logits = np.full(size, -8, np.float32)
    for top, bottom, left, right in boxes:
        logits[top:bottom, left:right] = 8
    return logits


def seen(count: int, *, seed: int, shift: float = 0.0, stretch: float = 1.0) -> Seen:
    """Embeddings of a Gaussian with few wide directions, and shapes beside a common mean."""
    rng = np.random.default_rng(seed)
    scales = np.geomspace(3, 0.05, CHANNELS)
    embeddings = rng.normal(0, stretch, (count, CHANNELS)) * scales + shift * scales
    shapes = rng.normal(0.3 + 0.2 * shift, 0.05, (count, SHAPE_FEATURES))
    return Seen(embeddings.astype(np.float32), shapes, np.array([f"{seed}-{i}" for i in range(count)]))


@pytest.fixture(scope="module")
def model() -> FamiliarityModel:
    return fit(seen(600, seed=0), seen(400, seed=1, shift=2), axes=8)


def test_as_many_new_chests_are_refused_as_was_promised(model: FamiliarityModel) -> None:
    refused = (margins_of(model, seen(20_000, seed=2)) < 0).mean()
    assert refused <= 3 * REFUSED


def test_pictures_of_one_person_are_judged_by_fits_that_saw_none_of_them() -> None:
    """Twenty pictures of each, alike: a fit that saw nineteen knows the person, and is no guide to new people."""
    rng = np.random.default_rng(6)

    def crowd(people: int, *, shift: float) -> np.ndarray:
        faces = np.repeat(rng.normal(shift, 1, (people, CHANNELS)), 20, axis=0)
        return (faces + rng.normal(0, 0.1, faces.shape)).astype(np.float32)

    chests = replace(seen(800, seed=7), embeddings=crowd(40, shift=0))
    by_person = replace(chests, groups=np.repeat([f"person {i}" for i in range(40)], 20))
    others = replace(seen(800, seed=1), embeddings=crowd(40, shift=0.5))
    new = replace(seen(4000, seed=8), embeddings=crowd(200, shift=0))
    apart, mixed = ((margins_of(fit(those, others), new) < 0).mean() for those in (by_person, chests))
    assert apart < mixed / 2


def test_what_is_unlike_is_refused_even_where_no_counter_example_lay(model: FamiliarityModel) -> None:
    assert (margins_of(model, seen(200, seed=3, shift=2)) < 0).mean() > 0.9
    assert (margins_of(model, seen(200, seed=4, shift=4)) < 0).all()


def test_score_and_verdict_agree_with_the_margin(model: FamiliarityModel) -> None:
    one = seen(1, seed=5)
    shape = one.shapes[0]
    verdict = model(one.embeddings[0], None)
    margin = margins_of(model, replace(one, shapes=np.zeros((1, SHAPE_FEATURES))))[0]
    assert verdict.score == pytest.approx(1 / (1 + np.exp(-margin)))
    assert verdict.familiar == (margin >= 0)
    for shift in (-0.05, 0.05):  # a little below and above one half
        moved = replace(model, bias=(model.bias - margin + shift).astype(np.float32))
        assert moved(one.embeddings[0], None).familiar is (shift > 0)
    assert model.features(one.embeddings[0], shape).shape == model.weights.shape


def test_distances_are_those_of_a_shrunk_covariance(model: FamiliarityModel) -> None:
    chests, new = seen(600, seed=0).embeddings.astype(np.float64), seen(20, seed=8).embeddings
    _, singular, directions = np.linalg.svd(chests - chests.mean(axis=0), full_matrices=False)
    variance = singular**2 / 599
    floor = variance[8:].mean()
    along = ((new - chests.mean(axis=0)) @ directions.T) ** 2
    expected = (along[:, :8] / (variance[:8] + floor)).mean(axis=1), along[:, 8:].sum(axis=1) / variance[8:].sum()
    found = model.features(new, np.zeros((20, SHAPE_FEATURES)))[:, 8:10]
    np.testing.assert_allclose(found, np.log(np.stack(expected, axis=1) + 1e-3), rtol=1e-3, atol=1e-3)


def test_auroc_is_the_part_of_pairs_in_order() -> None:
    rng = np.random.default_rng(9)
    chests, others = rng.integers(0, 8, 30).astype(float), rng.integers(0, 6, 20).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in chests for b in others]
    assert auroc(chests, others) == pytest.approx(np.mean(pairs))


def test_shapes_tell_two_lungs_from_what_is_none() -> None:
    upright = lung_logits((20, 60, 24, 48), (60, 100, 12, 48), (20, 60, 64, 88), (60, 100, 64, 100))
    names = dict(zip(("area", "unsure"), shape_features(upright), strict=False))
    assert names["area"] == pytest.approx(float((upright > 0).mean()), abs=0.02)
    assert names["unsure"] == 0
    slope, both, gap = shape_features(upright)[-3:]
    assert slope > 0  # wider below
    assert shape_features(upright[::-1])[-3] == pytest.approx(-slope, abs=0.05)
    assert both > 0.9
    assert gap == pytest.approx(1)
    one = lung_logits((20, 100, 30, 80))
    assert shape_features(one)[4] == 0  # no second component
    assert shape_features(one)[-1] < 0.3  # nothing parts it


@pytest.mark.parametrize("size", [(16, 16), (224, 16), (17, 224), (224, 224)])
@pytest.mark.parametrize("value", [-8.0, 0.0, 8.0])
def test_shapes_are_finite_for_any_plane(size: tuple[int, int], value: float) -> None:
    features = shape_features(np.full(size, value, np.float32))
    assert features.shape == (SHAPE_FEATURES,)
    assert np.isfinite(features).all()


def test_pipeline_gives_the_embedding_and_the_lungs_without_padding() -> None:
    given = []

    def judge(embedding: np.ndarray, lungs: np.ndarray | None) -> object:
        given.append((embedding.shape, None if lungs is None else lungs.shape))
        return FamiliarityModel  # anything: it is passed on as it is

    prediction = Pipeline(FakeEngine(), thresholds={}, temperature={}, familiarity=judge).predict(draw_xray(400, 200))  # type: ignore[arg-type]
    assert given == [((512,), (224, 112))]
    assert prediction.familiarity is FamiliarityModel  # type: ignore[comparison-overlap]


def test_weights_keep_the_calibration_and_every_other_byte(
    tiny_model: Path, model: FamiliarityModel, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    files, cuts = find(tiny_model), ShareCuts(Cuts(3.0, -3.0), Cuts(4.0, -4.0))
    assert (files.familiarity, files.share_cuts) == (None, None)
    target = recalibrate(
        files,
        tmp_path / "new.safetensors",
        thresholds={"lungs": 0.4, "infection": 0.6},
        temperature={"lungs": 1.5, "infection": 2.0},
        familiarity=model,
        share_cuts=cuts,
    )
    new = find(target)
    assert (new.thresholds, new.temperature) == ({"lungs": 0.4, "infection": 0.6}, {"lungs": 1.5, "infection": 2.0})
    assert (new.name, new.config, new.provenance, new.share_cuts) == (files.name, files.config, files.provenance, cuts)
    before, after = load_file(tiny_model), load_file(target)
    assert {key for key in after if not key.startswith(PREFIX)} == set(before)
    for key, value in before.items():
        assert after[key].dtype == value.dtype
        np.testing.assert_array_equal(after[key], value)
    one = seen(1, seed=10)
    assert new.familiarity is not None
    assert new.familiarity(one.embeddings[0], None) == model(one.embeddings[0], None)
    again = recalibrate(
        new,
        target,
        thresholds=files.thresholds,
        temperature=files.temperature,
        familiarity=None,
        share_cuts=None,
    )
    assert again.read_bytes() == tiny_model.read_bytes()


def test_a_graph_in_place_works_beside_weights_with_familiarity(
    tiny_model: Path, model: FamiliarityModel, tmp_path: Path, example_images: np.ndarray
) -> None:
    import sgmsnet
    from export.to_onnx import export_in_place

    files = find(tiny_model)
    wide = replace(model, mean=np.resize(model.mean, 32))
    target = recalibrate(
        files,
        tmp_path / "tiny.safetensors",
        thresholds=files.thresholds,
        temperature=files.temperature,
        familiarity=wide,
        share_cuts=ShareCuts(Cuts(1.0, -1.0), Cuts(1.0, -1.0)),
    )
    export_in_place(find(target))
    pipeline = sgmsnet.load(target, engine="onnxruntime")
    old = sgmsnet.load(tiny_model, engine="onnxruntime")
    image = example_images[0, 0]
    prediction = pipeline.predict(image)
    np.testing.assert_array_equal(prediction.logits, old.predict(image).logits)
    assert prediction.familiarity is not None
    assert 0 <= prediction.familiarity.score <= 1
    assert prediction.record()["infected_share_interval"]["both"] is not None


@pytest.mark.parametrize("broken", ["missing", "shape", "nan"])
def test_statistics_that_do_not_fit_are_an_error_of_the_weights(
    tiny_model: Path, model: FamiliarityModel, tmp_path: Path, broken: str
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tiny_model) | model.tensors()
    if broken == "missing":
        del tensors[f"{PREFIX}bias"]
    elif broken == "shape":
        tensors[f"{PREFIX}weights"] = tensors[f"{PREFIX}weights"][1:]
    else:
        tensors[f"{PREFIX}rest"] = np.array([np.nan], np.float32)
    with safe_open(tiny_model, framework="np") as file:
        save_file(tensors, tmp_path / "bad.safetensors", file.metadata())
    with pytest.raises(WeightsError, match=r"bad\.safetensors.*familiarity\."):
        find(tmp_path / "bad.safetensors")


def test_an_embedding_of_another_length_is_refused(model: FamiliarityModel) -> None:
    with pytest.raises(ValueError, match="embedding"):
        model(np.zeros(7, np.float32), None)
