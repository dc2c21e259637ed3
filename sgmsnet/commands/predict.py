"""`predict`: masks, drawings and records for files and folders. All arithmetic is in the pipeline."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

import sgmsnet
from engines import select, server_address
from engines.base import EngineUnavailable
from sgmsnet import html_report, overlay
from sgmsnet.archive.job import SETTINGS
from sgmsnet.archive.progress import Progress
from sgmsnet.checkpoint import WeightsError
from sgmsnet.commands import CommandError, predict_archive
from sgmsnet.commands.inputs import collect, output_names
from sgmsnet.dicom_seg import SegmentationError, write_segmentation
from sgmsnet.pipeline import Pipeline
from sgmsnet.png import mask_png
from sgmsnet.prediction import Failure, Prediction, check_thresholds, withhold_unfamiliar

KINDS = ("masks", "overlay", "attention", "report", "seg")
RECORDS = "predictions.jsonl"

ENCODERS = 2  # threads; more images than this are never held for encoding, besides those in work


@dataclass(frozen=True)
class Job:
    """One image and the name of its results."""

    source: Path
    name: str


@dataclass(frozen=True)
class Results:
    """Where results go and which kinds of them; keep_identity lets a DICOM segmentation name the patient."""

    folder: Path
    kinds: frozenset[str]
    keep_identity: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of predict."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="image files, and folders searched to their depth",
    )
    add(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for the results; made if it is not there",
    )
    add("--engine", default="auto", metavar="NAME", help="auto or one that doctor lists (default: auto)")
    add(
        "--triton-url",
        metavar="HOST:PORT",
        help="a server of the Open Inference Protocol v2 for --engine triton; grpc://HOST:PORT for gRPC",
    )
    add("--precision", metavar="P", help="fp32, bf16, fp16 or int8 (default: the engine's own)")
    add(
        "--model",
        default="cxr",
        metavar="NAME|FILE",
        help="a shipped model or a .safetensors file (default: cxr)",
    )
    add(
        "--threshold",
        action="append",
        default=[],
        metavar="CLASS=T",
        help="probability above which a pixel counts",
    )
    add(
        "--write",
        default="masks,overlay",
        metavar="KINDS",
        help=f"of {','.join(KINDS)} (default: masks,overlay); report is one HTML page, seg a DICOM segmentation",
    )
    add(
        "--keep-identity",
        action="store_true",
        help="copy the patient's fields of a DICOM file into its segmentation (default: they stay empty)",
    )
    add(
        "--strict",
        action="store_true",
        help="withhold masks of what does not look like a frontal chest X-ray; it counts as failed",
    )
    add("--flip", action="store_true", help="run the mirror image too and take the mean; twice the time")
    add("--batch-size", type=int, default=8, metavar="N", help="images run at once, at most (default: 8)")
    predict_archive.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Predict every input; 0 if all went well, 1 if some image failed.

    Raises CommandError for bad options, before any image is read, and for an output that cannot be written.
    """
    kinds = _kinds(args.write)
    thresholds = parse_thresholds(args.threshold)
    if args.batch_size < 1:
        raise CommandError(f"--batch-size must be at least 1, not {args.batch_size}.")
    if predict_archive.wanted(args):
        return predict_archive.run_cluster(args) if args.cluster else _run_archive(args, thresholds)
    if args.shards is not None or args.workers is not None:
        raise CommandError("--shards and --workers are for archives; add --archive.")
    if (args.output / SETTINGS).is_file():  # its done-list bears the name of RECORDS
        raise CommandError(f"{args.output} holds an archive job; go on with --archive, or choose another --output.")
    jobs = _jobs(args.inputs, args.output)
    pipeline = _open(args)
    try:
        _check_classes(thresholds, pipeline)
        _refuse_to_overwrite(jobs, args.output, pipeline)
        args.output.mkdir(parents=True, exist_ok=True)
        outcomes = pipeline.predict_many(
            [job.source for job in jobs], batch_size=args.batch_size, thresholds=thresholds
        )
        if args.strict:
            outcomes = map(withhold_unfamiliar, outcomes)
        with (args.output / RECORDS).open("w", encoding="utf-8") as records:
            results = Results(args.output, kinds, keep_identity=args.keep_identity)
            failures = _write_all(jobs, outcomes, records, results)
    except OSError as error:
        raise CommandError(f"The results could not be written to {args.output}: {error.strerror or error}.") from error
    finally:
        pipeline.close()
    return 1 if failures else 0


def _run_archive(args: argparse.Namespace, thresholds: dict[str, float]) -> int:
    kinds = _kinds(args.write)

    def open_pipeline() -> Pipeline:
        pipeline = _open(args)
        _check_classes(thresholds, pipeline)
        return pipeline

    def encode(outcome: Prediction | Failure, source: Path, target: Path) -> tuple[dict[str, Any], str | None]:
        results = Results(target.parent, kinds, keep_identity=args.keep_identity)
        if args.strict:
            outcome = withhold_unfamiliar(outcome)
        return _encode(outcome, Job(source, target.name), results)

    try:
        return predict_archive.run(args, predict_archive.options(args, thresholds), open_pipeline, encode)
    except OSError as error:
        raise CommandError(f"The results could not be written to {args.output}: {error.strerror or error}.") from error


def write_files(prediction: Prediction, job: Job, results: Results) -> None:
    """Write the files of one prediction; raises OSError, and SegmentationError, after all others are written."""
    folder, kinds, name = results.folder, results.kinds, job.name
    if "masks" in kinds:
        for label, mask in prediction.masks.items():
            (folder / f"{name}_{label}.png").write_bytes(mask_png(mask))
    if "overlay" in kinds:
        _write_png(folder / f"{name}_overlay.png", overlay.draw(prediction))
    if "attention" in kinds:
        for label in prediction.attention:
            _write_png(folder / f"{name}_{label}.png", overlay.attention(prediction, label))
    if "report" in kinds:
        (folder / f"{name}_report.html").write_text(html_report.render(prediction), encoding="utf-8")
    if "seg" in kinds:
        segmentation = write_segmentation(prediction, job.source, keep_identity=results.keep_identity)
        (folder / f"{name}_seg.dcm").write_bytes(segmentation)


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(part.strip() for part in text.split(",") if part.strip())
    for kind in sorted(kinds):
        if kind not in KINDS:
            raise CommandError(f"--write takes {', '.join(KINDS)}, not {kind!r}.")
    return kinds


def parse_thresholds(options: list[str]) -> dict[str, float]:
    """CLASS=T options -> probabilities by class; raises CommandError."""
    thresholds = {}
    for option in options:
        name, _, number = option.partition("=")
        try:
            thresholds[name] = float(number)
        except ValueError as error:
            raise CommandError(f"--threshold takes CLASS=T as in infection=0.5, not {option!r}.") from error
        if not 0 < thresholds[name] < 1:
            raise CommandError(f"The threshold of {name} must lie between 0 and 1, not at {number}.")
    return thresholds


def _jobs(inputs: list[Path], output: Path) -> list[Job]:
    if not inputs:
        raise CommandError("Give images or folders, or --list FILE.")
    if not any(path.exists() for path in inputs):
        raise CommandError(f"There is no {' and no '.join(map(str, inputs))}.")
    files = collect(inputs, leave_out=output)
    if not files:
        raise CommandError(f"No image was found in {' or '.join(map(str, inputs))}.")
    return [Job(file, name) for file, name in zip(files, output_names(files), strict=True)]


def _open(args: argparse.Namespace) -> Pipeline:
    if args.triton_url:
        os.environ[server_address.URL] = args.triton_url
    if args.engine not in ("auto", *select.ENGINES):
        raise CommandError(f"There is no engine {args.engine!r}; choose auto, {', '.join(select.ENGINES)}.")
    try:
        pipeline = sgmsnet.load(args.model, engine=args.engine, precision=args.precision, flip=args.flip)
    except (WeightsError, EngineUnavailable) as error:
        raise CommandError(str(error)) from error
    if refused := [f"{one.name} ({one.reason})" for one in pipeline.skipped if one.refused]:
        print(f"{pipeline.info.backend} runs, since these were refused: {'; '.join(refused)}", file=sys.stderr)
    return pipeline


def _check_classes(thresholds: dict[str, float], pipeline: Pipeline) -> None:
    try:
        check_thresholds(thresholds, pipeline.info.classes)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _refuse_to_overwrite(jobs: list[Job], output: Path, pipeline: Pipeline) -> None:
    """Raise CommandError if a result would take the place of an input, as when both lie in one folder."""
    if not output.is_dir():
        return
    inputs = {job.source.resolve() for job in jobs}
    # What lies in the folder is looked at, links too, and not each of the many names that results could have.
    taken = {path.name: path.resolve() for path in output.iterdir() if path.resolve() in inputs}
    labels = (*pipeline.info.classes, "overlay", "seg", *pipeline.info.outputs) if taken else ()
    for job in jobs:
        for label in labels:
            target = taken.get(f"{job.name}_{label}{'.dcm' if label == 'seg' else '.png'}")
            if target is not None:
                raise CommandError(f"The results would overwrite the input {target.name}; choose another --output.")


def _write_all(jobs: list[Job], outcomes: Iterator[Prediction | Failure], records: TextIO, results: Results) -> int:
    """Encode in threads while the next images run; write records in order; return how many images failed."""
    failures = 0
    waiting: deque[tuple[Job, Future[tuple[dict[str, Any], str | None]]]] = deque()
    total: Future[int] = Future()
    total.set_result(len(jobs))
    progress = Progress(total, before=0, every_s=math.inf)  # on a terminal only

    def finish_oldest() -> None:
        nonlocal failures
        job, future = waiting.popleft()
        record, complaint = future.result()
        records.write(json.dumps(record, allow_nan=False) + "\n")
        records.flush()
        if complaint is not None:
            failures += 1
            progress.say(_with_path(complaint, job.source))
        progress.step(failed=complaint is not None)

    try:
        with ThreadPoolExecutor(ENCODERS, thread_name_prefix="encode") as pool:
            for job, outcome in zip(jobs, outcomes, strict=True):
                waiting.append((job, pool.submit(_encode, outcome, job, results)))
                while len(waiting) > ENCODERS:
                    finish_oldest()
            while waiting:
                finish_oldest()
    finally:
        progress.close()
    return failures


def _encode(outcome: Prediction | Failure, job: Job, results: Results) -> tuple[dict[str, Any], str | None]:
    """Write one outcome's files; its record, with the time that took, and what the user must be told."""
    if isinstance(outcome, Failure):
        return outcome.record(), outcome.sentence
    start, complaint = time.perf_counter(), None
    try:
        write_files(outcome, job, results)
    except SegmentationError as error:  # the image has its other results
        complaint = str(error)
    record = outcome.record()
    record["timings_ms"]["encode"] = round((time.perf_counter() - start) * 1000, 3)
    if complaint is not None:
        record["segmentation_error"] = complaint
    return record, complaint


def _write_png(path: Path, pixels: np.ndarray) -> None:
    # Level 1: a fifth of the default level's time for files of hardly other size.
    Image.fromarray(pixels).save(path, compress_level=1)


def _with_path(sentence: str, source: Path) -> str:
    """The sentence with the whole path for the base name, since folders may hold files of one name."""
    rest = sentence.removeprefix(source.name)
    return f"{source}{rest}" if rest != sentence else f"{source}: {sentence}"
