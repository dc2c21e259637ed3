"""What `deploy/` promises and can be checked without Docker and without Hugging Face."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import app
from sgmsnet import checkpoint
from sgmsnet.web import about, describe
from tests.needs import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def pins() -> Iterator[Requirement]:
    """The CPU requirements that hold for this Python."""
    for line in lines(DEPLOY / "requirements-cpu.txt"):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def instructions(kind: str) -> list[str]:
    joined = re.sub(r"\s*\\\n\s*", " ", DOCKERFILE)
    return re.findall(rf"^\s*{kind} (.+)$", joined, flags=re.MULTILINE)


def test_cpu_requirements_are_a_part_of_the_project_s() -> None:
    assert set(lines(DEPLOY / "requirements-cpu.txt")) < set(lines(ROOT / "requirements.txt"))


def test_cpu_requirements_fit_each_other_and_bring_no_torch() -> None:
    waiting, seen = [(pin.name, pin) for pin in pins()], {}
    while waiting:
        wanted_by, requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        version = metadata.version(name)
        assert requirement.specifier.contains(version, prereleases=True), f"{wanted_by} wants {requirement}"
        if name in seen:
            continue
        seen[name] = version
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append((name, needed))
    assert len(seen) > 20
    assert not {"torch", "onnx", "tensorrt", "lightning", "monai"} & set(seen)


def test_the_space_s_front_matter_names_what_is_there(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "deploy/space/fill.py", str(tmp_path / "space")], cwd=ROOT, check=True, timeout=60)
    space = tmp_path / "space"
    _, front, text = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["sdk"] == "gradio"
    assert f"gradio=={facts['sdk_version']}" in lines(space / "requirements.txt")
    for key in ("app_file", "license_link"):
        assert (space / facts[key]).is_file()
    assert facts["colorFrom"] in ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    assert len(facts["short_description"]) <= 60
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (space / target).is_file(), target
    assert not [path for path in space.rglob("*") if path.name == "__pycache__" or path.is_symlink()]
    assert (space / "weights" / "cxr.safetensors").stat().st_size == (
        ROOT / "weights" / "cxr.safetensors"
    ).stat().st_size


def test_a_clone_of_the_space_keeps_its_history_and_a_strange_folder_its_files(tmp_path: Path) -> None:
    clone, strange = tmp_path / "clone", tmp_path / "strange"
    for folder in (clone / ".git", strange):
        folder.mkdir(parents=True)
    (clone / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (strange / "thesis.txt").write_text("years of work")

    def fill(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "deploy/space/fill.py", str(folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert fill(clone).returncode == 0
    (clone / "sgmsnet" / "old.py").write_text("left from an earlier version")
    assert fill(clone).returncode == 0
    assert (clone / ".git" / "HEAD").is_file()
    assert not (clone / "sgmsnet" / "old.py").exists()
    refused = fill(strange)
    assert refused.returncode == 1
    assert "holds something else than a Space" in refused.stderr
    assert [path.name for path in strange.iterdir()] == ["thesis.txt"]


def test_the_dockerfile_copies_what_is_there_and_ignores_none_of_it() -> None:
    allowed = {line[1:] for line in lines(DEPLOY / "docker" / "Dockerfile.dockerignore") if line.startswith("!")}
    copied = [source for line in instructions("COPY") for source in shlex.split(line)[:-1]]
    assert len(copied) >= 6
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source
    assert allowed == set(copied)


def test_every_image_and_the_space_get_what_the_page_reads() -> None:
    parts = runpy.run_path(str(DEPLOY / "space" / "fill.py"))["PARTS"]
    jetson = (DEPLOY / "jetson" / "Dockerfile").read_text(encoding="utf-8")
    copied = [source for line in instructions("COPY") for source in shlex.split(line)[:-1]]
    for path in (about.CITATION, describe.RECORD, checkpoint.SHIPPED, app.EXAMPLES):
        name = path.relative_to(ROOT).as_posix()
        assert name in parts
        assert name in copied
        assert f"COPY {name} " in jetson


def test_the_container_runs_without_rights_without_torch_and_says_whether_it_is_well() -> None:
    [user] = instructions("USER")
    assert user == "10001"
    assert DOCKERFILE.index("USER") < DOCKERFILE.index("ENTRYPOINT")
    [install] = instructions("RUN")
    assert "torch" not in install
    assert "pip install --require-hashes --no-deps --requirement requirements.lock" in install
    [check] = instructions("HEALTHCHECK.*CMD")
    assert "/health" in check


def test_the_container_s_command_is_one_that_app_py_takes() -> None:
    [entry] = instructions("ENTRYPOINT")
    words = yaml.safe_load(entry)
    assert words[:2] == ["python", "app.py"]
    options = app.parse(words[2:])
    assert (options.host, options.port) == ("0.0.0.0", 7860)
    assert instructions("EXPOSE") == ["7860"]


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("space/*.py")), ids=lambda path: path.name)
def test_the_space_s_programs_compile(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), path.name, "exec")
