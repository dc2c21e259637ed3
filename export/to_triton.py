"""Write a Triton model repository: the model's files, its config.pbtxt, labels and a real image to warm up with.

Not here: running Triton (deploy/triton) and asking it (engines/triton_engine.py).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from engines import manifest
from engines.graph import usable_graph
from engines.manifest import BUILT, ManifestError
from engines.plans import PRECISIONS, build_command, plan_folder
from export import ExportError
from sgmsnet.checkpoint import ModelFiles

Platform = Literal["onnxruntime", "openvino", "tensorrt", "python"]
PLATFORMS: tuple[Platform, ...] = ("onnxruntime", "openvino", "tensorrt")
"""What can be exported; "python" is Triton's backend for a model.py of one's own, which the tests have."""

OPEN_PRECISION = "fp32 or bf16"
"""OpenVINO takes BF16 by itself where a CPU has it, and Triton's backend documents no parameter that forbids it."""

_BACKENDS = {
    "onnxruntime": 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"',
    "openvino": 'backend: "openvino"\ndefault_model_filename: "model.onnx"',
    "tensorrt": 'platform: "tensorrt_plan"\ndefault_model_filename: "model.plan"',
    "python": 'backend: "python"\ndefault_model_filename: "model.py"',
}

_WITHOUT_TF32 = """\
optimization {
  execution_accelerators {
    gpu_execution_accelerator [
      {
        name: "cuda"
        parameters {
          key: "use_tf32"
          value: "0"
        }
      }
    ]
  }
}
"""
"""ONNX Runtime's default on a GPU would leave the FP32 parity bound, and the records say fp32."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How Triton is to serve: raises ExportError for numbers that cannot be."""

    platform: Platform = "onnxruntime"
    gpu: bool = False
    """Instances on each GPU instead of the CPU; TensorRT has no other."""
    instances: int = 1
    batch_max: int = 8
    """Largest batch that is put together from requests."""
    queue_delay_ms: float = 2.0
    """How long a request waits for others."""

    def __post_init__(self) -> None:
        if self.instances < 1 or self.batch_max < 1 or not 0 <= self.queue_delay_ms <= 10_000:
            raise ExportError("instances and batch must be at least 1, the queue's delay between 0 and 10,000 ms")
        if self.gpu and self.platform == "openvino":
            raise ExportError("Triton runs OpenVINO on a CPU alone; for a GPU there are onnxruntime and tensorrt")


def export(files: ModelFiles, repository: Path, serving: Serving, *, warm_up: np.ndarray, built: Path = BUILT) -> Path:
    """Write REPOSITORY/NAME; warm_up is a prepared X-ray, uint8 (1, H, W). Returns the model's folder.

    Raises ExportError where something else lies there, EngineUnavailable without a graph or plan of these weights.
    """
    expected = (1, files.config.height, files.config.width)
    if warm_up.dtype != np.uint8 or warm_up.shape != expected:
        raise ExportError(f"the image to warm up with must be uint8 {expected}, not {warm_up.dtype} {warm_up.shape}")
    folder = repository / files.name
    if folder.exists() and not (folder / "config.pbtxt").is_file():
        raise ExportError(f"{folder} is there and is no model of Triton")
    part = repository / f".{files.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "1").mkdir(parents=True)
    (part / "warmup").mkdir()
    try:
        model = _copy_model(files, part / "1", serving, built)
        (part / "labels.txt").write_text("".join(f"{name}\n" for name in files.config.classes), encoding="utf-8")
        (part / "warmup" / "images").write_bytes(warm_up.tobytes())
        (part / "config.pbtxt").write_text(config(files, serving, model), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)  # a server that polls sees all of it or nothing
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Served:
    """What the server is given to run."""

    precision: str
    batch_max: int
    outputs: tuple[str, ...]
    """Which of the network's it has, in its order."""


def config(files: ModelFiles, serving: Serving, model: Served) -> str:
    """config.pbtxt in protobuf's text format."""
    shapes, batch_max = files.config.output_shapes, model.batch_max
    input_ = f'{{\n    name: "images"\n    data_type: TYPE_UINT8\n    dims: {_dims((1, *_size(files)))}\n  }}'
    outputs = ",\n  ".join(
        f'{{\n    name: "{name}"\n    data_type: TYPE_FP32\n    dims: {_dims(shapes[name])}'
        + ('\n    label_filename: "labels.txt"' if name == "logits" else "")
        + "\n  }"
        for name in model.outputs
    )
    on_gpu = serving.gpu or serving.platform == "tensorrt"
    kind = "KIND_GPU" if on_gpu else "KIND_CPU"
    preferred = sorted({size for size in (batch_max // 2, batch_max) if size > 1})
    batching = f"  preferred_batch_size: {_dims(preferred)}\n" if preferred else ""
    facts = {
        "weights_sha256": files.sha256,
        "precision": model.precision,
        "classes": json.dumps(files.config.classes),
        "thresholds": json.dumps(files.thresholds),
    }
    by_cuda = serving.gpu and serving.platform == "onnxruntime"
    if by_cuda:
        facts["cudnn_conv_algo_search"] = "1"  # heuristic: by default every batch size searches while requests wait
    parameters = "".join(
        f"parameters {{\n  key: {json.dumps(key)}\n  value {{ string_value: {json.dumps(value)} }}\n}}\n"
        for key, value in facts.items()
    )
    # A GPU sets itself up for each batch size in its first run.
    warm_up = ",\n  ".join(
        f"""{{
    name: "{size} of an X-ray"
    batch_size: {size}
    inputs {{
      key: "images"
      value {{
        data_type: TYPE_UINT8
        dims: {_dims((1, *_size(files)))}
        input_data_file: "images"
      }}
    }}
  }}"""
        for size in range(1, batch_max + 1 if on_gpu else 2)
    )
    return f"""\
# Written by `python -m export triton`.
name: "{files.name}"
{_BACKENDS[serving.platform]}
max_batch_size: {batch_max}
input [
  {input_}
]
output [
  {outputs}
]
dynamic_batching {{
{batching}  max_queue_delay_microseconds: {round(serving.queue_delay_ms * 1000)}
}}
instance_group [
  {{
    kind: {kind}
    count: {serving.instances}
  }}
]
model_warmup [
  {warm_up}
]
{_WITHOUT_TF32 if by_cuda else ""}{parameters}"""


def _copy_model(files: ModelFiles, folder: Path, serving: Serving, built: Path) -> Served:
    """Put what the platform runs into the version's folder."""
    if serving.platform == "python":
        return Served("fp32", serving.batch_max, files.config.outputs)
    if serving.platform == "tensorrt":
        return _copy_plan(files, folder, serving, built)
    graph = usable_graph(files)
    shutil.copyfile(graph, folder / "model.onnx")
    shutil.copyfile(files.weights, folder / files.weights.name)  # the graph points into it by this name
    outputs = tuple(output.name for output in onnx.load(graph, load_external_data=False).graph.output)
    return Served(OPEN_PRECISION if serving.platform == "openvino" else "fp32", serving.batch_max, outputs)


def _copy_plan(files: ModelFiles, folder: Path, serving: Serving, built: Path) -> Served:
    """The plan in FP16, or else the one in FP32."""
    refused = []
    for precision in PRECISIONS:
        source = plan_folder(built, files.name, "tensorrt", precision)
        if source.is_dir():
            try:
                made = manifest.read(source)
                manifest.check_model(made, weights_sha256=files.sha256)
                plan = manifest.check_artefact(source, made)
            except ManifestError as error:
                refused.append(str(error))
                continue
            shutil.copyfile(plan, folder / "model.plan")
            return Served(made.precision, min(made.batch_max, serving.batch_max), tuple(made.outputs))
    command = build_command("tensorrt", files)
    if refused:
        raise ExportError(f"{'; '.join(refused)}; `{command}` builds it again")
    raise ExportError(f"there is no TensorRT plan of {files.name}; `{command}` builds one")


def _size(files: ModelFiles) -> tuple[int, int]:
    return files.config.height, files.config.width


def _dims(sides: tuple[int, ...] | list[int]) -> str:
    return f"[{', '.join(map(str, sides))}]"
