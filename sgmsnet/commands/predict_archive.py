"""The options of `predict` for archives: a list of files, shards, going on where a job stopped, a cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from engines import processor
from sgmsnet.archive import ArchiveError, job
from sgmsnet.archive.files import Shard
from sgmsnet.archive.table import check_parquet
from sgmsnet.commands import CommandError
from sgmsnet.pipeline import Pipeline

TABLES = ("csv", "parquet")


SHARDS = 16
"""Of --cluster, where none are named."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, in a group of their own."""
    add = parser.add_argument_group(
        "archives",
        "For more files than one looks at. Results lie as the files do, NAME.SUFFIX_lungs.png and so on; the same "
        "command again goes on where a job stopped. --list, --shard, --retry, --table and --cluster imply --archive.",
    ).add_argument
    add("--archive", action="store_true", help="stream, keep the folders' structure, go on where a job stopped")
    add("--list", type=Path, metavar="FILE", dest="listing", help="take the files that FILE names, one path a line")
    add("--shard", metavar="I/N", help="do part I of N; a file's part is a hash of its name")
    add("--retry", action="store_true", help="try the files again that failed before")
    add("--table", choices=TABLES, help="csv, or csv and parquet (default: csv)")
    add(
        "--cluster", choices=("ray",), help="share the shards out on a Ray cluster (RAY_ADDRESS, or this machine alone)"
    )
    add("--shards", type=int, metavar="N", help="of --cluster; more of them lose less (default: 16)")
    add("--workers", type=int, metavar="N", help="threads that decode, and as many that encode (default: the cores)")


def wanted(args: argparse.Namespace) -> bool:
    """Whether the options ask for an archive job."""
    return bool(args.archive or args.listing or args.shard or args.retry or args.table or args.cluster)


def options(args: argparse.Namespace, thresholds: dict[str, float]) -> job.Options:
    """Checked options of a job; raises CommandError."""
    workers = args.workers if args.workers is not None else processor.usable_cores()
    if args.shards is not None and not args.cluster:
        raise CommandError("--shards is for --cluster; several jobs side by side each take a --shard I/N.")
    if workers < 1:
        raise CommandError(f"--workers must be at least 1, not {workers}.")
    try:
        shard = Shard.parse(args.shard) if args.shard else Shard()
        if args.table == "parquet":
            check_parquet()
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    if args.listing is not None and not args.listing.is_file():
        raise CommandError(f"There is no list {args.listing}.")
    return job.Options(
        inputs=tuple(args.inputs),
        listing=args.listing,
        output=args.output,
        shard=shard,
        retry=args.retry,
        table=args.table or "csv",
        batch_size=args.batch_size,
        workers=workers,
        thresholds=thresholds,
    )


def run(
    args: argparse.Namespace, chosen: job.Options, open_pipeline: Callable[[], Pipeline], encode: job.Encode
) -> int:
    """Do what is left; 0 if every file of the shard has its results, 1 if some failed. Raises CommandError."""
    try:
        pipeline = open_pipeline()
        try:
            settings = job.Settings(
                model=pipeline.info.model,
                model_sha256=pipeline.info.model_sha256,
                thresholds={**pipeline.thresholds, **chosen.thresholds},
                write=tuple(sorted(part.strip() for part in args.write.split(",") if part.strip())),
                strict=args.strict,
                flip=args.flip,
                keep_identity=args.keep_identity,
            )
            return 1 if job.run(chosen, pipeline, encode, settings=settings) else 0
        finally:
            pipeline.close()
    except ArchiveError as error:
        raise CommandError(str(error)) from error


def run_cluster(args: argparse.Namespace) -> int:
    """The same job as tasks of a cluster, and then one table of all. Raises CommandError."""
    from sgmsnet.archive import cluster

    shards = SHARDS if args.shards is None else args.shards
    if args.shard or shards < 1:
        raise CommandError("--cluster makes shards of its own, at least 1; leave --shard out.")
    try:
        code = cluster.run(_for_a_shard(args), shards=shards, say=lambda line: print(line, file=sys.stderr))
        job.tabulate(args.output, table=args.table or "csv")
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"The results could not be written to {args.output}: {error.strerror or error}.") from error
    return code


def _for_a_shard(args: argparse.Namespace) -> list[str]:
    """The command line again, without what is the cluster's."""
    words = [str(path) for path in args.inputs]
    words += ["--output", str(args.output), "--engine", args.engine, "--model", str(args.model), "--write", args.write]
    words += ["--batch-size", str(args.batch_size)]
    named = {"--precision": args.precision, "--triton-url": args.triton_url, "--list": args.listing}
    named |= {"--table": args.table, "--workers": args.workers}
    for name, value in named.items():
        words += [] if value is None else [name, str(value)]
    for threshold in args.threshold:
        words += ["--threshold", threshold]
    for name in ("strict", "flip", "keep_identity", "retry"):
        words += [f"--{name.replace('_', '-')}"] if getattr(args, name) else []
    return words
