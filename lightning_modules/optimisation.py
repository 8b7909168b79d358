"""The optimiser and schedule that every network here trains with."""

import math
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Factor on the learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def adamw_warmup_cosine(
    module: L.LightningModule,
    groups: Iterable[dict[str, Any]],
    *,
    base_learning_rate: float,
    effective_batch: int,
    betas: tuple[float, float],
    warmup_fraction: float,
) -> OptimizerLRScheduler:
    """AdamW whose rate is base_learning_rate * effective_batch / 256 (Goyal et al. 2017).

    A group's `lr_scale` (timm's layer-wise decay) multiplies its own rate. `warmup_fraction` is
    the share of the optimiser steps spent warming up.
    """
    rate = base_learning_rate * effective_batch / 256
    optimiser = torch.optim.AdamW(
        [{**group, "lr": rate * group.get("lr_scale", 1.0)} for group in groups],
        betas=betas,
        # Gradients that were scaled for float16 must be unscaled before a fused step clips them.
        fused=module.trainer.precision != "16-mixed",
    )
    total = int(module.trainer.estimated_stepping_batches)
    warmup = max(1, round(warmup_fraction * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warmup_cosine(step, warmup, total)
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
