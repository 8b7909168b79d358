"""What every classifier here shares: one logit an exam, trained on development institutions."""

from collections.abc import Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

from lightning_modules.optimisation import adamw_warmup_cosine


class Classifier(L.LightningModule):
    """Binary cross-entropy, validation AUROC over whole epochs, and an operating threshold.

    A subclass saves its hyper-parameters, builds `self.network`, says what a batch's logits are in
    `forward`, and gives the optimiser's parameter groups. Batches hold "target" (B,) in {0, 1} and
    "exam" (B,), an exam's number in the DataModule's table.

    `positive_weight` weighs the loss of positive exams against imbalance; the log of it is taken
    off the logit, so that probabilities stay those of the development prevalence.
    `threshold` is nan until `set_threshold`; with `preprocessing` it travels in the checkpoint.
    """

    network: nn.Module
    threshold: Tensor
    positive_weight: Tensor

    def __init__(
        self,
        *,
        positive_weight: float,
        base_learning_rate: float,
        effective_batch: int,
        betas: Sequence[float],
        warmup_fraction: float,
        preprocessing: dict[str, Any],
    ) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("positive_weight", torch.tensor(positive_weight), persistent=False)
        self.metrics = MetricCollection(
            {"auroc": BinaryAUROC(), "average_precision": BinaryAveragePrecision()}, prefix="val/"
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B,) of a batch."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups, each with its weight decay and, optionally, its `lr_scale`."""
        raise NotImplementedError

    def set_threshold(self, threshold: float) -> None:
        """Keep the probability from which an exam counts as positive."""
        self.threshold.fill_(threshold)

    def loss(self, logit: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy whose optimum is the unweighted log-odds."""
        weight = self.positive_weight
        return binary_cross_entropy_with_logits(logit + weight.log(), target, pos_weight=weight)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch), batch["target"])
        self.log("train/loss", loss)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._validated: list[Tensor] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        columns = (batch["exam"].float(), self(batch).float(), batch["target"])
        self._validated.append(torch.stack(columns, dim=1))

    def on_validation_epoch_end(self) -> None:
        # A distributed sampler repeats exams to fill its last batch: each counts once.
        gathered = cast(Tensor, self.all_gather(torch.cat(self._validated))).view(-1, 3)
        gathered = gathered[gathered[:, 0].argsort()]
        once = torch.ones(len(gathered), dtype=torch.bool, device=self.device)
        once[1:] = gathered[1:, 0] != gathered[:-1, 0]
        logit, target = gathered[once, 1], gathered[once, 2]
        self.log("val/loss", self.loss(logit, target))
        self.log_dict(self.metrics(logit.sigmoid(), target.int()))
        self.metrics.reset()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"exam": batch["exam"], "logit": self(batch).float()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_warmup_cosine(
            self,
            self.parameter_groups(),
            base_learning_rate=self.hparams["base_learning_rate"],
            effective_batch=self.hparams["effective_batch"],
            betas=self.hparams["betas"],
            warmup_fraction=self.hparams["warmup_fraction"],
        )
