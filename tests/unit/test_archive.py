"""Archive jobs: killed at any moment, in shards, resumed: every file has its results and exactly one record."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import sgmsnet
from sgmsnet.archive import ArchiveError, log
from sgmsnet.archive.files import Item, Shard, stream
from sgmsnet.archive.log import Log, read
from sgmsnet.archive.table import write_csv, write_parquet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, draw_xray, info_with
from tests.needs import ROOT

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))
PROGRAM = """
import sys, time, sgmsnet
from sgmsnet.cli import main
from sgmsnet.pipeline import Pipeline
from tests.fakes import FakeEngine, info_with
class Slow(FakeEngine):
    def run(self, images):
        time.sleep(0.004 * len(images))
        return super().run(images)
sgmsnet.load = lambda *_, **__: Pipeline(Slow(info_with(height=32, width=32)), thresholds={}, temperature={})
print("ready", flush=True)
sys.exit(main(["predict", *sys.argv[1:]]))
"""
EMPTY_RECORD: dict[str, object] = {"image": "a.png", "error": None}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(info_with(height=32, width=32))
    monkeypatch.setattr(sgmsnet, "load", lambda *_, **__: Pipeline(fake, thresholds={}, temperature={}))
    return fake


def archive(folder: Path, count: int) -> set[str]:
    """X-rays in folders of a hundred, one of them no image; their names."""
    names = set()
    folder.mkdir(parents=True)
    Image.fromarray(draw_xray(40, 40)).save(folder.parent / "one.png")
    pixels = (folder.parent / "one.png").read_bytes()
    for number in range(count):
        path = folder / f"{number // 100}" / f"x{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pixels if number != 7 else b"no image")
        names.add(path.relative_to(folder).as_posix())
    return names


def predict(*arguments: object) -> int:
    return main(["predict", "--write", "masks", *map(str, arguments)])


def records(out: Path) -> list[dict[str, object]]:
    """Of all done-lists of a folder, in the schema."""
    found = []
    for path in sorted(out.glob("predictions*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
            jsonschema.Draft202012Validator(SCHEMA).validate(found[-1])
    return found


def assert_each_once(out: Path, names: set[str]) -> None:
    found = records(out)
    assert sorted(str(record["path"]) for record in found) == sorted(names)
    for record in found:
        whole = [(out / f"{record['path']}_{label}.png").is_file() for label in ("lungs", "infection")]
        assert whole == [record["error"] is None] * 2
    assert sum(record["error"] is not None for record in found) == 1
    with (out / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        assert sorted(row["path"] for row in csv.DictReader(stream)) == sorted(names)
    assert not list(out.rglob("*.part*"))


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "--write", "masks", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_job_that_is_killed_again_and_again_ends_with_every_file_once(tmp_path: Path) -> None:
    names, out = archive(tmp_path / "in", 300), tmp_path / "out"
    chance = random.Random(1)
    kills = 0
    for _ in range(8):
        job = start(tmp_path / "in", "--archive", "--output", out, "--batch-size", 4)
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        if kills < 4:
            time.sleep(chance.uniform(0.05, 0.7))
            job.send_signal(signal.SIGKILL)
        _, errors = job.communicate(timeout=120)
        if job.returncode == -signal.SIGKILL:
            kills += 1
            continue
        assert job.returncode == 1, errors
        break
    assert kills >= 2
    assert_each_once(out, names)


def test_shards_cover_everything_once_and_a_run_without_shards_finds_nothing_left(
    engine: FakeEngine, tmp_path: Path
) -> None:
    names, out = archive(tmp_path / "in", 120), tmp_path / "out"
    for number in (1, 2, 3):
        predict(tmp_path / "in", "--shard", f"{number}/3", "--output", out)
    sizes = [len((out / f"predictions-{i}-of-3.jsonl").read_text().splitlines()) for i in (1, 2, 3)]
    assert sum(sizes) == 120
    assert min(sizes) > 20
    ran = sum(engine.batches)
    predict(tmp_path / "in", "--archive", "--output", out)
    assert sum(engine.batches) == ran == 119
    assert_each_once(out, names)


@given(names=st.lists(st.text(min_size=1), unique=True), of=st.integers(1, 9))
def test_a_name_is_in_exactly_one_shard(names: list[str], of: int) -> None:
    for name in names:
        if name.isprintable():
            assert [Shard(number, of).holds(name) for number in range(1, of + 1)].count(True) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_shards_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ArchiveError):
        Shard.parse(text)


def test_a_list_is_taken_line_by_line_and_a_file_named_twice_is_done_once(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "in", 3)
    monkeypatch.chdir(tmp_path)
    absolute = tmp_path / "in" / "0" / "x2.png"
    (tmp_path / "list.txt").write_text(f"in/0/x0.png\r\n\nin/0/x1.png\nin/0/../0/x0.png\n{absolute}\n")
    assert predict("--list", "list.txt", "--output", "out") == 0
    assert {str(record["path"]) for record in records(tmp_path / "out")} == {
        "in/0/x0.png",
        "in/0/x1.png",
        absolute.relative_to(absolute.anchor).as_posix(),
    }
    assert sum(engine.batches) == 3


def test_nothing_lies_outside_the_output_whatever_the_list_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    (tmp_path / "list.txt").write_text("../up.png\n/root.png\n../../../../../../../../up.png\n")
    names = [item.name for item in stream([], listing=tmp_path / "list.txt", leave_out=tmp_path)]
    assert len(names) == 3
    assert not any(name.startswith("/") or ".." in name for name in names)


def test_failures_are_done_until_they_are_retried(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 9)
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 1
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / "0" / "x7.png")
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 1
    assert predict(tmp_path / "in", "--retry", "--output", tmp_path / "out") == 0
    assert sum(engine.batches) == 9
    assert [record["error"] for record in records(tmp_path / "out")] == [None] * 9


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--threshold", "infection=0.7"], "thresholds"), (["--write", "overlay"], "write"), (["--strict"], "strict")],
)
def test_results_of_other_options_are_not_mixed(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    archive(tmp_path / "in", 2)
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 0
    assert (
        main(
            [
                "predict",
                str(tmp_path / "in"),
                "--write",
                "masks",
                "--archive",
                "--output",
                str(tmp_path / "out"),
                *options,
            ]
        )
        == 2
    )
    error = capfd.readouterr().err
    assert f"begun with another {reason}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gone", "--archive"], "There is no gone"),
        (["--list", "gone.txt"], "There is no list"),
        (["in", "--shard", "3/2"], "no shard 3 of 2"),
        (["in", "in/0", "--archive"], "hold the same files"),
        (["in", "--archive", "--workers", "0"], "--workers"),
        (["empty", "--archive"], "No image was found"),
    ],
)
def test_jobs_that_make_no_sense_end_with_one_sentence(
    engine: FakeEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    archive(tmp_path / "in", 2)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert predict(*arguments, "--output", "out") == 2
    error = capfd.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_two_jobs_do_not_write_one_list(tmp_path: Path) -> None:
    with Log(tmp_path, Shard()), pytest.raises(ArchiveError, match="Another job"):
        Log(tmp_path, Shard())
    with Log(tmp_path, Shard()), Log(tmp_path, Shard(1, 2)):
        pass


@pytest.mark.parametrize("torn", [b'{"path": "b.png", "er', b"\0" * 40, b'{"path": 1}\n', b"\0\0\n\0"])
def test_a_torn_end_is_cut_away_and_damage_within_is_told(tmp_path: Path, torn: bytes) -> None:
    with Log(tmp_path, Shard()) as log:
        assert log.take("a.png")
        log.add("a.png", EMPTY_RECORD, tmp_path)
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Log(tmp_path, Shard()) as log:
        assert path.read_bytes() == whole
        assert not log.take("a.png")
        assert log.take("b.png")
    path.write_bytes(whole + torn.rstrip(b"\n") + b"\n" + whole)
    with pytest.raises(ArchiveError, match="damaged"):
        Log(tmp_path, Shard())


def test_a_table_has_a_column_for_every_value_and_parquet_their_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    with Log(tmp_path, Shard()) as log:
        log.add(
            "=a.png", {"image": "=a.png", "areas": {"lungs": 3}, "both": [0.5, 1], "ok": True, "error": None}, tmp_path
        )
        log.add("b.png", {"image": "b.png", "areas": None, "both": None, "ok": None, "error": "no"}, tmp_path)
    logs = [tmp_path / "predictions.jsonl"]
    with write_csv(logs, tmp_path / "t.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "image", "areas.lungs", "both.0", "both.1", "ok", "error"]
    assert list(rows[0].values()) == ["'=a.png", "'=a.png", "3", "0.5", "1", "True", ""]
    table = pyarrow.parquet.read_table(write_parquet(logs, tmp_path / "t.parquet"))
    assert table.column_names == list(rows[0])
    assert [list(row.values()) for row in table.to_pylist()] == [
        ["=a.png", "=a.png", 3, 0.5, 1, True, None],
        ["b.png", "b.png", None, None, None, None, "no"],
    ]


def test_folders_are_walked_without_links_and_without_the_results(tmp_path: Path) -> None:
    archive(tmp_path / "in", 2)
    (tmp_path / "in" / "out").mkdir()
    (tmp_path / "in" / "out" / "x_lungs.png").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_bytes(b"")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in", target_is_directory=True)
    found = stream([tmp_path / "in"], listing=None, leave_out=tmp_path / "in" / "out")
    assert sorted(found, key=lambda item: item.name) == [
        Item((tmp_path / "in" / name).resolve(), name) for name in ("0/x0.png", "0/x1.png")
    ]


def test_memory_does_not_grow_with_the_archive(engine: FakeEngine, tmp_path: Path) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        folder = tmp_path / f"{count}-{len(list(tmp_path.iterdir()))}"
        archive(folder / "in", count)
        tracemalloc.start()
        predict(folder / "in", "--archive", "--output", folder / "out", "--workers", 1)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(401)  # what is imported and cached once
    # A hundred bytes for each name that is done, nothing of its image. How many images are in hand at the peak is the
    # threads' chance, so the least of some runs is taken.
    few, many = [peak(100)], [peak(400)]
    while min(many) - min(few) >= 200_000 and len(many) < 10:
        few.append(peak(100))
        many.append(peak(400))
    assert min(many) - min(few) < 200_000, (few, many)


def test_progress_tells_rate_and_time_left_in_plain_lines(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sgmsnet.archive.job.LINE_EVERY_S", 0.0)
    archive(tmp_path / "in", 20)
    predict(tmp_path / "in", "--archive", "--output", tmp_path / "out")
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("20 of 20 (100 %), ")
    assert "images/s, 0 s left, 1 failed" in last


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync is for, a power cut, no test can see; the order of calls is that of the subprocess test."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_results_are_on_the_disk_before_their_record(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name))
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell what a descriptor is of")
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "a.png")
    predict(tmp_path / "a.png", "--archive", "--output", tmp_path / "out")
    of_results = [synced.index(f"a.png_{label}.png") for label in ("lungs", "infection")]
    assert max(of_results) < synced.index("predictions.jsonl")
    assert np.asarray(Image.open(tmp_path / "out" / f"{(tmp_path / 'a.png').as_posix().lstrip('/')}_lungs.png")).any()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", [["--archive"], ["--shard", "1/2"], ["--retry"]])
def test_an_archive_job_leaves_the_results_of_a_plain_predict_alone(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str], option: list[str]
) -> None:
    archive(tmp_path / "in", 3)
    assert predict(tmp_path / "in", "--output", tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    assert predict(tmp_path / "in", *option, "--output", tmp_path / "out") == 2
    error = capfd.readouterr().err
    assert "predictions.jsonl has the records of a predict without --archive" in error
    assert error.count("\n") == 1
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_record_without_a_path_is_no_torn_end(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "predictions.jsonl"
    with Log(tmp_path, Shard()) as job:
        job.add("a.png", EMPTY_RECORD, tmp_path)
    both = path.read_bytes() + json.dumps(EMPTY_RECORD).encode() + end
    path.write_bytes(both)
    with pytest.raises(ArchiveError, match="without --archive"):
        Log(tmp_path, Shard())
    assert path.read_bytes() == both


def test_a_list_that_is_being_written_hides_no_other(tmp_path: Path) -> None:
    logs = []
    for number in (1, 2):
        with Log(tmp_path, Shard(number, 2)) as job:
            job.add(f"{number}.png", EMPTY_RECORD, tmp_path)
            logs.append(job.path)
    with logs[0].open("ab") as first:
        first.write(b'{"path": "3.png", "er')
    assert [record["path"] for record in read(logs)] == ["1.png", "2.png"]


def test_failures_of_another_number_of_shards_count_and_are_retried(engine: FakeEngine, tmp_path: Path) -> None:
    names, out = archive(tmp_path / "in", 12), tmp_path / "out"
    assert predict(tmp_path / "in", "--archive", "--output", out) == 1
    (other,) = (number for number in (1, 2, 3) if Shard(number, 3).holds("0/x7.png"))
    for number in (1, 2, 3):
        assert predict(tmp_path / "in", "--shard", f"{number}/3", "--output", out) == (number == other)
    assert_each_once(out, names)
    Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / "0" / "x7.png")
    ran = sum(engine.batches)
    for number in (1, 2, 3):
        assert predict(tmp_path / "in", "--retry", "--shard", f"{number}/3", "--output", out) == 0
    assert sum(engine.batches) == ran + 1
    assert sorted((record["path"], record["error"]) for record in records(out)) == sorted(
        (name, None) for name in names
    )


def test_failures_in_a_list_that_another_job_writes_are_left_and_named(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "RETRY_WAIT_S", 0.0)
    names, out = archive(tmp_path / "in", 9), tmp_path / "out"
    of_the_failure = Shard(1 if Shard(1, 2).holds("0/x7.png") else 2, 2)
    assert predict(tmp_path / "in", "--shard", of_the_failure.label[1:].replace("-of-", "/"), "--output", out) == 1
    capfd.readouterr()
    with Log(out, of_the_failure) as running:
        before = running.path.read_bytes()
        assert predict(tmp_path / "in", "--retry", "--output", out) == 1
        assert f"The failures in {running.path} are not tried again" in capfd.readouterr().err
        assert running.path.read_bytes() == before
    assert_each_once(out, names)


def test_a_retry_that_is_cut_short_leaves_the_lists_as_they_were(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, out = archive(tmp_path / "in", 9), tmp_path / "out"
    assert predict(tmp_path / "in", "--archive", "--output", out) == 1
    before = (out / "predictions.jsonl").read_bytes()

    def full(_: object) -> None:
        raise OSError("the disk is full")

    shard = "1/2" if Shard(1, 2).holds("0/x7.png") else "2/2"
    with monkeypatch.context() as during:
        during.setattr(os, "fsync", full)
        assert predict(tmp_path / "in", "--retry", "--shard", shard, "--output", out) == 2
    assert (out / "predictions.jsonl").read_bytes() == before
    assert predict(tmp_path / "in", "--retry", "--shard", shard, "--output", out) == 1
    predict(tmp_path / "in", "--archive", "--output", out)
    assert_each_once(out, names)


def test_file_names_too_long_for_a_disk_are_cut_and_stay_apart(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = {"x" * 245 + ".png", "x" * 244 + "y.png", "é" * 120 + ".png", "x" * 196 + ".png"}
    for name in names:
        Image.fromarray(draw_xray(40, 40)).save(tmp_path / "in" / name)
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 0
    assert {record["path"] for record in records(tmp_path / "out")} == names
    masks = {path.name.removesuffix("_lungs.png") for path in (tmp_path / "out").glob("*_lungs.png")}
    assert len(masks) == len(names)
    assert "x" * 196 + ".png" in masks
    assert all(len(mask.encode()) <= 217 for mask in masks)


def test_a_path_too_long_for_its_results_is_its_own_failure(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 3)
    long = "y" * 300 + "/a.png"
    (tmp_path / "list.txt").write_text(f"{long}\n{tmp_path / 'in' / '0' / 'x1.png'}\n")
    assert predict("--list", tmp_path / "list.txt", "--output", tmp_path / "out") == 1
    assert {record["path"]: record["error"] is None for record in records(tmp_path / "out")} == {
        long: False,
        (tmp_path / "in" / "0" / "x1.png").as_posix().lstrip("/"): True,
    }


@pytest.mark.skipif(os.name == "nt", reason="paths are measured in another way")
def test_results_that_would_lie_too_deep_are_their_file_s_failure(engine: FakeEngine, tmp_path: Path) -> None:
    source = tmp_path / "in"
    out = tmp_path / ("o" * 200)
    deep = source
    while len(str(deep)) < os.pathconf("/", "PC_PATH_MAX") - 150:
        deep = deep / ("d" * 90)
    deep.mkdir(parents=True)
    Image.fromarray(draw_xray(40, 40)).save(deep / "a.png")
    Image.fromarray(draw_xray(40, 40)).save(source / "b.png")
    assert predict(source, "--archive", "--output", out) == 1
    assert {record["image"]: record["error"] for record in records(out)} == {
        "a.png": "a.png: the path of its results would be too long.",
        "b.png": None,
    }
    assert not list(out.rglob("*.part*"))


def test_a_missing_segmentation_fails_in_an_archive_as_in_a_folder(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive(tmp_path / "in", 2)
    sentence = "x0.png: a DICOM segmentation can only be written for a DICOM file."
    for option, out in ((["--archive"], tmp_path / "archive"), ([], tmp_path / "plain")):
        arguments = ["predict", tmp_path / "in", "--write", "masks,seg", "--output", out, *option]
        assert main([str(argument) for argument in arguments]) == 1
        assert sentence in capfd.readouterr().err
        found = {str(record["image"]): record for record in records(out)}
        assert [record["error"] for record in found.values()] == [None, None]
        assert found["x0.png"]["segmentation_error"] == sentence
        assert len(list(out.rglob("*_lungs.png"))) == 2
        if option:
            for again in ("--archive", "--retry"):
                ran = sum(engine.batches)
                assert main([str(argument) for argument in arguments[:-1]] + [again]) == 1
                assert sum(engine.batches) == ran + (2 if again == "--retry" else 0)
                assert len(records(out)) == 2


def test_what_killed_jobs_left_is_removed_unless_its_shard_runs(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 2)
    out = tmp_path / "out"
    for name in (".part", ".part-1-of-2", ".part-2-of-2", ".part-3-of-5", ".partial"):
        (out / name / "0").mkdir(parents=True)
        (out / name / "0" / "x0.png_lungs.png").write_bytes(b"")
    with Log(out, Shard(3, 5)):
        assert predict(tmp_path / "in", "--archive", "--output", out) == 0
    assert {path.name for path in out.glob(".part*")} == {".part-3-of-5", ".partial"}
