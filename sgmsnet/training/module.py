"""What Lightning trains: the network, its loss, its optimiser and what is measured after an epoch."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from sgmsnet.training.baselines import build_network
from sgmsnet.training.losses import PartialLabelLoss
from sgmsnet.training.metrics import EPSILON
from sgmsnet.training.recipe import Recipe

Batch = dict[str, Tensor]


class SegmentationModule(pl.LightningModule):
    """A recipe's network with the loss, AdamW, and warm-up and cosine schedule of a recipe."""

    def __init__(self, recipe: Recipe, *, total_steps: int, source_names: list[str], fused: bool = True) -> None:
        """fused: one kernel for all of AdamW, a tenth of a step on two CPU cores; not where FP16 scales gradients."""
        super().__init__()
        self.fused = fused
        self.recipe, self.total_steps, self.source_names = recipe, total_steps, source_names
        classes = recipe.model.classes
        self.network = build_network(recipe).to(memory_format=torch.channels_last)
        self.loss = PartialLabelLoss(
            [recipe.class_weights.get(name, 1.0) for name in classes], dice_weight=recipe.dice_weight
        )

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """One batch {image (B, 1, H, W), mask (B, K, H, W), labelled (B, K)} -> loss."""
        outputs = self.network(batch["image"])
        loss: Tensor = self.loss(outputs["logits"], batch["mask"], batch["labelled"])
        side = [name for name in outputs if name.startswith("logits_")]
        for name in side:  # deep supervision: each coarser level counts half of the finer one
            loss = loss + 0.5 ** (int(name[-1]) - 2) * self.loss(outputs[name], batch["mask"], batch["labelled"])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        classes = len(self.recipe.model.classes)
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
        self._sums = torch.zeros(len(self.source_names), 4, classes, dtype=exact, device=self.device)

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the sums of its source: labelled images, their Dice, common pixels, pixels of both masks."""
        predicted = self.network(batch["image"])["logits"].float() > 0
        truth = batch["mask"] > 0
        overlap = (predicted & truth).sum(dim=(2, 3)).to(self._sums)  # (B, K)
        sizes = (predicted.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))).to(self._sums)
        dice = (2 * overlap + EPSILON) / (sizes + EPSILON)
        known = (batch["labelled"] > 0).to(self._sums)
        self._sums[dataloader_idx] += (torch.stack([torch.ones_like(dice), dice, overlap, sizes]) * known).sum(dim=1)

    def on_validation_epoch_end(self) -> None:
        """Log Dice as a mean over images and pooled, by source and class, from the sums of all processes."""
        sums = self.trainer.strategy.reduce(self._sums, reduce_op="sum")
        for source, by_class in zip(self.source_names, sums, strict=True):
            for name, (images, dice, overlap, sizes) in zip(self.recipe.model.classes, by_class.T, strict=True):
                if images > 0:
                    pooled = (2 * overlap + EPSILON) / (sizes + EPSILON)
                    # The same in every process; asking for synchronisation only keeps Lightning from warning.
                    self.log(f"{source}/{name}_dice", (dice / images).float(), sync_dist=True)
                    self.log(f"{source}/{name}_dice_pooled", pooled.float(), sync_dist=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Learning rate and weight decay are the recipe's, which may have been changed since the run was stopped."""
        for optimizer, scheduler in zip(checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True):
            decays = (self.recipe.weight_decay, 0.0)  # as in configure_optimizers
            for group, decay in zip(optimizer["param_groups"], decays, strict=True):
                group["lr"] *= self.recipe.learning_rate / group["initial_lr"]
                group |= {"initial_lr": self.recipe.learning_rate, "weight_decay": decay}
            scheduler["base_lrs"] = [self.recipe.learning_rate] * len(scheduler["base_lrs"])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; here, as Lightning refuses to clip before any fused optimiser, scaled gradients or not."""
        if self.fused and gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        """AdamW; no weight decay for biases and batch norm; linear warm-up, then cosine to 1 % of the learning rate."""
        recipe = self.recipe
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=self.fused)
        warmup = min(recipe.warmup_steps, max(self.total_steps // 4, 1))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = min((step - warmup) / max(self.total_steps - warmup, 1), 1.0)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
