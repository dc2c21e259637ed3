"""Runtimes behind one protocol; each file imports its own runtime only when it is opened."""

import os

# ONNX Runtime's Linux wheels carry Microsoft's telemetry, which starts on import: disable_telemetry_events comes too
# late, and only this keeps it from looking for its server and from leaving a session file in the temporary folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
