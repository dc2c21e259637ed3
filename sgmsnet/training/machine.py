"""How many processes train together, and how they find each other; nothing of it decides what is learned. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sgmsnet.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices of all nodes, as Lightning takes them. Each process works on its share of every batch."""

    devices: int = 0
    """Processes on each node, one a GPU; 0: as many as torchrun started here, otherwise one."""
    nodes: int = 0
    """0: as many as torchrun started, otherwise one."""
    strategy: str = ""
    """Lightning's strategy; by default `ddp` for several processes."""
    accelerator: str = "auto"
    """gpu, cpu, or auto: a GPU where there is one."""
    sync_batchnorm: bool = False
    """Batch statistics over all processes' parts of a batch instead of each over its own; on GPUs only."""

    def __post_init__(self) -> None:
        # WORLD_SIZE alone is set by Lightning, for the processes that it starts itself.
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        total = int(os.environ["WORLD_SIZE"]) if {"LOCAL_WORLD_SIZE", "WORLD_SIZE"} <= set(os.environ) else local
        object.__setattr__(self, "devices", self.devices or local)
        object.__setattr__(self, "nodes", self.nodes or max(total // local, 1))
        object.__setattr__(self, "strategy", self.strategy or ("ddp" if self.processes > 1 else "auto"))
        if self.devices < 1 or self.nodes < 1:
            raise ConfigError("devices and nodes must be 1 or more")
        if self.sync_batchnorm and self.accelerator == "cpu":
            raise ConfigError("batch statistics over processes need GPUs: PyTorch has none for CPUs")

    @property
    def processes(self) -> int:
        """On all nodes together."""
        return self.devices * self.nodes

    def share(self, batch_size: int) -> int:
        """Images of a batch that each process works on; raises ConfigError unless it comes out even."""
        if batch_size % self.processes:
            raise ConfigError(f"a batch of {batch_size} cannot be shared out among {self.processes} processes")
        return batch_size // self.processes
