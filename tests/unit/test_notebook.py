"""The notebook of `examples/` runs from top to bottom, keeps no outputs, and uses the examples alone."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.needs import ROOT

PATH = ROOT / "examples" / "walkthrough.ipynb"


@pytest.fixture(scope="module")
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_it_is_valid_and_holds_no_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert "/work" not in PATH.read_text(encoding="utf-8")


def test_it_covers_the_way_from_loading_to_evaluating(notebook: nbformat.NotebookNode) -> None:
    headings = [cell.source.splitlines()[0] for cell in notebook.cells if cell.source.startswith("## ")]
    assert headings == ["## Load", "## Predict", "## Attention", "## Many images", "## Evaluate", "## A report"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own are none of ours
def test_it_runs_from_top_to_bottom(
    notebook: nbformat.NotebookNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # nobody's own profile
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    client = NotebookClient(
        notebook.copy(), timeout=240, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "examples")}}
    )
    done = client.execute()
    printed = "".join(
        output.get("text", "") for cell in done.cells if cell.cell_type == "code" for output in cell.outputs
    )
    pictures = [
        output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(pictures) == 2
    assert "Dice per image" in printed
    assert "failed" not in printed
