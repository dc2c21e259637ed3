"""`python -m sgmsnet evaluate`: measure a model, with any engine, on images with masks."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgmsnet.commands import CommandError

if TYPE_CHECKING:
    from sgmsnet.training.data import SourceConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("dataset", help="folder with images and masks, or a data set of SGMSNET_DATA by name")
    parser.add_argument("--model", default="cxr", help="name of a shipped model or a .safetensors file")
    parser.add_argument("--engine", default="auto", help="runtime; default: the best of this machine")
    parser.add_argument("--precision", help="precision of the runtime, where it offers several")
    parser.add_argument("--split", default="val", choices=["train", "val", "all"], help="part of the data set")
    parser.add_argument(
        "--masks", action="append", default=[], metavar="CLASS=FOLDER", help="what a folder of masks labels"
    )
    parser.add_argument("--empty", action="append", default=[], metavar="CLASS", help="class that no image here shows")
    ages = parser.add_mutually_exclusive_group()
    ages.add_argument("--adults", action="store_true", help="only grown-ups, by the ages in sources.csv")
    ages.add_argument("--children", action="store_true", help="only children, by the ages in sources.csv")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only every k-th image, N of them")
    parser.add_argument("--batch", type=_positive, default=8, help="images that are run together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics and a row for each image")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def run(args: argparse.Namespace) -> int:
    """Evaluate, print a table; return the exit code."""
    import sgmsnet
    from engines.base import EngineUnavailable
    from sgmsnet.checkpoint import WeightsError
    from sgmsnet.training.data import DatasetError
    from sgmsnet.training.evaluate import evaluate, samples_of

    try:
        samples = samples_of(args.dataset, split=args.split, source=_source(args))
        if args.limit:
            samples = samples[:: max(len(samples) // args.limit, 1)][: args.limit]
        pipeline = sgmsnet.load(args.model, engine=args.engine, precision=args.precision)
        evaluation = evaluate(pipeline, samples, batch_size=args.batch, progress=_progress(len(samples)))
    except (DatasetError, WeightsError, EngineUnavailable) as error:
        raise CommandError(str(error)) from None
    for failure in evaluation.failures:
        print(failure.sentence, file=sys.stderr)
    summary = evaluation.summary()
    info = pipeline.info
    print(f"{args.dataset}, {len(samples)} images, {info.model} on {info.backend} {info.precision}, {info.device}")
    print(table(summary))
    if args.json:
        facts = {
            "dataset": args.dataset,
            "split": args.split,
            "model": info.model,
            "model_sha256": info.model_sha256,
            "engine": info.backend,
            "precision": info.precision,
            "thresholds": pipeline.thresholds,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        content = {**facts, **summary, "images": evaluation.per_image()}
        args.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return 1 if evaluation.failures else 0


def table(summary: dict[str, Any]) -> str:
    """The summary of an evaluation as lines of text; Dice and IoU in percent, both families."""
    lines = [
        f"{'class':<12}{'images':>8}{'Dice':>10}{'IoU':>8}{'Dice':>12}{'IoU':>8}",
        f"{'':<12}{'':>8}{'per image':>18}{'pooled':>20}",
    ]
    lines += [
        f"{name:<12}{row['images']:>8}{100 * row['dice_per_image']:>10.2f}{100 * row['iou_per_image']:>8.2f}"
        f"{100 * row['dice_pooled']:>12.2f}{100 * row['iou_pooled']:>8.2f}"
        for name, row in summary["classes"].items()
    ]
    if healthy := summary.get("healthy"):
        lines.append(
            f"healthy chests: {healthy['images']}, median infected share "
            f"{100 * healthy['infected_share_median']:.2f} %, above 2 %: "
            f"{100 * healthy['part_above_2_percent']:.1f} % of images"
        )
    return "\n".join(lines)


def _source(args: argparse.Namespace) -> SourceConfig | None:
    from dataclasses import replace

    from sgmsnet.training.data import KNOWN_SOURCES, SourceConfig

    adults = True if args.adults else False if args.children else None
    if args.masks or args.empty:
        masks = dict(option.partition("=")[::2] for option in args.masks)
        if not all(masks.values()):
            raise CommandError("--masks reads CLASS=FOLDER, for example --masks lungs=lung_masks")
        return SourceConfig(path=".", masks=masks, empty=tuple(args.empty), adults=adults)
    if adults is None:
        return None
    known = KNOWN_SOURCES.get(Path(args.dataset).name)
    if known is None:
        raise CommandError("--adults and --children need a data set whose sources.csv gives ages, as healthy")
    return replace(known, adults=adults)


def _progress(total: int) -> Any:
    def show(done: int) -> None:
        if sys.stderr.isatty() and (done % 10 == 0 or done == total):
            print(f"\r{done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
