"""The measured order of engines: kept by machine and model, taken by auto, as good as none when it cannot be used."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from engines import manifest, measure, ranked, select
from engines.ranked import Measured
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.commands import doctor
from tests.fake_tensorrt import a_manifest

FAST = Measured(name="pytorch", precision="fp32", median_ms=1.0, load_ms=2.0, reason=None)
SLOW = Measured(name="openvino", precision="bf16", median_ms=9.0, load_ms=2.0, reason=None)
CRASHED = Measured(
    name="onnxruntime", precision=None, median_ms=None, load_ms=None, reason="its process was ended by signal 4"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sgmsnet" / "ranking.json"


@pytest.fixture
def files(tiny_model: Path) -> ModelFiles:
    return find(tiny_model)


def test_the_fastest_comes_first_and_what_was_not_measured_keeps_its_place() -> None:
    names = ("tensorrt", "openvino", "onnxruntime", "pytorch")
    assert ranked.reorder(names, [FAST, SLOW, CRASHED]) == ("tensorrt", "pytorch", "onnxruntime", "openvino")
    assert ranked.reorder(names, [replace(FAST, name="abacus")]) == names
    assert ranked.reorder(names, []) == names


def test_a_measurement_is_kept_for_this_machine_and_model(files: ModelFiles, own_cache: Path) -> None:
    assert ranked.read(files) == ()
    assert ranked.write(files, [CRASHED, SLOW, FAST]) == own_cache
    assert ranked.read(files) == (FAST, SLOW, CRASHED)
    assert ranked.read(replace(files, sha256="0" * 64)) == ()


def test_another_version_or_processor_makes_it_stale(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked.write(files, [FAST])
    for name, other in (("_version", lambda package: "0"), ("_processor", lambda: "another")):
        with monkeypatch.context() as change:
            change.setattr(ranked, name, other)
            assert ranked.read(files) == ()
    assert ranked.read(files) == (FAST,)


def test_a_new_artefact_makes_it_stale(files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranked, "BUILT", tmp_path / "built")
    folder = tmp_path / "built" / "tiny" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    manifest.write(folder, a_manifest())
    ranked.write(files, [replace(CRASHED, name="tensorrt")])
    assert ranked.read(files) != ()
    manifest.write(folder, replace(a_manifest(), artefact_sha256="c" * 64))
    assert ranked.read(files) == ()
    (folder / "manifest.json").write_text("{")
    assert ranked.read(files) == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2, "machines": {}}', '{"format": 1, "machines": 3}'])
def test_a_damaged_file_is_left_aside_and_written_anew(content: str, files: ModelFiles, own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text(content)
    assert ranked.read(files) == ()
    ranked.write(files, [FAST])
    assert ranked.read(files) == (FAST,)


@pytest.mark.parametrize(
    "changes", [{"median_ms": "1"}, {"median_ms": -1.0}, {"name": 3}, {"median_ms": None}, {"more": 1}]
)
def test_values_that_cannot_be_count_as_none(changes: dict[str, object], files: ModelFiles, own_cache: Path) -> None:
    ranked.write(files, [FAST])
    values = json.loads(own_cache.read_text())
    values["machines"][ranked.key(files)][0].update(changes)
    own_cache.write_text(json.dumps(values))
    assert ranked.read(files) == ()


def test_auto_takes_the_measured_order_and_passes_over_what_crashed(files: ModelFiles) -> None:
    ranked.write(files, [SLOW, FAST, CRASHED])
    found = {one.name: one for one in select.probe(files)}
    assert not found["onnxruntime"].available
    assert "signal 4" in found["onnxruntime"].reason
    names = list(found)
    assert names.index("pytorch") < names.index("openvino")
    choice = select.choose("auto", files)
    choice.engine.close()
    assert choice.engine.info.backend == "pytorch"


def test_an_engine_is_measured_in_a_process_of_its_own(files: ModelFiles) -> None:
    found = measure.in_child(files, "onnxruntime", rounds=1)
    assert (found.name, found.precision, found.reason) == ("onnxruntime", "fp32", None)
    assert found.median_ms is not None
    assert found.median_ms > 0
    refused = measure.in_child(replace(files, weights=files.weights.with_name("none.safetensors")), "onnxruntime")
    assert refused.median_ms is None
    assert refused.reason
    assert "no weights file" in refused.reason


def test_a_crash_while_measuring_is_a_reason(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = measure.subprocess.run
    monkeypatch.setattr(
        measure.subprocess, "run", lambda command, **options: run([command[0], "-c", killed], **options)
    )
    assert measure.in_child(files, "openvino").reason == "its process was ended by signal 9"


def test_doctor_shows_times_and_keeps_them(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    monkeypatch.setattr(measure, "in_child", lambda model, name, rounds=1: replace(SLOW, name=name))
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert doctor.run(parser.parse_args(["--model", str(tiny_model), "--measure"])) == 0
    assert "9.0 ms an image in bf16" in capsys.readouterr().out
    assert own_cache.is_file()
