"""`python -m sgmsnet compare`: train networks under one recipe and measure them on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sgmsnet.commands import CommandError

if TYPE_CHECKING:
    from sgmsnet.training.scoreboard import Comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options; imports nothing heavy."""
    parser.add_argument("recipe", help="a comparison by name (scoreboard, scoreboard-cpu) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="right behind it, as recipe.batch_size=8 parts.0.limit=50"
    )
    parser.add_argument("--rows", type=_words, default=[], metavar="NAME,NAME", help="train these rows alone")
    parser.add_argument("--seeds", type=_numbers, default=[], metavar="N,N", help="seeds, instead of the file's")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of runs and tables; default $SGMSNET_RUNS/NAME; goes on there",
    )
    parser.add_argument(
        "--leave-one-source-out",
        action="store_true",
        help="RECIPE is a training recipe: train it on all sources and without each, test on the one left out",
    )
    parser.add_argument("--tables", action="store_true", help="train nothing: write the tables of what is finished")
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="DIR",
        help="train nothing: copy what is finished, without checkpoints, into DIR, with the tables that it gives",
    )
    parser.add_argument("--cost", action="store_true", help="measure parameters, GFLOP and latency of all rows again")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def run(args: argparse.Namespace) -> int:
    """Compare; return the exit code."""
    from sgmsnet.config import ConfigError
    from sgmsnet.training.compare import compare, publish, write_tables
    from sgmsnet.training.data import DatasetError
    from sgmsnet.training.run import runs_root

    try:
        comparison = _comparison(args)
        folder = args.output or runs_root() / comparison.name
        if args.publish:
            publish(comparison, folder=folder, to=args.publish)
            folder = args.publish
        elif args.tables:
            write_tables(comparison, folder=folder, measure_again=args.cost)
        else:
            compare(comparison, folder=folder, rows=args.rows, measure_again=args.cost)
    except (ConfigError, DatasetError) as error:
        raise CommandError(str(error)) from None
    table = folder / "scoreboard.md"
    if not table.is_file():
        raise CommandError(f"{folder} holds no finished row")
    print(table.read_text(encoding="utf-8"))
    return 0


def _comparison(args: argparse.Namespace) -> Comparison:
    from dataclasses import replace

    from sgmsnet.training.recipe import load_recipe
    from sgmsnet.training.scoreboard import leave_one_source_out, load_comparison

    if args.leave_one_source_out:
        return leave_one_source_out(load_recipe(args.recipe, args.overrides), seeds=args.seeds)
    comparison = load_comparison(args.recipe, args.overrides)
    return replace(comparison, seeds=tuple(args.seeds)) if args.seeds else comparison
