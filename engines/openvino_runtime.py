"""OpenVINO's runtime without its converter, which reports every import of the package to its maker; opens no model.

`import openvino` brings the converter (ovc), which sends an event, writes an identifier into the home
folder, and takes longer to import than all the rest. The runtime needs none of it.
"""

from __future__ import annotations

import sys
import threading
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


def forbid_telemetry() -> None:
    """Let no package of this process find openvino-telemetry from now on.

    For a process that builds: nncf and the converter then take the stand-ins that they bring for its absence.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
