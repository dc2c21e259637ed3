"""The subcommands of `python -m sgmsnet`, a file each with add_arguments(parser) and run(args) -> code."""


class CommandError(Exception):
    """A command cannot start or go on, for the reason given in one sentence; its exit code is 2."""
