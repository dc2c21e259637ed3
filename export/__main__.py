"""The command line of export: one command each to write, verify and time what runtimes read, and to plan servers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.base import EngineError, EngineUnavailable
from engines.manifest import BUILT
from engines.plans import Runtime
from export import ExportError, benchmark, capacity_command
from export.jetpack import JETPACKS
from export.machine import ROOT
from sgmsnet.checkpoint import ModelFiles, find
from sgmsnet.commands.inputs import collect
from sgmsnet.imaging import load, prepare

_OPSETS = {"fp32": 20, "fp16": min(jetpack.largest_opset for jetpack in JETPACKS.values())}
"""By precision where none is asked for: the FP16 graph is TensorRT's, and is to be read by all of them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 with one sentence on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except ModuleNotFoundError as error:
        print(f"export needs the package {error.name}; requirements-train.txt has it", file=sys.stderr)
    except (ExportError, EngineUnavailable, EngineError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    onnx = commands.add_parser("onnx", help="write an ONNX graph, checked and run in ONNX Runtime")
    onnx.set_defaults(command=_onnx)
    onnx.add_argument("--output", type=Path, help="file to write (default: NAME.onnx in this folder)")
    opsets = ", ".join(f"{opset} in {precision.upper()}" for precision, opset in _OPSETS.items())
    onnx.add_argument("--opset", type=int, help=f"default: the largest that --jetpack can read, else {opsets}")
    onnx.add_argument("--jetpack", choices=tuple(JETPACKS), help="refuse a graph that its TensorRT cannot read")
    onnx.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp32", help="fp16: one mixed-precision graph for TensorRT"
    )
    onnx.add_argument("--no-attention", action="store_true", help="leave the attention maps out")
    onnx.add_argument(
        "--weights-in-place",
        action="store_true",
        help="write a small graph beside the weights that points into them",
    )

    tensorrt = commands.add_parser("tensorrt", help="build a TensorRT plan with its manifest in engines/built")
    tensorrt.set_defaults(command=_tensorrt)
    tensorrt.add_argument("--rtx", action="store_true", help="with TensorRT for RTX, which needs no GPU to build")
    tensorrt.add_argument(
        "--compute-capability", nargs="+", default=[], metavar="N.N", help="of GPUs elsewhere, with --rtx: 8.6 8.9"
    )
    tensorrt.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    tensorrt.add_argument("--graph", type=Path, metavar="FILE", help="of export onnx, made elsewhere: needs no torch")
    tensorrt.add_argument("--workspace-mb", type=int, default=1024, help="largest scratch memory (default: 1024)")

    openvino = commands.add_parser("openvino", help="build an OpenVINO artefact with its manifest in engines/built")
    openvino.set_defaults(command=_openvino)
    openvino.add_argument("--precision", choices=("bf16", "fp16", "int8"), default="bf16")
    openvino.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        help="X-rays to calibrate int8 (default: training images of SGMSNET_DATA)",
    )
    openvino.add_argument(
        "--images",
        type=Path,
        nargs="+",
        help="X-rays to verify on (int8 by default: validation images of SGMSNET_DATA)",
    )

    reference = commands.add_parser("reference", help="store PyTorch's outputs for some images")
    reference.set_defaults(command=_reference)
    verify = commands.add_parser("verify", help="compare an engine with PyTorch FP32; status 1 out of bounds")
    verify.set_defaults(command=_verify)
    verify.add_argument(
        "--engine", default="auto", help="a name, auto, or all: every runtime and artefact that is here"
    )
    verify.add_argument("--precision", help="of the one engine")
    verify.add_argument("--json", type=Path, help="write the figures to this file too")

    triton = commands.add_parser("triton", help="write a model repository for Triton Inference Server")
    triton.set_defaults(command=_triton)
    triton.add_argument("--output", type=Path, required=True, metavar="REPO", help="folder of models; made if missing")
    triton.add_argument("--platform", choices=("onnxruntime", "openvino", "tensorrt"), default="onnxruntime")
    triton.add_argument("--gpu", action="store_true", help="instances on each GPU (always so with tensorrt)")
    triton.add_argument("--instances", type=int, default=1, metavar="N", help="copies of the model (default: 1)")
    triton.add_argument("--batch", type=int, default=8, metavar="N", help="largest batch (default: 8)")
    triton.add_argument(
        "--queue-delay-ms", type=float, default=2.0, metavar="MS", help="longest wait for a batch (default: 2)"
    )
    triton.add_argument("--warm-up", type=Path, metavar="FILE", help="X-ray to warm up with (default: an example)")

    capacity = commands.add_parser("capacity", help="servers for a rate and a latency, simulated from measurements")
    capacity.set_defaults(command=capacity_command.run)
    capacity_command.add_arguments(capacity)

    bench = commands.add_parser("benchmark", help="time engines, stages and the page; status 3 on a busy machine")
    bench.set_defaults(command=benchmark.run)
    benchmark.add_arguments(bench)

    for command in (openvino, verify):
        command.add_argument(
            "--masks", action="append", metavar="CLASS=FOLDER", help="true masks, in a folder beside the folder images"
        )
    for command in (capacity, onnx, openvino, tensorrt, triton, reference, verify):
        command.add_argument("--model", default="cxr", help="name of a shipped model or a .safetensors file")
    reference.add_argument("--images", type=Path, nargs="+", required=True, help="X-rays or folders of them")
    verify.add_argument(
        "--images",
        type=Path,
        nargs="+",
        help="X-rays or folders of them, 100 for a verdict (default: the stored reference)",
    )
    return parser


def _onnx(options: argparse.Namespace) -> int:
    from export import to_onnx

    files = find(options.model, check_graph=False)
    if options.weights_in_place:
        if options.output or options.no_attention or options.opset or options.jetpack or options.precision != "fp32":
            raise ValueError("--weights-in-place has one form: of the other options it takes --model alone")
        written = to_onnx.export_in_place(files)
    else:
        largest = JETPACKS[options.jetpack].largest_opset if options.jetpack else _OPSETS[options.precision]
        written = to_onnx.export(
            files,
            options.output or Path(f"{files.name}{'-fp16' if options.precision == 'fp16' else ''}.onnx"),
            opset=options.opset or largest,
            attention=not options.no_attention,
            precision=options.precision,
            jetpack=options.jetpack,
        )
    print(f"{written}: {written.stat().st_size / 1e6:.2f} MB, same answers as PyTorch in ONNX Runtime")
    return 0


def _tensorrt(options: argparse.Namespace) -> int:
    from export import to_tensorrt

    runtime: Runtime = "tensorrt-rtx" if options.rtx else "tensorrt"
    folder = to_tensorrt.build(
        find(options.model, check_graph=False),
        runtime=runtime,
        precision=options.precision,
        graph=options.graph,
        compute_capabilities=options.compute_capability,
        workspace_mb=options.workspace_mb,
        report=lambda line: print(line, flush=True),
    )
    compare = f"--model {options.model} --engine {runtime} --precision {options.precision}"
    where = "on its GPU, " if options.compute_capability else ""
    print(f"{folder}: built, and not yet run; {where}`python -m export verify {compare}` compares it with PyTorch")
    return 0


def _triton(options: argparse.Namespace) -> int:
    from export import to_triton

    files = find(options.model)
    image = options.warm_up or ROOT / "examples" / "covid_adult_1.jpg"
    written = to_triton.export(
        files,
        options.output,
        to_triton.Serving(
            platform=options.platform,
            gpu=options.gpu,
            instances=options.instances,
            batch_max=options.batch,
            queue_delay_ms=options.queue_delay_ms,
        ),
        warm_up=_prepared([image], files)[0],
    )
    only = (
        ", in an image with the TensorRT that built the plan (its manifest.json)"
        if options.platform == "tensorrt"
        else ""
    )
    print(f"{written}: serve it with `tritonserver --model-repository {options.output}`{only}")
    return 0


def _reference(options: argparse.Namespace) -> int:
    from export import to_onnx

    files = find(options.model, check_graph=False)
    written = to_onnx.write_reference(files, _prepared(options.images, files))
    print(f"{written}: {written.stat().st_size / 1e6:.2f} MB")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from export import cases, verify_all

    files = find(options.model)
    if options.engine == "all" and options.precision:
        raise ValueError("--engine all verifies every precision that is here, so leave --precision out")
    images = cases.read(options.images, files, masks=_masks(options)) if options.images else []
    found: verify_all.Found | list[verify_all.Found]
    if options.engine == "all":
        found, status = verify_all.run(files, images, report=lambda line: print(line, flush=True), built=BUILT)
    else:
        found = one = verify_all.verified(files, options.engine, options.precision, images, built=BUILT)
        status = 1 if one["passed"] is False else 0
        print(json.dumps(one, indent=2, allow_nan=False))
        if one["passed"] is None:
            print(f"Within the bound, and {one['verdict']}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return status


def _openvino(options: argparse.Namespace) -> int:
    from export import cases, to_openvino

    files = find(options.model)
    masks = _masks(options)
    calibration: list[cases.Case] = []
    if options.precision == "int8":
        calibration = (
            cases.read(options.calibration, files)
            if options.calibration
            else cases.of_data_root(files, split="train", at_most=to_openvino.CALIBRATION_IMAGES, labelled=False)
        )
    if options.images:
        verification = cases.read(options.images, files, masks=masks)
    elif options.precision == "int8":
        at_most = to_openvino.VERIFICATION_IMAGES
        verification = cases.of_data_root(files, split="val", at_most=at_most, labelled=True)
    else:
        verification = []
    folder = to_openvino.build(
        files,
        precision=options.precision,
        calibration=calibration,
        verification=verification,
        report=lambda line: print(line, flush=True),
    )
    print(f"{folder}: built" + ("" if verification else ", and not verified"))
    return 0


def _masks(options: argparse.Namespace) -> dict[str, str] | None:
    masks = dict(option.partition("=")[::2] for option in options.masks or ())
    if not all(masks.values()):
        raise ValueError("--masks reads CLASS=FOLDER, for example --masks infection=masks")
    return masks or None


def _prepared(paths: Sequence[Path], files: ModelFiles) -> np.ndarray:
    """X-rays, and those in folders, as uint8 (N, 1, H, W)."""
    found = collect(paths)
    if not found:
        raise ValueError("there is no X-ray in these folders")
    size = {"height": files.config.height, "width": files.config.width}
    return np.stack([prepare(load(path), **size)[0] for path in found])


if __name__ == "__main__":
    sys.exit(main())
