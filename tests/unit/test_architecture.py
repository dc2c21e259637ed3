"""The direction of imports that docs/architecture.md promises, read from the source and seen in a child process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.needs import ROOT

PACKAGES = ("sgmsnet", "engines", "export")
HEAVY = {"torch", "gradio", "openvino", "onnxruntime", "tensorrt", "monai", "lightning", "onnx", "matplotlib"}
ON_THE_WAY = ("imaging", "raster", "dicom", "radiograph", "pipeline", "prediction", "measurements", "overlay", "config")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted([ROOT / "app.py", *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports; `from a import b` gives a and a.b. Imports for type checking do not count."""
    found: set[str] = set()
    for node in tree.body if top_only and isinstance(tree, ast.Module) else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def under(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(package + ".")}


def test_concrete_engines_are_imported_by_select_alone_inside_functions() -> None:
    concrete = {f"engines.{path.stem}" for path in (ROOT / "engines").glob("*_engine.py")}
    assert len(concrete) >= 3
    for name, tree in modules():
        assert not imports(tree) & concrete or name == "engines.select", name
        assert not imports(tree, top_only=True) & concrete, name


@pytest.mark.parametrize("module", ON_THE_WAY)
def test_the_way_of_one_x_ray_imports_nothing_heavy_at_its_top(module: str) -> None:
    tree = dict(modules())[f"sgmsnet.{module}"]
    assert not {name.split(".")[0] for name in imports(tree, top_only=True)} & HEAVY


def test_only_web_and_app_know_gradio() -> None:
    for name, tree in modules():
        if under(imports(tree), "gradio"):
            assert name.startswith("sgmsnet.web."), name


def test_the_network_is_reached_by_engine_export_training_and_checkpoint_alone() -> None:
    allowed = ("engines.pytorch_engine", "export.", "sgmsnet.training.", "sgmsnet.checkpoint")
    for name, tree in modules():
        if under(imports(tree), "sgmsnet.model"):
            assert name.startswith(allowed), name


def test_nothing_on_the_way_of_one_x_ray_knows_page_commands_or_training() -> None:
    for name, tree in modules():
        if name.removeprefix("sgmsnet.") in ON_THE_WAY or name.startswith("engines."):
            for upper in ("sgmsnet.web", "sgmsnet.commands", "sgmsnet.training", "export", "app"):
                assert not under(imports(tree), upper), f"{name} imports {upper}"


def test_page_and_export_take_from_training_what_needs_no_torch() -> None:
    lent = {"web": {"metrics", "surface"}, "export": {"data", "masks"}}
    for name, tree in modules():
        for package, allowed in lent.items():
            if name.startswith((f"sgmsnet.{package}.", f"{package}.")):
                taken = {part.split(".")[2] for part in under(imports(tree), "sgmsnet.training") if part.count(".") > 1}
                assert taken <= allowed, name
    program = "import sys\n" + "".join(
        f"import sgmsnet.training.{name}\n" for name in sorted(set.union(*lent.values()))
    )
    program += f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("statement", ["import app", "import sgmsnet.cli", "import sgmsnet.pipeline, engines.select"])
def test_importing_leaves_the_heavy_packages_alone(statement: str) -> None:
    program = f"import sys; {statement}; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_every_module_says_what_it_is_for() -> None:
    for name, tree in modules():
        assert ast.get_docstring(tree), f"{name} has no docstring"
