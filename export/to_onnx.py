"""Weights to ONNX: a self-contained file for everyone, or a small graph that points into the weights.

Not here: building engines, and choosing one. Every graph takes uint8 images (N, 1, H, W) with a free N and fixed
H and W, gives FP32 outputs, and has been run in ONNX Runtime against PyTorch before it is put in place.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from export import ExportError
from export.graph_edits import drop_zero_biases, point_into, rename_initialisers, strip
from export.half import HalfNetwork
from export.jetpack import check as check_jetpack
from sgmsnet import __version__
from sgmsnet.checkpoint import ModelFiles, load_network

if TYPE_CHECKING:
    from sgmsnet.model import SGMSNet

OPSET = 20
OPSET_JETPACK_6_0 = 17
"""The largest opset of TensorRT 8.6; the newer exporter cannot write it."""
_OPSET_AT_LEAST = 11
"""The first whose Resize aligns corners."""
LARGEST_DIFFERENCE = 1e-3
"""Between PyTorch FP32 and ONNX Runtime, on every output of an FP32 graph, unless FP32 itself is no surer."""
TIMES_ROUNDING = 10
"""What may be allowed instead, in differences that the last digit of the weights makes: a trained memory with unscaled
queries, as the paper's, has products of 300,000, and small differences between them decide."""
LARGEST_SHARE_FP16 = 0.05
"""The same for a mixed-precision graph, as a share of the output's largest value or of 1: finds a wrong graph, where
`verify` measures a right one."""
Precision = Literal["fp32", "fp16"]
_REFERENCE_BYTES = 1_500_000
_FOLDED_ELEMENTS = 1024  # constants that folding may make: shapes and scalars, never a copy of a weight


class _Exported(nn.Module):  # type: ignore[misc]
    """The network with its outputs as a tuple, in the order of `names`."""

    def __init__(self, network: SGMSNet | HalfNetwork, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 images (N, 1, H, W) -> the outputs."""
        outputs = self.network(images)
        return tuple(outputs[name] for name in self.names)


def export(
    files: ModelFiles,
    output: Path,
    *,
    opset: int = OPSET,
    attention: bool = True,
    precision: Precision = "fp32",
    jetpack: str | None = None,
) -> Path:
    """Write a self-contained ONNX file, weights as FP32 inside or as half.py says for fp16; returns its path.

    `attention=False` leaves the attention maps out; `jetpack` names a key of jetpack.JETPACKS that must be able to
    take the graph. Raises ExportError when the graph is not as asked or does not give PyTorch's answer.
    """
    names = _output_names(files, attention=attention)
    network = load_network(files)
    graph = _graph(_in_half(network) if precision == "fp16" else network, names, opset=opset)
    if jetpack is not None:
        check_jetpack(graph, jetpack)
    return _finish(files, network, graph, Path(output), opset=opset, precision=precision)


def export_in_place(files: ModelFiles) -> Path:
    """Write NAME.onnx beside NAME.safetensors, with initialisers that point into it by offset; returns its path.

    FP16 tensors are cast to FP32 in the graph, one-dimensional ones are FP32 as stored. Raises ExportError as
    `export` does.
    """
    names = _output_names(files, attention=True)
    network = load_network(files)
    graph = _graph(network, names, opset=OPSET)
    point_into(graph, files.weights)
    return _finish(files, network, graph, files.weights.with_suffix(".onnx"), opset=OPSET)


def write_reference(files: ModelFiles, images: np.ndarray) -> Path:
    """Store FP32 outputs of PyTorch for uint8 images (N, 1, H, W) as NAME.reference.npz beside the weights.

    Where torch is absent, runtimes are compared with these. Trailing images, but not the first, are left out while the
    file is larger than 1.5 MB.
    """
    everything = {"images": images, **run_pytorch(load_network(files), images)}
    target = files.weights.with_suffix(".reference.npz")
    temporary = target.with_name(f"{files.weights.stem}.part.npz")
    try:
        for count in range(len(images), 0, -1):
            arrays = {name: values[:count] for name, values in everything.items()}
            arrays["weights_sha256"] = np.array(files.sha256)
            np.savez_compressed(temporary, allow_pickle=False, **arrays)
            if temporary.stat().st_size <= _REFERENCE_BYTES:
                break
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def run_pytorch(network: SGMSNet | HalfNetwork, images: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of the network in FP32 for uint8 images (N, 1, H, W), one image at a time."""
    with torch.inference_mode():
        each = [network(torch.from_numpy(images[index : index + 1])) for index in range(len(images))]
    return {name: np.concatenate([outputs[name].numpy() for outputs in each]) for name in each[0]}


def _with_other_last_digits(network: SGMSNet) -> SGMSNet:
    """A copy whose weights are rounded another way; what rounding does in a runtime is no better than that."""
    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            ulps = torch.empty_like(parameter).uniform_(-1, 1, generator=generator)
            parameter.mul_(1 + torch.finfo(torch.float32).eps * ulps)
    return other


def extreme_images(height: int, width: int) -> np.ndarray:
    """uint8 (3, 1, H, W): all black, all white, noise over all grey levels."""
    noise = np.random.default_rng(0).integers(0, 256, (1, height, width), dtype=np.uint8)
    return np.stack([np.zeros_like(noise), np.full_like(noise, 255), noise])


def _in_half(network: SGMSNet) -> HalfNetwork:
    """The network in FP16, known to be finite on extreme images; ONNX Runtime computes in FP32 and would hide it."""
    half = HalfNetwork(network)
    for name, value in run_pytorch(half, extreme_images(network.config.height, network.config.width)).items():
        if not np.isfinite(value).all():
            raise ExportError(f"{name} is not finite in FP16 for a black, white or noisy image")
    return half


def _output_names(files: ModelFiles, *, attention: bool) -> tuple[str, ...]:
    maps = () if attention else files.config.attention
    return tuple(name for name in files.config.outputs if name not in maps)


def _graph(network: SGMSNet | HalfNetwork, names: tuple[str, ...], *, opset: int) -> onnx.ModelProto:
    """The graph with one FP32 initialiser per tensor, named as in the weights file, and batch norm kept."""
    module = _Exported(network, names).eval()
    # A sample of batch 1 would silently freeze the batch.
    sample = torch.zeros(2, 1, network.config.height, network.config.width, dtype=torch.uint8)
    if opset < _OPSET_AT_LEAST:
        raise ExportError(f"the network needs opset {_OPSET_AT_LEAST} or higher, not {opset}")
    with _quiet_exporter():
        trace = _export_by_dynamo if opset >= 18 else _export_by_tracing
        try:
            model = trace(module, sample, opset=opset)
        except RuntimeError as error:  # of torch.export, its tracer and both exporters; they go on for pages
            said = str(error).strip().partition("\n")[0]
            raise ExportError(f"torch could not export the network at opset {opset}: {said}") from error
    rename_initialisers(model)
    drop_zero_biases(model, set(network.state_dict()))
    strip(model)
    return model


def _export_by_dynamo(module: _Exported, sample: Tensor, *, opset: int) -> onnx.ModelProto:
    from onnxscript import optimizer

    program = torch.onnx.export(
        module,
        (sample,),
        dynamo=True,
        optimize=False,  # it would merge equal weights and make transposed copies of the memory
        opset_version=opset,
        input_names=["images"],
        output_names=list(module.names),
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
        verbose=False,
    )
    assert program is not None
    optimizer.fold_constants(
        program.model,
        input_size_limit=_FOLDED_ELEMENTS,
        output_size_limit=_FOLDED_ELEMENTS,
        should_fold=lambda node: False if node.op_type == "Transpose" else None,  # a copy of the memory's keys
    )
    optimizer.remove_unused_nodes(program.model)
    return program.model_proto


def _export_by_tracing(module: _Exported, sample: Tensor, *, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (sample,),
        buffer,
        dynamo=False,
        opset_version=opset,
        training=torch.onnx.TrainingMode.PRESERVE,  # eval, without folding batch norm into convolutions
        do_constant_folding=False,
        input_names=["images"],
        output_names=list(module.names),
        dynamic_axes={name: {0: "batch"} for name in ("images", *module.names)},
    )
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    # What the exporters say about their own internals and about torchvision, which is not used here.
    loggers = [logging.getLogger("torch.onnx"), logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec", category=FutureWarning)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _finish(
    files: ModelFiles,
    network: SGMSNet,
    model: onnx.ModelProto,
    target: Path,
    *,
    opset: int,
    precision: Precision = "fp32",
) -> Path:
    """Name, check and run the graph under a temporary name, then put it in place."""
    model.graph.name = files.name
    model.producer_name, model.producer_version = "sgmsnet", __version__
    metadata = {
        "name": files.name,
        "weights_sha256": files.sha256,
        "classes": json.dumps(files.config.classes),
        "thresholds": json.dumps(files.thresholds),
        "temperature": json.dumps(files.temperature),
        "producer": f"sgmsnet {__version__}",
    }
    if precision != "fp32":
        metadata["precision"] = precision
    helper.set_model_props(model, metadata)
    _assert_opset(model, opset)
    _state_shapes(model, files)
    _assert_shapes(model, files)
    temporary = target.with_name(target.name + ".part")
    try:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(temporary), full_check=True)
        assert_parity(temporary, network, precision)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _assert_opset(model: onnx.ModelProto, opset: int) -> None:
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": opset}:
        raise ExportError(f"opset {opset} was asked for and the exporter wrote {found}")


def _state_shapes(model: onnx.ModelProto, files: ModelFiles) -> None:
    """Write the sizes of the outputs, which tracing leaves open; the checker holds them against the nodes."""
    for output in model.graph.output:
        sides = output.type.tensor_type.shape.dim[1:]
        for side, size in zip(sides, files.config.output_shapes[output.name], strict=True):
            side.dim_value = size


def _assert_shapes(model: onnx.ModelProto, files: ModelFiles) -> None:
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    fixed = [entry.dim_value for entry in dims[1:]]
    if not dims[0].dim_param or fixed != [1, files.config.height, files.config.width]:
        raise ExportError("the graph's input is not (N, 1, H, W) with a free N")
    if images.type.tensor_type.elem_type != TensorProto.UINT8:
        raise ExportError("the graph's input is not uint8")
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        if not dims[0].dim_param or output.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise ExportError(f"the graph's output {output.name} is not FP32 with a free batch")


def assert_parity(graph: Path, network: SGMSNet, precision: Precision = "fp32") -> None:
    """Run the graph in ONNX Runtime at batch 1 and 3; raise ExportError where it is not near enough to PyTorch FP32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    generator = np.random.default_rng(0)
    for batch in (1, 3):
        shape = (batch, 1, network.config.height, network.config.width)
        images = generator.integers(0, 256, shape, dtype=np.uint8)
        expected = run_pytorch(network, images)
        other: dict[str, np.ndarray] = {}
        for name, value in zip(names, session.run(names, {"images": images}), strict=True):
            if value.shape != expected[name].shape:
                raise ExportError(f"{name} has the shape {value.shape} at batch {batch} in ONNX Runtime")
            difference = float(np.abs(value - expected[name]).max())
            largest = LARGEST_DIFFERENCE
            if precision == "fp16":
                largest = LARGEST_SHARE_FP16 * max(1.0, float(np.abs(expected[name]).max()))
            elif not difference < largest:
                other = other or run_pytorch(_with_other_last_digits(network), images)
                largest = max(largest, TIMES_ROUNDING * float(np.abs(other[name] - expected[name]).max()))
            if not difference < largest:  # also true for NaN
                raise ExportError(f"{name} differs by {difference:.2g} between PyTorch and ONNX Runtime")
