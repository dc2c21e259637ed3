"""What a test may need beyond Python packages; without it the test is skipped, or fails under SGMSNET_REQUIRE_ALL."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def missing(what: str) -> None:
    """Skip the test for a missing tool, or fail it where everything is required."""
    if os.environ.get("SGMSNET_REQUIRE_ALL") == "1":
        pytest.fail(f"required but missing: {what}")
    pytest.skip(what)


def opt_in(what: str, command: str) -> None:
    """Skip a test whose packages are too large for `make test`, even where all is required; `command` runs it."""
    pytest.skip(f"not part of `make test`, since it needs {what}: `{command}` runs it")


def data_dir() -> Path:
    """The folder of data sets: SGMSNET_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("SGMSNET_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        missing(f"no data sets in {folder} (SGMSNET_DATA names their folder)")
    return folder


def chromium() -> str:
    """Path of a Chromium or Chrome browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    missing("Chromium is not installed (apt-get install chromium)")
    raise AssertionError("unreachable: missing() ends the test")
