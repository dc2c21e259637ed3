"""What is installed is what was meant: exact versions, and a lock file with hashes that agrees with them."""

from __future__ import annotations

import re

import pytest

from tests.needs import ROOT

PIN = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


FILES = sorted(
    str(path.relative_to(ROOT)) for path in (*ROOT.glob("requirements*.txt"), *ROOT.glob("deploy/**/requirements*.txt"))
)
IN_RANGES = {"requirements-gpu.txt": {"tensorrt", "cuda-python"}}
"""What the machine's driver decides; the file's head says so."""


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_exactly_but_what_the_driver_decides(name: str) -> None:
    in_ranges = set()
    for line in lines(name):
        if PIN.match(line) or line.startswith("-r ") or line == "--extra-index-url https://pypi.nvidia.com":
            continue
        found = re.fullmatch(r"([a-z-]+)>=[0-9.]+(,<[0-9.]+)?", line)
        assert found, f"{name}: {line}"
        in_ranges.add(found[1])
    assert in_ranges == IN_RANGES.get(name, set())


def test_every_file_of_requirements_is_looked_at() -> None:
    assert {"requirements.txt", "requirements-gpu.txt", "deploy/jetson/requirements.txt"} <= set(FILES)


def test_the_lock_file_has_hashes_for_everything() -> None:
    entries = re.split(r"\n(?=\S)", "\n".join(lines("requirements.lock")))
    assert len(entries) > 60
    for entry in entries:
        head, *hashes = entry.split(" \\\n")
        assert PIN.match(head), head
        assert hashes
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}", one) for one in hashes), entry


def test_the_lock_file_agrees_with_the_requirements() -> None:
    found = [PIN.match(line) for line in lines("requirements.lock")]
    locked = {(match[1].lower().replace("_", "-"), match[2]) for match in found if match}
    asked = [PIN.match(line) for line in lines("requirements.txt")]
    for match in asked:
        assert match is not None
        if match[1] != "torch":
            assert (match[1].lower().replace("_", "-"), match[2]) in locked, match[0]


def test_the_lock_file_names_no_place_and_leaves_torch_to_the_user() -> None:
    text = "\n".join(lines("requirements.lock"))
    assert "torch==" not in text
    assert not re.search(r"https?://|file:|--index|--find-links| @ ", text)


def test_security_md_names_tests_that_exist() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:\.\./unit/)?(test_\w+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 12
    for file, test in named:
        folder = ROOT / "tests" / ("security" if (ROOT / "tests" / "security" / file).exists() else "unit")
        source = (folder / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"
