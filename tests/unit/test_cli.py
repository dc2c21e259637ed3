"""The command line end to end, with an engine that needs no runtime: files, records, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import export.__main__
import sgmsnet
from engines import cuda, processor, select
from engines.artefacts import Artefact
from engines.base import Availability, EngineUnavailable
from engines.cuda import Gpu
from export import cases
from sgmsnet import overlay
from sgmsnet.checkpoint import WeightsError
from sgmsnet.cli import main
from sgmsnet.commands import doctor
from sgmsnet.commands.inputs import collect, looks_like_image, output_names
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Familiarity
from tests.fakes import LUNG, SICK, FakeEngine, draw_xray
from tests.needs import ROOT, data_dir

SCHEMA = json.loads((ROOT / "docs" / "prediction.schema.json").read_text(encoding="utf-8"))


SKIPPED = (
    Availability("tensorrt", False, "the package tensorrt is not installed", None),
    Availability("openvino", False, "it is off", "1", refused=True),
    Availability("onnxruntime", False, "it is\tgone", "1", refused=True),
)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """What `sgmsnet.load` opens in this test."""
    fake = FakeEngine(refuse=99)

    def load(model: str, *, engine: str = "auto", precision: str | None = None, flip: bool = False) -> Pipeline:
        if model == "none":
            raise WeightsError("none: there is no weights file none.safetensors")
        if precision == "int8":
            raise EngineUnavailable("onnxruntime: there is no int8 graph")
        dark = {"familiarity": lambda embedding, lungs: Familiarity(0.25, False)} if model == "unfamiliar" else {}
        skipped = SKIPPED if model == "third" else ()
        thresholds = {"lungs": 0.5, "infection": 0.5}
        return Pipeline(fake, thresholds=thresholds, temperature={}, flip=flip, skipped=skipped, **dark)

    monkeypatch.setattr(sgmsnet, "load", load)
    return fake


@pytest.fixture
def xray(tmp_path: Path) -> Path:
    """A drawn X-ray of the model's size in a file."""
    return save(tmp_path / "in" / "chest.png", draw_xray(sick=((0.2, 0.4, 0.4, 0.6),)))


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    result = [json.loads(line) for line in lines]
    for record in result:
        jsonschema.Draft202012Validator(SCHEMA).validate(record)
    return result


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


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


def test_no_input_found_ends_with_2(engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", "--output", tmp_path / "out") == 2
    assert "No image was found" in capfd.readouterr().err
    assert predict(tmp_path / "gone.png", "--output", tmp_path / "out") == 2
    assert "gone.png" in capfd.readouterr().err


def test_output_that_cannot_be_written_ends_with_2(
    engine: FakeEngine, xray: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        assert predict(xray, "--output", output) == 2
        error = capfd.readouterr().err
        assert "could not be written" in error
        assert error.count("\n") == 1


def test_results_never_take_the_place_of_an_input(
    engine: FakeEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a.png", draw_xray(40, 40))
    mask = save(tmp_path / "a_lungs.png", draw_xray(40, 40))
    before = mask.read_bytes()
    assert predict(tmp_path / "a.png", mask, "--output", tmp_path) == 2
    assert "overwrite the input a_lungs.png" in capfd.readouterr().err
    assert mask.read_bytes() == before


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


def test_unknown_commands_and_none_end_with_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dance"]) == 2
    assert "invalid choice" in capfd.readouterr().err
    assert main([]) == 2
    assert main(["predict"]) == 2


def test_help_lists_every_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capfd.readouterr().out
    assert all(command in shown for command in ("predict", "doctor", "train", "evaluate"))


@pytest.mark.parametrize(
    ("command", "others"),
    [("predict", ("doctor", "train", "evaluate")), ("doctor", ("predict", "train", "evaluate"))],
)
def test_help_of_one_command_imports_neither_the_others_nor_a_runtime(command: str, others: tuple[str, ...]) -> None:
    code = (
        "import sys; from sgmsnet.cli import main; assert main([sys.argv[1], '--help']) == 0; "
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines())
    assert not loaded & {f"sgmsnet.commands.{other}" for other in others}
    assert not loaded & {"torch", "gradio", "onnxruntime", "openvino", "monai"}


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


def test_doctor_reports_engines_and_the_model(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    engines = [
        Availability("onnxruntime", True, "", "1.32"),
        Availability("tensorrt", False, "TensorRT is not installed", None),
    ]
    monkeypatch.setattr(
        doctor, "find", lambda model: SimpleNamespace(name="m", weights=Path("m.safetensors"), sha256="ab12")
    )
    monkeypatch.setattr(select, "probe", lambda files, known=None: engines)
    held = (Artefact("openvino", "int8", True, "verified on 160 images"),)
    monkeypatch.setattr(doctor.artefacts, "held", lambda files: held)
    assert main(["doctor"]) == 0
    shown = capfd.readouterr().out
    for fact in (
        "openvino-int8: verified on 160 images",
        "ab12",
        "m.safetensors",
        "onnxruntime",
        "1.32",
        "TensorRT is not installed",
        "numpy",
    ):
        assert fact in shown
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [(e["name"], e["available"]) for e in report["engines"]] == [
        ("onnxruntime", True),
        ("tensorrt", False),
    ]
    monkeypatch.setattr(select, "probe", lambda files, known=None: engines[1:])
    assert main(["doctor"]) == 1


def test_doctor_without_a_model_says_so_and_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "gone.safetensors"]) == 1
    assert "gone.safetensors" in capfd.readouterr().out


def test_doctor_reads_what_the_system_says(tmp_path: Path) -> None:
    cpuinfo, meminfo, tegra = tmp_path / "cpuinfo", tmp_path / "meminfo", tmp_path / "nv_tegra_release"
    cpuinfo.write_text("model name\t: x\nflags\t\t: fpu amx_bf16 avx2 avx512_bf16\n")
    meminfo.write_text("MemTotal:        8388608 kB\nMemFree: 1 kB\n")
    tegra.write_text("# R36 (release), REVISION: 4.0, GCID: 1\n# more\n")
    assert processor.flags(cpuinfo) == ("avx2", "avx512_bf16", "amx_bf16")
    assert doctor.memory_gib(meminfo) == 8.0
    assert doctor.jetson_release(tegra) == "R36 (release), REVISION: 4.0, GCID: 1"


def test_doctor_names_the_gpu_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n")
    monkeypatch.setattr(cuda, "first_gpu", lambda: Gpu("RTX", "8.9"))
    assert doctor.gpu(driver) == "RTX, compute capability 8.9, driver 535.104.05"
    assert doctor.gpu(tmp_path / "absent") == "RTX, compute capability 8.9, driver unknown"

    def absent() -> Gpu:
        raise EngineUnavailable("this machine has no NVIDIA driver")

    monkeypatch.setattr(cuda, "first_gpu", absent)
    assert doctor.gpu(driver) == "none: this machine has no NVIDIA driver"
    gone = tmp_path / "gone"
    assert (processor.flags(gone), doctor.memory_gib(gone), doctor.jetson_release(gone)) == ((), None, None)


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
