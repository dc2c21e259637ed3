"""`benchmark`: engines side by side, one X-ray by stage, predict, page and roofline, on a quiet machine; no answers.

Options, order and the refusal on a busy machine are here; each part is measured in its own bench_ file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import EngineError, EngineUnavailable
from engines.graph import usable_graph
from export import (
    bench_archive,
    bench_click,
    bench_command,
    bench_engines,
    bench_openvino,
    bench_page,
    bench_pipeline,
    bench_report,
    performance,
)
from export import roofline as roof
from export.bench_engines import Skipped
from export.bench_report import Report
from export.machine import ROOT, Disturbance, disturbance, examine
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.imaging import load, prepare

PARTS = ("engines", "openvino", "stages", "folder", "archive", "start", "page", "click", "roofline")
EXAMPLES = ROOT / "examples"
FOLDERS = ((500, 224, "masks"), (24, 1024, "masks,overlay"))
"""Images, their side, and what predict writes of them."""
ARCHIVES = (1000, 20_000)
"""Files of the archives: what grows with them shows."""
IMAGE = "covid_adult_1.jpg"
"""The 1024x1024 JPEG of the stages and of the page; enlarged, that of the click."""

BUSY_STATUS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of benchmark."""
    add = parser.add_argument
    add("--model", default="cxr", help="name of a shipped model or a .safetensors file (default: %(default)s)")
    add("--only", type=_parts, default=PARTS, metavar="PARTS", help=f"of {','.join(PARTS)} (default: all)")
    add("--batches", type=_sizes, default=(1, 4, 16), metavar="N,N", help="batch sizes (default: 1,4,16)")
    add("--rounds", type=_positive, default=30, metavar="N", help="timed runs of each (default: %(default)s)")
    add("--busy", action="store_true", help="measure although other processes are busy, and say so")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    add("--plot", type=Path, metavar="FILE", help="write a bar chart of the engines to this PNG file")
    add("--markdown", type=Path, metavar="FILE", help="write a page like docs/performance.md to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and print; returns 0, 1 when the page could not be measured, or BUSY_STATUS on a busy machine.

    Raises WeightsError, EngineUnavailable when no engine runs, ValueError for options that contradict each other,
    OSError for a file that cannot be read or written.
    """
    if options.plot:
        if "engines" not in options.only:
            raise ValueError("--plot shows the engines, which --only leaves out")
        importlib.import_module("matplotlib")  # a missing package is said before minutes of measuring
    files = find(options.model)
    before = disturbance()
    if before.busy and not options.busy:
        wait = "wait until it is quiet, or measure anyway with --busy"
        print(f"This machine is busy: {before.sentence()}; {wait}.", file=sys.stderr)
        return BUSY_STATUS
    report = measure(options, files, before)
    print(bench_report.markdown(report))
    if options.json:
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot:
        bench_report.plot(report, options.plot)
    if options.markdown:
        performance.write(report, options.markdown, command=_command(options), plot=options.plot)
    return 1 if "page" in options.only and report.page is None else 0


def measure(options: argparse.Namespace, files: ModelFiles, before: Disturbance) -> Report:
    """Measure the parts that the options name; what cannot be measured here becomes a reason."""
    machine, image = examine(), EXAMPLES / IMAGE
    skipped: list[Skipped] = []
    found: dict[str, Any] = {}

    def engines() -> None:
        rows, passed_over = bench_engines.measure(
            files, example_images(files), image, batches=options.batches, rounds=options.rounds
        )
        found["rows"] = tuple(rows)
        skipped.extend(passed_over)

    def folders() -> None:
        sources = sorted(EXAMPLES.glob("*.jpg"))
        found["folders"] = tuple(
            bench_command.measure_folder(files, sources, count=count, side=side, write=write)
            for count, side, write in FOLDERS
        )

    def archives() -> None:
        sources = sorted(EXAMPLES.glob("*.jpg"))
        found["archives"] = tuple(
            job for count in ARCHIVES for job in bench_archive.measure(files, sources, count=count)
        )

    def starts() -> None:
        names = bench_command.usable(files, ("openvino", "onnxruntime"))
        found["starts"] = tuple(bench_command.measure_starts(files, image, engines=names))

    def roofline() -> None:
        size = {"height": files.config.height, "width": files.config.width}
        found["work"] = roof.count(usable_graph(files), **size)
        found["peaks"] = roof.measure_peaks()

    measures: dict[str, Callable[[], None]] = {
        "engines": engines,
        "openvino": lambda: found.update(beside=bench_openvino.measure(files)),
        "stages": lambda: found.update(stages=tuple(bench_pipeline.measure(files, image, rounds=options.rounds))),
        "folder": folders,
        "archive": archives,
        "start": starts,
        "page": lambda: found.update(page=bench_page.measure(files, image)),
        "click": lambda: found.update(click=bench_click.measure(files, image)),
        "roofline": roofline,
    }
    for part in (part for part in PARTS if part in options.only):
        print(f"Measuring: {part}", file=sys.stderr, flush=True)
        try:
            measures[part]()
        except (bench_page.PageError, bench_command.CommandFailed, bench_openvino.ToolError, EngineError) as error:
            skipped.append(Skipped(part, str(error)))  # what was measured until here is worth printing
        except ModuleNotFoundError as error:
            skipped.append(Skipped(part, f"it needs the package {error.name}"))
        except EngineUnavailable as error:
            if part in ("engines", "stages"):
                raise
            skipped.append(Skipped(part, str(error)))
    return Report(
        machine=machine,
        before=before,
        after=disturbance(),
        model=files.name,
        model_sha256=files.sha256,
        rounds=options.rounds,
        skipped=tuple(skipped),
        **found,
    )


def _command(options: argparse.Namespace) -> str:
    """The command line that makes the page again."""
    words = ["python -m export benchmark"]
    words += [f"--model {options.model}"] if options.model != "cxr" else []
    words += [f"--only {','.join(options.only)}"] if tuple(options.only) != PARTS else []
    words += [f"--rounds {options.rounds}", f"--markdown docs/{options.markdown.name}"]
    words += [f"--plot docs/{options.plot.name}"] if options.plot else []
    return " ".join(words)


def example_images(files: ModelFiles) -> np.ndarray:
    """The example X-rays as the model takes them, uint8 (N, 1, H, W)."""
    size = {"height": files.config.height, "width": files.config.width}
    return np.stack([prepare(load(path), **size)[0] for path in sorted(EXAMPLES.glob("*.jpg"))])


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(PARTS)}")
    return parts


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(part) for part in text.split(",")}))


def _positive(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
