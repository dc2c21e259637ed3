"""Which files predict takes from what it is given, and that the results of no two of them have one name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import export.__main__
from export import cases
from sgmsnet.commands.inputs import collect, looks_like_image, output_names
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT, data_dir
from tests.unit.evaluating import save
from tests.unit.predicting import load_engine, predict, records, save_chest


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return load_engine(monkeypatch)


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    return save_chest(tmp_path)


def test_folders_are_searched_to_their_depth_and_other_files_left_alone(engine: FakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder / "b.PNG", draw_xray(40, 40))
    save(folder / "deep" / "er" / "a.jpg", draw_xray(40, 40))
    (folder / "notes.txt").write_text("no image")
    (folder / "README").write_text("no image")
    dicom = data_dir() / "dicom"
    source = next(path for path in sorted(dicom.iterdir()) if path.suffix == ".dcm")
    (folder / "IM0001").write_bytes(source.read_bytes())
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert predict(folder, "--output", folder / "out") == 0
    first = [record["image"] for record in records(folder / "out")]
    assert first == ["IM0001", "b.PNG", "a.jpg"]
    assert predict(folder, "--output", folder / "out") == 0  # the first run's results are no inputs
    assert [record["image"] for record in records(folder / "out")] == first


UIDS = ("1.2.826.0.1.3680043.8.498.1234", "CR.1.2.840.113619.2.7", "IMG1.IMA", "b.dic")


def test_dicom_files_in_folders_are_found_by_content_whatever_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    chest = (ROOT / "examples" / "covid_adult_1.dcm").read_bytes()
    folder.mkdir()
    for name in (*UIDS, "DICOMDIR", "dicomdir", "Dicomdir.dcm"):
        (folder / name).write_bytes(chest)
    for name in ("1.2.3", "notes.txt", "short.IMA"):
        (folder / name).write_text("no image")
    found = collect([folder], leave_out=tmp_path / "out")
    assert {path.name for path in found} == {*UIDS, "Dicomdir.dcm"}
    assert all(looks_like_image(path) for path in found)
    # The last number of a UID stays: without it, the results of a study would be called by its series.
    assert output_names([folder / name for name in UIDS]) == [*UIDS[:2], "IMG1", "b"]


def test_export_takes_from_a_folder_what_predict_takes(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    for name in UIDS:
        (folder / name).write_bytes((ROOT / "examples" / "covid_adult_1.dcm").read_bytes())
    (folder / "notes.txt").write_text("no image")
    files = SimpleNamespace(config=SimpleNamespace(height=64, width=64, classes=("lungs",)))
    assert len(cases.read([tmp_path], files)) == len(UIDS)
    assert export.__main__._prepared([tmp_path], files).shape == (len(UIDS), 1, 64, 64)


def test_colliding_stems_keep_their_suffix_or_get_their_folder(engine: FakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "a.jpg", "x/b.png", "y/z/b.png", "c.png"):
        save(folder / name, draw_xray(40, 40))
    assert predict(folder, "--output", tmp_path / "out", "--write", "masks") == 0
    written = {path.name for path in (tmp_path / "out").glob("*_lungs.png")}
    assert written == {f"{name}_lungs.png" for name in ("a.png", "a.jpg", "x__b", "y__z__b", "c")}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "x/y", "x__y"]),
            st.sampled_from(["a", "A", "b", "a.png", "x__a", "a__2"]),
            st.sampled_from([".png", ".jpg", ".PNG", ""]),
        ),
        unique=True,
    )
)
def test_output_names_are_all_different(parts: list[tuple[str, str, str]]) -> None:
    files = [Path("/in") / folder / (stem + suffix) for folder, stem, suffix in parts]
    names = output_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    assert all("/" not in name for name in names)


def test_a_file_given_twice_is_taken_once(xray: Path, tmp_path: Path) -> None:
    assert collect([xray, xray.parent, xray], leave_out=tmp_path / "out") == [xray]


def test_no_input_found_ends_with_2(engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", "--output", tmp_path / "out") == 2
    assert "No image was found" in capfd.readouterr().err
    assert predict(tmp_path / "gone.png", "--output", tmp_path / "out") == 2
    assert "gone.png" in capfd.readouterr().err


def test_results_never_take_the_place_of_an_input(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", draw_xray(40, 40))
    mask = save(tmp_path / "a_lungs.png", draw_xray(40, 40))
    before = mask.read_bytes()
    assert predict(tmp_path / "a.png", mask, "--output", tmp_path) == 2
    assert "overwrite the input a_lungs.png" in capfd.readouterr().err
    assert mask.read_bytes() == before
