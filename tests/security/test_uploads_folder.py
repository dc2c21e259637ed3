"""The folder of uploads ends with its server, and with the next one where that was killed; living ones keep theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sgmsnet.web import uploads
from tests.needs import ROOT
from tests.security.asking import app_running, upload
from tests.security.test_start import start

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
HOLD = "import sys; from sgmsnet.web import uploads\nwith uploads.folder() as path: print(path, flush=True); input()"


@contextmanager
def holding(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a folder of uploads below `temporary`, as a server has one."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with app_running(tmp_path, "--engine", "onnxruntime") as killed:
        stored = Path(upload(killed.client))
        assert stored.is_relative_to(killed.folder)
        killed.process.kill()
        killed.process.wait(30)
        assert stored.exists()
    start("--model", str(tmp_path / "none.safetensors"), TMPDIR=str(killed.folder))  # gets as far as its weights
    assert list(killed.folder.iterdir()) == []


def test_a_living_server_keeps_its_folder_and_removes_it_at_its_end(tmp_path: Path) -> None:
    with holding(tmp_path) as (first, folder), holding(tmp_path) as (second, other):
        (folder / "upload.png").write_bytes(b"x")
        assert uploads.remove_orphans(tmp_path) == 0
        assert {path.parent.parent for path in (folder, other)} == {tmp_path}
        assert (folder / "upload.png").exists()
        first.communicate("\n", timeout=30)
        assert not folder.parent.exists()
        second.kill()
        second.wait(30)
        assert uploads.remove_orphans(tmp_path) == 1
        assert list(tmp_path.iterdir()) == []


def test_what_is_not_such_a_server_s_stays(tmp_path: Path) -> None:
    """A folder without a lock may be that of a server that is starting; a link leads to what is not ours."""
    outside = tmp_path / "outside"
    starting, strange = tmp_path / f"{uploads.PREFIX}a", tmp_path / "other-page-b"
    for folder in (outside, starting, strange):
        folder.mkdir()
    for folder in (outside, strange):
        (folder / uploads.LOCK).touch()
    (tmp_path / f"{uploads.PREFIX}link").symlink_to(outside)
    linked = tmp_path / f"{uploads.PREFIX}c"
    linked.mkdir()
    (linked / uploads.LOCK).symlink_to(outside / uploads.LOCK)
    before = sorted(tmp_path.rglob("*"))
    assert uploads.remove_orphans(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before
