"""`python -m sgmsnet calibrate`: measure what a release needs beside trained weights, and write both into one file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sgmsnet.commands import CommandError, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("model", help="name of a shipped model or a .safetensors file")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".safetensors file to write")
    parser.add_argument("--engine", default="auto", help="runtime; default: the best of this machine")
    parser.add_argument("--precision", help="precision of the runtime, where it offers several")
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="CLASS=T", help="use this one instead of the best Dice's"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    parser.add_argument("--limit", type=int, metavar="N", help="only N images of each part, for a trial")


def run(args: argparse.Namespace) -> int:
    """Calibrate, print tables, write the weights; return the exit code."""
    import sgmsnet
    from engines.base import EngineError, EngineUnavailable
    from sgmsnet.checkpoint import WeightsError, find, recalibrate
    from sgmsnet.commands.predict import parse_thresholds
    from sgmsnet.imaging import UnreadableImageError
    from sgmsnet.training.calibrate import calibrate
    from sgmsnet.training.calibration_tables import markdown
    from sgmsnet.training.data import DatasetError

    if args.output.suffix != ".safetensors":
        raise CommandError("--output must end in .safetensors.")
    fixed = parse_thresholds(args.threshold)
    for file in filter(None, (args.output, args.markdown)):
        check_writable(file)
    try:
        files = find(args.model)
        pipeline = sgmsnet.load(args.model, engine=args.engine, precision=args.precision)
        found = calibrate(pipeline, thresholds=fixed, limit=args.limit, progress=_say)
        tables = markdown(found)
        written = recalibrate(
            files,
            args.output,
            thresholds=found.thresholds,
            temperature=found.temperature,
            familiarity=found.familiarity,
            share_cuts=found.share_cuts,
        )
        if args.markdown:
            args.markdown.write_text(tables, encoding="utf-8")
    except (DatasetError, WeightsError, EngineUnavailable, EngineError, UnreadableImageError) as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"The result could not be written: {error.strerror or error}.") from error
    print(tables)
    info = pipeline.info
    print(
        f"{written}: measured with {info.backend} {info.precision}; `python -m export onnx --model {written} "
        "--weights-in-place` makes its graph"
    )
    return 0


def _say(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)
