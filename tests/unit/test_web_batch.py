"""Batches: what archives may contain, what becomes of each file, what the zip holds, and what is left on the disk."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import struct
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sgmsnet import imaging
from sgmsnet.pipeline import Pipeline
from sgmsnet.web import batch, batch_inputs
from sgmsnet.web.batch import State
from sgmsnet.web.batch_inputs import BatchError, Item, ItemError, collect, stems
from sgmsnet.web.desk import Desk
from tests.fakes import FakeEngine, draw_xray
from tests.needs import ROOT
from tests.unit.dicom_files import made, written

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))


def open_pipeline(name: str) -> Pipeline:
    return Pipeline(FakeEngine(refuse=99), thresholds={"lungs": 0.5, "infection": 0.5}, temperature={})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(open_pipeline, probe=list, first="auto", examples=tmp_path / "none")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The one folder that a batch may write into."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def png(pixels: np.ndarray | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_xray(40, 50) if pixels is None else pixels).save(buffer, "png")
    return buffer.getvalue()


def packed(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, field: int, value: bytes) -> Path:
    """The archive with bytes of its first entry in the table of contents replaced; field counts from its start."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + field
    data[at : at + len(value)] = value
    path.write_bytes(data)
    return path


def problem_of(item: Item) -> str:
    with pytest.raises(ItemError) as caught:
        item.read()
    text = str(caught.value)
    assert text.startswith(f"{item.name}: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text.removeprefix(f"{item.name}: ")


def finished(desk: Desk, uploads: list[Path], work: Path, into: Path) -> tuple[State, dict[str, bytes]]:
    """The last state of a batch, and its archive's files; nothing else is left in `work`."""
    states, files = [], {}
    for state in batch.run(desk, uploads, engine="auto", folder=work):
        states.append(state)
        if state.archive:
            with zipfile.ZipFile(state.archive) as archive:
                assert archive.testzip() is None
                files = {name: archive.read(name) for name in archive.namelist()}
    assert [path for path in work.rglob("*") if path.is_file()] == [states[-1].archive]
    assert [state.through for state in states] == sorted(state.through for state in states)
    return states[-1], files


def test_files_and_archives_become_one_zip_of_results(desk: Desk, work: Path, tmp_path: Path) -> None:
    single = tmp_path / "first.png"
    single.write_bytes(png(draw_xray(60, 80, sick=((0.2, 0.4, 0.4, 0.6),))))
    archive = packed(
        tmp_path / "more.zip", {"ward/b.png": png(), "ward/deep/b.PNG": png(), "ward/": b"", "Ärztin 7.png": png()}
    )
    state, files = finished(desk, [single, archive], work, tmp_path)
    assert [row.status for row in state.rows] == ["done"] * 4
    assert [row.name for row in state.rows] == ["first.png", "ward/b.png", "ward/deep/b.PNG", "Ärztin 7.png"]
    drawn = {"first", "b", "b_2", "Ärztin_7"}
    assert set(files) == {
        *(f"masks/{stem}_{name}.png" for stem in drawn for name in ("lungs", "infection")),
        *(f"overlays/{stem}.jpg" for stem in drawn),
        "predictions.csv",
        "predictions.jsonl",
    }
    expected = open_pipeline("").predict(single)
    with Image.open(io.BytesIO(files["masks/first_infection.png"])) as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, expected.masks["infection"])
    records = [json.loads(line) for line in files["predictions.jsonl"].decode().splitlines()]
    for record in records:
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
    assert records[0]["areas_px"] == expected.measurements.areas_px
    lines = list(csv.DictReader(io.StringIO(files["predictions.csv"].decode())))
    assert [line["file"] for line in lines] == [row.name for row in state.rows]
    assert [line["results"] for line in lines] == ["first", "b", "b_2", "Ärztin_7"]
    assert int(lines[0]["areas_px.infection"]) == expected.measurements.areas_px["infection"]
    assert float(lines[0]["infected_share.both"]) == expected.measurements.infected_share.both


def test_a_bad_file_does_not_stop_the_others(desk: Desk, work: Path, tmp_path: Path) -> None:
    members = {
        "a.png": png(),
        "letter.png": b"Dear reader",
        "cut.png": png()[:60],
        "refused.png": png(np.full((224, 224), 99, np.uint8)),
        "inner.zip": packed(tmp_path / "inner.zip", {"x.png": png()}).read_bytes(),
        "z.png": png(),
    }
    state, files = finished(desk, [packed(tmp_path / "mixed.zip", members)], work, tmp_path)
    assert [row.status for row in state.rows] == ["done", "failed", "failed", "failed", "failed", "done"]
    assert [row.note for row in state.rows[1:3]] == [
        "this is not a PNG, JPEG, TIFF or DICOM file.",
        "the PNG file is damaged or ends early.",
    ]
    assert state.rows[3].note == "the runtime refused an image"
    assert state.rows[4].note == "an archive inside an archive is not opened."
    records = [json.loads(line) for line in files["predictions.jsonl"].decode().splitlines()]
    assert [record["error"] is None for record in records] == [True, False, False, False, False, True]
    lines = list(csv.DictReader(io.StringIO(files["predictions.csv"].decode())))
    assert lines[1]["error"]
    assert lines[1]["areas_px.lungs"] == ""
    assert "areas_px" not in lines[1]


def test_what_the_header_says_against_a_chest_stands_in_the_row(desk: Desk, work: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(written(made(ViewPosition="LL")))
    state, _ = finished(desk, [path], work, tmp_path)
    note = f"{batch.NOT_A_CHEST}. The file's header says that this is a lateral view."
    assert [(row.status, row.note) for row in state.rows] == [("done", note)]


def test_litter_of_operating_systems_is_left_out(tmp_path: Path) -> None:
    members = {"a.png": png(), "__MACOSX/._a.png": b"x", ".DS_Store": b"x", "in/Thumbs.db": b"x", "DICOMDIR": b"x"}
    assert [item.name for item in collect([packed(tmp_path / "mac.zip", members)])] == ["a.png"]
    with pytest.raises(BatchError, match=r"^There is no image in what was uploaded\.$"):
        collect([packed(tmp_path / "empty.zip", {})])
    with pytest.raises(BatchError, match="There is no image"):
        collect([])


@pytest.mark.parametrize(
    "name", ["../../etc/x.png", "/etc/x.png", "in/../../x.png", "..\\..\\x.png", "C:\\x.png", "\\x.png"]
)
def test_a_path_that_leads_out_is_refused_and_nothing_is_written(
    desk: Desk, work: Path, tmp_path: Path, name: str
) -> None:
    before = set(tmp_path.rglob("*")) - set(work.rglob("*"))
    archive = packed(tmp_path / "evil.zip", {name: png(), "good.png": png()})
    state, files = finished(desk, [archive], work, tmp_path)
    assert [row.status for row in state.rows] == ["failed", "done"]
    assert state.rows[0].note == "its path leads out of the archive."
    assert set(tmp_path.rglob("*")) - before - set(work.rglob("*")) == {archive}
    assert all(not entry.startswith(("/", "..")) for entry in files)


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    [item] = collect([tmp_path / "link.zip"])
    assert problem_of(item) == "it is a link and not a file."


def test_an_encrypted_member_is_one_sentence(tmp_path: Path) -> None:
    archive = patched(packed(tmp_path / "locked.zip", {"a.png": png()}), 8, struct.pack("<H", 1))
    [item] = collect([archive])
    assert problem_of(item) == "it is encrypted; please unpack the archive first."


def test_an_unknown_packing_is_one_sentence(tmp_path: Path) -> None:
    archive = patched(packed(tmp_path / "odd.zip", {"a.png": png()}), 10, struct.pack("<H", 97))
    [item] = collect([archive])
    assert problem_of(item) == "it is packed in a way that is not read."


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(2**20)
    archive = packed(tmp_path / "bomb.zip", {f"{number}.png": zeros for number in range(9)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<I", 2**20), struct.pack("<I", 60 * 2**20)))
    assert archive.stat().st_size < 2**15
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(BatchError, match=r"^Unpacked, this is 540 MB; a batch takes at most 500 MB\.$"):
        collect([archive])


def test_no_more_is_unpacked_than_the_archive_said(tmp_path: Path) -> None:
    archive = packed(tmp_path / "liar.zip", {"a.png": bytes(10 * 2**20)})
    [item] = collect([patched(archive, 24, struct.pack("<I", 1000))])
    assert item.size == 1000
    assert problem_of(item) == "it is damaged in its archive."


def test_a_member_larger_than_an_image_may_be_is_not_read(tmp_path: Path) -> None:
    archive = packed(tmp_path / "large.zip", {"a.png": bytes(imaging.MAX_BYTES + 1)})
    [item] = collect([archive])
    assert problem_of(item) == "the file is larger than 64 MB."


def test_too_many_files_are_refused_at_once(tmp_path: Path) -> None:
    archive = packed(tmp_path / "many.zip", {f"{number}.png": b"x" for number in range(201)})
    with pytest.raises(BatchError, match=r"^These are 201 files; a batch takes at most 200\.$"):
        collect([archive])
    with pytest.raises(BatchError, match="These are 201 files"):
        collect([packed(tmp_path / "most.zip", {f"{n}.png": b"x" for n in range(200)}), _touched(tmp_path / "a.png")])


def _touched(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


def test_a_table_of_contents_without_end_is_never_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "long.zip", {"a.png": b"x"})
    data = bytearray(archive.read_bytes())
    data[-10:-6] = struct.pack("<I", 2**27)
    archive.write_bytes(data)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was opened"))
    [item] = collect([archive])
    assert problem_of(item) == "the archive lists far too many files; a batch takes at most 200."


def test_the_64_bit_form_is_named(tmp_path: Path) -> None:
    archive = packed(tmp_path / "sixtyfour.zip", {"a.png": b"x"})
    data = archive.read_bytes()
    archive.write_bytes(data[:-22] + b"PK\x06\x07" + bytes(16) + data[-22:])
    [item] = collect([archive])
    assert problem_of(item) == "archives in the 64-bit form are not read; pack fewer files."


@pytest.mark.parametrize("cut", [5, 40, 200])
def test_a_cut_or_scrambled_archive_is_one_sentence(tmp_path: Path, cut: int) -> None:
    data = packed(tmp_path / "whole.zip", {"a.png": png(), "b.png": png()}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[:-cut])
    [item] = collect([tmp_path / "cut.zip"])
    assert "archive" in problem_of(item)


@settings(max_examples=60)
@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_raises_anything_but_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    data = bytearray(packed(folder / "a.zip", {"a.png": png(), "b.png": b"PK\x03\x04"}).read_bytes())
    for at, value in damage:
        data[at % len(data)] = value
    (folder / "a.zip").write_bytes(data)
    with contextlib.suppress(BatchError):
        for item in collect([folder / "a.zip"]):
            with contextlib.suppress(ItemError):
                assert len(item.read()) <= item.size + 1


def test_endless_and_odd_names_are_shortened_for_people_and_for_files(tmp_path: Path) -> None:
    names = ["x" * 3996 + ".png", "日本" * 500 + ".png", "a\nb\u202ec.png", "nul.png", "....png", "%00.png", "CON"]
    archive = packed(tmp_path / "names.zip", {name: png() for name in names})
    items = collect([archive])
    assert all(len(item.name) <= 120 and item.name.isprintable() for item in items)
    assert items[0].name.endswith(".png")
    for stem in stems(item.name for item in items):
        assert 0 < len(f"{stem}_infection.png".encode()) <= 255
    assert stems(["CON", "nul.png", "a\nb.png", "../x/é.dcm", "É.png", "", "...", "chest.v2"]) == [
        "_CON", "_nul", "a_b", "é", "É_2", "image", "image_2", "chest.v2",
    ]  # fmt: skip


@settings(max_examples=40)
@given(st.lists(st.text(max_size=60) | st.text(st.sampled_from("aA./\\éE\0"), max_size=300), max_size=8))
def test_stems_differ_and_lead_nowhere(names: list[str]) -> None:
    found = stems(names)
    assert len({stem.casefold() for stem in found}) == len(names)
    for stem in found:
        assert not set(stem) & set('/\\\0:*?"<>|\n')
        assert stem.strip(". ") == stem
        assert len(stem.encode()) <= 130


def test_a_formula_in_a_name_stays_text_in_the_table() -> None:
    from sgmsnet.prediction import failure_record

    records = [failure_record("=HYPERLINK(1)", '-bad, "one"')]
    [line] = csv.DictReader(io.StringIO(batch.table(["@a"], ["a"], records)))
    assert (line["file"], line["image"], line["error"]) == ("'@a", "'=HYPERLINK(1)", '\'-bad, "one"')


def test_a_batch_that_is_left_early_leaves_nothing(desk: Desk, work: Path, tmp_path: Path) -> None:
    going = batch.run(desk, [packed(tmp_path / "a.zip", {"a.png": png(), "b.png": png()})], engine="auto", folder=work)
    next(going)
    next(going)
    assert len(list(work.iterdir())) == 1
    going.close()  # type: ignore[attr-defined]
    assert list(work.iterdir()) == []


def test_two_batches_never_share_a_path(desk: Desk, work: Path, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.zip", {"a.png": png()})
    runs = [batch.run(desk, [archive], engine="auto", folder=work) for _ in range(2)]
    last: dict[int, State] = {}
    for step in range(3):
        for number, run in enumerate(runs):
            last[number] = next(run)
            assert step < 2 or last[number].archive
    assert last[0].archive != last[1].archive
    assert last[0].archive
    assert last[1].archive
    assert last[0].archive.name != last[1].archive.name


def test_uploads_that_are_gone_are_one_sentence(desk: Desk, work: Path, tmp_path: Path) -> None:
    [state] = batch.run(desk, [tmp_path / "gone.png"], engine="auto", folder=work)
    assert state.problem == "The files are no longer on the server; please upload them again."
    assert batch_inputs.MAX_FILES == 200
