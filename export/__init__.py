"""From weights to artefacts: ONNX graphs, stored references, and their verification; not needed to predict."""


class ExportError(RuntimeError):
    """An artefact that must not be used, for the reason given in one sentence."""
