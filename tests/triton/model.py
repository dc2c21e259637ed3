"""A model for Triton's Python backend that runs the graph in ONNX Runtime; Triton reads it, nothing here imports it."""

from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # part of the backend


class TritonPythonModel:
    """The requests of one dynamic batch are run together."""

    def initialize(self, args):
        graph = Path(args["model_repository"]) / args["model_version"] / "graph.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        values = self.session.run(self.names, {"images": np.concatenate(images)})
        ends = np.cumsum([len(part) for part in images])[:-1]
        parts = [np.split(value, ends) for value in values]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, part[k]) for name, part in zip(self.names, parts, strict=True)]
            )
            for k in range(len(requests))
        ]
