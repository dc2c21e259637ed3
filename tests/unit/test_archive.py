"""Archive jobs: what they take and refuse, what they tell, and that memory does not grow with the archive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from sgmsnet.cli import main
from tests.fakes import FakeEngine, draw_xray
from tests.unit.archiving import archive, load_small_engine, predict, records

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return load_small_engine(monkeypatch)


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


def test_results_do_not_come_to_lie_among_the_inputs(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for ward in ("ward1", "ward2"):
        archive(tmp_path / ward, 2)
    (tmp_path / "list.txt").write_text("ward1/0/x0.png\n")
    monkeypatch.chdir(tmp_path)
    for inputs in (("ward1", "ward2", "--archive"), ("ward1", "--archive"), ("--list", "list.txt")):
        assert predict(*inputs, "--output", "." if len(inputs) != 2 or "list.txt" in inputs else "ward1") == 2
        assert "cannot lie among the inputs" in capfd.readouterr().err
    assert not list(tmp_path.rglob("*_lungs.png"))
    assert predict("ward1", "ward2", "--archive", "--output", "ward1/out") == 0
    assert predict("ward1", "ward2", "--archive", "--output", "ward1/out") == 0
    assert len(records(tmp_path / "ward1" / "out")) == 4, "an output inside an input is not searched"


def test_two_files_that_come_to_one_name_are_refused(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    archive(tmp_path / "in", 1)
    absolute = tmp_path / "in" / "0" / "x0.png"
    relative = tmp_path / "elsewhere" / absolute.relative_to("/")
    relative.parent.mkdir(parents=True)
    relative.write_bytes(absolute.read_bytes())
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "list.txt").write_text(f"{absolute}\n{absolute.relative_to('/')}\n")
    assert predict("--list", tmp_path / "list.txt", "--output", tmp_path / "out") == 2
    assert "would both be called" in capfd.readouterr().err


def test_a_link_that_leads_in_a_circle_is_its_own_failure(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 2)
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    assert predict(tmp_path / "in", "--archive", "--output", tmp_path / "out") == 1
    errors = {str(record["path"]): record["error"] for record in records(tmp_path / "out")}
    assert [path for path, error in errors.items() if error] == ["loop.png"]
    assert len(errors) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # as PowerShell writes it
def test_a_list_with_a_mark_of_its_bytes_order_is_read(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    archive(tmp_path / "in", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("in/0/x0.png\r\n", encoding=encoding)
    assert predict("--list", "list.txt", "--output", "out") == 0


def test_a_name_that_is_no_unicode_has_a_report(engine: FakeEngine, tmp_path: Path) -> None:
    archive(tmp_path / "in", 1)
    odd = os.fsencode(tmp_path / "in" / "0") + b"/M\xfcller.png"
    os.rename(tmp_path / "in" / "0" / "x0.png", odd)  # noqa: PTH104
    for options in ([], ["--archive"]):
        out = tmp_path / f"out{len(options)}"
        inputs = [str(tmp_path / "in"), *options, "--output", str(out)]
        assert main(["predict", "--write", "report", *inputs]) == 0
        [report] = out.rglob("*_report.html")
        assert "M\\udcfcller.png" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--threshold", "infection=0.7"], "thresholds"),
        (["--write", "overlay"], "write"),
        (["--strict"], "strict"),
        (["--keep-identity"], "keep_identity"),
    ],
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


def test_files_of_another_folder_with_the_same_names_are_not_taken_for_done(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exports of a PACS are numbered alike: January's results must not stand for February's."""
    january, february = tmp_path / "a" / "month", tmp_path / "b" / "month"
    names, out = archive(january, 3), tmp_path / "out"
    archive(february, 3)
    assert predict(january, "--archive", "--output", out) == 0
    assert predict(february, "--archive", "--output", out) == 2
    error = capfd.readouterr().err
    assert f"holds the results of {january}; choose another --output for {february}" in error
    monkeypatch.chdir(january)
    (tmp_path / "list.txt").write_text("0/x0.png\n")
    assert predict("--list", tmp_path / "list.txt", "--output", out) == 0, "the same folder, by another way"
    monkeypatch.chdir(february)
    assert predict("--list", tmp_path / "list.txt", "--output", out) == 2
    assert predict("0/x0.png", "--archive", "--output", out) == 2
    assert {record["path"] for record in records(out)} == names
    (tmp_path / "list.txt").write_text(f"{february / '0' / 'x0.png'}\n")
    assert predict("--list", tmp_path / "list.txt", "--output", out) == 0, "an absolute path is its own name"
    assert len(records(out)) == 4


def test_folders_are_added_to_a_job_and_told_apart_by_name(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/one", "a/two", "a/three", "b/two"):
        archive(tmp_path / name, 2)
    out = tmp_path / "out"
    assert predict(tmp_path / "a/one", tmp_path / "a/two", "--archive", "--output", out) == 0
    assert predict(tmp_path / "a/two", tmp_path / "a/three", "--archive", "--output", out) == 0
    assert predict(tmp_path / "a/three", tmp_path / "b/two", "--archive", "--output", out) == 2
    assert f"holds the results of {tmp_path / 'a/two'}" in capfd.readouterr().err
    assert sum(engine.batches) == len(records(out)) == 6


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
