"""A batch: many images to one zip of masks, overlays, a table and records; a bad file is a row, not the end.

Knows nothing of Gradio. All that is written is the zip, in a new folder; a batch that does not end leaves nothing.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from engines.base import EngineError, EngineUnavailable
from sgmsnet import overlay
from sgmsnet.imaging import UnreadableImageError
from sgmsnet.png import mask_png
from sgmsnet.prediction import Prediction, failure_record
from sgmsnet.web import batch_inputs
from sgmsnet.web.batch_inputs import BatchError, Item, ItemError
from sgmsnet.web.desk import Desk

RECORDS, TABLE = "predictions.jsonl", "predictions.csv"
OVERLAY_SIDE = 2048
NOT_A_CHEST = "does not look like a frontal chest X-ray"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """Where one file stands, with one sentence where there is something to say."""

    name: str
    status: Literal["waiting", "done", "failed"] = "waiting"
    note: str = ""


@dataclass(frozen=True)
class State:
    """Where a batch stands; archive is the zip of results once all files are through."""

    rows: tuple[Row, ...] = ()
    archive: Path | None = None
    problem: str | None = None

    @property
    def through(self) -> int:
        """Files that are done or have failed."""
        return sum(row.status != "waiting" for row in self.rows)


def run(desk: Desk, uploads: Sequence[Path], *, engine: str, folder: Path) -> Iterator[State]:
    """Run a batch, and say after each file where it stands.

    The last state carries the archive, alone in a new folder below `folder`: whoever keeps `folder` deletes it in time
    (janitor.py). A batch that cannot be run gives one state with the problem.
    """
    try:
        items = batch_inputs.collect(uploads)
    except BatchError as error:
        yield State(problem=str(error))
        return
    except OSError:
        yield State(problem="The files are no longer on the server; please upload them again.")
        return
    own = Path(tempfile.mkdtemp(prefix="batch-", dir=folder))
    complete = False
    try:
        for state in _run(desk, items, engine=engine, archive=own / f"sgmsnet-{own.name}.zip"):
            complete = state.archive is not None
            yield state
    except OSError as error:
        log.error("a batch could not be written: %s", error.strerror)
        yield State(problem="The results could not be written; the server may be out of room.")
    finally:
        if not complete:
            shutil.rmtree(own, ignore_errors=True)


def _run(desk: Desk, items: Sequence[Item], *, engine: str, archive: Path) -> Iterator[State]:
    rows = [Row(item.name) for item in items]
    records: list[dict[str, Any]] = []
    yield State(tuple(rows))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as results:
        stems = batch_inputs.stems(item.name for item in items)
        for index, (item, stem) in enumerate(zip(items, stems, strict=True)):
            record = _one(desk, item, stem, engine, results)
            records.append(record)
            rows[index] = _finished(rows[index], record)
            yield State(tuple(rows))
        told = ({**record, "path": item.name} for item, record in zip(items, records, strict=True))
        results.writestr(RECORDS, "".join(json.dumps(record, allow_nan=False) + "\n" for record in told))
        results.writestr(TABLE, table([item.name for item in items], stems, records))
    yield State(tuple(rows), archive)


def _one(desk: Desk, item: Item, stem: str, engine: str, results: zipfile.ZipFile) -> dict[str, Any]:
    """Predict one file and add its pictures to the results; whatever goes wrong with it becomes its record."""
    base = Path(item.name).name or item.name  # what a record calls an image
    with desk.metrics.request("page"):
        try:
            prediction = desk.predict(item.read(), name=base, engine=engine)
        except (ItemError, UnreadableImageError) as error:
            desk.metrics.error("page", "refused")
            return failure_record(base, str(error))
        except (EngineUnavailable, EngineError) as error:
            desk.metrics.error("page", "failed")
            return failure_record(base, str(error))
        except Exception:  # the outermost edge for this file: its row gets a sentence, the log the rest
            log.exception("segmenting a file of a batch failed")
            desk.metrics.error("page", "failed")
            return failure_record(base, f"{base} could not be segmented; the server's log says why.")
        record = prediction.record()
        desk.metrics.observe(record)
    _add_pictures(prediction, stem, results)
    return record


def _add_pictures(prediction: Prediction, stem: str, results: zipfile.ZipFile) -> None:
    for name, mask in prediction.masks.items():
        _store(results, f"masks/{stem}_{name}.png", mask_png(mask))
    _store(results, f"overlays/{stem}.jpg", _jpeg(overlay.draw(prediction)))


def _store(results: zipfile.ZipFile, name: str, data: bytes) -> None:
    results.writestr(name, data, zipfile.ZIP_STORED)  # pictures are compressed already


def _jpeg(pixels: np.ndarray) -> bytes:
    """To look at, so not larger than a screen: two hundred full drawings could fill a disk."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def _finished(row: Row, record: dict[str, Any]) -> Row:
    if record["error"] is not None:
        # Most sentences begin with the name, which the row shows already.
        _, colon, rest = str(record["error"]).partition(f"{record['image']}: ")
        return replace(row, status="failed", note=rest if colon else str(record["error"]))
    if record["familiar"] is False:
        note = NOT_A_CHEST if record["header_note"] is None else f"{NOT_A_CHEST}. {record['header_note']}"
        return replace(row, status="done", note=note)
    both = record["infected_share"]["both"]
    return replace(row, status="done", note="" if both is None else f"infected share {both * 100:.1f} %")


def table(files: Sequence[str], stems: Sequence[str], records: Sequence[dict[str, Any]]) -> str:
    """Records as CSV, one line each, with the file's whole name and its results' first: areas_px.lungs is a column.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    lines = [
        dict(_flat({"file": file, "results": stem, **record}))
        for file, stem, record in zip(files, stems, records, strict=True)
    ]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    # What is null for a failed file is a group of columns for the others.
    columns = [name for name in columns if not any(other.startswith(f"{name}.") for other in columns)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        yield name, _safe(value)
        return
    for key, inner in pairs:
        yield from _flat(inner, f"{name}.{key}" if name else str(key))


def _safe(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
