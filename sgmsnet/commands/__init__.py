"""The subcommands of `python -m sgmsnet`, a file each with add_arguments(parser) and run(args) -> code."""

from __future__ import annotations

import os
from pathlib import Path


class CommandError(Exception):
    """A command cannot start or go on, for the reason given in one sentence; its exit code is 2."""


def check_writable(file: Path) -> None:
    """Make the folder of a file that the command will write; raises CommandError before the work, not after it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{file} could not be written: {error.strerror or error}.") from None
    if file.is_dir():
        raise CommandError(f"{file} could not be written: it is a folder.")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise CommandError(f"{file} could not be written: it is protected.")
