"""What TensorRT's parser says to a graph, node by node, through `polygraphy inspect capability`; needs no GPU.

Not here: building. That a graph is read is no proof that a plan can be built or that its answers are right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_PROGRAM = "import sys; from polygraphy.tools import main; sys.exit(main())"
_AT_MOST_S = 300


def inspect(graph: Path, *, runtime: str) -> list[str]:
    """What the parser of `runtime` ("tensorrt" or "tensorrt-rtx") does not read, a sentence for each node; or none.

    Runs polygraphy in a process of its own. Raises RuntimeError, in one sentence, where it could not look.
    """
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1" if runtime == "tensorrt-rtx" else "0"}
    environment["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"  # nothing is ever fetched at run time
    command = [sys.executable, "-c", _PROGRAM, "inspect", "capability", str(graph.resolve())]
    with tempfile.TemporaryDirectory(prefix="sgmsnet-capability-") as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_AT_MOST_S
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"polygraphy did not answer within {_AT_MOST_S} s") from error
        found = Path(folder, "polygraphy_capability_dumps", "results.txt")
        if found.is_file():
            return _reasons(found.read_text(encoding="utf-8"))
    if done.returncode or "fully supported" not in done.stdout:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("[!]", "[E]"))]
        raise RuntimeError(said[0][4:] if said else f"polygraphy ended with status {done.returncode}")
    return []


def _reasons(table: str) -> list[str]:
    """Rows of polygraphy's table "Stack trace | Operator | Node | Reason", without its head."""
    rows = [[cell.strip() for cell in line.split("|", 3)] for line in table.splitlines() if line.count("|") >= 3]
    return [f"{operator}: {reason}" for _, operator, _, reason in rows if operator != "Operator"]
