"""How far a job is, how fast, and how long it still takes: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

LINE_EVERY_S = 30.0


class Progress:
    """Counts what is done in this run; `total` gives what there is to do once it has been counted."""

    def __init__(self, total: Future[int], *, before: int, every_s: float = LINE_EVERY_S) -> None:
        """before: files that earlier runs had done, which are part of the total but not of the rate."""
        self._total, self._before, self._every_s = total, before, every_s
        self._done = self._failed = 0
        self._start = self._spoke = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None

    def step(self, *, failed: bool) -> None:
        """One more file is done."""
        self._done += 1
        self._failed += failed
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._before + self._done, self._known_total(), self._facts(now))
        elif now - self._spoke >= self._every_s:
            self._spoke = now
            self.say(self.line())

    def say(self, sentence: str) -> None:
        """A sentence on standard error."""
        print_line: Callable[[str], None] = _to_stderr if self._bar is None else self._bar.say
        print_line(sentence)

    def line(self) -> str:
        """Where the job stands, for a person."""
        total = self._known_total()
        done = self._before + self._done
        counted = f"{done:,} of {total:,} ({100 * done / max(total, 1):.0f} %)" if total is not None else f"{done:,}"
        return f"{counted}, {self._facts(time.monotonic())}"

    def close(self) -> None:
        """Leave the bar, and say how the run went where it was more than a moment's work."""
        if self._bar is not None:
            self._bar.close()
        if self._bar is not None or time.monotonic() - self._start >= self._every_s:
            _to_stderr(self.line())

    def _facts(self, now: float) -> str:
        rate = self._done / max(now - self._start, 1e-9)
        facts = [f"{rate:.1f} images/s"]
        total = self._known_total()
        if total is not None and self._done:
            facts.append(f"{duration(max(0, total - self._before - self._done) / rate)} left")
        if self._failed:
            facts.append(f"{self._failed:,} failed")
        return ", ".join(facts)

    def _known_total(self) -> int | None:
        return self._total.result() if self._total.done() and self._total.exception() is None else None


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _to_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _bar() -> Any:
    return _RichBar() if importlib.util.find_spec("rich") else _PlainBar()


class _PlainBar:
    """One line that is written over."""

    _drawn = 0.0

    def update(self, done: int, total: int | None, facts: str) -> None:
        if time.monotonic() - self._drawn > 0.2 or done == total:
            self._drawn = time.monotonic()
            of = f"/{total}" if total is not None else ""
            print(f"\r\033[K{done}{of}, {facts}", end="", file=sys.stderr, flush=True)

    def say(self, sentence: str) -> None:
        print(f"\r\033[K{sentence}", file=sys.stderr, flush=True)

    def close(self) -> None:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


class _RichBar:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bars = Bars(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self._task = self._bars.add_task("", total=None)
        self._bars.start()

    def update(self, done: int, total: int | None, facts: str) -> None:
        self._bars.update(self._task, completed=done, total=total, description=facts)

    def say(self, sentence: str) -> None:
        self._bars.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()
