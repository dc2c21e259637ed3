"""The command line: finds the subcommand and imports only that one. The work is in sgmsnet/commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from sgmsnet.commands import CommandError


@dataclass(frozen=True)
class Command:
    """Where a subcommand lives, and its line in the overview."""

    module: str
    summary: str


COMMANDS = {
    "predict": Command("sgmsnet.commands.predict", "write masks, overlays and measurements for X-ray images"),
    "doctor": Command("sgmsnet.commands.doctor", "say which engines work on this machine, and why others do not"),
    "train": Command("sgmsnet.commands.train", "train a network from a YAML recipe"),
    "calibrate": Command(
        "sgmsnet.commands.calibrate", "fit thresholds, temperature, familiarity and share interval of a release"
    ),
    "evaluate": Command("sgmsnet.commands.evaluate", "measure a model on images with masks"),
    "compare": Command("sgmsnet.commands.compare", "train networks under one recipe, and put them on a scoreboard"),
}

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; return its exit code, 2 for bad options."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return _dispatch(arguments)
    except SystemExit as finished:  # argparse leaves this way after --help and bad options
        return finished.code if isinstance(finished.code, int) else 0
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sgmsnet", description="Segmentation of chest X-rays. For research only."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = arguments[0] if arguments else None
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=_sentence(command.summary))
        if name == chosen:
            # Only here: the help of one command does not need the packages of another.
            module = _imported(name, command)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    return int(args.run(args))


def _imported(name: str, command: Command) -> ModuleType:
    try:
        return import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in ("sgmsnet", "engines"):
            raise
        raise CommandError(f"{name} needs the package {error.name}, which is not installed.") from error


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
