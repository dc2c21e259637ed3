"""The lock-out: who guesses has to wait, on whichever way in; who knows the password does not."""

from __future__ import annotations

import contextlib
import hmac
import threading

import pytest

from sgmsnet.web import gate as module
from sgmsnet.web.gate import ATTEMPTS, ATTEMPTS_OF_ALL, LOCK_S, LONGEST_LOCK_S, Gate, LockedError, client_of
from sgmsnet.web.rate import Rate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate("ward", "sécret:colon", clock=clock)


def guess(gate: Gate, times: int, client: str = "a") -> None:
    for _ in range(times):
        assert not gate.admit(client, "ward", "wrong")


def test_only_both_together_match(gate: Gate) -> None:
    assert gate.matches("ward", "sécret:colon")
    for user, password in (
        ("ward", ""),
        ("", "sécret:colon"),
        ("Ward", "sécret:colon"),
        ("ward", "sécret:colon "),
        ("\ud800", ""),
    ):
        assert not gate.matches(user, password)


def test_user_and_password_are_always_both_compared_in_constant_time(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        lengths.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    gate.matches("nobody", "x")
    gate.matches("ward", "y" * 1000)
    assert lengths == [(32, 32)] * 4


def test_after_some_wrong_passwords_even_the_right_one_has_to_wait(gate: Gate, clock: Clock) -> None:
    guess(gate, ATTEMPTS)
    with pytest.raises(LockedError, match=r"try again in 60 seconds\.$"):
        gate.admit("a", "ward", "sécret:colon")
    assert gate.admit("b", "ward", "sécret:colon")
    clock.now += LOCK_S
    assert gate.admit("a", "ward", "sécret:colon")


def test_the_lock_grows_with_each_further_guess_up_to_a_limit(gate: Gate, clock: Clock) -> None:
    waits = []
    guess(gate, ATTEMPTS - 1)
    for _ in range(7):
        guess(gate, 1)
        with pytest.raises(LockedError) as locked:
            gate.admit("a", "ward", "wrong")
        waits.append(locked.value.wait_s)
        clock.now += locked.value.wait_s
    assert waits == [60, 120, 240, 480, 900, 900, LONGEST_LOCK_S]


def test_a_right_password_clears_the_count(gate: Gate) -> None:
    for _ in range(3):
        guess(gate, ATTEMPTS - 1)
        assert gate.admit("a", "ward", "sécret:colon")


def test_an_attempt_whose_outcome_comes_later_counts_at_once(gate: Gate) -> None:
    for _ in range(ATTEMPTS):
        gate.begin("a")
    with pytest.raises(LockedError):
        gate.begin("a")
    gate.begin("b")
    gate.passed("b")
    guess(gate, ATTEMPTS, "b")


def test_many_addresses_together_have_to_wait_but_not_those_who_were_let_in(gate: Gate, clock: Clock) -> None:
    assert gate.admit("known", "ward", "sécret:colon")
    for i in range(ATTEMPTS_OF_ALL):
        guess(gate, 1, f"guesser {i}")
    with pytest.raises(LockedError):
        gate.admit("new", "ward", "sécret:colon")
    assert gate.admit("known", "ward", "sécret:colon")
    clock.now += 60
    assert gate.admit("new", "ward", "sécret:colon")


def test_threads_that_guess_together_get_no_extra_attempts(gate: Gate) -> None:
    judged: list[bool] = []

    def attempt() -> None:
        with contextlib.suppress(LockedError):
            judged.append(gate.admit("a", "ward", "wrong"))

    threads = [threading.Thread(target=attempt) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert judged == [False] * ATTEMPTS


def test_strangers_cannot_fill_the_memory(gate: Gate, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(module, "_CLIENTS_AT_MOST", 10)
    for i in range(50):
        guess(gate, 1, str(i))
        clock.now += 10
    assert len(gate._failures) == 10


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
        ("x" * 900, "x" * 64),
    ],
)
def test_all_addresses_of_one_visitor_are_one_client(host: str, client: str) -> None:
    assert client_of(host) == client


def test_a_client_may_burst_and_then_ask_at_the_rate(clock: Clock) -> None:
    rate = Rate(60, burst=3, clock=clock)
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 1]
    assert rate.take("b") == 0
    clock.now += 0.5
    assert rate.take("a") == pytest.approx(0.5)
    clock.now += 0.5
    assert rate.take("a") == 0
    clock.now += 3600
    assert [rate.take("a") for _ in range(4)] == [0, 0, 0, 1]
