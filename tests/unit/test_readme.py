"""README keeps its word: its Python runs, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if re.search(r"python3? (-m (sgmsnet|export)|app\.py)\b", line)
]


def test_python_snippet_runs_as_printed() -> None:
    # Those that ask a server are run against one in tests/e2e/test_programs.py.
    snippets = [block for language, block in BLOCKS if language == "python" and "http://" not in block]
    assert snippets
    for snippet in snippets:
        subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    words = [word for word in shlex.split(command) if not re.match(r"\w+=/", word)]
    program = words[words.index("-m") + 1] if "-m" in words else "app"
    arguments = words[words.index(program if "-m" in words else "app.py") + 1 :]
    if program == "app":
        import app

        app.parse(arguments)
    elif program == "export":
        from export.__main__ import _parser

        _parser().parse_args(arguments)
    else:
        import argparse
        from importlib import import_module

        from sgmsnet.cli import COMMANDS as SUBCOMMANDS

        parser = argparse.ArgumentParser(exit_on_error=False)
        import_module(SUBCOMMANDS[arguments[0]].module).add_arguments(parser)
        parser.parse_args(arguments[1:])


def test_commands_were_found() -> None:
    assert len(COMMANDS) >= 8


def test_links_to_files_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^)make ([\w-]+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_recipe_in_readme_is_valid(tmp_path: Path) -> None:
    from sgmsnet.training.recipe import load_recipe

    recipes = [block for language, block in BLOCKS if language == "yaml"]
    assert recipes
    for i, text in enumerate(recipes):
        path = tmp_path / f"{i}.yaml"
        path.write_text(text, encoding="utf-8")
        assert load_recipe(path).epochs > 0
