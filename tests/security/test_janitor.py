"""Uploads and downloads end: none outlives its time, whatever Gradio forgot."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sgmsnet.web.janitor import Janitor, sweep


def aged(path: Path, age_s: float, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - age_s
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


def test_old_files_and_then_empty_folders_go_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = aged(tmp_path / "a" / "old.png", 100), aged(tmp_path / "b" / "young.png", 10)
    outside = aged(tmp_path.parent / "outside.png", 100)
    link = tmp_path / "link"
    link.symlink_to(outside)
    os.utime(link, (1, 1), follow_symlinks=False)
    assert sweep(tmp_path, older_than_s=60) == 2
    assert not old.exists()
    assert not link.is_symlink()
    assert young.exists()
    assert outside.exists()
    os.utime(old.parent, (1, 1))
    assert sweep(tmp_path, older_than_s=60) == 0
    assert not old.parent.exists()


def test_a_folder_that_is_gone_or_in_use_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert sweep(tmp_path / "nowhere", older_than_s=1) == 0
    aged(tmp_path / "a" / "young.png", 0)
    os.utime(tmp_path / "a", (1, 1))
    assert sweep(tmp_path, older_than_s=60) == 0
    assert not caplog.records


def test_a_file_never_gets_older_than_it_may(tmp_path: Path) -> None:
    janitor = Janitor(tmp_path, keep_s=0.4)
    path = tmp_path / "x.png"
    path.write_bytes(b"x")
    began = time.monotonic()
    while path.exists():
        assert time.monotonic() - began < 5  # a busy machine may be late, but not this late
        time.sleep(0.01)
    assert time.monotonic() - began > 0.2
    janitor.close()
    path.write_bytes(b"x")
    time.sleep(0.5)
    assert path.exists()


def test_by_default_an_hour_is_the_most() -> None:
    import app

    assert app.parse([]).keep * 60 <= 3600
