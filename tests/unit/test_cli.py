"""predict end to end, with an engine that needs no runtime: files, records, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from sgmsnet import overlay
from sgmsnet.cli import main
from tests.fakes import LUNG, SICK, FakeEngine, draw_xray
from tests.needs import ROOT
from tests.unit.evaluating import save
from tests.unit.predicting import SCHEMA, load_engine, predict, records, save_chest


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return load_engine(monkeypatch)


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    return save_chest(tmp_path)


def test_predict_writes_masks_overlay_and_a_record(engine: FakeEngine, xray: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    assert predict(xray, "--output", out) == 0
    written = {path.name for path in out.iterdir()}
    names = {"chest_lungs.png", "chest_infection.png", "chest_overlay.png"}
    assert written == names | {"predictions.jsonl"}
    with Image.open(xray) as image:
        pixels = np.array(image)
    for name, expected in (("lungs", pixels >= LUNG), ("infection", pixels == SICK)):
        with Image.open(out / f"chest_{name}.png") as mask:
            assert mask.mode == "L"
            np.testing.assert_array_equal(np.array(mask), expected * np.uint8(255))
    with Image.open(out / "chest_overlay.png") as drawing:
        assert (np.array(drawing) == overlay.COLOURS["lungs"]).all(axis=2).any()
    [record] = records(out)
    assert record["image"] == "chest.png"
    assert record["areas_px"]["infection"] == (pixels == SICK).sum()
    assert record["timings_ms"]["encode"] > 0
    assert engine.closed


def test_unfamiliar_images_get_masks_and_say_so_unless_strict(
    engine: FakeEngine, xray: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loose, strict = tmp_path / "loose", tmp_path / "strict"
    assert main(["predict", str(xray), "--output", str(loose), "--model", "unfamiliar"]) == 0
    (record,) = records(loose)
    assert (record["familiar"], record["familiarity"], record["error"]) == (False, 0.25, None)
    assert (loose / "chest_lungs.png").is_file()
    capfd.readouterr()
    assert main(["predict", str(xray), "--output", str(strict), "--model", "unfamiliar", "--strict"]) == 1
    (record,) = records(strict)
    jsonschema.validate(record, SCHEMA)
    assert (record["familiar"], record["familiarity"], record["areas_px"]) == (False, 0.25, None)
    assert "does not look like a frontal chest X-ray" in record["error"]
    assert "does not look like a frontal chest X-ray" in capfd.readouterr().err
    assert [path.name for path in strict.iterdir()] == ["predictions.jsonl"]


def test_strict_changes_nothing_for_a_model_that_cannot_tell(engine: FakeEngine, xray: Path, tmp_path: Path) -> None:
    assert main(["predict", str(xray), "--output", str(tmp_path / "out"), "--strict"]) == 0
    assert (tmp_path / "out" / "chest_lungs.png").is_file()


def test_flip_runs_each_image_twice(engine: FakeEngine, xray: Path, tmp_path: Path) -> None:
    assert main(["predict", str(xray), "--output", str(tmp_path / "out"), "--flip"]) == 0
    assert engine.batches == [1, 1]


def test_predict_writes_attention_only_if_asked(engine: FakeEngine, xray: Path, tmp_path: Path) -> None:
    assert predict(xray, "--output", tmp_path / "out", "--write", "attention") == 0
    written = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert written == {"chest_gate_5.png", "chest_spatial_2.png", "chest_memory_5.png"}


def test_predict_writes_a_report_and_a_dicom_segmentation_if_asked(
    engine: FakeEngine, xray: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pydicom import dcmread

    chest = ROOT / "examples" / "covid_adult_1.dcm"
    assert predict(chest, "--output", tmp_path / "out", "--write", "seg,report") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "covid_adult_1_report.html",
        "covid_adult_1_seg.dcm",
        "predictions.jsonl",
    }
    assert dcmread(tmp_path / "out" / "covid_adult_1_seg.dcm").Modality == "SEG"
    assert "covid_adult_1.dcm" in (tmp_path / "out" / "covid_adult_1_report.html").read_text(encoding="utf-8")
    # A PNG has no study that a segmentation could belong to: said once, and everything else is written.
    assert predict(xray, "--output", tmp_path / "png", "--write", "seg,masks") == 1
    assert "chest.png: a DICOM segmentation can only be written for a DICOM file." in capfd.readouterr().err
    assert (tmp_path / "png" / "chest_lungs.png").is_file()
    assert records(tmp_path / "png")[0]["error"] is None


def test_a_segmentation_names_the_patient_only_with_keep_identity(engine: FakeEngine, tmp_path: Path) -> None:
    from pydicom import dcmread

    chest = dcmread(ROOT / "examples" / "covid_adult_1.dcm")
    chest.PatientName = "Mustermann^Erika"
    chest.save_as(tmp_path / "chest.dcm")
    for option, expected in (([], ""), (["--keep-identity"], "Mustermann^Erika")):
        assert predict(tmp_path / "chest.dcm", "--output", tmp_path / "out", "--write", "seg", *option) == 0
        written = (tmp_path / "out" / "chest_seg.dcm").read_bytes()
        assert (b"Mustermann" in written) == bool(expected)
        assert str(dcmread(tmp_path / "out" / "chest_seg.dcm").PatientName) == expected


def test_thresholds_given_are_in_the_record_and_in_the_masks(engine: FakeEngine, xray: Path, tmp_path: Path) -> None:
    # The logit of infected pixels is (220 - 170) / 10 = 5, so p = 0.9933.
    assert predict(xray, "--output", tmp_path / "out", "--threshold", "infection=0.995") == 0
    [record] = records(tmp_path / "out")
    assert record["thresholds"] == {"lungs": 0.5, "infection": 0.995}
    assert record["areas_px"]["infection"] == 0


def test_one_bad_file_among_many_is_named_and_the_others_are_done(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for name in ("a.png", "c.png", "d.png"):
        save(folder / name, draw_xray(60, 80))
    (folder / "b.png").write_bytes(b"no image")
    save(folder / "e.png", np.full((224, 224), 99, np.uint8))  # the engine refuses it
    assert predict(folder, "--output", tmp_path / "out", "--batch-size", 2) == 1
    got = records(tmp_path / "out")
    assert [record["image"] for record in got] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert [record["error"] is None for record in got] == [True, False, True, True, False]
    assert len(list((tmp_path / "out").glob("*.png"))) == 9
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(str(folder / "b.png"))
    assert lines[1].startswith(str(folder / "e.png"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--threshold", "heart=0.5"], "heart"),
        (["--threshold", "lungs=1"], "between 0 and 1"),
        (["--threshold", "lungs=nan"], "between 0 and 1"),
        (["--threshold", "lungs"], "CLASS=T"),
        (["--engine", "abacus"], "abacus"),
        (["--model", "none"], "no weights file"),
        (["--precision", "int8"], "no int8 graph"),
        (["--write", "masks,poems"], "poems"),
        (["--batch-size", "0"], "at least 1"),
    ],
)
def test_bad_options_end_with_2_and_one_sentence(
    engine: FakeEngine,
    xray: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    assert predict(xray, "--output", tmp_path / "out", *options) == 2
    error = capfd.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_ends_with_2(
    engine: FakeEngine, xray: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        assert predict(xray, "--output", output) == 2
        error = capfd.readouterr().err
        assert "could not be written" in error
        assert error.count("\n") == 1


def test_progress_is_shown_on_a_terminal_only(
    engine: FakeEngine,
    xray: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert predict(xray, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert predict(xray, "--output", tmp_path / "out") == 0
    assert "1 of 1 (100 %), " in capsys.readouterr().err


@pytest.mark.usefixtures("engine")
def test_engines_that_were_refused_are_named_in_one_line(
    xray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(xray, "--output", tmp_path / "out", "--model", "third") == 0
    told = capsys.readouterr().err
    assert told == "fake runs, since these were refused: openvino (it is off); onnxruntime (it is\tgone)\n"


def test_predict_imports_neither_torch_nor_gradio(xray: Path, tmp_path: Path) -> None:
    code = (
        "import sys, sgmsnet; from sgmsnet.cli import main; from sgmsnet.pipeline import Pipeline; "
        "from tests.fakes import FakeEngine; "
        "sgmsnet.load = lambda *_, **__: Pipeline(FakeEngine(), thresholds={}, temperature={}); "
        "assert main(['predict', *sys.argv[1:], '--write', 'masks,overlay,attention']) == 0; "
        "print('\\n'.join(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(xray), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.splitlines()) & {"torch", "gradio"}


def test_a_folder_with_an_archive_job_is_refused_before_any_work(
    engine: FakeEngine, xray: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(xray.parent, "--output", out, "--archive") == 0
    before = (out / "predictions.jsonl").read_bytes()
    ran = list(engine.batches)
    assert predict(xray, "--output", out) == 2
    error = capfd.readouterr().err
    assert "holds an archive job" in error
    assert error.count("\n") == 1
    assert (out / "predictions.jsonl").read_bytes() == before
    assert engine.batches == ran


def test_what_is_said_on_a_terminal_stands_apart_from_the_counter(
    engine: FakeEngine,
    xray: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (xray.parent / "bad.png").write_bytes(b"no image")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert predict(xray.parent, "--output", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "bad.png" in told
    last = told.splitlines()[-1]
    assert "2 of 2 (100 %), " in last
    assert last.endswith("1 failed")
