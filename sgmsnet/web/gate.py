"""Who may come in: one user and password, compared in constant time, and a lock-out that guessing runs into.

The page's login form and HTTP Basic share one gate, so that neither is a way around the other. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

ATTEMPTS = 5
"""Wrong passwords in a row before a client has to wait."""
LOCK_S, LONGEST_LOCK_S = 60.0, 900.0
FORGOTTEN_S = 3600.0
ATTEMPTS_OF_ALL, WINDOW_S = 100, 60.0
"""Of all clients together: somebody with many addresses has to wait as well."""
_CLIENTS_AT_MOST = 20_000


class LockedError(Exception):
    """Too many wrong passwords; `wait_s` seconds to go."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"Too many wrong passwords; try again in {max(1, round(wait_s))} seconds.")
        self.wait_s = wait_s


@dataclass
class _Failures:
    count: int
    last: float
    locked_until: float


class Gate:
    """One login. Safe to use from several threads."""

    def __init__(self, user: str, password: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._user, self._password = _digest(user), _digest(password)
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()
        self._recent: deque[float] = deque()

    def matches(self, user: str, password: str) -> bool:
        """Whether both are right; takes as long for a wrong user as for a wrong password."""
        right_user = hmac.compare_digest(_digest(user), self._user)
        right_password = hmac.compare_digest(_digest(password), self._password)
        return right_user & right_password

    def admit(self, client: str, user: str, password: str) -> bool:
        """Judge one attempt of a client. Raises LockedError instead while the client has to wait."""
        right = self.matches(user, password)
        with self._lock:
            self._check(client)
            if right:
                self._welcome(client)
            else:
                self._count(client)
        return right

    def begin(self, client: str) -> None:
        """Count an attempt whose outcome comes later, as a failure until `passed`. Raises LockedError."""
        with self._lock:
            self._check(client)
            self._count(client)

    def passed(self, client: str) -> None:
        """The attempt that `begin` counted was right after all."""
        with self._lock:
            if self._recent:
                self._recent.pop()
            self._welcome(client)

    def _check(self, client: str) -> None:
        now = self._clock()
        failures = self._failures.get(client)
        if failures and now < failures.locked_until:
            raise LockedError(failures.locked_until - now)
        while self._recent and now - self._recent[0] >= WINDOW_S:
            self._recent.popleft()
        known = now - self._known.get(client, float("-inf")) < FORGOTTEN_S
        if len(self._recent) >= ATTEMPTS_OF_ALL and not known:
            raise LockedError(WINDOW_S - (now - self._recent[0]))

    def _welcome(self, client: str) -> None:
        self._failures.pop(client, None)
        self._known[client] = self._clock()
        self._known.move_to_end(client)
        while len(self._known) > _CLIENTS_AT_MOST:
            self._known.popitem(last=False)

    def _count(self, client: str) -> None:
        now = self._clock()
        failures = self._failures.pop(client, None)
        if failures is None or now - failures.last >= FORGOTTEN_S:
            failures = _Failures(0, now, now)
        failures.count, failures.last = failures.count + 1, now
        if failures.count >= ATTEMPTS:
            failures.locked_until = now + min(LOCK_S * 2.0 ** min(failures.count - ATTEMPTS, 10), LONGEST_LOCK_S)
        self._failures[client] = failures
        self._recent.append(now)
        while len(self._failures) > _CLIENTS_AT_MOST:
            self._failures.popitem(last=False)


def client_of(host: str) -> str:
    """What counts as one client: an IPv4 address, or a network of IPv6, since one visitor has all of its addresses."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)


def _digest(text: str) -> bytes:
    """Of equal length for all texts, so that comparing tells nothing about the length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
