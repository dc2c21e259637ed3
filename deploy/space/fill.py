"""Fills a folder that can be pushed to a Hugging Face Space: the page, the model and the examples, without PyTorch.

python deploy/space/fill.py build/space

The folder may be a clone of the Space: its .git stays, everything else is written anew. Standard library only.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

SCHEMA = "docs/prediction.schema.json"
PARTS = ("app.py", "LICENSE", "CITATION.cff", SCHEMA, "sgmsnet", "engines", "examples", "weights")
RENAMED = {
    HERE / "README.md": "README.md",
    HERE / "space.py": "space.py",
    HERE / "gitattributes": ".gitattributes",
    ROOT / "deploy" / "requirements-cpu.txt": "requirements.txt",
}
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.ipynb", "built", "*.reference.npz")


def fill(target: Path) -> None:
    """Write the Space into `target`; raises ValueError for a folder that holds anything else than an earlier Space."""
    if target.exists() and any(path.name != ".git" for path in target.iterdir()):
        if not (target / "space.py").is_file():
            raise ValueError(f"{target} holds something else than a Space; name another folder.")
        _empty(target)
    target.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target / part, ignore=LEFT_OUT)
        else:
            (target / part).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / part, target / part)
    for source, name in RENAMED.items():
        shutil.copy2(source, target / name)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and path.name != ".git":
            shutil.rmtree(path)
        elif not path.is_dir():
            path.unlink()


def main(arguments: list[str]) -> int:
    """Fill the folder that is named; returns the exit status."""
    if len(arguments) != 1:
        print("usage: python deploy/space/fill.py FOLDER", file=sys.stderr)
        return 2
    target = Path(arguments[0])
    try:
        fill(target)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and ".git" not in path.parts)
    print(f"{target}: {size / 2**20:.0f} MB. Push it to a Space made with the Gradio SDK.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
