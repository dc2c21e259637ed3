"""`python -m sgmsnet evaluate`: measure a model, with any engine, on images with masks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgmsnet.commands import CommandError, check_writable

if TYPE_CHECKING:
    from sgmsnet.pipeline import Pipeline
    from sgmsnet.training.data import Sample, SourceConfig
    from sgmsnet.training.results import Evaluation

LINE_EVERY_S = 30.0
"""How often the progress is told where standard error is no terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("dataset", help="folder with images and masks, or a data set of SGMSNET_DATA by name")
    parser.add_argument("--model", default="cxr", help="name of a shipped model or a .safetensors file")
    parser.add_argument("--engine", default="auto", help="runtime; default: the best of this machine")
    parser.add_argument("--triton-url", metavar="HOST:PORT", help="a server for --engine triton, as of predict")
    parser.add_argument("--precision", help="precision of the runtime, where it offers several")
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="CLASS=T", help="probability above which a pixel counts"
    )
    parser.add_argument(
        "--split",
        choices=["train", "val", "all", "test"],
        help="part of the data set, by default val, or all of a folder that holds `images` itself, of which val is the "
        "fifth that training holds out; all is train and val (and Test of COVID-QU-Ex); test is Test Set of Kaggle's "
        "QaTa, Test of COVID-QU-Ex or FOLDER/test, to be measured once and never tuned to",
    )
    parser.add_argument(
        "--masks", action="append", default=[], metavar="CLASS=FOLDER", help="what a folder of masks labels"
    )
    parser.add_argument("--empty", action="append", default=[], metavar="CLASS", help="class that no image here shows")
    ages = parser.add_mutually_exclusive_group()
    ages.add_argument("--adults", action="store_true", help="only grown-ups, by the ages in sources.csv")
    ages.add_argument("--children", action="store_true", help="only children, by the ages in sources.csv")
    parser.add_argument(
        "--include", default="", metavar="REGEX", help="only images whose name without suffix contains it, as ^gb_"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only N images, evenly spread")
    parser.add_argument("--batch", type=_positive, default=8, help="images that are run together")
    parser.add_argument("--flip", action="store_true", help="run mirror images too and take the mean; twice the time")
    parser.add_argument("--fast", action="store_true", help="leave out HD95 and NSD")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="also print the temperature that fits best, and Dice at thresholds 0.05 to 0.95 of the probability "
        "calibrated by it, sigmoid(logit / temperature); take both from a validation part, never from a test part",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics and a row for each image")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write one page with curves and cases; it embeds images of the set"
    )


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table, write what was asked for; return the exit code."""
    import sgmsnet
    from engines import server_address
    from engines.base import EngineUnavailable
    from sgmsnet.checkpoint import WeightsError
    from sgmsnet.commands.predict import parse_thresholds
    from sgmsnet.prediction import check_thresholds
    from sgmsnet.training.data import DatasetError, spread
    from sgmsnet.training.evaluate import evaluate, samples_of, split_of

    if args.html:
        _check_drawing()
    for file in filter(None, (args.json, args.html)):
        check_writable(file)
    fixed = parse_thresholds(args.threshold)
    if args.triton_url:
        os.environ[server_address.URL] = args.triton_url
    adults = True if args.adults else False if args.children else None
    try:
        args.split = split_of(args.dataset, args.split)
        samples = samples_of(args.dataset, split=args.split, source=_source(args), adults=adults, include=args.include)
        if args.limit:
            samples = spread(samples, args.limit)
        pipeline = sgmsnet.load(args.model, engine=args.engine, precision=args.precision, flip=args.flip)
        try:
            check_thresholds(fixed, pipeline.info.classes)
        except ValueError as error:
            raise CommandError(str(error)) from None
        pipeline.thresholds |= fixed
        _check_classes(samples, pipeline.info.classes)
        with _progress(len(samples)) as progress:
            evaluation = evaluate(pipeline, samples, batch_size=args.batch, distances=not args.fast, progress=progress)
    except (DatasetError, WeightsError, EngineUnavailable) as error:
        raise CommandError(str(error)) from None
    _report(args, evaluation, pipeline)
    return 1 if evaluation.failures else 0


def _check_classes(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raise CommandError where no label is one of the model's classes, so that nothing could be measured."""
    from sgmsnet.measurements import INFECTION, LUNGS

    outlined = {name for sample in samples for name in sample.masks}
    empty = {name for sample in samples for name in sample.empty}
    if outlined & set(classes) or (INFECTION in empty and {LUNGS, INFECTION} <= set(classes)):
        return
    raise CommandError(
        f"The images are labelled for {', '.join(sorted(outlined | empty))}, and the model knows {', '.join(classes)}; "
        f"--masks {classes[0]}=FOLDER says which folder of masks labels a class."
    )


def _report(args: argparse.Namespace, evaluation: Evaluation, pipeline: Pipeline) -> None:
    from sgmsnet.training.tables import sweep_table, table

    for failure in evaluation.failures:
        print(failure.sentence, file=sys.stderr)
    summary, info = evaluation.summary(), pipeline.info
    images = len(evaluation.rows) + len(evaluation.failures)
    on = f"{info.backend} {info.precision}, {info.device}"
    print(f"{args.dataset} ({args.split}), {images} images, {info.model} on {on}")
    print(table(summary))
    if args.sweep:
        summary["sweep"] = {name: sweep.record() for name, sweep in evaluation.sweeps().items()}
        print("\n" + "\n\n".join(sweep_table(name, record) for name, record in summary["sweep"].items()))
    facts = {
        "dataset": args.dataset,
        "split": args.split,
        **({"include": args.include} if args.include else {}),
        "model": info.model,
        "model_sha256": info.model_sha256,
        "engine": info.backend,
        "precision": info.precision,
        "thresholds": pipeline.thresholds,
        "temperature": pipeline.temperature,
    }
    if args.json:
        content = {**facts, **summary, "images": evaluation.per_image()}
        _write(args.json, json.dumps(content, indent=1))
    if args.html:
        _write(args.html, _page(evaluation, pipeline, facts))


def _page(evaluation: Evaluation, pipeline: Pipeline, facts: dict[str, Any]) -> str:
    from engines.base import EngineError
    from sgmsnet.imaging import UnreadableImageError
    from sgmsnet.training.data import DatasetError
    from sgmsnet.training.report import page

    try:
        return page(evaluation, pipeline, facts)
    except (DatasetError, EngineError, UnreadableImageError) as error:
        raise CommandError(str(error)) from None


def _check_drawing() -> None:
    """Raise CommandError before the work rather than after it where the page could not be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise CommandError("--html needs the package matplotlib, which is not installed.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} could not be written: {error.strerror or error}.") from None


def _source(args: argparse.Namespace) -> SourceConfig | None:
    """What the options say of the masks; None leaves it to the data set's name."""
    from sgmsnet.training.data import SourceConfig

    if not (args.masks or args.empty):
        return None
    masks = dict(option.partition("=")[::2] for option in args.masks)
    if not all(masks.values()):
        raise CommandError("--masks reads CLASS=FOLDER, for example --masks lungs=lung_masks")
    return SourceConfig(path=".", masks=masks, empty=tuple(args.empty))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """What is told of each image done: a bar on a terminal, otherwise a line now and then, with rate and time left."""
    from concurrent.futures import Future

    from sgmsnet.archive.progress import Progress

    images: Future[int] = Future()
    images.set_result(total)
    progress = Progress(images, before=0, every_s=LINE_EVERY_S)
    try:
        yield lambda done: progress.step(failed=False)
    finally:
        progress.close()
