"""PyTorch: the network itself, eager; the reference that every other runtime is compared with.

FP32 on a CPU unless BF16 is asked for, FP16 on CUDA unless FP32 is. Not here: compiling, and exporting.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from engines import cuda
from engines.base import EngineError, EngineInfo, EngineUnavailable, check_images
from engines.graph import describe
from sgmsnet.checkpoint import ModelFiles, WeightsError, load_network


class PyTorchEngine:
    """The network in eval mode; forward changes no state, so several threads may run it at once."""

    info: EngineInfo

    def __init__(self, model: ModelFiles, *, precision: str | None = None) -> None:
        """Load the weights; raises EngineUnavailable without torch, or for a precision it lacks here."""
        started = time.perf_counter()
        try:
            import torch
        except (ImportError, OSError) as error:  # OSError: a library that torch needs is missing
            raise EngineUnavailable(f"torch cannot be imported: {error}") from error
        on_cuda = torch.cuda.is_available()
        precision = precision or ("fp16" if on_cuda else "fp32")
        supported = ("fp32", "bf16", "fp16") if on_cuda else ("fp32", "bf16")
        if precision not in supported:
            raise EngineUnavailable(f"pytorch runs {', '.join(supported)} on this machine, not {precision}")
        notes = () if on_cuda else _left_out(torch)
        self._torch = torch
        self._device = torch.device("cuda" if on_cuda else "cpu")
        if on_cuda and precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False  # TF32 would leave the FP32 parity bound
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        try:
            network = load_network(model).to(self._device)
        except (WeightsError, RuntimeError) as error:
            raise EngineUnavailable(f"pytorch cannot load the weights: {error}") from error
        if self._autocast is not None:
            network = network.to(memory_format=torch.channels_last)
        self._network: torch.nn.Module | None = network
        self.info = describe(
            model,
            backend="pytorch",
            precision=precision,
            device=torch.cuda.get_device_name(0) if on_cuda else "CPU",
            version=torch.__version__,
            outputs=model.config.outputs,
            started=started,
            notes=notes,
        )

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See engines.base.Engine.run."""
        check_images(images, self.info)
        network, torch = self._network, self._torch
        if network is None:
            raise EngineError("the pytorch engine is closed")
        cast = contextlib.nullcontext()
        if self._autocast is not None:
            cast = torch.autocast(self._device.type, dtype=self._autocast)
        try:
            with torch.inference_mode(), cast:
                batch = torch.from_numpy(np.require(images, requirements=["C", "W"]))
                outputs = network(batch.to(self._device))
                return {name: outputs[name].float().cpu().contiguous().numpy() for name in self.info.outputs}
        except RuntimeError as error:
            raise EngineError(f"pytorch failed: {error}") from error

    def close(self) -> None:
        """Let go of the weights; a second call does nothing."""
        self._network = None


def _left_out(torch: Any) -> tuple[str, ...]:
    """Why a GPU that is here is not used, for people; nothing where there is none, or torch was built for the CPU."""
    if torch.version.cuda is None:
        return ()
    try:
        gpu = cuda.first_gpu()
    except EngineUnavailable:
        return ()
    return (f"runs on the CPU, since this torch, built for CUDA {torch.version.cuda}, cannot use {gpu.name}'s driver",)
