"""What a network costs: parameters, arithmetic of one image, and time of one image on this machine's CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one network on one image of the protocol's size."""

    parameters: int
    """Those that inference needs: heads of deep supervision do not count."""
    gflop: float
    """10^9 operations of convolutions and matrix products; a multiplication and an addition are two."""
    latency_ms: float
    """Median time of a batch of one: PyTorch, FP32, on the CPU."""

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def measure(networks: Mapping[str, nn.Module], *, size: int, rounds: int = 15) -> dict[str, Cost]:
    """The costs of networks by name, on images of size x size; each round runs all of them one after the other.

    So what else the machine does meanwhile meets all networks alike. The networks are left in eval mode.
    """
    image = torch.randint(0, 256, (1, 1, size, size), generator=torch.Generator().manual_seed(0)).float()
    times: dict[str, list[float]] = {name: [] for name in networks}
    gflop = {}
    with torch.inference_mode():
        for name, network in networks.items():  # this is the warm-up too
            with FlopCounterMode(display=False) as counter:
                network.eval()(image)
            gflop[name] = counter.get_total_flops() / 1e9
        for _ in range(rounds):
            for name, network in networks.items():
                started = time.perf_counter()
                network(image)
                times[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: Cost(
            parameters=inference_parameters(network),
            gflop=round(gflop[name], 4),
            latency_ms=round(float(np.median(times[name])), 3),
        )
        for name, network in networks.items()
    }


def inference_parameters(network: nn.Module) -> int:
    """Numbers that inference reads and training learns."""
    training_only = ("side_heads.", "deep_supervision_heads.", "super_head.")
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not any(part in name for part in training_only)
    )


def conditions(*, size: int) -> dict[str, Any]:
    """Under which latencies are measured, for the table: threads of PyTorch, and the machine's load average before."""
    return {
        "size": size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
