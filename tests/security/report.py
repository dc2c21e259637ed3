"""Puts a measured section into docs/reliability.md, with the date, the machine and the command that made it."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from pathlib import Path

from tests.needs import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def machine() -> str:
    """Processor, cores in use and system, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        name = found[1] if found else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def section(name: str, command: str, lines: list[str], *, complete: bool) -> str:
    """The Markdown between the markers of `name`."""
    head = f"{time.strftime('%Y-%m-%d')}, {machine()}, `{command}`"
    note = [] if complete else ["", "**A trial with a reduced count; not the full run.**"]
    return "\n".join([f"<!-- {name} -->", f"{head}:", *note, "", *lines, f"<!-- /{name} -->"])


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Two columns, what and how much."""
    return ["| | |", "| --- | --- |", *(f"| {what} | {figure} |" for what, figure in rows)]


def publish(name: str, text: str, *, write: bool) -> None:
    """Print the section, and put it into the page where that was asked for."""
    print(text)
    if not write:
        return
    page = PAGE.read_text(encoding="utf-8")
    marked = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->", flags=re.DOTALL)
    if not marked.search(page):
        sys.exit(f"docs/reliability.md has no place for {name}.")
    PAGE.write_text(marked.sub(lambda _: text, page), encoding="utf-8")


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies; values must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
