"""Records of an archive as a table, CSV or Parquet; reads the done-lists twice, a record at a time."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sgmsnet.archive import ArchiveError
from sgmsnet.archive.log import read

ROWS = 10_000
"""Of a Parquet row group; so many are held at once."""

Kinds = dict[str, set[type]]


def write_csv(logs: Sequence[Path], target: Path) -> Path:
    """One line a record, `path` first and areas_px.lungs a column; null is empty. Replaces the file when whole.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    part = target.with_name(target.name + ".part")
    columns = _columns(logs)
    with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, list(columns), restval="", extrasaction="ignore")
        writer.writeheader()
        for record in read(logs):
            writer.writerow({name: _safe(value) for name, value in flatten(record)})
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(target)
    return target


def write_parquet(logs: Sequence[Path], target: Path) -> Path:
    """As write_csv, with types and nulls; raises ArchiveError without the package pyarrow."""
    check_parquet()
    import pyarrow
    import pyarrow.parquet

    types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    fields = [(name, types[_widest(kinds)]) for name, kinds in _columns(logs).items()]
    schema = pyarrow.schema(fields)
    part = target.with_name(target.name + ".part")
    with pyarrow.parquet.ParquetWriter(part, schema) as writer:
        for rows in _groups(logs, dict(fields)):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    part.replace(target)
    return target


def check_parquet() -> None:
    """Raise ArchiveError unless Parquet can be written; asked before a job of hours begins."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ArchiveError("--table parquet needs the package pyarrow, which is not installed.") from error


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries and lists -> pairs of a dotted name and a plain value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield name, value
        return
    for key, inner in pairs:
        yield from flatten(inner, f"{name}.{key}" if name else str(key))


def _columns(logs: Sequence[Path]) -> Kinds:
    """Names of all columns in their order, and of what types their values are; `path` comes first."""
    kinds: Kinds = {"path": set()}
    for record in read(logs):
        for name, value in flatten(record):
            kinds.setdefault(name, set()).update(() if value is None else (type(value),))
    # What is null for a failed file is a group of columns for the others.
    return {name: of for name, of in kinds.items() if not any(other.startswith(f"{name}.") for other in kinds)}


def _widest(kinds: set[type]) -> type:
    if kinds <= {int, float} and kinds:
        return float if float in kinds else int
    return kinds.pop() if len(kinds) == 1 else str


def _groups(logs: Sequence[Path], fields: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for record in read(logs):
        rows.append({name: _unicode(value) for name, value in flatten(record) if name in fields})
        if len(rows) >= ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _unicode(value: Any) -> Any:
    """File names may hold bytes that are no Unicode."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _safe(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
