"""Recipes: what YAML and the command line may say, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sgmsnet.config import ConfigError
from sgmsnet.training.data import DatasetError
from sgmsnet.training.recipe import RECIPES, Recipe, load_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def values(**changes: object) -> dict[str, object]:
    """A recipe as YAML gives it, with some fields changed."""
    return {
        "name": "small",
        "model": {"classes": ["lungs", "infection"]},
        "sources": [
            {"path": "a", "masks": {"lungs": "masks"}},
            {"path": "b", "masks": {"infection": "outlines"}, "weight": 2.5, "include": "^x"},
        ],
        "phases": [{"size": 64, "epochs": 2}, {"size": 96, "epochs": 1}],
        **changes,
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values()), encoding="utf-8")
    return path


def assert_one_sentence(error: BaseException, *words: str) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_survive_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_dict(yaml.safe_load(yaml.safe_dump(recipe.to_dict()))) == recipe


def test_the_shipped_recipes_are_those_that_the_command_names() -> None:
    assert SHIPPED == ["cxr", "lungs", "lungs-cpu", "qata-paper"]


def test_the_shipped_recipe_shows_healthy_adults_more_often_than_children() -> None:
    by_age = {source.adults: source.weight for source in load_recipe("cxr").sources if source.empty}
    assert by_age[True] > by_age[False] > 0


def test_what_the_dictionary_says_is_in_the_recipe_and_comes_back() -> None:
    recipe = Recipe.from_dict(values(augmentation={"flip": 0.5, "gamma": [0.5, 2.0]}, class_weights={"lungs": 0.5}))
    assert [source.weight for source in recipe.sources] == [1.0, 2.5]
    assert recipe.augmentation.gamma == (0.5, 2.0)
    assert recipe.class_weights == {"lungs": 0.5}
    written = recipe.to_dict()
    assert written["augmentation"]["flip"] == 0.5
    assert written["sources"][1]["masks"] == {"infection": "outlines"}
    assert Recipe.from_dict(written) == recipe


def test_size_follows_the_phases_and_keeps_the_last_beyond_the_end() -> None:
    recipe = Recipe.from_dict(values())
    assert recipe.epochs == 3
    assert [recipe.size(epoch) for epoch in range(5)] == [64, 64, 96, 96, 96]


def test_a_network_is_used_at_the_size_that_it_is_trained_at_last(written: Path) -> None:
    assert (Recipe.from_dict(values()).model.height, Recipe.from_dict(values()).model.width) == (96, 96)
    assert load_recipe(written, ["phases.1.size=160"]).model.height == 160
    assert load_recipe(written, ["model.height=64"]).model.height == 64, "unless it is said"
    for name in SHIPPED:
        recipe = load_recipe(name)
        assert recipe.model.height == recipe.model.width == recipe.phases[-1].size


def test_overrides_reach_plain_fields_lists_and_nested_ones(written: Path) -> None:
    recipe = load_recipe(
        written,
        [
            "batch_size=3",
            "model.decoder_widths=[8, 8, 16, 16]",
            "phases.1.epochs=7",
            "sources.0.masks.lungs=other",
            "augmentation.flip=0.5",  # the file has no augmentation
        ],
    )
    assert recipe.batch_size == 3
    assert recipe.model.decoder_widths == (8, 8, 16, 16)
    assert [phase.epochs for phase in recipe.phases] == [2, 7]
    assert recipe.sources[0].masks == {"lungs": "other"}
    assert recipe.augmentation.flip == 0.5


def test_numbers_in_scientific_notation_are_numbers(written: Path) -> None:
    assert yaml.safe_load("1e-3") == "1e-3", "YAML 1.1 takes it for text, which is why this test is here"
    assert load_recipe(written, ["learning_rate=1e-3"]).learning_rate == 0.001


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("batchsize=3", "batchsize"),
        ("nowhere.at.all=3", "nowhere"),
        ("model.colour=red", "colour"),
        ("augmentation.twist=3", "twist"),
        ("phases.5.epochs=1", "phases.5.epochs"),
        ("phases.first.epochs=1", "phases.first.epochs"),
        ("name.first=1", "name.first"),
        ("phases.0=3", "Phase"),
        ("batch_size", "key=value"),
        ("batch_size=[", "YAML"),
        ("batch_size=many", "batch_size"),
        ("batch_size=2.5", "whole number"),
        ("batch_size=0", "batch_size"),
        ("phases.0.size=50", "multiple of 32"),
        ("phases.0.epochs=0", "epochs"),
        ("phases=[]", "epochs"),
    ],
)
def test_an_override_that_does_not_fit_is_refused_in_one_sentence(written: Path, override: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(written, [override])
    assert_one_sentence(caught.value, word)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"optimiser": "sgd"}, "optimiser"),
        ({"model": {"classes": ["lungs", "infection", "heart"]}}, "heart"),
        ({"sources": [{"path": "a", "masks": {"lungs": "masks"}, "colour": 1}]}, "colour"),
        ({"sources": []}, "infection"),
        ({"pseudo_label_weight": -0.1}, "pseudo_label_weight"),
        ({"phases": [{"size": 64, "epochs": 1, "speed": 3}]}, "speed"),
    ],
)
def test_unknown_fields_and_classes_without_a_source_are_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(values(**change))
    assert_one_sentence(caught.value, word)


def test_a_missing_field_is_named() -> None:
    nameless = values()
    del nameless["name"]
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(nameless)
    assert_one_sentence(caught.value, "name")


@pytest.mark.parametrize(
    "source",
    [
        {"path": "a"},
        {"path": "a", "masks": {"lungs": "masks"}, "weight": -1},
        {"path": "a", "empty": "infection"},
        {"path": "a", "masks": "masks"},
    ],
    ids=["no label", "weight", "a word for a list", "a word for folders"],
)
def test_a_source_that_labels_nothing_or_weighs_less_than_nothing_is_refused(source: dict[str, object]) -> None:
    with pytest.raises(DatasetError) as caught:
        Recipe.from_dict(values(sources=[source]))
    assert_one_sentence(caught.value, "source a")


@pytest.mark.parametrize(
    ("content", "words"), [("- 1\n- 2\n", "does not hold a recipe"), ("a: [1\nb: 2", "not valid YAML")]
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert_one_sentence(caught.value, "odd.yaml", words)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("nonsense")
    assert_one_sentence(caught.value, "nonsense", *SHIPPED)
