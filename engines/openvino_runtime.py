"""OpenVINO's runtime: one Core a process, and no converter, which reports to its maker; opens no model.

`import openvino` brings the converter (ovc), which sends an event, writes an identifier into the home
folder, and takes longer to import than all the rest. The runtime needs none of it.
"""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

_CONVERTER = "openvino.tools.ovc"
_lock = threading.Lock()


def import_openvino() -> Any:
    """The package openvino, imported without converter and without telemetry; raises ImportError as an import does.

    The converter can still be imported by name afterwards.
    """
    with _lock:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        absent = _CONVERTER not in sys.modules
        if absent:
            sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # Python's own way to say: not to be found
        try:
            import openvino
        finally:
            if absent:
                del sys.modules[_CONVERTER]
        return openvino


def shared_core() -> Any:
    """The Core of this process, which is never let go; raises ImportError and RuntimeError as OpenVINO does.

    With each Core's CPU plugin comes an alternate signal stack for the thread that loads it, and it goes with the
    plugin. OpenVINO 2026.4 puts back the wrong one, or none, where Cores do not end in reverse order or end in
    another thread: the thread keeps a stack that is gone, and the next signal that has a handler (Ctrl-C, SIGTERM, a
    child's end) kills the process.
    """
    openvino = import_openvino()
    with _lock:  # or two threads would make one each
        return _core(openvino)


@cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


def forbid_telemetry() -> None:
    """Let no package of this process find openvino-telemetry from now on.

    For a process that builds: nncf and the converter then take the stand-ins that they bring for its absence.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
