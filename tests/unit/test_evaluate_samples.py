"""Which images are evaluated: by a data set's name, its folder or the folder of a part, and by age where known."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgmsnet.pipeline import Pipeline
from sgmsnet.training.data import DatasetError, SourceConfig, find_samples
from sgmsnet.training.evaluate import evaluate, samples_of, split_of
from tests.unit.evaluating import rows, save, xray


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


def test_of_a_folder_of_pairs_val_is_what_training_held_out(tmp_path: Path) -> None:
    for number in range(30):
        for folder in ("images", "masks"):
            save(tmp_path / "mine" / folder / f"{number}.png", rows(1, 2))
    source = SourceConfig(path="mine", masks={"infection": "masks"})
    for split in ("train", "val"):
        expected = {sample.image for sample in find_samples(source, split=split, root=tmp_path)}
        assert {sample.image for sample in samples_of(tmp_path / "mine", split=split)} == expected
        assert 0 < len(expected) < 30
        assert split_of(tmp_path / "mine", split) == split
    assert len(samples_of(tmp_path / "mine")) == 30
    assert split_of(tmp_path / "mine", None) == "all"
    with pytest.raises(DatasetError, match="test/images"):
        samples_of(tmp_path / "mine", split="test")


def test_a_flat_or_linked_data_set_is_known_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path / "data"))
    for folder in ("images", "masks"):
        save(tmp_path / "data" / "lungs" / folder / "a.png", rows(1, 2))
        save(tmp_path / "elsewhere" / "2026" / folder / "a.png", rows(1, 2))
    (tmp_path / "data" / "healthy").symlink_to(tmp_path / "elsewhere" / "2026")
    assert samples_of("lungs")[0].labelled == {"lungs"}
    assert samples_of("healthy")[0].labelled == {"lungs", "infection"}
    monkeypatch.chdir(tmp_path / "data" / "lungs")
    assert samples_of(".")[0].labelled == {"lungs"}


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
