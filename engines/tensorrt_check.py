"""Deserialise a plan in a process of its own: `python -m engines.tensorrt_check MODULE PLAN VERSION`.

A damaged or foreign plan may end the process that opens it. Exit status 0 and the runtime's version in the last line of
stdout, or 1 and one sentence on stderr; before that, TensorRT's logger writes to stdout too. A plan of another version
than the runtime's is not opened: the caller compares the two.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from engines.base import EngineUnavailable

_AT_MOST_S = 120
_ROOT = Path(__file__).resolve().parent.parent


def check_plan(module: str, plan: Path, *, built_by: str) -> str:
    """The version of the runtime here; raises EngineUnavailable when that is `built_by` and cannot open the plan."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "engines.tensorrt_check", module, str(plan), built_by]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_AT_MOST_S, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailable(f"{module} did not open {plan} within {_AT_MOST_S} s") from error
    if done.returncode < 0:
        raise EngineUnavailable(f"{module} ended with signal {-done.returncode} when it opened {plan}")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        because = f" ({reason})" if (reason := _last_error(done.stdout)) else ""
        raise EngineUnavailable((said[-1] if said else f"{module} could not open {plan}") + because)
    return done.stdout.strip().rpartition("\n")[2]


def _last_error(stdout: str) -> str:
    """What TensorRT's logger said last, in a line as "[11/27/2026-21:17:13] [TRT] [E] cudaError 35: ..."."""
    errors = [line.partition("[E]")[2] for line in stdout.splitlines() if "[E]" in line]
    return errors[-1].strip(" .") if errors else ""


def main(module: str, plan: str, built_by: str) -> int:
    """The child process."""
    try:
        trt = importlib.import_module(module)
        content = Path(plan).read_bytes()
    except (ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if trt.__version__ != built_by:
        print(trt.__version__)
        return 0
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(content)
    if engine is None:
        print(
            f"{module} {trt.__version__} refuses {plan}: it is damaged, or not for this GPU and driver", file=sys.stderr
        )
        return 1
    print(trt.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
