"""An archive job: files in, results on the disk, one record each; whatever ends it, the next run goes on from there.

Decoding, running and encoding overlap. What is held does not grow with the archive, but for 16 bytes and their place
in a set for each file, by which a file that is done is known.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count, tee
from pathlib import Path
from typing import Any

from sgmsnet.archive import ArchiveError, files
from sgmsnet.archive.files import Item, Shard
from sgmsnet.archive.log import PATTERN, Log, failed, refuse_plain_records, sync_folder, try_lock
from sgmsnet.archive.patience import settled
from sgmsnet.archive.progress import LINE_EVERY_S, Progress
from sgmsnet.archive.table import write_csv, write_parquet
from sgmsnet.pipeline import Pipeline
from sgmsnet.prediction import Failure, Prediction

Encode = Callable[["Prediction | Failure", Path, Path], "tuple[dict[str, Any], str | None]"]
"""(outcome, source, target) -> its record, and a sentence for the user or None; writes target's folder/NAME_*.*"""

SETTINGS = "archive.json"
"""Its presence says that a folder holds an archive job."""
_PARTS = ".part"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to work through, and how. With `retry`, files that failed before are tried again."""

    inputs: tuple[Path, ...]
    listing: Path | None
    output: Path
    shard: Shard = field(default_factory=Shard)
    retry: bool = False
    table: str = "csv"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 8
    workers: int = 2

    def stream(self) -> Iterator[Item]:
        """The shard's files, done or not."""
        found = files.stream(self.inputs, listing=self.listing, leave_out=self.output)
        return (item for item in found if self.shard.holds(item.name))


@dataclass(frozen=True)
class Settings:
    """What all results of one folder have in common."""

    model: str
    model_sha256: str
    thresholds: Mapping[str, float]
    write: tuple[str, ...]
    strict: bool = False
    flip: bool = False
    keep_identity: bool = False


def run(options: Options, pipeline: Pipeline, encode: Encode, *, settings: Settings) -> int:
    """Do what is left of a job; returns how many of the shard's files have failed, those of earlier runs included.

    Raises ArchiveError when the job does not fit what lies in the folder or the engine does not run any more, OSError
    when the folder cannot be written.
    """
    output = options.output
    places = _check(options)
    output.mkdir(parents=True, exist_ok=True)
    refuse_plain_records(output)
    _agree(output / SETTINGS, settings, places)
    with Log(output, options.shard, retry=options.retry) as log:
        parts = output / f"{_PARTS}{options.shard.label}"
        _clear(output, parts)
        total = _counted(options)
        progress = Progress(total, before=log.own, every_s=LINE_EVERY_S)
        try:
            for record, sentence in _work(options, pipeline, encode, log, parts, progress.say):
                progress.step(failed=failed(record))
                log.failed += failed(record)
                if sentence is not None:
                    progress.say(sentence)
        finally:
            progress.close()
            shutil.rmtree(parts, ignore_errors=True)
        log.flush()
        if not len(log) and options.shard.of == 1:
            raise ArchiveError("No image was found.")
        tabulate(options.output, shard=options.shard, table=options.table)
        return log.failed


def _clear(output: Path, own: Path) -> None:
    """Remove what killed jobs left behind: of this shard, and of any other, in any sharding, that no job works on."""
    shutil.rmtree(own, ignore_errors=True)
    for parts in output.glob(f"{_PARTS}*"):
        if not re.fullmatch(rf"{_PARTS}(-\d+-of-\d+)?", parts.name):
            continue
        if lock := try_lock(output / f"predictions{parts.name.removeprefix(_PARTS)}.jsonl"):
            with lock:
                shutil.rmtree(parts, ignore_errors=True)


def _work(
    options: Options, pipeline: Pipeline, encode: Encode, log: Log, parts: Path, say: Callable[[str], None]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Run what is not done, encode in threads, log in order."""
    to_do, named = tee(item for item in options.stream() if log.take(item.name))
    outcomes = pipeline.predict_many(
        (item.path for item in to_do),
        batch_size=options.batch_size,
        workers=options.workers,
        thresholds=options.thresholds,
    )
    pairs = settled(zip(named, outcomes, strict=True), pipeline, thresholds=options.thresholds, say=say)
    yield from _encoded(pairs, encode, log, options, parts)


def _encoded(
    pairs: Iterable[tuple[Item, Prediction | Failure]], encode: Encode, log: Log, options: Options, parts: Path
) -> Iterator[tuple[dict[str, Any], str | None]]:
    waiting: deque[tuple[Item, Future[tuple[dict[str, Any], str | None]]]] = deque()
    room = count()

    def finish_oldest() -> tuple[dict[str, Any], str | None]:
        item, future = waiting.popleft()
        record, sentence = future.result()
        log.add(item.name, record, _folder_of(item, options.output))
        return record, None if sentence is None else f"{item.name}: {sentence.removeprefix(f'{item.path.name}: ')}"

    with ThreadPoolExecutor(options.workers, thread_name_prefix="encode") as pool:
        try:
            for item, outcome in pairs:
                part = parts / str(next(room))
                waiting.append((item, pool.submit(_settle, encode, outcome, item, options.output, part)))
                while len(waiting) > options.workers + options.batch_size:
                    yield finish_oldest()
            while waiting:
                yield finish_oldest()
        finally:
            pool.shutdown(cancel_futures=True)


def _settle(
    encode: Encode, outcome: Prediction | Failure, item: Item, output: Path, part: Path
) -> tuple[dict[str, Any], str | None]:
    """Encode into a folder apart; then put every file, whole and on the disk, to its place."""
    part.mkdir(parents=True)
    record, sentence = encode(outcome, item.path, part / item.results)
    try:
        _put(part, output / Path(item.name).parent)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        failure = Failure(item.path.name, f"{item.path.name}: the path of its results would be too long.")
        record, sentence = encode(failure, item.path, part / item.results)
    shutil.rmtree(part)
    return record, sentence


def _put(part: Path, folder: Path) -> None:
    for file in part.iterdir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync(file)
        file.replace(folder / file.name)


def _folder_of(item: Item, output: Path) -> Path:
    folder = output / Path(item.name).parent
    # A failure may leave no folder. Path.is_dir() would raise for a path that is too long.
    return folder if os.path.isdir(folder) else output  # noqa: PTH112


def _sync(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _check(options: Options) -> dict[str, str]:
    """The places of the inputs; raises ArchiveError for one that is not there, or that results would lie in."""
    for path in options.inputs:
        if not path.exists():  # as a file among others it would become a failure that is never tried again
            raise ArchiveError(f"There is no {path}.")
    output = options.output.resolve()
    places = files.places(options.inputs, listing=options.listing)
    for front, place in places.items():
        # An output below an input is left out when that is searched; what lies beside the inputs is found again.
        if (output / front).is_relative_to(place) and (output == Path(place) or not output.is_relative_to(place)):
            raise ArchiveError(f"The results cannot lie among the inputs in {place}; choose another --output.")
    return places


def _agree(path: Path, settings: Settings, places: Mapping[str, str]) -> None:
    """Write what a folder's results have in common, or raise ArchiveError where it was begun with other options.

    Also for files of another place that have the names of those that are done: they would be taken for these.
    """
    wanted = json.loads(json.dumps(asdict(settings)))
    if not path.is_file():
        _write(path, {**wanted, "places": places})
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        found = {"keep_identity": False, **found}  # younger than the others
        different = [name for name, value in wanted.items() if found[name] != value]
        known = {**places, **found.get("places", {})}
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} is not what an archive job writes; choose another --output.") from error
    if different:
        raise ArchiveError(
            f"{path.parent} was begun with another {' and '.join(different)}; choose another --output to begin anew."
        )
    for front, place in places.items():
        if known[front] != place:
            raise ArchiveError(
                f"{path.parent} holds the results of {known[front]}; choose another --output for {place}, or if the "
                f"files were moved there, write it into {path.name}."
            )
    if known != found.get("places"):
        _write(path, {**found, "places": known})


def _write(path: Path, settings: Mapping[str, Any]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    part.replace(path)  # of several shards that begin together the last one's stays, and all read it
    sync_folder(path.parent)


def _counted(options: Options) -> Future[int]:
    """Count the shard's files beside the work."""
    future: Future[int] = Future()

    def work() -> None:
        try:
            future.set_result(sum(1 for _ in options.stream()))
        except (ArchiveError, OSError) as error:
            future.set_exception(error)

    threading.Thread(target=work, name="count", daemon=True).start()
    return future


def tabulate(output: Path, *, shard: Shard | None = None, table: str = "csv") -> None:
    """The shard's table; without shards, one of all that lies in the folder."""
    own = output / f"predictions{shard.label if shard else ''}.jsonl"
    logs = [own] if shard and shard.of > 1 else sorted(output.glob(PATTERN))
    target = own.with_suffix(".csv")
    write_csv(logs, target)
    if table == "parquet":
        write_parquet(logs, target.with_suffix(".parquet"))
