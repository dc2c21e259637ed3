"""One process of servers for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.serving import Running, running

LOGIN = ("ward", "sécret:colon")


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Servers with different policies, which log all that they can."""
    with running(
        tmp_path_factory.mktemp("servers"),
        opened={"hosts": ["localhost", "127.0.0.1", "[::1]"]},
        locked={"login": LOGIN},
        guessed={"login": LOGIN},
        limited={"per_minute": 12},
        crowded={"slow_s": 0.4, "waiting": 2},
        plain={},
    ) as started:
        yield started


@pytest.fixture
def opened(servers: dict[str, Running]) -> Running:
    """For this machine alone, without a password."""
    return servers["opened"]


@pytest.fixture
def locked(servers: dict[str, Running]) -> Running:
    """With a password."""
    return servers["locked"]
