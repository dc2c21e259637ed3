"""What archive jobs are made of, without a job: shards, the files of a list or folder, done-lists and tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgmsnet.archive import ArchiveError, log
from sgmsnet.archive.files import Item, Shard, stream
from sgmsnet.archive.log import Log, read
from sgmsnet.archive.table import write_csv, write_parquet
from tests.unit.archiving import archive

pytestmark = pytest.mark.usefixtures("quick_disk")
EMPTY_RECORD: dict[str, object] = {"image": "a.png", "error": None}


@given(names=st.lists(st.text(min_size=1), unique=True), of=st.integers(1, 9))
def test_a_name_is_in_exactly_one_shard(names: list[str], of: int) -> None:
    for name in names:
        if name.isprintable():
            assert [Shard(number, of).holds(name) for number in range(1, of + 1)].count(True) == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_shards_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ArchiveError):
        Shard.parse(text)


def test_nothing_lies_outside_the_output_whatever_the_list_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    (tmp_path / "list.txt").write_text("../up.png\n/root.png\n../../../../../../../../up.png\n")
    names = [item.name for item in stream([], listing=tmp_path / "list.txt", leave_out=tmp_path)]
    assert len(names) == 3
    assert not any(name.startswith("/") or ".." in name for name in names)


def test_two_jobs_do_not_write_one_list(tmp_path: Path) -> None:
    with Log(tmp_path, Shard()), pytest.raises(ArchiveError, match="Another job"):
        Log(tmp_path, Shard())
    with Log(tmp_path, Shard(1, 2)), Log(tmp_path, Shard(2, 2)):
        pass


@pytest.mark.parametrize(
    ("running", "begun"), [(Shard(1, 2), Shard()), (Shard(), Shard(2, 2)), (Shard(1, 2), Shard(1, 3))]
)
@pytest.mark.parametrize("retry", [False, True])
def test_no_job_runs_beside_one_of_another_number_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: Shard, begun: Shard, retry: bool
) -> None:
    """They would do the same files, and each would have two records."""
    monkeypatch.setattr(log, "LOCK_WAIT_S", 0.0)
    monkeypatch.setattr(log, "RETRY_WAIT_S", 0.0)
    with Log(tmp_path, running) as job, pytest.raises(ArchiveError, match=f"Another job is writing .*{job.path.name}"):
        Log(tmp_path, begun, retry=retry)
    with Log(tmp_path, begun, retry=retry):
        pass


@pytest.mark.parametrize("torn", [b'{"path": "b.png", "er', b"\0" * 40, b'{"path": 1}\n', b"\0\0\n\0"])
def test_a_torn_end_is_cut_away_and_damage_within_is_told(tmp_path: Path, torn: bytes) -> None:
    with Log(tmp_path, Shard()) as job:
        assert job.take("a.png")
        job.add("a.png", EMPTY_RECORD, tmp_path)
    path = tmp_path / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with Log(tmp_path, Shard()) as job:
        assert path.read_bytes() == whole
        assert not job.take("a.png")
        assert job.take("b.png")
    path.write_bytes(whole + torn.rstrip(b"\n") + b"\n" + whole)
    with pytest.raises(ArchiveError, match="damaged"):
        Log(tmp_path, Shard())


def test_a_table_has_a_column_for_every_value_and_parquet_their_types(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    with Log(tmp_path, Shard()) as job:
        job.add(
            "=a.png", {"image": "=a.png", "areas": {"lungs": 3}, "both": [0.5, 1], "ok": True, "error": None}, tmp_path
        )
        job.add("b.png", {"image": "b.png", "areas": None, "both": None, "ok": None, "error": "no"}, tmp_path)
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
