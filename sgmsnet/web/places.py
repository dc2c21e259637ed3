"""How many requests are in hand, in all and of each client: one of one kind holds no other's place. Knows no HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

IN_HAND = 256
"""Requests of one kind in hand."""
BUSY = "The server is busy; please try again shortly."
"""What is said where no place is left for anybody."""


class FullError(Exception):
    """No place is left: for this client alone where `own`, else for anybody."""

    def __init__(self, *, own: bool) -> None:
        super().__init__("No place is left.")
        self.own = own


class Places:
    """IN_HAND places, of which one client has at most `each`; None for any number. For one event loop."""

    def __init__(self, *, each: int | None) -> None:
        self._each = each
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """Places that are held now."""
        return self._taken.total()

    @contextmanager
    def hold(self, client: str) -> Iterator[None]:
        """Hold a place while the block runs; raises FullError before it."""
        if self._each is not None and self._taken[client] >= self._each:
            raise FullError(own=True)
        if self.taken >= IN_HAND:
            raise FullError(own=False)
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]
