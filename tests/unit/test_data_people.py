"""Whose images they are, as sources.csv tells: patients, collections and ages, and that nobody is in two parts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sgmsnet.training import data
from sgmsnet.training.data import KNOWN_SOURCES, SourceConfig, find_samples
from tests.needs import data_dir
from tests.unit.data_folders import LUNGS, assert_refused, stems, write


def test_images_of_a_patient_are_one_group(tmp_path: Path) -> None:
    names = ["sub-s03_run-1.png", "sub-S03_ses-E2.png", "sub-S04_ses-E1.png", "covid_1.png"]
    write(tmp_path / "set" / "images", *names)
    write(tmp_path / "set" / "masks", *names)
    groups = {s.image.name: s.group for s in find_samples(LUNGS, root=tmp_path)}
    assert [groups[name] for name in names] == ["sub-s03", "sub-s03", "sub-s04", "covid_1"]


def test_patients_and_ages_are_those_of_the_nearest_sources_csv(tmp_path: Path) -> None:
    names = [f"{name}.png" for name in ("a", "b", "c", "d", "e", "sub-s01_run-1")]
    write(tmp_path / "set" / "images", *names)
    write(tmp_path / "set" / "masks", *names)
    lines = ["stem,source,patient,age", "a,nih,p1,40", "b,nih,p1,17", "c,nih,p2,", "d,am,p3,", "e,ped,,1-5 years"]
    (tmp_path / "sources.csv").write_text("\n".join(lines), encoding="utf-8-sig")  # as Excel writes it
    groups = {s.image.stem: s.group for s in find_samples(LUNGS, root=tmp_path)}
    collections = {s.image.stem: s.collection for s in find_samples(LUNGS, root=tmp_path)}
    assert collections == {"a": "nih", "b": "nih", "c": "nih", "d": "am", "e": "ped", "sub-s01_run-1": ""}
    assert groups == {"a": "p1", "b": "p1", "c": "p2", "d": "p3", "e": "e", "sub-s01_run-1": "sub-s01"}
    by_age = {
        adults: stems(find_samples(SourceConfig(path="set", masks={"lungs": "masks"}, adults=adults), root=tmp_path))
        for adults in (True, False)
    }
    assert by_age == {True: ["a", "d"], False: ["b", "e"]}, "c is of nobody knows what age"
    (tmp_path / "set" / "sources.csv").write_text("stem,patient\na,q9\n", encoding="utf-8")
    assert find_samples(LUNGS, root=tmp_path)[0].group == "q9"


def test_the_held_out_fifth_divides_patients_and_not_their_images(tmp_path: Path) -> None:
    listed = [f"scan_{number}" for number in range(60)]
    named = [f"sub-s{number // 2:02}_run-{number}" for number in range(60)]
    names = [f"{stem}.png" for stem in (*listed, *named)]
    write(tmp_path / "set" / "images", *names)
    write(tmp_path / "set" / "masks", *names)
    lines = ["stem,patient", *(f"{stem},mrn{number // 3}" for number, stem in enumerate(listed))]
    (tmp_path / "set" / "sources.csv").write_text("\n".join(lines), encoding="utf-8")
    train, val = ({s.group for s in find_samples(LUNGS, split=split, root=tmp_path)} for split in ("train", "val"))
    assert train.isdisjoint(val)
    assert len(train | val) == 20 + 30
    assert 3 <= len(val) <= 20


@pytest.mark.parametrize("patients", range(2, 9))
def test_of_few_patients_one_is_held_out_and_one_trains(tmp_path: Path, patients: int) -> None:
    for start in range(20):
        names = [f"scan_{start + number}.png" for number in range(patients)]
        root = tmp_path / str(start)
        write(root / "set" / "images", *names)
        write(root / "set" / "masks", *names)
        train, val = (find_samples(LUNGS, split=split, root=root) for split in ("train", "val"))
        assert train
        assert val
        assert len(train) + len(val) == patients


def test_a_table_that_is_not_in_utf_8_is_refused_and_blanks_around_names_are_not_part_of_them(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "a.png", "b.png")
    write(tmp_path / "set" / "masks", "a.png", "b.png")
    table = tmp_path / "set" / "sources.csv"
    table.write_text("stem,patient\na,Müller\nb,Müller\n", encoding="cp1252")
    assert_refused(LUNGS, tmp_path, "sources.csv", "CSV UTF-8")
    table.write_text("stem,patient\n a.png ,Müller\nb, Müller \n", encoding="utf-8")
    assert [sample.group for sample in find_samples(LUNGS, root=tmp_path)] == ["Müller", "Müller"]


@pytest.mark.parametrize("name", ["lungs", "infection", "healthy"])
def test_nobody_is_in_both_parts_and_some_are_there_more_than_once(name: str) -> None:
    root = data_dir()
    train, val = (find_samples(KNOWN_SOURCES[name], split=split, root=root) for split in ("train", "val"))
    patients = {sample.group for sample in train}
    assert patients.isdisjoint(sample.group for sample in val)
    assert len(patients) < len(train)


def test_healthy_adults_are_as_many_persons_as_the_readme_says() -> None:
    source = SourceConfig(path="healthy", empty=("infection",), adults=True)
    parts = (find_samples(source, split=split, root=data_dir()) for split in ("train", "val"))
    assert [len({sample.group for sample in part}) for part in parts] == [119, 31]


@pytest.mark.parametrize("split", ["train", "val"])
def test_adults_and_children_are_told_apart_as_sources_csv_says(split: data.Split) -> None:
    root = data_dir()
    with (root / "healthy" / "sources.csv").open(newline="", encoding="utf-8") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split]
    children = {
        row["stem"] for row in rows if row["source"] == "ped" or (row["age"].isdigit() and int(row["age"]) < 18)
    }
    adults = {row["stem"] for row in rows} - children
    assert (len(adults), len(children)) == {"train": (161, 252), "val": (31, 58)}[split]  # of the data's README
    for wanted, grown_up in ((adults, True), (children, False)):
        source = SourceConfig(path="healthy", empty=("infection",), adults=grown_up)
        assert set(stems(find_samples(source, split=split, root=root))) == wanted


def test_a_table_of_file_names_is_understood_and_one_without_names_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "val" / "images", "a.png", "b.1.png")
    write(tmp_path / "set" / "val" / "masks", "a.png", "b.1.png")
    table = tmp_path / "set" / "sources.csv"
    table.write_text("stem,patient\na.png,p\nb.1,p\n", encoding="utf-8")
    assert [sample.group for sample in find_samples(LUNGS, split="val", root=tmp_path)] == ["p", "p"]
    table.write_text("image,patient\na,p\n", encoding="utf-8")
    assert_refused(LUNGS, tmp_path, "sources.csv", "stem")
