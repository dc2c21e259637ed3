"""What `evaluate` cannot do ends with its exit code and one sentence, before the work where it can be known before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import sgmsnet
from engines import server_address
from sgmsnet.training.data import Sample
from tests.fakes import FakeEngine
from tests.unit.evaluating import run


def test_a_server_named_by_option_is_the_one_that_is_opened(
    monkeypatch: pytest.MonkeyPatch, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(server_address.URL, "")
    options = ("--engine", "triton", "--triton-url", "127.0.0.1:9")
    assert run(tmp_path, "--masks", "lungs=masks", *options) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err


def test_one_unreadable_image_is_named_and_the_exit_code_is_1(
    fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two[0].image.write_bytes(b"no image")
    assert run(tmp_path, "--masks", "lungs=masks", "--json", tmp_path / "all.json") == 1
    captured = capsys.readouterr()
    [sentence] = captured.err.strip().splitlines()
    assert sentence.startswith("a.png")
    assert "100.00" in captured.out, "the other image is measured"
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["unreadable"] == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["nowhere"], "nowhere"),
        (["{set}", "--masks", "lungs"], "CLASS=FOLDER"),
        (["{set}", "--masks", "lungs=nothing"], "no labelled image"),
        (["{set}", "--adults"], "sources.csv"),
        (["{set}", "--adults", "--empty", "infection"], "sources.csv"),
        (["{set}", "--model", "no-such-model", "--masks", "lungs=masks"], "no-such-model"),
        (["{set}", "--masks", "lungs=masks", "--include", "("], "include"),
        (["{set}", "--masks", "lungs=masks", "--threshold", "lungs"], "CLASS=T"),
        (["{set}", "--masks", "lungs=masks", "--threshold", "heart=0.5"], "heart"),
    ],
)
def test_what_cannot_be_evaluated_ends_with_exit_code_2_and_one_sentence(
    options: list[str], word: str, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*(option.replace("{set}", str(tmp_path)) for option in options)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert word in line


@pytest.mark.parametrize("option", ["--masks", "--empty"])
def test_labels_that_the_model_does_not_know_are_refused_and_not_left_out(
    option: str, fake: FakeEngine, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, option, {"--masks": "heart=masks", "--empty": "heart"}[option]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "labelled for heart, and the model knows lungs, infection" in line


@pytest.mark.parametrize("option", ["--batch", "--limit"])
def test_a_number_below_one_is_refused_as_an_option(option: str, tmp_path: Path) -> None:
    assert run(tmp_path, option, 0) == 2


def test_a_page_that_cannot_be_drawn_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, two: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sgmsnet, "load", lambda *a, **k: pytest.fail("the work began"))
    assert run(tmp_path, "--masks", "lungs=masks", "--html", tmp_path / "page.html") == 2
    assert "matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    option: str,
    two: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sgmsnet, "load", lambda *a, **k: pytest.fail("the work began"))
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file" / "out", tmp_path):
        assert run(tmp_path, "--masks", "lungs=masks", option, place) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert "could not be written" in line
