"""Which masks belong to which image, in every layout of folders that is understood."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgmsnet.training import data
from sgmsnet.training.data import KNOWN_SOURCES, DatasetError, SourceConfig, find_samples
from tests.needs import data_dir
from tests.unit.data_folders import LUNGS, assert_refused, stems, write


def test_train_and_val_folders_are_the_parts(tmp_path: Path) -> None:
    for part, names in (("train", ("a", "b")), ("val", ("c",))):
        write(tmp_path / "set" / part / "images", *(f"{name}.jpg" for name in names))
        write(tmp_path / "set" / part / "masks", *(f"{name}.png" for name in names))
    assert stems(find_samples(LUNGS, split="train", root=tmp_path)) == ["a", "b"]
    assert stems(find_samples(LUNGS, split="val", root=tmp_path)) == ["c"]
    everything = find_samples(LUNGS, split="all", root=tmp_path)
    assert stems(everything) == ["a", "b", "c"]
    for sample in everything:
        assert sample.masks["lungs"] == sample.image.parents[1] / "masks" / f"{sample.image.stem}.png"
        assert sample.labelled == {"lungs"}


def test_plain_folders_hold_out_about_a_fifth_by_name_disjoint_and_complete(tmp_path: Path) -> None:
    names = [f"image{i}.png" for i in range(200)]
    write(tmp_path / "set" / "images", *names)
    write(tmp_path / "set" / "masks", *names)
    train, val, everything = (find_samples(LUNGS, split=split, root=tmp_path) for split in ("train", "val", "all"))
    assert set(stems(train)).isdisjoint(stems(val))
    assert sorted(stems(train) + stems(val)) == sorted(Path(name).stem for name in names) == stems(everything)
    assert 20 <= len(val) <= 60
    for name in names[:100]:  # an image's part does not depend on which others there are
        (tmp_path / "set" / "images" / name).unlink()
    assert set(stems(find_samples(LUNGS, split="val", root=tmp_path))) <= set(stems(val))


def test_qata_as_kaggle_lays_it_out_is_split_in_order_of_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "QATA_TRAIN_IMAGES", 3)
    names = ["covid_1", "covid_10", "covid_2", "sub-s03_run-1", "sub-s04_run-1"]
    write(tmp_path / "set" / "Train Set" / "Images", *(f"{name}.png" for name in reversed(names)))
    write(tmp_path / "set" / "Train Set" / "Ground-truths", *(f"mask_{name}.png" for name in names))
    write(tmp_path / "set" / "Test Set" / "Images", "covid_99.png")
    source = SourceConfig(path="set", masks={"infection": "masks"})
    train, val = (find_samples(source, split=split, root=tmp_path) for split in ("train", "val"))
    assert stems(train) == names[:3]
    assert stems(val) == names[3:]
    for sample in train + val:
        assert sample.masks["infection"].name == f"mask_{sample.image.name}"
        assert sample.masks["infection"].parent.name == "Ground-truths"


def test_the_test_part_is_that_of_its_publisher_and_in_no_other_part_but_all_of_covid_qu_ex(tmp_path: Path) -> None:
    for part in ("Train Set", "Test Set"):
        write(tmp_path / "kaggle" / part / "Images", f"{part[:4]}.png", "no_mask.png")
        write(tmp_path / "kaggle" / part / "Ground-truths", f"mask_{part[:4]}.png")
    for part in ("Train", "Val", "Test"):
        for folder in ("images", "masks"):
            write(tmp_path / "quex" / part / "COVID-19" / folder, f"{part}.png")
            write(tmp_path / "plain" / part.lower() / folder, f"{part}.png")
    found = {
        name: {
            split: stems(
                find_samples(SourceConfig(path=name, masks={"infection": "masks"}), split=split, root=tmp_path)
            )
            for split in ("test", "all")
        }
        for name in ("kaggle", "quex", "plain")
    }
    assert found == {
        "kaggle": {"test": ["Test"], "all": ["Trai"]},
        "quex": {"test": ["Test"], "all": ["Test", "Train", "Val"]},
        "plain": {"test": ["Test"], "all": ["Train", "Val"]},
    }
    kaggle = SourceConfig(path="kaggle", masks={"infection": "masks"})
    [sample] = find_samples(kaggle, split="test", root=tmp_path)
    assert sample.masks["infection"] == tmp_path / "kaggle" / "Test Set" / "Ground-truths" / "mask_Test.png"


def test_qata_can_be_measured_from_its_test_set_alone_and_then_has_no_other_part(tmp_path: Path) -> None:
    write(tmp_path / "set" / "Test Set" / "Images", "a.png")
    write(tmp_path / "set" / "Test Set" / "Ground-truths", "mask_a.png")
    source = SourceConfig(path="set", masks={"infection": "masks"})
    assert stems(find_samples(source, split="test", root=tmp_path)) == ["a"]
    assert_refused(source, tmp_path, "Train Set/Images")


def test_folders_without_a_test_part_have_none(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        write(tmp_path / "set" / folder, "a.png")
        write(tmp_path / "parts" / "train" / folder, "a.png")
    for path in ("set", "parts"):
        with pytest.raises(DatasetError, match="test/images"):
            find_samples(SourceConfig(path=path, masks={"lungs": "masks"}), split="test", root=tmp_path)


def test_qata_without_the_mask_of_an_image_leaves_it_out(tmp_path: Path) -> None:
    write(tmp_path / "set" / "Train Set" / "Images", "a.png", "b.png")
    write(tmp_path / "set" / "Train Set" / "Ground-truths", "mask_b.png")
    assert stems(find_samples(SourceConfig(path="set", masks={"infection": "masks"}), root=tmp_path)) == ["b"]


@pytest.mark.parametrize(
    "inside",
    [
        "",
        "Infection Segmentation Data",
        "Infection Segmentation Data/Infection Segmentation Data",
        "Lung Segmentation Data",
        "Lung Segmentation Data/Lung Segmentation Data",
    ],
)
def test_covid_qu_ex_parts_are_found_at_any_depth_of_the_archive(tmp_path: Path, inside: str) -> None:
    for part, number in (("Train", 1), ("Val", 2), ("Test", 3)):
        for group in ("COVID-19", "Normal"):
            for folder in ("images", "lung masks"):
                write(tmp_path / "set" / inside / part / group / folder, f"{group}_{number}.png")
    source = SourceConfig(path="set", masks={"lungs": "lung masks"})
    assert stems(find_samples(source, split="train", root=tmp_path)) == ["COVID-19_1", "Normal_1"]
    assert stems(find_samples(source, split="val", root=tmp_path)) == ["COVID-19_2", "Normal_2"]
    assert len(find_samples(source, split="all", root=tmp_path)) == 6


def test_the_parts_of_kaggle_s_covid_qu_ex_are_told_apart_by_their_outer_folders(tmp_path: Path) -> None:
    published = data_dir() / "covid_qu_ex_sample" / "Infection Segmentation Data"
    download = tmp_path / "covid_qu_ex"
    for kind in ("Infection Segmentation Data", "Lung Segmentation Data"):  # each twice, as the download has them
        shutil.copytree(published, download / kind / kind)
    for masks in (download / "Lung Segmentation Data").rglob("infection masks"):
        shutil.rmtree(masks)
    both = {"lungs": "lung masks", "infection": "infection masks"}
    found = find_samples(SourceConfig(path="covid_qu_ex", masks=both), root=tmp_path)
    assert {frozenset(sample.masks) for sample in found} == {frozenset(both)}
    lungs = find_samples(SourceConfig(path="covid_qu_ex/Lung Segmentation Data", masks=both), root=tmp_path)
    assert (len(found), len(lungs)) == (12, 12)
    assert {frozenset(sample.masks) for sample in lungs} == {frozenset(["lungs"])}


def test_covid_qu_ex_sample_has_lungs_and_infection_of_twelve_images() -> None:
    source = SourceConfig(path="covid_qu_ex_sample", masks={"lungs": "lung masks", "infection": "infection masks"})
    samples = find_samples(source, root=data_dir())
    assert len(samples) == 12
    for sample in samples:
        assert sample.labelled == {"lungs", "infection"}
        for name, folder in source.masks.items():
            assert sample.masks[name] == sample.image.parents[1] / folder / sample.image.name
        with Image.open(sample.masks["infection"]) as file:
            assert np.asarray(file).any() == (sample.image.parents[1].name == "COVID-19")
        with Image.open(sample.masks["lungs"]) as file:
            assert np.asarray(file).any()


def test_an_image_without_the_mask_of_a_class_is_unlabelled_for_it(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "both.png", "lungs.png", "none.png")
    write(tmp_path / "set" / "lung_masks", "both.png", "lungs.png")
    write(tmp_path / "set" / "outlines", "both.tif")
    source = SourceConfig(path="set", masks={"lungs": "lung_masks", "infection": "outlines"})
    labelled = {s.image.stem: s.labelled for s in find_samples(source, root=tmp_path)}
    assert labelled == {"both": {"lungs", "infection"}, "lungs": {"lungs"}}


def test_a_class_that_is_empty_by_definition_is_known_for_every_image(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "a.png", "b.png")
    write(tmp_path / "set" / "masks", "a.png")
    source = SourceConfig(path="set", masks={"lungs": "masks"}, empty=("infection",))
    first, second = find_samples(source, root=tmp_path)
    assert (first.labelled, first.empty) == ({"lungs", "infection"}, {"infection"})
    assert (second.labelled, second.empty) == ({"infection"}, {"infection"})


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "a.png")
    write(tmp_path / "set" / "masks", "a.png")
    (tmp_path / "set" / "images" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "set" / "images" / "b.txt").write_text("x", encoding="utf-8")
    assert stems(find_samples(LUNGS, root=tmp_path)) == ["a"]


def test_include_keeps_the_stems_that_contain_it(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "ped_1.png", "nih_ped.png", "nih_2.png")
    write(tmp_path / "set" / "masks", "ped_1.png", "nih_ped.png", "nih_2.png")
    source = SourceConfig(path="set", masks={"lungs": "masks"}, include="^ped_")
    assert stems(find_samples(source, root=tmp_path)) == ["ped_1"]


def test_images_without_a_mask_of_their_name_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images", "a.png", "b.png", "c.png", "d.png")
    write(tmp_path / "set" / "masks", "a_mask.png", "b_mask.png")
    assert_refused(LUNGS, tmp_path, "images has a mask of the same name")
    write(tmp_path / "set" / "masks", "a.png")
    assert data.unlabelled(LUNGS, root=tmp_path) == 3
    assert data.unlabelled(replace(LUNGS, empty=("infection",)), root=tmp_path) == 0


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [("qata", 5601, 1429), ("infection", 65, 14), ("lungs", 293, 53), ("healthy", 413, 89)],
)
def test_the_parts_have_as_many_images_as_the_readme_says(name: str, train: int, val: int) -> None:
    root = data_dir()
    counts = {split: len(find_samples(KNOWN_SOURCES[name], split=split, root=root)) for split in ("train", "val")}
    assert counts == {"train": train, "val": val}


def test_healthy_chests_have_no_infection_and_lungs_only_where_a_mask_is() -> None:
    root = data_dir()
    for sample in find_samples(KNOWN_SOURCES["healthy"], root=root):
        assert sample.empty == {"infection"}
        mask = sample.image.parents[1] / "masks" / f"{sample.image.stem}.png"
        assert dict(sample.masks) == ({"lungs": mask} if mask.is_file() else {})
        assert bool(sample.masks) == sample.image.stem.startswith("ped_")


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path) -> None:
    assert_refused(LUNGS, tmp_path, "no such folder", "SGMSNET_DATA")
    (tmp_path / "set").mkdir()
    assert_refused(LUNGS, tmp_path, "train/images")
    write(tmp_path / "set" / "train" / "images", "a.png")
    assert_refused(LUNGS, tmp_path, "no labelled image", "train")
    assert_refused(SourceConfig(path="set", empty=("infection",), adults=True), tmp_path, "sources.csv")
    assert_refused(SourceConfig(path="set", empty=("infection",), include="("), tmp_path, "include")


def test_masks_are_found_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    write(tmp_path / "set" / "val" / "images", "a.PNG", "b.jpg", "c.png")
    write(tmp_path / "set" / "val" / "masks", "a.PNG", "b.TIF", "c.jpg", "c.png")
    found = find_samples(LUNGS, split="val", root=tmp_path)
    assert [sample.masks["lungs"].name for sample in found] == ["a.PNG", "b.TIF", "c.png"]


@pytest.mark.parametrize(("count", "most"), [(10, 3), (10, 7), (89, 60), (5, 5), (3, 9), (7, 1)])
def test_some_of_a_list_are_spread_over_all_of_it(count: int, most: int) -> None:
    chosen = data.spread(range(count), most)
    assert len(chosen) == min(count, most)
    assert len(set(chosen)) == len(chosen)
    if most > 1:
        steps = np.diff(chosen)
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert steps.max() - steps.min() <= 1
    assert data.spread(range(count), None) == data.spread(range(count), 0) == list(range(count))


def test_the_data_root_is_where_sgmsnet_data_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGMSNET_DATA", str(tmp_path))
    write(tmp_path / "set" / "images", "a.png")
    write(tmp_path / "set" / "masks", "a.png")
    assert stems(find_samples(LUNGS)) == ["a"]
    monkeypatch.delenv("SGMSNET_DATA")
    assert re.search(r"shared.data$", str(data.data_root()))
